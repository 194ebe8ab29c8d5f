"""`lowmem evaluate`: loss and accuracy of a saved run on a data set, which is read in blocks."""

import argparse
import json

from lowmem.cli.options import add_json
from lowmem.cli.samples import add_data, options_of_run, say_remarks
from lowmem.errors import InputError

HELP = "Measure loss and accuracy of a saved run on a data set."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("run", metavar="RUN", help="the saved run, as lowmem train --save writes it")
    group = parser.add_argument_group("data")
    add_data(group, default=None)
    group.add_argument(
        "--part", default="test", metavar="NAME", help="part of a folder to evaluate on: train or test (default test)"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate a saved run, and print loss and accuracy."""
    from pathlib import Path

    from lowmem.data.compatibility import matching
    from lowmem.data.open import open_data
    from lowmem.runtime.inference import Inference
    from lowmem.training.saved_run import open_run

    if arguments.data is None:
        raise InputError("--data is needed: a file or folder of samples with their targets.")
    saved = open_run(arguments.run)
    part = arguments.part if Path(arguments.data).is_dir() else "train"
    stream = open_data(arguments.data, arguments.targets, part=part, **options_of_run(arguments, saved))
    say_remarks(stream)
    matching(stream, saved.architecture, "the data", saved.class_names, saved.columns)
    inference = Inference(saved.network())
    loss, accuracy = inference.evaluate(stream.batches(min(inference.rows, len(stream)), saved.architecture, None))
    if arguments.json:
        print(json.dumps({"samples": len(stream), "loss": loss, "accuracy": accuracy}))
    else:
        share = "" if accuracy is None else f"  accuracy {accuracy:.2%}"
        print(f"{stream.name}: {len(stream):,} samples  loss {loss:.4f}{share}")
    return 0
