"""`lowmem plan`: shows what training would take, without training."""

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
from lowmem.errors import InputError
from lowmem.network.architecture import Architecture
from lowmem.planning.choose import plan
from lowmem.planning.queries import compare, deepest, largest_batch

HELP = "Show where every byte of training would go, and what it costs to fit a budget."

SHARES = tuple(f"{share}% of activations" for share in (50, 25, 12, 6))
"""Budgets that are compared with the one asked for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    add_inputs(parser)
    add_network(parser)
    add_planning(parser, optimizer=None)
    parser.add_argument(
        "--ranks", type=int, default=1, metavar="N", help="processes that share the shards; bytes are those of one"
    )
    questions = parser.add_argument_group("questions, answered in place of a plan")
    questions.add_argument("--largest-batch", action="store_true", help="print the largest batch that fits --budget")
    questions.add_argument("--deepest", action="store_true", help="print the most hidden layers that fit --budget")
    add_calibration(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Plan and print the plan, or answer --largest-batch or --deepest."""
    check_budget(arguments.budget)
    network = network_of(arguments)
    if arguments.largest_batch or arguments.deepest:
        return _answer(arguments, network)
    costs = cost_model(arguments, network.dtype)
    options: dict[str, Any] = {
        "micro_batch": arguments.micro_batch,
        "costs": costs,
        "threads": arguments.threads,
        "engine": arguments.engine,
        "shards": arguments.shards,
        "ranks": arguments.ranks,
        **disk_options(arguments),
    }
    planned = plan(
        network,
        arguments.batch,
        arguments.budget,
        arguments.optimizer,
        arguments.strategy,
        segments=arguments.segments,
        slots=arguments.slots,
        **options,
    )
    others = compare(network, arguments.batch, SHARES, arguments.optimizer, **options)
    if arguments.json:
        print(json.dumps({"plan": planned.to_dict(), "compared": others.to_dict()}))
        return 0
    print(f"{planned}\n\n{others.table().without_title()}")
    return 0


def _answer(arguments: argparse.Namespace, network: Architecture) -> int:
    """Print the answer to --largest-batch or --deepest."""
    if arguments.budget is None:
        raise InputError("--largest-batch and --deepest need a --budget to fit, such as --budget 64MiB.")
    if arguments.largest_batch and arguments.deepest:
        raise InputError("--largest-batch and --deepest are two questions; ask one at a time.")
    ranks = {"shards": arguments.shards, "ranks": arguments.ranks}
    if arguments.largest_batch:
        name, number = "largest_batch", largest_batch(network, arguments.budget, arguments.optimizer, **ranks)
        text = f"batches of up to {number:,} samples fit in {arguments.budget}"
    else:
        number = deepest(network, arguments.batch, arguments.budget, arguments.optimizer, **ranks)
        name, text = "deepest", f"up to {number:,} hidden layers fit in {arguments.budget} at batch {arguments.batch}"
    print(json.dumps({name: number}) if arguments.json else text)
    return 0
