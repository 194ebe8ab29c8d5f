"""`lowmem compare`: the plans of all strategies, and the cheapest plans for a range of budgets, side by side."""

import argparse
import json
from typing import Any

from lowmem.cli.options import (
    add_calibration,
    add_inputs,
    add_json,
    add_network,
    add_planning,
    check_budget,
    cost_model,
    disk_options,
    network_of,
)
from lowmem.cli.outputs import FIGURES, check_output, output_file, save_figure
from lowmem.planning.queries import compare

HELP = "Compare the strategies, and the cheapest plans for a range of budgets."

FRONTIER = tuple(f"{share}% of activations" for share in (100, 75, 50, 35, 25, 18, 12, 9, 6, 4, 3))
"""The budgets that are compared unless --budget names others."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    add_inputs(parser)
    add_network(parser)
    add_planning(parser, optimizer=None, budgets=True)
    parser.add_argument(
        "--plot", type=output_file, metavar="FILE", help="write a figure of compute versus memory: .svg, .png or .pdf"
    )
    add_calibration(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compare, and print the table."""
    check_budget(arguments.budget)
    network = network_of(arguments)
    check_output(arguments.plot, "the figure", FIGURES)
    budgets = [budget.strip() for budget in arguments.budget.split(",")] if arguments.budget else FRONTIER
    costs = cost_model(arguments, network.dtype)
    options: dict[str, Any] = {"micro_batch": arguments.micro_batch, "costs": costs, "threads": arguments.threads}
    options |= {"engine": arguments.engine, "shards": arguments.shards, **disk_options(arguments)}
    comparison = compare(network, arguments.batch, budgets, arguments.optimizer, **options)
    if arguments.plot is not None:
        from lowmem.plots import frontier

        save_figure(frontier(comparison), arguments.plot)
    print(json.dumps(comparison.to_dict()) if arguments.json else comparison)
    return 0
