"""`lowmem evaluate`: loss and accuracy of a saved run on a data set, which is read in blocks."""

import argparse
import json

from lowmem.cli.options import add_json
from lowmem.cli.samples import add_data, column, columns_of
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

    from lowmem.data.compatibility import check_names, checked
    from lowmem.data.open import open_data, table_columns
    from lowmem.runtime.inference import Inference
    from lowmem.training.saved_run import open_run

    if arguments.data is None:
        raise InputError("--data is needed: a file or folder of samples with their targets.")
    saved = open_run(arguments.run)
    columns = {"target": column(arguments.target), "weights": column(arguments.weights)}
    if table_columns(arguments.data) is not None:
        columns = columns_of(arguments, saved)
    stream = open_data(
        arguments.data,
        arguments.targets,
        target=columns["target"],
        weights=columns["weights"],  # named so that the column is no feature; losses are not weighted here
        class_names=saved.class_names,
        part=arguments.part if Path(arguments.data).is_dir() else "train",
        standardise=saved.standardisation() or False,
    )
    checked(stream, saved.architecture, "the data")
    check_names(stream, saved.class_names, "the data")
    inference = Inference(saved.network())
    loss, accuracy = inference.evaluate(stream.batches(min(inference.rows, len(stream)), saved.architecture, None))
    if arguments.json:
        print(json.dumps({"samples": len(stream), "loss": loss, "accuracy": accuracy}))
    else:
        share = "" if accuracy is None else f"  accuracy {accuracy:.2%}"
        print(f"{stream.name}: {len(stream):,} samples  loss {loss:.4f}{share}")
    return 0
