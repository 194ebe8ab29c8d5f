"""`lowmem evaluate`: loss and accuracy of a saved run on a data set, read in blocks."""

import argparse
import json

from lowmem.cli.options import add_json
from lowmem.cli.session import add_data, column, kept_columns
from lowmem.errors import InputError

HELP = "Measure loss and accuracy of a saved run on a data set."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("run", metavar="RUN", help="the file that lowmem train --save wrote")
    group = parser.add_argument_group("data")
    add_data(group, default=None)
    group.add_argument("--part", default="test", metavar="NAME", help="of a folder: train or test (default test)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, and print the numbers."""
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
        columns = kept_columns(arguments, saved)
    stream = open_data(
        arguments.data,
        arguments.targets,
        target=columns["target"],
        weights=columns["weights"],  # told so that such a column is no feature; losses are not weighted here
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
        told = "" if accuracy is None else f"  accuracy {accuracy:.2%}"
        print(f"{stream.name}: {len(stream):,} samples  loss {loss:.4f}{told}")
    return 0
