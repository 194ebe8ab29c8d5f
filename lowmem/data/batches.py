"""Batches of samples in memory, through buffers that are counted before they are made; and buffers that are lent."""

from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lowmem.common.checks import check_range, check_some_left, lookup, numeric, positive
from lowmem.common.random import generator
from lowmem.common.shards import Shards
from lowmem.data.samples import LABEL_DTYPE, LABEL_KINDS, Batch, Batches, Samples
from lowmem.data.standardisation import Standardisation, Transform
from lowmem.errors import InputError
from lowmem.network.architecture import Architecture
from lowmem.network.specs import ITEM_BYTES

Array = NDArray[Any]


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
    weighted: bool = False,
    standardised: bool = False,
) -> int:
    """Return the bytes that `ArrayBatches` will own, exactly, before they are made.

    rows: samples per batch.
    features, targets: columns of x and of y; the latter is not used where y is labels.
    samples: how many are gone through.
    x_dtype, y_dtype: as stored. dtype: of the batches.
    weighted, standardised: whether the samples have weights, and x is standardised.
    """
    x_from, y_from, work = np.dtype(x_dtype), np.dtype(y_dtype), _work_dtype(dtype)
    y_work, columns = (LABEL_DTYPE, 1) if labels else (work, targets)
    per_row = features * (work.itemsize + _staging_bytes(x_from, work))
    per_row += columns * (y_work.itemsize + _staging_bytes(y_from, y_work)) + np.dtype(np.intp).itemsize
    per_row += work.itemsize if weighted else 0
    per_sample = _order_dtype(samples).itemsize + (work.itemsize if weighted else 0)
    return rows * per_row + samples * per_sample + (2 * features * work.itemsize if standardised else 0)


class ArrayBatches:
    """Goes through samples in shuffled batches, each gathered into the same buffers; no epoch allocates an array.

    x: (samples, features), as stored.
    y: (samples,) integer labels where `labels`, else (samples,) or (samples, targets).
    rows: samples per batch; the last batch of an epoch may have fewer.
    dtype: of the batches ("float32" or "float64"); labels become int64.
    scale: x is multiplied by it, unless there is a standardisation: then x ← (x - mean) / deviation.
    seed: the order of epoch e is a function of (seed, e); None keeps the order of the rows.
    indices: the rows to go through, in any order (all of them by default); they are copied.
    weights: (samples,), by which the loss of each sample is multiplied; they are copied.
    share: of several ranks; batches hold the rows of this rank alone.

    See `lowmem.data.samples.Batches` for the methods. `x_buffer` is (rows, features), `y_buffer` (rows,) labels or
    (rows, targets). Raises `InputError` for arrays and numbers that do not fit together.
    """

    def __init__(
        self,
        x: Array,
        y: Array,
        rows: int,
        dtype: str = "float32",
        scale: float = 1.0,
        seed: int | None = None,
        *,
        labels: bool,
        indices: NDArray[np.integer[Any]] | None = None,
        weights: Array | None = None,
        standardisation: Standardisation | None = None,
        share: Shards | None = None,
    ) -> None:
        work = _work_dtype(dtype)
        self._x, self._y = np.asarray(x), np.asarray(y)
        if not labels and self._y.ndim == 1:
            self._y = self._y.reshape(-1, 1)
        _check_batch(self._x, self._y, rows, labels)
        check_range(self._x, work, "x", scale if standardisation is None else 1.0)
        if not labels:
            check_range(self._y, work, "y")
        if seed is not None:
            generator(seed)
        self.rows, self._share = rows, share
        rows = rows if share is None else share.most_own_rows(rows)
        self._transform = Transform(scale, standardisation, work)
        self._seed = seed
        self._order = _order(len(self._x), indices)
        self._rows_at = np.zeros(rows, np.intp)  # take() would make this copy of a narrower order in every batch
        y_work = LABEL_DTYPE if labels else work
        self.x_buffer: Array = np.zeros((rows, *self._x.shape[1:]), work)
        self.y_buffer: Array = np.zeros((rows, *self._y.shape[1:]), y_work)
        if weights is not None:
            check_range(weights, work, "weights")
        self._weights = None if weights is None else weights.astype(work)
        if weights is not None and self._weights is not None:
            check_some_left(self._weights, weights.max(), "weights")
        self._w_buffer = np.zeros(0 if weights is None else rows, work)
        self._x_staging = _staging(self._x, self.x_buffer)
        self._y_staging = _staging(self._y, self.y_buffer)

    @property
    def nbytes(self) -> int:
        """Bytes of every array owned here; the data themselves stay the caller's."""
        owned = [self.x_buffer, self.y_buffer, self._x_staging, self._y_staging, self._order, self._rows_at]
        owned += [self._weights, self._w_buffer]
        return sum(array.nbytes for array in owned if array is not None) + self._transform.nbytes

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self._order) // self.rows)

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of one epoch, views of the buffers, from batch `start` on; see `Batches.epoch`."""
        self._arrange(epoch)
        for first in range(start * self.rows, len(self._order), self.rows):
            rows, whole = self._order[first : first + self.rows], None
            if self._share is not None:
                whole = len(rows)
                rows = rows[slice(*self._share.own_rows(whole))]
            rows_at = self._rows_at[: len(rows)]
            np.copyto(rows_at, rows, casting="same_kind")
            x = _gather(self._x, rows_at, self._x_staging, self.x_buffer)
            self._transform.apply(x)
            weights = None if self._weights is None else _gather(self._weights, rows_at, None, self._w_buffer)
            yield Batch(x, _gather(self._y, rows_at, self._y_staging, self.y_buffer), weights, whole)

    def _arrange(self, epoch: int) -> None:
        """Put the rows into the order of an epoch."""
        self._order.sort()  # every epoch shuffles from the same state, whatever ran before
        if self._seed is not None:
            np.random.default_rng((self._seed, epoch)).shuffle(self._order)


class LentBatches:
    """Batches of validation data, whose buffers are made again where they were given back.

    rows: samples per batch. See `lowmem.data.samples.Batches` for the methods.
    """

    def __init__(self, samples: Samples, rows: int, architecture: Architecture) -> None:
        self._samples, self._rows, self._architecture = samples, rows, architecture
        self._made: Batches | None = samples.batches(rows, architecture, None)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, also while they are given back."""
        return self._samples.batch_bytes(self._rows, self._architecture, shuffled=False)

    def give_back(self) -> None:
        """Let the buffers go until the next epoch."""
        self._made = None

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self._samples) // self._rows)

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[Batch, None, None]:
        """See `Batches.epoch`."""
        if self._made is None:
            self._made = self._samples.batches(self._rows, self._architecture, None)
        return self._made.epoch(epoch, start=start)


