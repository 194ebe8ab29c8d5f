"""The first pass over the rows of a file: what they hold, and what they must not hold."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lowmem.common.checks import check_finite, check_sample_weights
from lowmem.data.formats.rows import Rows, blocks
from lowmem.data.samples import LABEL_KINDS, Batch
from lowmem.data.standardisation import Moments, Standardisation
from lowmem.errors import InputError, RunError

AT_ONCE = 1 << 18
"""Bytes of rows that are looked at together."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What the first pass finds in a file of samples.

    low, high: the least and the largest number in y. row_of_high: the row of the latter.
    whole: True where all of y are whole numbers.
    largest: the largest |x|. largest_weight: the largest weight of a sample, 0 where there are no weights.
    standardisation: mean and deviation of x, where they were asked for.
    """

    low: float
    high: float
    row_of_high: int
    whole: bool
    largest: float
    largest_weight: float
    standardisation: Standardisation | None


def scan(rows: Rows, *, fit: bool) -> Contents:
    """Go through all rows once, and learn the names of classes on the way.

    fit: whether to find the mean and deviation of x.

    Raises `InputError`, with the row, for numbers that are not finite and weights below 0, and for what cannot be
    read.
    """
    low, high, row_of_high, whole, largest, largest_weight = math.inf, -math.inf, 0, True, 0.0, 0.0
    moments = Moments(rows.features) if fit else None
    for start, batch in runs(rows):
        check_finite(batch.x, "x", rows.name, start)
        check_finite(batch.y, "y", rows.name, start)
        y_high = float(batch.y.max())
        if y_high > high:
            high, row_of_high = y_high, start + int(batch.y.argmax()) // math.prod(rows.y_shape)
        low = min(low, float(batch.y.min()))
        largest = max(largest, abs(float(batch.x.min())), abs(float(batch.x.max())))
        whole = whole and (batch.y.dtype.kind in LABEL_KINDS or bool((np.floor(batch.y) == batch.y).all()))
        if moments is not None:
            moments.add(batch.x)
        if batch.weights is not None:
            check_sample_weights(batch.weights, rows.name, start)
            largest_weight = max(largest_weight, float(batch.weights.max()))
    if rows.w_dtype is not None and not largest_weight:
        raise InputError(f"{rows.name}: all weights are zero; some must be larger, or nothing would be learnt.")
    standardisation = None if moments is None else moments.result()
    return Contents(low, high, row_of_high, whole, largest, largest_weight, standardisation)


def runs(rows: Rows) -> Iterator[tuple[int, Batch]]:
    """Yield the first row and the samples of small runs, through all rows; a run is valid until the next one.

    Raises `InputError` for what cannot be read: no training has started yet.
    """
    at_once = max(1, min(rows.samples, AT_ONCE // max(1, rows.features * rows.x_dtype.itemsize)))
    buffer = rows.buffer(at_once)
    for start, stop in blocks(rows.samples, at_once):
        batch = buffer.part(0, stop - start)
        try:
            rows.read(start, batch)
        except RunError as problem:
            raise InputError(str(problem)) from None
        yield start, batch
