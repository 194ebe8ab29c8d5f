"""Data sets: read from disk, split, and handed out in batches through buffers that are counted beforehand.

Samples stay as stored (MNIST is 47 MB as uint8, 188 MB as float32) and are cast and scaled one batch at a time.
"""

import math
import os
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from lowmem.architecture import ITEM_BYTES, Architecture, lookup
from lowmem.data_files import NUMBER_KINDS, PARTS, existing, idx_images, idx_labels, kind_of, read_array, read_pair
from lowmem.errors import InputError
from lowmem.nn.initialisers import generator

DIGITS = Path(__file__).with_name("datasets") / "digits.npz"
LABEL_DTYPE = np.dtype(np.int64)
_LABELS = "biu"


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Samples and targets as stored.

    name: where they come from, for messages.
    x: (samples, features), any numeric dtype.
    y: (samples,) integer labels, or targets of shape (samples,) or (samples, outputs).
    scale: x is multiplied by it when a batch is cast.
    weights: (samples,), by which the loss of each sample is multiplied in training; None is 1 for all.
    """

    name: str
    x: NDArray[Any] = field(repr=False)
    y: NDArray[Any] = field(repr=False)
    scale: float = 1.0
    weights: NDArray[Any] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.x)

    @property
    def features(self) -> int:
        """The number of columns of x."""
        return int(self.x.shape[1])

    @property
    def labels(self) -> bool:
        """True where y holds one integer label per sample."""
        return self.y.ndim == 1 and self.y.dtype.kind in _LABELS

    @property
    def classes(self) -> int:
        """The width that a network's output needs: the largest label + 1, or the number of target columns."""
        if self.labels:
            return int(self.y.max()) + 1
        return 1 if self.y.ndim == 1 else int(self.y.shape[1])

    @property
    def columns(self) -> int:
        """The number of columns of y."""
        return 1 if self.y.ndim == 1 else int(self.y.shape[1])

    @property
    def y_range(self) -> tuple[float, float]:
        """The least and the largest target."""
        return float(self.y.min()), float(self.y.max())

    @property
    def row_of_largest(self) -> int:
        """The sample with the largest target."""
        return int(self.y.argmax()) // self.columns

    def fingerprint(self) -> str:
        """Return a checksum of some samples spread over the data: it tells one data set from another."""
        code = 0
        for row in range(0, len(self), max(1, len(self) // 64)):
            for array in (self.x, self.y):
                code = crc32(np.ascontiguousarray(array[row]).tobytes(), code)
        return f"{len(self)} x {self.features}, {code:08x}"

    def batches(self, rows: int, architecture: Architecture, seed: int | None) -> "Batcher":
        """Return what goes through the samples in batches that fit a network."""
        labels = architecture.loss_facts.labels
        weights = None if seed is None else self.weights  # what is not shuffled is evaluated
        return Batcher(self.x, self.y, rows, architecture.dtype, self.scale, seed, labels=labels, weights=weights)

    def batch_bytes(self, rows: int, architecture: Architecture, *, shuffled: bool = True) -> int:
        """Return the bytes that `batches` will own, in order or shuffled."""
        weights = len(self) + rows if shuffled and self.weights is not None else 0
        return weights * architecture.item_bytes + buffer_bytes(
            rows=rows,
            features=self.features,
            targets=architecture.widths[-1],
            samples=len(self),
            x_dtype=self.x.dtype,
            y_dtype=self.y.dtype,
            labels=architecture.loss_facts.labels,
            dtype=architecture.dtype,
        )

    def take(self, rows: NDArray[np.integer[Any]]) -> "Dataset":
        """Return a data set of these rows; they are copied."""
        weights = None if self.weights is None else self.weights[rows]
        return Dataset(self.name, self.x[rows], self.y[rows], self.scale, weights)


def from_arrays(
    x: ArrayLike, y: ArrayLike, *, name: str = "arrays", scale: float = 1.0, weights: ArrayLike | None = None
) -> Dataset:
    """Check x and y and make a `Dataset` of them, without copying NumPy arrays.

    x: (samples, ...), numbers; more than two dimensions are flattened to (samples, features).
    y: (samples,) labels from 0, or (samples, ...) targets.
    weights: (samples,), by which the loss of each sample is multiplied in training.

    Raises `InputError` for arrays that are empty, not numeric, one-dimensional (x), of different lengths, with
    NaN or infinite values, or with negative labels.
    """
    inputs, targets = _numeric(x, "x", name), _numeric(y, "y", name)
    if inputs.ndim < 2:
        raise InputError(
            f"{name}: x has shape {inputs.shape}; one row per sample is needed, shape (samples, features). "
            "A single feature is x.reshape(-1, 1)."
        )
    if targets.ndim < 1 or len(inputs) != len(targets):
        raise InputError(
            f"{name}: x has {len(inputs)} samples and y has shape {targets.shape}. Both need one entry per "
            "sample; check that they belong together."
        )
    if inputs.size == 0 or targets.size == 0:
        raise InputError(
            f"{name}: x has shape {inputs.shape} and y {targets.shape}; at least one sample, feature and target "
            "are needed. Check how the arrays were made."
        )
    inputs = inputs.reshape(len(inputs), -1)
    targets = targets if targets.ndim == 1 else targets.reshape(len(targets), -1)
    check_finite(inputs, "x", name)
    check_finite(targets, "y", name)
    dataset = Dataset(name, inputs, targets, scale, None if weights is None else _weights(weights, len(inputs), name))
    if dataset.labels and targets.min() < 0:
        raise InputError(
            f"{name}: the labels y go down to {targets.min()}; labels are whole numbers from 0. "
            "Number the classes from 0, or store targets that are not labels as floats."
        )
    return dataset


def _weights(weights: ArrayLike, samples: int, name: str) -> NDArray[Any]:
    """Check the weights of samples."""
    array = _numeric(weights, "weights", name)
    if array.shape != (samples,):
        raise InputError(f"{name}: weights have shape {array.shape}; one for each of the {samples} samples is needed.")
    check_finite(array, "weights", name)
    if array.min() < 0 or not array.max() > 0:
        raise InputError(f"{name}: weights go from {array.min()} to {array.max()}; numbers from 0 are needed.")
    return array


def load(
    source: str | os.PathLike[str], targets: str | os.PathLike[str] | None = None, *, part: str = "train"
) -> Dataset:
    """Read a data set: the name "digits", or a path to one of these (a file's first bytes say which).

    - `.npz` with arrays x and y; or just images and labels, or data and target; or x_train, y_train, x_test and
      y_test.
    - `.npy` with x, and `targets` the path of a second one with y.
    - MNIST idx, gzipped or not: an images file, its labels found by name or given as `targets`; or a directory
      that holds them.

    targets: the file with y, where it is a file of its own.
    part: "train" or "test", where the source holds both.

    Returns a `Dataset`; scale is 1/16 for the digits, 1/255 for idx images and 1 otherwise. Raises `InputError`
    where the source cannot be read or what it holds is no data set, `UnknownNameError` for unknown names.
    """
    lookup("part", part, PARTS)
    name, scale = str(source), 1.0
    if isinstance(source, str) and source == "digits":
        path, scale = DIGITS, 1 / 16
    else:
        path = existing(source, names=("digits",))
    targets = None if targets is None else existing(targets)
    if path.is_dir():
        path, part = idx_images(path, part), "train"
    kind = kind_of(path)
    if kind == "npz":
        if targets is not None:
            raise InputError(f"{name} holds x and y itself; leave targets={str(targets)!r} out.")
        return from_arrays(*read_pair(path, part), name=name, scale=scale)
    if part != "train":
        raise InputError(f"{path} has no parts; part={part!r} needs a directory of idx files, or an .npz.")
    if kind == "idx":
        targets, scale = targets or idx_labels(path), 1 / 255
    elif targets is None:
        raise InputError(f"{path} holds one array, which is x; y is needed too. Give its file as targets=.")
    return from_arrays(read_array(path), read_array(targets), name=name, scale=scale)


def split(dataset: Dataset, held_out: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose samples to hold out: round(held_out * samples) of them, of every class its share where y is labels.

    held_out: the fraction to hold out, between 0 and 1.

    Returns the sorted row numbers (train, held out), the same for the same seed. Raises `InputError` where either
    would be empty.
    """
    samples = len(dataset)
    chosen = round(samples * held_out) if isinstance(held_out, float | np.floating) and 0 < held_out < 1 else 0
    if not 0 < chosen < samples:
        raise InputError(
            f"held_out={held_out!r} of {samples} samples leaves none on one side. Give a fraction between 0 and 1 "
            "of at least two samples, such as 0.2."
        )
    order = generator(seed).permutation(samples)
    if dataset.labels:
        order = order[np.argsort(dataset.y[order], kind="stable")]
    # Evenly spaced along samples sorted by class: each class gives its share, rounded up or down.
    steps = np.arange(samples + 1) * chosen // samples
    mask = steps[1:] > steps[:-1]
    return np.sort(order[~mask]), np.sort(order[mask])


def buffer_bytes(
    *,
    rows: int,
    features: int,
    targets: int,
    samples: int,
    x_dtype: DTypeLike,
    y_dtype: DTypeLike,
    labels: bool,
    dtype: str = "float32",
) -> int:
    """Return the bytes that a `Batcher` will own, exactly, before one is made.

    rows: samples per batch. targets: columns of y, unused where y is labels. samples: how many it goes through.
    x_dtype, y_dtype: of the data as stored. dtype: of the batches.
    """
    x_from, y_from, work = np.dtype(x_dtype), np.dtype(y_dtype), _work_dtype(dtype)
    y_work, columns = (LABEL_DTYPE, 1) if labels else (work, targets)
    per_row = features * (work.itemsize + _staging_bytes(x_from, work))
    per_row += columns * (y_work.itemsize + _staging_bytes(y_from, y_work)) + np.dtype(np.intp).itemsize
    return rows * per_row + samples * _order_dtype(samples).itemsize


class Batcher:
    """Goes through samples in shuffled batches, each gathered into the same buffers; no epoch allocates an array.

    x: (samples, features), as stored; y: (samples,) integer labels where `labels`, else (samples,) or
        (samples, targets).
    rows: samples per batch; the last batch of an epoch may have fewer.
    dtype: of the batches ("float32" or "float64"); labels become int64.
    scale: x is multiplied by it.
    seed: the order of epoch e is a function of (seed, e); None keeps the order of the rows.
    indices: the rows to go through, in any order (all of them by default); they are copied.
    weights: (samples,), of which `weights_now` holds those of the batch that was yielded last.

    `x_buffer` is (rows, features), `y_buffer` (rows,) labels or (rows, targets). Raises `InputError` for arrays
    and numbers that do not fit together.
    """

    def __init__(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        rows: int,
        dtype: str = "float32",
        scale: float = 1.0,
        seed: int | None = None,
        *,
        labels: bool,
        indices: NDArray[np.integer[Any]] | None = None,
        weights: NDArray[Any] | None = None,
    ) -> None:
        """Check the arguments, then make every buffer."""
        work = _work_dtype(dtype)
        self._x, self._y = np.asarray(x), np.asarray(y)
        if not labels and self._y.ndim == 1:
            self._y = self._y.reshape(-1, 1)
        _check_batch(self._x, self._y, rows, labels)
        _check_range(self._x, work, scale, "x")
        if not labels:
            _check_range(self._y, work, 1.0, "y")
        if seed is not None:
            generator(seed)
        self.rows = rows
        self._scale = float(scale)
        self._seed = seed
        self._order = _order(len(self._x), indices)
        self._rows_at = np.zeros(rows, np.intp)  # take() would make this copy of a narrower order in every batch
        y_work = LABEL_DTYPE if labels else work
        self.x_buffer: NDArray[Any] = np.zeros((rows, *self._x.shape[1:]), work)
        self.y_buffer: NDArray[Any] = np.zeros((rows, *self._y.shape[1:]), y_work)
        self.weights_now: NDArray[Any] | None = None
        self._weights = None if weights is None else weights.astype(work)
        self._w_buffer = np.zeros(0 if weights is None else rows, work)
        self._x_staging = _staging(self._x, self.x_buffer)
        self._y_staging = _staging(self._y, self.y_buffer)

    @property
    def nbytes(self) -> int:
        """Bytes of every array owned here; the data themselves stay the caller's."""
        owned = [self.x_buffer, self.y_buffer, self._x_staging, self._y_staging, self._order, self._rows_at]
        return sum(array.nbytes for array in (*owned, self._weights, self._w_buffer) if array is not None)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self._order) // self.rows)

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[tuple[NDArray[Any], NDArray[Any]]]:
        """Yield the batches of one epoch as views (x, y) of the buffers, valid until the next one is asked for.

        epoch: its number, from 0. start: the first batch wanted, to go on inside an epoch. One epoch at a time:
        they share the buffers and the order.
        """
        self._arrange(epoch)
        for first in range(start * self.rows, len(self._order), self.rows):
            rows = self._order[first : first + self.rows]
            rows_at = self._rows_at[: len(rows)]
            np.copyto(rows_at, rows, casting="same_kind")
            x = _gather(self._x, rows_at, self._x_staging, self.x_buffer)
            if self._scale != 1:
                np.multiply(x, self._scale, out=x)
            if self._weights is not None:
                self.weights_now = self._w_buffer[: len(rows)]
                np.take(self._weights, rows_at, out=self.weights_now, mode="clip")
            yield x, _gather(self._y, rows_at, self._y_staging, self.y_buffer)

    def _arrange(self, epoch: int) -> None:
        """Put the rows into the order of an epoch."""
        self._order.sort()  # every epoch shuffles from the same state, whatever ran before
        if self._seed is not None:
            np.random.default_rng((self._seed, epoch)).shuffle(self._order)


def _gather(
    source: NDArray[Any], rows_at: NDArray[np.intp], staging: NDArray[Any] | None, buffer: NDArray[Any]
) -> NDArray[Any]:
    """Copy rows of `source` to the head of `buffer`, by way of `staging` where the dtypes differ."""
    head = buffer[: len(rows_at)]
    landing = head if staging is None else staging[: len(rows_at)]
    if source.flags.c_contiguous and source.flags.aligned:
        # mode="clip" because the default mode copies `out`; the indices were checked when they came.
        np.take(source, rows_at, axis=0, out=landing, mode="clip")
    else:
        for row, index in enumerate(rows_at):  # take() would copy the whole source first
            landing[row] = source[index]
    if staging is not None:
        np.copyto(head, landing, casting="same_kind")
    return head


def _staging(source: NDArray[Any], buffer: NDArray[Any]) -> NDArray[Any] | None:
    """Return the buffer in which rows land before they are cast, or None where no cast is needed."""
    return np.zeros(buffer.shape, source.dtype) if _staging_bytes(source.dtype, buffer.dtype) else None


def _work_dtype(dtype: str) -> np.dtype[Any]:
    lookup("dtype", dtype, ITEM_BYTES)
    return np.dtype(dtype)


def _staging_bytes(stored: np.dtype[Any], work: np.dtype[Any]) -> int:
    return 0 if stored == work else stored.itemsize


def _order_dtype(samples: int) -> np.dtype[Any]:
    return np.dtype(np.uint32 if samples < 2**32 else np.uint64)


def _order(samples: int, indices: NDArray[np.integer[Any]] | None) -> NDArray[Any]:
    """Return the rows to go through, as narrow as their numbers allow."""
    if indices is None:
        return np.arange(samples, dtype=_order_dtype(samples))
    given = np.asarray(indices)
    if given.ndim != 1 or given.dtype.kind not in "iu" or given.size == 0:
        raise InputError(
            f"indices have shape {given.shape} and dtype {given.dtype}; a list of row numbers is needed, such as "
            "one of those that split() returns."
        )
    if given.min() < 0 or given.max() >= samples:
        raise InputError(
            f"indices go from {given.min()} to {given.max()}; x has rows 0 to {samples - 1}. "
            "Use indices made for this data set."
        )
    return given.astype(_order_dtype(samples))


def _check_batch(x: NDArray[Any], y: NDArray[Any], rows: int, labels: bool) -> None:
    """Refuse arrays and sizes that no batch can be made of."""
    if isinstance(rows, bool) or not isinstance(rows, int | np.integer) or rows < 1:
        raise InputError(f"a batch of {rows!r} samples; a positive whole number is needed, such as 128.")
    for what, array in (("x", x), ("y", y)):
        _numeric(array, what, "batches")
    if x.ndim != 2 or len(x) == 0 or y.ndim < 1 or len(x) != len(y):
        raise InputError(
            f"x has shape {x.shape} and y {y.shape}; x must be (samples, features) and y have as many samples."
        )
    if labels and (y.ndim != 1 or y.dtype.kind not in _LABELS):
        raise InputError(
            f"y has shape {y.shape} and dtype {y.dtype}; this loss needs integer labels of shape (samples,). "
            "One-hot rows become labels with y.argmax(axis=1)."
        )
    if not labels and y.ndim != 2:
        raise InputError(f"y has shape {y.shape}; targets of shape (samples, outputs) are needed. Reshape y.")


def _check_range(array: NDArray[Any], work: np.dtype[Any], scale: float, what: str) -> None:
    """Refuse values that would become infinite in a narrower dtype."""
    if array.dtype.kind != "f" or array.dtype.itemsize <= work.itemsize:
        return
    largest = max(abs(float(array.min())), abs(float(array.max())))
    # Cast first, scaled after: both must fit.
    if max(largest, largest * abs(scale)) > float(np.finfo(work).max):
        raise InputError(f"{what} has values up to {largest:.3g}, too large for {work}. Scale {what}, or use float64.")


def _numeric(values: ArrayLike, what: str, name: str) -> NDArray[Any]:
    """Return `values` as an array of numbers."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise InputError(
            f"{name}: the rows of {what} differ in length; every sample needs as many values. Pad or cut them."
        ) from None
    if array.dtype.kind not in NUMBER_KINDS:
        raise InputError(
            f"{name}: {what} has dtype {array.dtype}; numbers are needed. Convert it, such as "
            f"{what}.astype('float32'), and code text as numbers."
        )
    return array


def finite(array: NDArray[Any]) -> bool:
    """Say whether no element is NaN or infinite: both show in min and max, which need no array of their own."""
    with np.errstate(invalid="ignore"):
        return math.isfinite(array.min()) and math.isfinite(array.max())


def check_finite(array: NDArray[Any], what: str, name: str, first: int = 0) -> None:
    """Refuse NaN and infinity, with the row; `first` is the number of the first one."""
    if array.dtype.kind == "f" and not finite(array):
        row = next(row for row in range(len(array)) if not np.isfinite(array[row]).all())
        raise InputError(
            f"{name}: {what}[{first + row}] holds NaN or infinite values; finite numbers are needed. Remove such "
            "samples, or fill them in with numpy.nan_to_num."
        )
