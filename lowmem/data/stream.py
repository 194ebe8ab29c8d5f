"""Data larger than memory: `open_data`, and batches that are read in the background while the last one is trained on.

One pass over the file at the start sees that every number is finite and finds what labels or targets there are. In an
epoch the rows are shuffled block by block: the blocks in a new order, the rows of a block among each other. Data of no
more rows than a block are shuffled exactly, and give the same bits as the same data in arrays.
"""

import math
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import lookup, positive
from lowmem.data.batches import LABEL_DTYPE
from lowmem.data.class_names import ClassNames
from lowmem.data.dataset import DIGITS
from lowmem.data.formats.array_file import Rows
from lowmem.data.formats.array_headers import PARTS, damage_is_input_error, existing, idx_images, idx_labels, kind_of
from lowmem.data.formats.array_rows import open_arrays, open_npz
from lowmem.data.formats.columns import TABLES, Wanted
from lowmem.data.formats.csv import CsvRows, csv_columns
from lowmem.data.formats.parquet import ParquetRows, parquet_columns
from lowmem.data.scan import Standardisation, runs, survey
from lowmem.data.stream_batches import StreamBatches
from lowmem.errors import InputError
from lowmem.network.architecture import Architecture

Array = NDArray[Any]

BLOCK_BYTES = 8 << 20
"""Bytes of the block within which rows are shuffled, unless their number is given."""

MOST_CLASSES = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """Samples that stay in their file.

    name, samples, features: as the file has them. first: the row of the file that is the first here.
    labels: True where y is one class number for each sample; classes: the largest + 1, or the number of target
    columns. one_hot: labels become rows with a one, for losses that compare targets. y_range: least and largest
    target; row_of_largest: where the latter is. largest: of the values of x. scale: x is multiplied by it; or, with a
    standardisation, x ← (x - mean) / deviation.
    shuffle_rows: rows of a block. class_names: where labels are text: the names of the classes, sorted; y are their
    numbers. largest_weight: of the samples' own weights, 0 if they have none.
    """

    name: str
    rows: Rows = field(repr=False)
    samples: int
    features: int
    labels: bool
    classes: int
    y_range: tuple[float, float]
    largest: float
    row_of_largest: int
    shuffle_rows: int
    scale: float = 1.0
    one_hot: bool = False
    standardisation: Standardisation | None = field(default=None, repr=False)
    first: int = 0
    class_names: tuple[str, ...] | None = field(default=None, repr=False)
    largest_weight: float = 0.0

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.samples

    @property
    def columns(self) -> int:
        """Columns of y as the loss gets it."""
        return self.classes if self.one_hot or not self.labels else 1

    def split(self, held_out: float) -> tuple["Stream", "Stream"]:
        """Return two streams: the first rows of the file, and the last ones, `held_out` of all, held out."""
        kept = self.samples - round(self.samples * held_out)
        if not 0 < kept < self.samples:
            raise InputError(f"held_out={held_out!r} of {self.samples} samples leaves none on one side.")
        return replace(self, samples=kept), replace(self, first=self.first + kept, samples=self.samples - kept)

    def class_counts(self, classes: int) -> Array:
        """Return the number of samples of each class, in a pass over the labels."""
        counts = np.zeros(classes, np.int64)
        with closing(self.rows.again()) as rows:
            for _, _, y, _ in runs(rows, self.first, self.first + self.samples):
                counts += np.bincount(y.astype(np.intp), minlength=classes)
        return counts

    def fingerprint(self) -> str:
        """Return a checksum of the first and last samples: it tells one data set from another."""
        code = 0
        with closing(self.rows.again()) as rows:
            for start in dict.fromkeys((0, max(0, self.samples - 8))):
                x, y = self.buffers(min(8, self.samples - start))
                w = None if rows.w_dtype is None else np.empty(len(x), rows.w_dtype)
                rows.read(self.first + start, x, y, w)
                code = crc32(y.tobytes(), crc32(x.tobytes(), code))
                code = code if w is None else crc32(w.tobytes(), code)
        return f"{self.samples} x {self.features}, {code:08x}"

    def buffers(self, rows: int) -> tuple[Array, Array]:
        """Return arrays for so many rows as stored."""
        stored = self.rows
        return np.empty((rows, self.features), stored.x_dtype), np.empty((rows, *stored.y_shape), stored.y_dtype)

    def batches(self, rows: int, architecture: Architecture, seed: int | None) -> StreamBatches:
        """Return what goes through the samples in batches that fit a network."""
        return StreamBatches(self, rows, architecture, seed)

    def batch_bytes(self, rows: int, architecture: Architecture, *, shuffled: bool = True) -> int:
        """Return the bytes that `batches` will own."""
        block = self.block_rows(rows, shuffled)
        work, stored = architecture.item_bytes, self.rows
        y_columns = math.prod(stored.y_shape)
        in_block = self.features * stored.x_dtype.itemsize + y_columns * stored.y_dtype.itemsize
        y_work = LABEL_DTYPE.itemsize if architecture.loss_facts.labels else self.columns * work
        in_batch = 2 * (self.features * work + y_work)
        in_batch += 0 if stored.x_dtype == architecture.dtype else self.features * stored.x_dtype.itemsize
        in_batch += y_columns * stored.y_dtype.itemsize
        if shuffled and stored.w_dtype is not None:
            in_block += stored.w_dtype.itemsize
            in_batch += stored.w_dtype.itemsize + 2 * work
        order = np.dtype(np.intp).itemsize * block
        standard = 0 if self.standardisation is None else 2 * self.features * work
        return block * in_block + rows * in_batch + order + standard

    def block_rows(self, rows: int, shuffled: bool) -> int:
        """Return the rows of a block: as many as are shuffled together, without shuffling those of a batch."""
        return min(self.samples, self.shuffle_rows if shuffled else rows)


