"""Data of the commands that train, evaluate and predict: their flags, and how the flags become samples."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowmem.common.checks import inner_share

if TYPE_CHECKING:
    from lowmem.data.samples import Samples
    from lowmem.training.saved_run import SavedRun


def add_data(parser: argparse._ArgumentGroup, *, default: str | None) -> None:
    """Add the flags that say where the samples are. default: of --data."""
    files = "a .npz, .npy, .csv, .tsv, .parquet or idx file, or a folder of idx files"
    known = f" (default {default})" if default else ""
    parser.add_argument("--data", default=default, metavar="WHAT", help=f"the samples: digits, {files}{known}")
    parser.add_argument("--targets", metavar="PATH", help="file with the targets, where the data file has only inputs")
    parser.add_argument(
        "--target", metavar="NAME", help="column of a table that holds the targets, by name or number (default: last)"
    )
    parser.add_argument(
        "--weights", metavar="WHAT", help="weights of the samples: a column of a table, an array of a .npz, or a .npy"
    )


def streamed(arguments: argparse.Namespace) -> bool:
    """Say whether data are read in blocks: tables are, and whatever only a stream can do asks for it.

    A resumed run keeps the answer of its first begin, as the order of the samples depends on it.
    """
    table = Path(arguments.data).suffix.lower() in (".csv", ".tsv", ".parquet")
    given = (arguments.shuffle_rows, arguments.ram, arguments.weights)
    return table or arguments.stream or arguments.standardise or any(value is not None for value in given)


def open_samples(
    arguments: argparse.Namespace, class_names: tuple[str, ...] | None = None
) -> tuple["Samples", "Samples"]:
    """Return training and held-out data: the two parts of a folder that has them, otherwise a split of the samples.

    class_names: names of the classes, where labels are text and a saved run knows the names already.
    """
    from lowmem.data.open import load, open_data
    from lowmem.data.split import split

    inner_share("--held-out", arguments.held_out)
    folder = Path(arguments.data).is_dir()
    if arguments.stream:
        options: dict[str, Any] = {"target": column(arguments.target), "shuffle_rows": arguments.shuffle_rows}
        options |= {"weights": column(arguments.weights), "class_names": class_names}
        stream = open_data(arguments.data, arguments.targets, standardise=arguments.standardise, **options)
        if not folder:
            return stream.split(arguments.held_out)
        return stream, open_data(arguments.data, part="test", standardise=stream.standardisation or False)
    if folder:
        return load(arguments.data), load(arguments.data, part="test")
    whole = load(arguments.data, arguments.targets, class_names=class_names)
    train, held_out = split(whole, arguments.held_out, arguments.seed)
    return whole.take(train), whole.take(held_out)


def column(name: str | None) -> str | int | None:
    """Return the column of a table that a flag names: a whole number is its place, other text its name."""
    return int(name) if name is not None and name.lstrip("-").isdecimal() else name


def columns_of(arguments: argparse.Namespace, saved: "SavedRun") -> dict[str, str | int | None]:
    """Return the columns of a table that hold targets and weights: those of the flags, else those of the training."""
    flags = saved.notes.get("flags")
    earlier = flags if isinstance(flags, dict) else {}
    names = {name: getattr(arguments, name) or earlier.get(name) for name in ("target", "weights")}
    return {name: column(value) if isinstance(value, str) else None for name, value in names.items()}
