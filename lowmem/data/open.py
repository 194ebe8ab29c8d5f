"""Opening data: one way from a path to samples, in memory or as a stream, whatever the format."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lowmem.common.checks import as_whole, lookup, positive
from lowmem.common.damage import damage_is_input_error
from lowmem.data.dataset import Dataset
from lowmem.data.formats.array_rows import open_arrays
from lowmem.data.formats.columns import Selection
from lowmem.data.formats.csv import CsvRows, csv_columns
from lowmem.data.formats.finding import PARTS, TABLES, existing, format_of, idx_images
from lowmem.data.formats.parquet import ParquetRows, parquet_columns
from lowmem.data.formats.rows import Rows
from lowmem.data.samples import LABEL_DTYPE, LABEL_KINDS, Targets
from lowmem.data.scan import Contents, scan
from lowmem.data.standardisation import Standardisation
from lowmem.data.stream import Stream
from lowmem.errors import InputError, RunError

DIGITS = Path(__file__).with_name("datasets") / "digits.npz"

BLOCK_BYTES = 8 << 20
"""Bytes of the block within which the rows of a stream are shuffled, unless their number is given."""

MOST_CLASSES = 1 << 20

PathLike = str | os.PathLike[str]


def open_data(
    source: PathLike,
    targets: PathLike | None = None,
    *,
    part: str = "train",
    target: str | int | None = None,
    weights: PathLike | int | None = None,
    class_names: Sequence[str] | None = None,
    shuffle_rows: int | None = None,
    standardise: bool | Standardisation = False,
    one_hot: bool = False,
    labels: bool | None = None,
    inputs_only: bool = False,
) -> Stream:
    """Open data that are read in blocks while training: they may be larger than memory.

    source: "digits", or a path. These are known: `.npz` with arrays x and y, or X and y, or just images and labels,
        or just data and target, or x_train, y_train, x_test and y_test; `.npy` with x; MNIST's idx files, gzipped or
        not, or a folder of them; tables, `.csv`, `.tsv` or `.parquet`.
    targets: the file with y, where the source holds x alone; for an idx file it is found by name.
    part: "train" or "test", where the source holds both.
    target: name or number of a table's target column; by default the last.
    weights: by which the loss of each sample is multiplied in training: a column of a table, an array of an `.npz`, or
        another `.npy`; numbers from 0.
    class_names: of labels that are text, in the order of their numbers, and no others are allowed; by default those
        found in the first pass, sorted.
    shuffle_rows: rows that are shuffled among each other; by default as many as fit 8 MiB as they are stored.
    standardise: bring each feature to mean 0 and deviation 1, fitted in the first pass; or what was fitted before.
    one_hot: turn labels into rows with a one, for losses other than cross_entropy.
    labels: whether y are class numbers; by default if all of them are whole numbers from 0.
    inputs_only: there are no targets, for predictions, or they are left aside (of a table the columns that `target`
        and `weights` name); y is then zero.

    One pass over the file sees that every number is finite, and finds out what labels or targets there are. Values
    are multiplied by 1/16 for the digits and by 1/255 for idx files.

    Returns a `Stream`. Raises `InputError` in one line for what cannot be read or is no data set, with the row where
    there is one, and `UnknownNameError` for unknown names.

    >>> import numpy as np, lowmem as lm
    >>> np.savez("train.npz", x=np.random.default_rng(0).random((100, 5)), y=np.arange(100) % 3)
    >>> data = lm.open_data("train.npz", standardise=True)
    >>> len(data), data.features, data.classes
    (100, 5, 3)
    >>> train, held_out = data.split(0.2)
    >>> len(train), len(held_out)
    (80, 20)
    """
    shuffle_rows = None if shuffle_rows is None else positive("shuffle_rows", shuffle_rows)
    wanted = _selection(part, targets, target, weights, class_names, inputs_only=inputs_only)
    with _opened(source, wanted, standardise, in_memory=False) as (rows, contents, about):
        found = _targets(rows, contents, labels, in_memory=False)
        if one_hot and not found.labels:
            raise InputError(f"{rows.name}: one_hot needs labels, whole numbers from 0; y are targets already.")
        if one_hot:
            found = replace(found, labels=False, low=0.0, high=1.0)
        if shuffle_rows is None:
            shuffle_rows = max(1, BLOCK_BYTES // (rows.x_bytes + rows.y_bytes(weighted=False)))
        return Stream(str(source), rows, contents, found, one_hot, shuffle_rows=shuffle_rows, **about)


def load(
    source: PathLike,
    targets: PathLike | None = None,
    *,
    part: str = "train",
    target: str | int | None = None,
    weights: PathLike | int | None = None,
    class_names: Sequence[str] | None = None,
    standardise: bool | Standardisation = False,
    labels: bool | None = None,
) -> Dataset:
    """Read data into memory. The arguments are those of `open_data`.

    labels: whether y are class numbers; by default, of arrays, if they are stored as whole numbers; of a table, as in
        `open_data`.

    Returns a `Dataset` with x and y as stored. Raises `InputError` as `open_data` does.
    """
    wanted = _selection(part, targets, target, weights, class_names)
    with _opened(source, wanted, standardise, in_memory=True) as (rows, contents, about):
        are_labels = _targets(rows, contents, labels, in_memory=True).labels
        whole = rows.buffer(rows.samples)
        try:
            rows.read(0, whole)
        except RunError as problem:
            raise InputError(str(problem)) from None
        y = whole.y
        if are_labels != (y.ndim == 1 and y.dtype.kind in LABEL_KINDS):
            y = y.astype(LABEL_DTYPE if are_labels else np.float64)
        return Dataset(str(source), whole.x, y, whole.weights, **about)


def table_columns(source: PathLike) -> int | None:
    """Return the number of columns of a table, None for what is none."""
    kind = TABLES.get(Path(source).suffix.lower().lstrip("."))
    if kind is None or Path(source).is_dir():
        return None
    return (parquet_columns if kind == "parquet" else csv_columns)(existing(source))


def _selection(
    part: str,
    targets: PathLike | None,
    target: str | int | None,
    weights: PathLike | int | None,
    class_names: Sequence[str] | None,
    *,
    inputs_only: bool = False,
) -> Selection:
    """Check and gather what is wanted of a source."""
    lookup("part", part, PARTS)
    if weights is not None:
        number = as_whole(weights)
        weights = os.fspath(weights) if number is None else number  # type: ignore[arg-type]
    return Selection(
        part,
        None if targets is None else existing(targets),
        target,
        weights,
        None if class_names is None else tuple(class_names),
        inputs_only,
    )


@contextmanager
def _opened(
    source: PathLike, wanted: Selection, standardise: bool | Standardisation, *, in_memory: bool
) -> Iterator[tuple[Rows, Contents, dict[str, Any]]]:
    """Open a source and go through its rows once, which settles the class names.

    Yields the rows, which are closed behind, their contents, and what `Samples` tell besides: scale, standardisation
    and class names.
    """
    path, scale = (DIGITS, 1 / 16) if source == "digits" else (existing(source, names=("digits",)), 1.0)
    if path.is_dir():
        path, wanted = idx_images(path, wanted.part), replace(wanted, part="train")
    kind = format_of(path)
    if kind != "npz" and wanted.part != "train":
        raise InputError(f"{path} has no parts; part={wanted.part!r} needs a directory of idx files, or an .npz.")
    if kind not in ("npy", "idx") and wanted.targets is not None:
        raise InputError(f"{source} holds x and y itself; leave targets={str(wanted.targets)!r} out.")
    rows: Rows
    if kind == "csv":
        rows = CsvRows(path, wanted)
    elif kind == "parquet":
        rows = ParquetRows(path, wanted)
    else:
        rows = open_arrays(path, kind, wanted, whole=in_memory)
    with damage_is_input_error(path), closing(rows):
        contents = scan(rows, fit=standardise is True)
        if rows.class_names is not None:
            rows.class_names.settle()
        standardisation = standardise if isinstance(standardise, Standardisation) else contents.standardisation
        if standardisation is not None and standardisation.mean.shape != (rows.features,):
            raise InputError(
                f"{rows.name} has {rows.features} features; the standardisation is for {len(standardisation.mean)}."
            )
        names = None if rows.class_names is None else rows.class_names.names
        scale = 1 / 255 if kind == "idx" else scale
        yield rows, contents, {"scale": scale, "standardisation": standardisation, "class_names": names}


def _targets(rows: Rows, contents: Contents, told: bool | None, *, in_memory: bool) -> Targets:
    """Decide what y is: labels or targets.

    told: whether y are labels, if the user says so.

    Raises `InputError` where y cannot be what was told.
    """
    low, high = contents.low, contents.high
    possible = contents.whole and low >= 0 and high < MOST_CLASSES and rows.y_shape == ()
    if rows.class_names is not None and told is False:
        raise InputError(f"{rows.name}: y is text, which can only be labels. Leave labels=False out.")
    if told is None:
        # Whole numbers stored as such are labels in memory, even those that cannot be: they are refused.
        told = rows.y_dtype.kind in LABEL_KINDS and rows.y_shape == () if in_memory and rows.typed else possible
    if told and not possible:
        raise InputError(
            f"{rows.name}: y goes from {low:g} to {high:g}; labels are whole numbers from 0, below {MOST_CLASSES:,}."
        )
    if not told:
        return Targets(False, math.prod(rows.y_shape), low, high, contents.row_of_high)
    classes = int(high) + 1 if rows.class_names is None else len(rows.class_names.names)
    return Targets(True, classes, low, high, contents.row_of_high)