def _gather(source: Array, rows_at: NDArray[np.intp], staging: Array | None, buffer: Array) -> Array:
    """Copy rows of `source` to the head of `buffer` and return that, by way of `staging` where the dtypes differ."""
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


def _staging(source: Array, buffer: Array) -> Array | None:
    """Return the buffer in which rows land before they are cast, or None where no cast is needed."""
    return np.zeros(buffer.shape, source.dtype) if _staging_bytes(source.dtype, buffer.dtype) else None


def _work_dtype(dtype: str) -> np.dtype[Any]:
    """Return the dtype of batches. Raises `UnknownNameError` for one that networks do not have."""
    lookup("dtype", dtype, ITEM_BYTES)
    return np.dtype(dtype)


def _staging_bytes(stored: np.dtype[Any], work: np.dtype[Any]) -> int:
    """Return the bytes of a number where rows land before they are cast, 0 where no cast is needed."""
    return 0 if stored == work else stored.itemsize


def _order_dtype(samples: int) -> np.dtype[Any]:
    """Return the narrowest dtype that the order of so many samples is kept in."""
    return np.dtype(np.uint32 if samples < 2**32 else np.uint64)


def _order(samples: int, indices: NDArray[np.integer[Any]] | None) -> Array:
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


def _check_batch(x: Array, y: Array, rows: int, labels: bool) -> None:
    """Refuse arrays and sizes that no batch can be made of."""
    positive("the rows of a batch", rows)
    for what, array in (("x", x), ("y", y)):
        numeric(array, what, "batches")
    if x.ndim != 2 or len(x) == 0 or y.ndim < 1 or len(x) != len(y):
        raise InputError(
            f"x has shape {x.shape} and y {y.shape}; x must be (samples, features) and y have as many samples."
        )
    if labels and (y.ndim != 1 or y.dtype.kind not in LABEL_KINDS):
        raise InputError(
            f"y has shape {y.shape} and dtype {y.dtype}; this loss needs integer labels of shape (samples,). "
            "One-hot rows become labels with y.argmax(axis=1)."
        )
    if not labels and y.ndim != 2:
        raise InputError(f"y has shape {y.shape}; targets of shape (samples, outputs) are needed. Reshape y.")
