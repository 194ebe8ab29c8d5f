"""`lowmem import`: turns a network from PyTorch into a saved run."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from lowmem.cli.options import add_json, add_network_disk
from lowmem.cli.outputs import check_output, check_replaced, input_file, output_file
from lowmem.common.files import check_apart
from lowmem.network.specs import ACTIVATIONS, LOSSES

if TYPE_CHECKING:
    from lowmem.interchange.data_facts import DataFacts

HELP = "Turn a network from PyTorch into a saved run, for evaluate, predict and export."

BATCH = 128
"""Samples of a step, if the run is resumed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument(
        "file", type=input_file, metavar="FILE", help="safetensors file of an nn.Sequential, or of lowmem export"
    )
    parser.add_argument("run", metavar="RUN", type=output_file, help="the saved run to write")
    group = parser.add_argument_group("needed unless lowmem export wrote the file")
    group.add_argument("--activation", metavar="NAME", help=f"of the network: {', '.join(ACTIVATIONS)}")
    group.add_argument("--loss", metavar="NAME", help=f"of the network: {', '.join(LOSSES)}")
    parser.add_argument("--force", action="store_true", help="replace the run of another network")
    add_network_disk(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read a network, and save it as a run."""
    from lowmem.interchange.torch_weights import open_torch
    from lowmem.nn.optimizers import SGD
    from lowmem.training.position import Position
    from lowmem.training.saved_run import save_run

    check_output(arguments.run, "the run")
    opened = open_torch(arguments.file, activation=arguments.activation, loss=arguments.loss)
    check_apart({"RUN": arguments.run}, {"the file that is read": [arguments.file]})
    check_replaced(arguments.run, opened.architecture, None, force=arguments.force)
    save_run(
        arguments.run,
        opened.network(arguments.disk),
        SGD(),
        (),
        options={"batch_size": BATCH, "schedule": None},
        position=Position(),
        data=_marks(opened.facts),
        notes={},
        standardisation=opened.facts.standardisation,
    )
    if arguments.json:
        print(json.dumps({"run": str(arguments.run), "architecture": str(opened.architecture)}))
    else:
        print(f"{arguments.run}: {opened.architecture}")
    return 0


def _marks(facts: "DataFacts") -> dict[str, Any]:
    """Return what a saved run remembers of its data, as far as a file tells it."""
    marks: dict[str, Any] = {"standardised": facts.standardisation is not None}
    if facts.scale is not None:
        marks["scale"] = facts.scale
    if facts.class_names is not None:
        marks["class_names"] = list(facts.class_names)
    if facts.columns is not None:
        marks["columns"] = facts.columns.to_dict()
    return marks
