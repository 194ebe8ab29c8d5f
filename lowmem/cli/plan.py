"""`lowmem plan`: what would it take?"""

import argparse
import json

from lowmem.cli.options import add_json, add_network, add_planning, architecture, given
from lowmem.errors import InputError
from lowmem.planning import Plan, plan
from lowmem.questions import compare

HELP = "Show where every byte of training would go, and what fitting a budget costs."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("--inputs", type=int, metavar="N", help="width of the input (default 64, as the digits)")
    parser.add_argument("--outputs", type=int, metavar="N", help="width of the output (default 10)")
    add_network(parser)
    add_planning(parser, optimizer=None)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Plan, and print the plan."""
    if arguments.widths is not None and (arguments.inputs or arguments.outputs):
        raise InputError("--inputs and --outputs do not go with --widths, which names every layer; leave them out.")
    network = architecture(arguments, given(arguments.inputs, 64), given(arguments.outputs, 10), "cross_entropy")
    made = plan(
        network,
        arguments.batch,
        arguments.budget,
        arguments.optimizer,
        arguments.strategy,
        micro_batch=arguments.micro_batch,
        segments=arguments.segments,
        slots=arguments.slots,
    )
    others = compare(network, arguments.batch, _budgets(made), arguments.optimizer, micro_batch=arguments.micro_batch)
    if arguments.json:
        print(json.dumps({"plan": made.to_dict(), "compared": others.to_dict()}))
        return 0
    print(made)
    print()
    print(others.table().without_title())
    return 0


def _budgets(made: Plan) -> list[str]:
    """Return budgets worth comparing beside the one asked for: shares of the activations of storing everything."""
    return [f"{share}% of activations" for share in (50, 25, 12, 6)]
