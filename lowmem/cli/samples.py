"""Data of the commands that train, evaluate and predict: their flags, and how the flags become samples."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowmem.common.places import is_folder
from lowmem.common.process_memory import return_large_blocks
from lowmem.errors import InputError
from lowmem.network.specs import LOSSES

if TYPE_CHECKING:
    from lowmem.data.samples import Samples
    from lowmem.data.standardisation import Standardisation
    from lowmem.training.saved_run import SavedRun

DIGITS = "digits"
"""The data set that is part of lowmem, whatever lies in the folder."""

HELD_OUT = 0.2
"""The share of samples that is held out where no flag says another."""

MASKED = "masked"
"""How samples are split, as a saved run notes it; runs of earlier versions note nothing, and split otherwise."""

CLASSIFYING = ("bce",)
"""Losses that compare targets, and are used for classes all the same."""

FILES = "a .npz, .npy or idx file, a table (CSV and other text, Parquet), or a folder of idx files"


def add_data(parser: argparse._ArgumentGroup, *, default: str | None) -> None:
    """Add the flags that say where the samples are. default: of --data."""
    known = f" (default {default})" if default else ""
    parser.add_argument("--data", default=default, metavar="WHAT", help=f"the samples: digits, {FILES}{known}")
    parser.add_argument("--targets", metavar="PATH", help="file with the targets, where the data file has only inputs")
    parser.add_argument(
        "--target", metavar="NAME", help="column of a table that holds the targets, by name or number (default: last)"
    )
    parser.add_argument(
        "--weights", metavar="WHAT", help="weights of the samples: a column of a table, an array of a .npz, or a .npy"
    )
    add_columns(parser)


def add_columns(parser: argparse._ActionsContainer) -> None:
    """Add the flags that say how the columns of a table are read."""
    parser.add_argument("--ignore", metavar="A,B", help="columns of a table that are left out, by name or number")
    parser.add_argument(
        "--header",
        metavar="YES|NO",
        help="whether a table in text begins with names of columns (default: as it looks)",
    )


def add_part(parser: argparse._ActionsContainer) -> None:
    """Add the flag --part."""
    parser.add_argument(
        "--part",
        metavar="NAME",
        help="part of the samples: train or test (default: test, of a folder or an .npz that has one)",
    )


def add_training_data(parser: argparse._ArgumentGroup) -> None:
    """Add the flags that say what training makes of the samples."""
    parser.add_argument(
        "--features", metavar="A,B", help="the only columns of a table that are inputs (default: all but the target)"
    )
    parser.add_argument(
        "--task", metavar="NAME", help="classification or regression (default: what --loss or the targets say)"
    )
    parser.add_argument(
        "--held-out",
        type=float,
        metavar="F",
        help=f"share of samples held out for validation, 0 for none (default {HELD_OUT}, or a folder's test part)",
    )
    parser.add_argument("--validation", metavar="PATH", help="file of samples to validate on, instead of a share")


def streamed(arguments: argparse.Namespace) -> bool:
    """Say whether data are read in blocks: tables are, and whatever only a stream can do asks for it.

    A resumed run keeps the answer of its first begin, as the order of the samples depends on it.
    """
    given = (arguments.shuffle_rows, arguments.ram, arguments.weights)
    asked = arguments.stream or arguments.standardise or any(value is not None for value in given)
    return asked or is_table(arguments.data)


def is_table(source: str) -> bool:
    """Say whether a source is a file with a table. Raises `InputError` if it is no source."""
    from lowmem.data.formats.finding import TABLES, existing, format_of

    if source == DIGITS:
        return False
    path = existing(source, names=(DIGITS,))
    return not is_folder(path) and format_of(path) in TABLES


def is_data_folder(source: str) -> bool:
    """Say whether a source is a folder. Raises `InputError` if that cannot be told."""
    return source != DIGITS and is_folder(source)


def task_of(arguments: argparse.Namespace) -> str | None:
    """Return the task that --task or --loss says, None if neither does. Raises `InputError` if they contradict."""
    loss: str | None = arguments.loss
    if loss is None or loss not in LOSSES:
        return str(arguments.task) if arguments.task is not None else None  # an unknown loss is refused later
    by_loss = "classification" if LOSSES[loss].labels else None if loss in CLASSIFYING else "regression"
    if by_loss is not None and arguments.task not in (None, by_loss):
        raise InputError(f"--loss {loss} is for {by_loss}, and --task {arguments.task} was given; leave one out.")
    return by_loss or arguments.task


def open_samples(arguments: argparse.Namespace, saved: "SavedRun | None" = None) -> tuple["Samples", "Samples | None"]:
    """Return the samples to train on, and those to validate on, None if there are none.

    saved: the run that is resumed: its columns, classes and scale are those of the samples.
    """
    from lowmem.data.formats.finding import has_part
    from lowmem.data.open import part_to_use

    held_out = arguments.held_out
    if held_out is not None and not 0 <= held_out < 1:
        raise InputError(
            f"--held-out must be a share between 0 and 1, such as {HELD_OUT}, or 0 for none; got {held_out:g}."
        )
    if arguments.ram is not None:
        return_large_blocks()  # as in training: the first pass measures what reading takes
    folder = is_data_folder(arguments.data)
    task = task_of(arguments) if saved is None else _task_of_run(saved)
    common: dict[str, Any] = {"task": task, "header": _header(arguments.header)}
    if saved is not None:
        common |= _of_run(saved)
        if saved.columns is None and arguments.stream and is_table(arguments.data):
            common["inputs"] = saved.architecture.widths[0]
    table = {"target": arguments.target, "features": arguments.features, "ignore": arguments.ignore or ()}
    before = None if saved is None else saved.standardisation()
    options = common | table | {"targets": arguments.targets}
    whole = _opened(arguments, arguments.data, options, first=True, standardise=before or arguments.standardise)
    if arguments.validation is not None:
        if not arguments.validation:
            raise InputError("--validation must be the path of a file; got ''.")
        if held_out is not None:
            raise InputError("--validation and --held-out both say what to validate on; leave one out.")
        # Names that a flag gives for the training file need not be those of this one.
        again = {"task": whole.task, "columns": whole.columns, "class_names": whole.class_names, "scale": whole.scale}
        again |= {"header": common["header"], "part": part_to_use(arguments.validation)}
        rest = _opened(arguments, arguments.validation, again, standardise=whole.standardisation or False)
        part = "the test part of " if again["part"] == "test" else ""
        return _noted(whole, f"validated on {part}{arguments.validation}"), rest
    if folder and (held_out is None or arguments.splitting is None):
        again = common | {"part": "test"}
        rest = _opened(arguments, arguments.data, again, standardise=whole.standardisation or False)
        return _noted(whole, "held out: the test part of the folder"), rest
    if folder and has_part(Path(arguments.data), "test"):
        whole = _noted(whole, "left out: the test part of the folder")
    if held_out == 0:
        return _noted(whole, "nothing is held out"), None
    return _split(whole, HELD_OUT if held_out is None else held_out, arguments)


def _opened(
    arguments: argparse.Namespace,
    source: str,
    options: dict[str, Any],
    *,
    standardise: "bool | Standardisation",
    first: bool = False,
) -> "Samples":
    """Open samples as the flags say: in blocks or in memory.

    standardise: see `open_data`. first: these are the samples to train on, which may have weights.
    """
    from lowmem.data.open import load, open_data

    options = {name: value for name, value in options.items() if value is not None}
    if first:
        options["weights"] = arguments.weights
    if not arguments.stream:
        return load(source, **options)
    options |= {"standardise": standardise, "one_hot": bool(getattr(arguments, "one_hot", None))}
    return open_data(source, shuffle_rows=arguments.shuffle_rows, **options)


def _split(whole: "Samples", share: float, arguments: argparse.Namespace) -> tuple["Samples", "Samples"]:
    """Split samples by a share, as the version did that the run began with."""
    from lowmem.data.dataset import Dataset
    from lowmem.data.split import split_of_earlier_versions
    from lowmem.data.stream import Stream

    if arguments.splitting is None and isinstance(whole, Stream):
        return whole.split_in_order(share)
    if arguments.splitting is None and isinstance(whole, Dataset):
        train, rest = split_of_earlier_versions(whole, share, arguments.seed)
        return whole.take(train), whole.take(rest)
    kept, held = whole.split(share, arguments.seed)
    alike = ", of each class its share" if whole.labels or getattr(arguments, "one_hot", None) else ""
    return _noted(kept, f"held out: {share:.4g} of the samples{alike}, by seed {arguments.seed}"), held


def _noted(samples: "Samples", note: str) -> "Samples":
    """Return samples with one more note."""
    return replace(samples, notes=(*samples.notes, note))


def _task_of_run(saved: "SavedRun") -> str | None:
    """Return the task of a saved run's network; bce is for either."""
    loss = saved.architecture.loss
    return None if loss in CLASSIFYING else "classification" if LOSSES[loss].labels else "regression"