def open_data(
    source: str | os.PathLike[str],
    targets: str | os.PathLike[str] | None = None,
    *,
    part: str = "train",
    target: str | int | None = None,
    weights: str | os.PathLike[str] | int | None = None,
    class_names: Sequence[str] | None = None,
    shuffle_rows: int | None = None,
    standardise: bool | Standardisation = False,
    one_hot: bool = False,
    labels: bool | None = None,
    inputs_only: bool = False,
) -> Stream:
    """Open data that are read in blocks while training: they may be larger than memory.

    source: "digits", or a path: `.npy` with `targets` a second one, `.npz` (see `lowmem.data.dataset.load`), MNIST's
        idx or a folder of them, gzipped or not, `.csv`, or `.parquet`.
    part: "train" or "test", where the source holds both. target: name or number of a table's target column (the last).
    weights: by which the loss of each sample is multiplied in training: a column of a table, an array of an `.npz`, or
        another `.npy`; numbers from 0.
    class_names: of labels that are text, in the order of their numbers, and no others are allowed; by default those
        found in the first pass, sorted.
    shuffle_rows: rows that are shuffled among each other; by default as many as fit 8 MiB as they are stored.
    standardise: bring each feature to mean 0 and deviation 1, fitted in the first pass; or what was fitted before.
    one_hot: make rows with a one of labels, for losses other than cross_entropy.
    labels: whether y are class numbers; by default if all of them are whole numbers from 0.
    inputs_only: there are no targets, for predictions, or they are left aside (of a table the columns that `target`
        and `weights` name); y is then zero.

    Raises `InputError` in one line for what cannot be read or is no data set, with the row where there is one.

    >>> import numpy as np, lowmem as lm
    >>> np.savez("train.npz", x=np.random.default_rng(0).random((100, 5)), y=np.arange(100) % 3)
    >>> data = lm.open_data("train.npz", standardise=True)
    >>> len(data), data.features, data.classes
    (100, 5, 3)
    >>> train, held_out = data.split(0.2)
    >>> len(train), len(held_out)
    (80, 20)
    """
    lookup("part", part, PARTS)
    shuffle_rows = None if shuffle_rows is None else positive("shuffle_rows", shuffle_rows)
    scale = 1.0
    if isinstance(source, str) and source == "digits":
        path, scale = DIGITS, 1 / 16
    else:
        path = existing(source, names=("digits",))
    wanted = Wanted(target, None, inputs_only, None if class_names is None else tuple(class_names))
    rows, scale = _open_rows(path, targets, part, wanted, weights, scale)
    with damage_is_input_error(path), closing(rows):  # who reads opens it again
        facts = survey(rows, fit=standardise is True)
        if rows.names is not None:
            rows.names.settle()
    found = facts.whole and facts.low >= 0 and facts.high < MOST_CLASSES and rows.y_shape == ()
    if labels and not found:
        raise InputError(f"{rows.name}: y goes from {facts.low:g} to {facts.high:g}; labels are whole numbers from 0.")
    are_labels = found if labels is None else labels
    if rows.names is not None and not are_labels:
        raise InputError(f"{rows.name}: y is text, which can only be labels. Leave labels=False out.")
    if one_hot and not are_labels:
        raise InputError(f"{rows.name}: one_hot needs labels, whole numbers from 0; y are targets already.")
    if isinstance(standardise, Standardisation) and standardise.mean.shape != (rows.features,):
        raise InputError(
            f"{rows.name} has {rows.features} features; the standardisation is for {len(standardise.mean)}."
        )
    per_row = rows.features * rows.x_dtype.itemsize + math.prod(rows.y_shape) * rows.y_dtype.itemsize
    return Stream(
        name=rows.name,
        rows=rows,
        samples=rows.samples,
        features=rows.features,
        labels=are_labels,
        classes=_classes(rows, facts.high) if are_labels else max(1, math.prod(rows.y_shape)),
        y_range=(facts.low, facts.high),
        largest=facts.largest,
        row_of_largest=facts.row_of_high,
        shuffle_rows=max(1, BLOCK_BYTES // per_row) if shuffle_rows is None else shuffle_rows,
        scale=scale,
        one_hot=one_hot,
        standardisation=standardise if isinstance(standardise, Standardisation) else facts.standardisation,
        class_names=None if rows.names is None else rows.names.names,
        largest_weight=facts.largest_weight,
    )


def _classes(rows: Rows, high: float) -> int:
    """Return the number of classes, from their names or the largest label."""
    return int(high) + 1 if rows.names is None else len(rows.names.names)


def _open_rows(
    path: Path,
    targets: str | os.PathLike[str] | None,
    part: str,
    wanted: Wanted,
    weights: str | os.PathLike[str] | int | None,
    scale: float,
) -> tuple[Rows, float]:
    """Return the reader for a path, by its first bytes or the end of its name, and the scale of its values."""
    if path.is_dir():
        path, part = idx_images(path, part), "train"
    kind = path.suffix.lower().lstrip(".")
    kind = kind if kind in TABLES else kind_of(path)
    if targets is not None and (kind == "npz" or kind in TABLES):
        raise InputError(f"{path} holds x and y itself; leave targets={str(targets)!r} out.")
    if kind == "npz":
        names = None if wanted.class_names is None else ClassNames(wanted.class_names)
        chosen = None if weights is None else str(weights)
        return open_npz(path, part, chosen, names, inputs_only=wanted.inputs_only), scale
    if part != "train":
        raise InputError(f"{path} has no parts; part={part!r} needs a directory of idx files, or an .npz.")
    if kind in TABLES:
        column = os.fspath(weights) if isinstance(weights, os.PathLike) else weights
        return _table(kind)(path, replace(wanted, weights=column)), scale
    return _arrays(path, kind, targets, weights, wanted), 1 / 255 if kind == "idx" else scale


def table_columns(source: str | os.PathLike[str]) -> int | None:
    """Return the number of columns of a table, None for what is none."""
    path = Path(source)
    kind = path.suffix.lower().lstrip(".")
    if kind not in TABLES or path.is_dir():
        return None
    path = existing(path)
    return parquet_columns(path) if kind == "parquet" else csv_columns(path)


def _table(kind: str) -> Callable[[Path, Wanted], Rows]:
    """Return the reader of a kind of table."""
    if kind == "parquet":
        return ParquetRows
    return CsvRows


def _arrays(
    path: Path,
    kind: str,
    targets: str | os.PathLike[str] | None,
    weights: str | os.PathLike[str] | int | None,
    wanted: Wanted,
) -> Rows:
    """Return the reader of arrays in a file each."""
    if wanted.inputs_only:
        return open_arrays((path, kind, None), None)
    y_path = None if targets is None else existing(targets)
    if kind == "idx":
        y_path = y_path or idx_labels(path)
    elif y_path is None:
        raise InputError(f"{path} holds one array, which is x; y is needed too. Give its file as targets=.")
    if isinstance(weights, int):
        raise InputError(f"weights={weights}: {path} is no table with columns. Give the file of the weights, an .npy.")
    w_path = None if weights is None else existing(weights)
    names = None if wanted.class_names is None else ClassNames(wanted.class_names)
    y, w = (None if other is None else (other, kind_of(other), None) for other in (y_path, w_path))
    return open_arrays((path, kind, None), y, w, names)
