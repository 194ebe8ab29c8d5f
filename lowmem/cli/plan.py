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
from lowmem.cli.within_time import (
    TimeLimit,
    deepest_within,
    largest_batch_within,
    least_memory_within,
    priced,
)
from lowmem.errors import InputError
from lowmem.network.architecture import Architecture
from lowmem.planning.choose import plan
from lowmem.planning.extremes import CHECKED, deepest
from lowmem.planning.plan import Plan
from lowmem.planning.queries import compare
from lowmem.units import ceil_bytes

HELP = "Show where every byte of training would go, and what it costs to fit a budget."

SHARES = tuple(f"{share}% of activations" for share in (50, 25, 12, 6))
"""Budgets that are compared with the one asked for."""

DEAR = 2.0
"""Times the cost of storing everything above which people are told of --at-most."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    add_inputs(parser)
    add_network(parser)
    add_planning(parser, optimizer=None)
    parser.add_argument(
        "--ranks", type=int, default=1, metavar="N", help="processes that share the shards; bytes are those of one"
    )
    questions = parser.add_argument_group("questions, answered with the plan and its price")
    questions.add_argument("--largest-batch", action="store_true", help="print the largest batch that fits --budget")
    questions.add_argument("--deepest", action="store_true", help="print the most hidden layers that fit --budget")
    parser.add_argument(
        "--at-most",
        "--time-limit",
        metavar="TIME",
        help="the most that a step may take: 1.5x of storing everything, or a time such as 250ms. Without a budget, "
        "the plan is that of the least memory",
    )
    add_calibration(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Plan and print the plan, or answer --largest-batch or --deepest."""
    check_budget(arguments.budget)
    network = network_of(arguments)
    options: dict[str, Any] = {
        "micro_batch": arguments.micro_batch,
        "threads": arguments.threads,
        "engine": arguments.engine,
        "costs": cost_model(arguments, network.dtype),
        "shards": arguments.shards,
        "ranks": arguments.ranks,
        **disk_options(arguments),
    }
    how = {"strategy": arguments.strategy, "segments": arguments.segments, "slots": arguments.slots}
    if arguments.largest_batch or arguments.deepest:
        return _answer(arguments, network, options | how)
    limit = None if arguments.at_most is None else TimeLimit.read(arguments.at_most)
    planned, told = _planned(arguments, network, limit, options | how)
    others = compare(network, arguments.batch, SHARES, arguments.optimizer, **options)
    if arguments.json:
        print(json.dumps({"plan": planned.to_dict(), "compared": others.to_dict()}))
        return 0
    print(f"{planned}\n{told}\n{others.table().without_title()}")
    return 0


def _planned(
    arguments: argparse.Namespace, network: Architecture, limit: TimeLimit | None, options: dict[str, Any]
) -> tuple[Plan, str]:
    """Return the plan, and a line of its price where there is a limit of time.

    Raises `InputError` for a budget within which a step takes longer; it says how much memory is enough.
    """
    rest = options | {"optimizer": arguments.optimizer}
    if limit is None:
        return plan(network, arguments.batch, arguments.budget, **rest), ""
    if arguments.budget is None:
        if arguments.strategy != "auto":
            raise InputError("--at-most without a --budget chooses the strategy itself; leave out --strategy.")
        found = least_memory_within(network, arguments.batch, limit, **rest)
        return found.plan, f"The least memory with which a step takes at most {limit}: {found}.\n"
    found = priced(network, arguments.batch, arguments.budget, **rest)
    if not found.keeps(limit):
        enough = least_memory_within(network, arguments.batch, limit, **rest)
        raise InputError(
            f"within {arguments.budget} a step takes {found}, which is more than {limit}. "
            f"{ceil_bytes(enough.plan.peak_bytes)} is enough for that: --budget {ceil_bytes(enough.plan.peak_bytes)}."
        )
    return found.plan, f"Within the limit of {limit}: {found}.\n"


def _answer(arguments: argparse.Namespace, network: Architecture, options: dict[str, Any]) -> int:
    """Print the answer to --largest-batch or --deepest, with its price and its plan."""
    if arguments.budget is None:
        raise InputError("--largest-batch and --deepest need a --budget to fit, such as --budget 64MiB.")
    if arguments.largest_batch and arguments.deepest:
        raise InputError("--largest-batch and --deepest are two questions; ask one at a time.")
    limit = None if arguments.at_most is None else TimeLimit.read(arguments.at_most)
    asked = arguments.budget, limit, arguments.optimizer
    rest = options | {"optimizer": arguments.optimizer}
    within = "" if limit is None else f" with steps of at most {limit}"
    if arguments.largest_batch:
        found = largest_batch_within(network, *asked, **options)
        name, number = "largest_batch", found.plan.batch_size
        text = f"batches of up to {number:,} samples fit in {arguments.budget}{within}"
    else:
        if limit is None and (number := deepest(network, arguments.batch, arguments.budget, **rest)) > CHECKED:
            text = f"up to {number:,} hidden layers fit in {arguments.budget} at batch {arguments.batch}"
            shown = f"{text}.\nA plan of so many layers takes long to make: lowmem plan --layers {number} shows it."
            print(json.dumps({"deepest": number, "plan": None}) if arguments.json else shown)
            return 0
        found = deepest_within(network, arguments.batch, *asked, **options)
        name, number = "deepest", found.plan.architecture.layers - 1
        text = f"up to {number:,} hidden layers fit in {arguments.budget} at batch {arguments.batch}{within}"
    if arguments.json:
        told = {name: number, "time_factor": found.factor, "seconds": found.plan.seconds, "plan": found.plan.to_dict()}
        print(json.dumps(told))
        return 0
    print(f"{text}: {found}\n\n{found.plan}")
    if limit is None and found.factor > DEAR:
        print("\nMost of that is recomputation. --at-most 1.5x asks for what fits at a lower price.")
    return 0
