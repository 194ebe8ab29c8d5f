"""`lowmem import`: turns a network from PyTorch into a saved run."""

import argparse
import json
from pathlib import Path

from lowmem.cli.options import add_json
from lowmem.cli.outputs import check_output
from lowmem.errors import InputError
from lowmem.network.specs import ACTIVATIONS, LOSSES

HELP = "Turn a network from PyTorch into a saved run, for evaluate, predict and export."

BATCH = 128
"""Samples of a step, if the run is resumed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("file", metavar="FILE", help="safetensors file of an nn.Sequential, or of lowmem export")
    parser.add_argument("run", metavar="RUN", type=Path, help="the saved run to write")
    group = parser.add_argument_group("needed unless lowmem export wrote the file")
    group.add_argument("--activation", metavar="NAME", help=f"of the network: {', '.join(ACTIVATIONS)}")
    group.add_argument("--loss", metavar="NAME", help=f"of the network: {', '.join(LOSSES)}")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read a network, and save it as a run."""
    from lowmem.interchange.torch_weights import open_torch
    from lowmem.nn.optimizers import SGD
    from lowmem.training.saved_run import Position, save_run

    check_output(arguments.run, "the run")
    opened = open_torch(arguments.file, activation=arguments.activation, loss=arguments.loss)
    if arguments.run.exists() and arguments.run.samefile(arguments.file):
        raise InputError(f"{arguments.run} is the file to be read; name another one for the run.")
    save_run(
        arguments.run,
        opened.network(),
        SGD(),
        (),
        options={"batch_size": BATCH, "schedule": None},
        position=Position(),
        data={"standardised": opened.standardisation is not None},
        notes={},
        standardisation=opened.standardisation,
    )
    if arguments.json:
        print(json.dumps({"run": str(arguments.run), "architecture": str(opened.architecture)}))
    else:
        print(f"{arguments.run}: {opened.architecture}")
    return 0