def _of_run(saved: "SavedRun") -> dict[str, Any]:
    """Return what a saved run knows of its data, as keywords of `open_data`."""
    return {"columns": saved.columns, "class_names": saved.class_names, "scale": saved.scale}


def _header(text: str | None) -> bool | None:
    """Return what --header says. Raises `InputError` for anything but yes and no."""
    if text is None:
        return None
    if not isinstance(text, str) or text.lower() not in ("yes", "no"):
        raise InputError(f"--header is yes or no; got {text!r}.")
    return text.lower() == "yes"


def options_of_run(arguments: argparse.Namespace, saved: "SavedRun", *, inputs_only: bool = False) -> dict[str, Any]:
    """Return keywords of `open_data` for samples of a saved run's network, which may be a table or not."""
    options = _of_run(saved)
    options |= {"task": None if inputs_only else _task_of_run(saved), "inputs_only": inputs_only}
    options["standardise"] = saved.standardisation() or False
    flags, table = saved.notes.get("flags"), is_table(arguments.data)
    # Columns of a run of an earlier version are known by its flags. Losses are not weighted here.
    earlier = flags if isinstance(flags, dict) and table and saved.columns is None else {}
    for name in ("target", "weights"):
        told = getattr(arguments, name)
        value = earlier.get(name) if told is None else told
        options[name] = value if isinstance(value, str) else None
    options |= {"ignore": arguments.ignore or (), "header": _header(arguments.header)}
    if table and saved.columns is None:
        options["inputs"] = saved.architecture.widths[0]
    return {name: value for name, value in options.items() if value is not None}


def say_remarks(samples: "Samples") -> None:
    """Write what people should know of samples to standard error."""
    for remark in samples.remarks:
        print(f"lowmem: note: {samples.name}: {remark}", file=sys.stderr)
