"""The first pass over the rows of a file: what they hold, and what they must not hold."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import check_finite, check_sample_weights, finite
from lowmem.data.formats.rows import Rows, blocks
from lowmem.data.samples import LABEL_KINDS, Batch
from lowmem.data.standardisation import Moments, Standardisation
from lowmem.errors import InputError, RunError

AT_ONCE = 1 << 18
"""Bytes of rows that are looked at together."""

MOST_COUNTED = 1 << 16
"""Whole numbers that are counted at most: from the least to the largest one in y."""

COUNTED_AT_ONCE = 4096
"""Numbers of y that are counted together."""

LEAST_COUNTED = 10
"""Rows from which on a feature that counts them can hardly be one by chance."""


STEPS = 1000
"""Numbers of float32 that a feature's values should have between them: with fewer, digits may be lost that tell them
apart, as those of times in seconds since 1970."""

TINY = 1e-30
"""The largest |x| of a feature that is as good as 0, whatever its digits."""

FEATURES_AT_ONCE = 4096
"""Features whose digits are looked at together."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What the first pass finds in a file of samples.

    low, high: the least and the largest number in y. row_of_high: the row of the latter.
    whole: True where all of y are whole numbers. row_of_part: the first row where they are not.
    counts: how often each whole number from `low` on occurs in y, one for each sample; None where there are others.
    counting: the first feature that numbers the rows, one more from row to row; None if there is none.
    counted_from: the number of the first row there.
    coarse: what is to be said of the first feature that float32 hardly tells apart; None if there is none.
    largest: the largest |x|. largest_weight: the largest weight of a sample, 0 where there are no weights.
    standardisation: mean and deviation of x, where they were asked for.
    """

    low: float
    high: float
    row_of_high: int
    whole: bool
    row_of_part: int
    counts: NDArray[np.int64] | None
    counting: int | None
    counted_from: float
    coarse: "Coarse | None"
    largest: float
    largest_weight: float
    standardisation: Standardisation | None

    def settled(self, moved: NDArray[np.integer[Any]]) -> "Contents":
        """Return the contents once class numbers were changed: number n has become `moved[n]`."""
        if self.counts is None or np.array_equal(moved, np.arange(len(moved))):
            return self
        counts = np.zeros_like(self.counts)
        counts[moved] = self.counts
        return replace(self, counts=counts, low=0.0, high=float(len(moved) - 1))

    def class_counts(self, classes: int) -> NDArray[np.int64] | None:
        """Return the number of samples of each class, None if they were not counted."""
        if self.counts is None:
            return None
        counts = np.zeros(classes, np.int64)
        counts[int(self.low) :][: len(self.counts)] = self.counts
        return counts

    def coded(self) -> "Contents":
        """Return the contents once whole numbers were turned into class numbers, without gaps."""
        if self.counts is None:
            return self
        counts = self.counts[self.counts > 0]
        return replace(self, counts=counts, low=0.0, high=float(len(counts) - 1))


def scan(rows: Rows, *, fit: bool) -> Contents:
    """Go through all rows once, and learn the names of classes on the way.

    fit: whether to find the mean and deviation of x.

    Raises `InputError`, with the row, for numbers that are not finite and weights below 0, and for what cannot be
    read.
    """
    low, high, row_of_high, row_of_part, largest_weight = math.inf, -math.inf, 0, -1, 0.0
    moments = Moments(rows.features) if fit else None
    counts, counting = Counts() if rows.y_shape == () else None, Counting()
    ranges = Ranges(rows.features, rows.x_dtype, read=rows.schema is not None)
    for start, batch in runs(rows):
        _check_finite(rows, batch, start)
        y_high = float(batch.y.max())
        if y_high > high:
            high, row_of_high = y_high, start + int(batch.y.argmax()) // math.prod(rows.y_shape)
        low = min(low, float(batch.y.min()))
        ranges.add(batch.x)
        if row_of_part < 0 and batch.y.dtype.kind not in LABEL_KINDS:
            part = np.floor(batch.y) != batch.y
            row_of_part = start + int(part.argmax()) // math.prod(rows.y_shape) if part.any() else -1
        counts = None if counts is None or row_of_part >= 0 or not counts.add(batch.y) else counts
        counting.look(batch.x, start)
        if moments is not None:
            moments.add(batch.x)
        if batch.weights is not None:
            check_sample_weights(batch.weights, rows.name, start)
            largest_weight = max(largest_weight, float(batch.weights.max()))
    if rows.w_dtype is not None and not largest_weight:
        raise InputError(f"{rows.name}: all weights are zero; some must be larger, or nothing would be learnt.")
    standardisation = None if moments is None else moments.result()
    return Contents(
        low,
        high,
        row_of_high,
        row_of_part < 0,
        row_of_part,
        None if counts is None or row_of_part >= 0 else counts.counts,
        counting.column if rows.samples >= LEAST_COUNTED else None,
        counting.first,
        ranges.coarse(),
        ranges.largest,
        largest_weight,
        standardisation,
    )


def _check_finite(rows: Rows, batch: Batch, start: int) -> None:
    """Refuse NaN and infinity in some rows, the first of which is `start`, with row and column."""
    for what, array in (("x", batch.x), ("y", batch.y)):
        if array.dtype.kind != "f" or finite(array):
            continue
        if rows.schema is None:
            check_finite(array, what, rows.name, start)
        row, column = np.argwhere(~np.isfinite(array.reshape(len(array), -1)))[0].tolist()
        value = array.reshape(len(array), -1)[row, column]
        place = rows.place(start + row, column if what == "x" else None)
        raise InputError(
            f"{rows.name}, {place}: {value} is no finite number. Fill missing values in, or remove that row."
        )


class Counts:
    """Counts whole numbers that are not far from each other. counts: of the numbers from the least one on."""

    def __init__(self) -> None:
        self._low, self.counts = 0, np.zeros(0, np.int64)

    def add(self, y: NDArray[Any]) -> bool:
        """Count some whole numbers. Return False if they are too far from each other to be counted."""
        low, high = int(y.min()), int(y.max())
        if len(self.counts):
            low, high = min(low, self._low), max(high, self._low + len(self.counts) - 1)
        if high - low >= MOST_COUNTED or max(abs(low), abs(high)) > 1 << 30:
            return False
        if low < self._low or not len(self.counts) or high >= self._low + len(self.counts):
            grown = np.zeros(high - low + 1, np.int64)
            grown[self._low - low :][: len(self.counts)] = self.counts
            self._low, self.counts = low, grown
        for start in range(0, len(y), COUNTED_AT_ONCE):
            part = y[start : start + COUNTED_AT_ONCE].astype(np.int64)
            self.counts += np.bincount(part - low, minlength=len(self.counts))
        return True


class Counting:
    """Looks for a feature that numbers the rows: `column` is the first one, None where there is none."""

    def __init__(self) -> None:
        self._columns: NDArray[np.intp] | None = None
        self._first = np.zeros(0)

    @property
    def column(self) -> int | None:
        """The first feature that numbers the rows that were looked at."""
        return None if self._columns is None or not len(self._columns) else int(self._columns[0])

    @property
    def first(self) -> float:
        """The number of the first row in that column."""
        return float(self._first[0]) if len(self._first) else 0.0

    def look(self, x: NDArray[Any], start: int) -> None:
        """Look at some rows, the first of which is `start`."""
        if self._columns is None:
            some = x[: min(len(x), 4)].astype(np.float64)
            self._columns = np.flatnonzero((np.diff(some, axis=0) == 1).all(axis=0)) if len(some) > 1 else np.arange(0)
            self._first = some[0, self._columns]
        if len(self._columns):
            wanted = np.arange(start, start + len(x), dtype=np.float64)[:, None] + self._first
            right = (x[:, self._columns] == wanted).all(axis=0)
            self._columns, self._first = self._columns[right], self._first[right]


@dataclass(frozen=True, slots=True)
class Coarse:
    """A feature of whose values float32 loses digits that tell them apart.

    feature: from 0. size: the largest |x|. step: between neighbouring numbers of float32 there.
    span: from the least to the largest x.
    """

    feature: int
    size: float
    step: float
    span: float

    def __str__(self) -> str:
        """Say what is lost."""
        within = f"lie within {self.span:.3g}" if self.span else "are the same there"
        return (
            f"has values about {self.size:.3g}, which float32 tells apart in steps of {self.step:.3g}, and all of "
            f"them {within}: subtract an offset from it"
        )


class Ranges:
    """The least and the largest value of each feature, and which features float32 hardly tells apart.

    dtype: of the values as stored. read: they were read as float32, and may have lost digits then.
    """

    def __init__(self, features: int, dtype: np.dtype[Any], *, read: bool) -> None:
        self._low, self._high = np.full(features, np.inf), np.full(features, -np.inf)
        self._read, self._lost = read, np.zeros(features, bool)
        self._watching = self._telling = read or not np.can_cast(dtype, np.float32)

    def add(self, x: NDArray[Any]) -> None:
        """Take in some rows."""
        np.minimum(self._low, x.min(axis=0), out=self._low)
        np.maximum(self._high, x.max(axis=0), out=self._high)
        if self._watching:
            self._watch(x)

    def _watch(self, x: NDArray[Any]) -> None:
        """Look in some rows which of the features that may be coarse in the end lose digits.

        A feature with twice `STEPS` between its ends keeps `STEPS`, whatever comes: where values grow so much that the
        steps double, the range grows too. So most data are looked at no more after their first rows.
        """
        self._watching = False
        for start in range(0, x.shape[1], FEATURES_AT_ONCE):
            some = slice(start, start + FEATURES_AT_ONCE)
            sizes, steps, spans = self._scales(some)
            watched = start + np.flatnonzero((sizes > TINY) & (spans < 2 * STEPS * steps) & ~self._lost[some])
            if len(watched):
                self._watching = True
                self._lost[watched] = self._differs(x[:, watched]).any(axis=0)

    def _differs(self, x: NDArray[Any]) -> NDArray[np.bool_]:
        """Say which values float32 does not hold; of values that were read as float32, which are not whole."""
        with np.errstate(over="ignore"):
            differs: NDArray[np.bool_] = (np.floor(x) if self._read else x.astype(np.float32)) != x
        return differs

    def _scales(self, some: slice) -> tuple[NDArray[np.float64], ...]:
        """Return the largest |x| of some features, the steps of float32 there, and the ranges of their values."""
        low, high = self._low[some], self._high[some]
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large for float32 is refused elsewhere
            sizes = np.maximum(np.abs(low), np.abs(high))
            return sizes, np.spacing(sizes.astype(np.float32)).astype(np.float64), high - low

    @property
    def largest(self) -> float:
        """The largest |x|."""
        return float(max(-self._low.min(), self._high.max()))

    def coarse(self) -> Coarse | None:
        """Return the first feature of which float32 loses digits that tell its values apart, None without.

        It has fewer than `STEPS` numbers of float32 between its ends, and values as stored that float32 does not hold.
        Values that were read as float32 may have lost digits where they are not whole, or larger than 2^24: even where
        they are one number now, others may have become it.
        """
        if not self._telling:
            return None
        sizes, steps, spans = self._scales(slice(None))
        few = (spans > 0) & (spans < STEPS * steps) & (sizes > TINY)
        lost = few & self._lost
        if self._read:
            lost |= (few & (steps > 1)) | ((spans == 0) & (sizes >= 2**24))
        if not lost.any():
            return None
        at = int(lost.argmax())
        return Coarse(at, float(sizes[at]), float(steps[at]), float(spans[at]))


def runs(rows: Rows) -> Iterator[tuple[int, Batch]]:
    """Yield the first row and the samples of small runs, through all rows; a run is valid until the next one.

    Raises `InputError` for what cannot be read: no training has started yet.
    """
    at_once = rows_at_once(rows.samples, rows.x_bytes)
    buffer = rows.buffer(at_once)
    for start, stop in blocks(rows.samples, at_once):
        batch = buffer.part(0, stop - start)
        try:
            rows.read(start, batch)
        except RunError as problem:
            raise InputError(str(problem)) from None
        yield start, batch


def rows_at_once(samples: int, x_bytes: int) -> int:
    """Return how many rows are looked at together; x_bytes: of a row."""
    return max(1, min(samples, AT_ONCE // max(1, x_bytes)))
