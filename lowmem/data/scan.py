"""The first pass over a file of samples: what is in it, and what must not be."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import check_finite
from lowmem.data.formats.array_file import Rows, blocks
from lowmem.errors import InputError, RunError

Array = NDArray[Any]

AT_ONCE = 1 << 18
"""Bytes of rows that are looked at together."""


@dataclass(frozen=True, slots=True)
class Standardisation:
    """Mean and standard deviation of each feature as stored, float64, shape (features,)."""

    mean: Array
    deviation: Array


@dataclass(frozen=True, slots=True)
class Facts:
    """What the first pass finds: the range of y, whether all is whole; the largest, mean and deviation of x.

    largest_weight: of the samples' own weights, 0 where there are none.
    """

    low: float
    high: float
    row_of_high: int
    whole: bool
    largest: float
    largest_weight: float
    standardisation: Standardisation | None


def survey(rows: Rows, *, fit: bool) -> Facts:
    """Go through all rows once: refuse what is not finite and weights below 0, with the row, and learn class names."""
    low, high, at, whole, largest, largest_weight = math.inf, -math.inf, 0, True, 0.0, 0.0
    moments = Moments(rows.features) if fit else None
    for start, x, part, w in runs(rows, 0, rows.samples):
        for what, array in (("x", x), ("y", part)):
            check_finite(array, what, rows.name, start)
        low, largest = (
            min(low, float(part.min())),
            max(largest, *(abs(float(edge)) for edge in (x.min(), x.max()))),
        )
        if part.max() > high:
            high, at = float(part.max()), start + int(part.argmax()) // max(1, math.prod(rows.y_shape))
        whole = whole and (part.dtype.kind in "biu" or bool((np.floor(part) == part).all()))
        if moments is not None:
            moments.add(x)
        if w is not None:
            largest_weight = max(largest_weight, _largest_weight(w, rows.name, start))
    if rows.w_dtype is not None and not largest_weight:
        raise InputError(f"{rows.name}: all weights are zero; some must be larger, or nothing would be learnt.")
    return Facts(low, high, at, whole, largest, largest_weight, None if moments is None else moments.result())


def runs(rows: Rows, start: int, stop: int) -> Iterator[tuple[int, Array, Array, Array | None]]:
    """Yield (first row, x, y, weights) of small runs, valid until the next one is asked for.

    Raises `InputError` for what cannot be read: nothing has been started yet.
    """
    at_once = max(1, min(stop - start, AT_ONCE // max(1, rows.features * rows.x_dtype.itemsize)))
    x = np.empty((at_once, rows.features), rows.x_dtype)
    y = np.empty((at_once, *rows.y_shape), rows.y_dtype)
    w = None if rows.w_dtype is None else np.empty(at_once, rows.w_dtype)
    for first, last in blocks(stop - start, at_once):
        count = last - first
        part = None if w is None else w[:count]
        try:
            rows.read(start + first, x[:count], y[:count], part)
        except RunError as problem:
            raise InputError(str(problem)) from None
        yield start + first, x[:count], y[:count], part


def _largest_weight(w: Array, name: str, start: int) -> float:
    """Return the largest weight of some rows, if all are numbers from 0."""
    check_finite(w, "weights", name, start)
    if w.min() < 0:
        at = int(w.argmin())
        raise InputError(f"{name}: weights[{start + at}] is {w[at]}; numbers from 0 are needed.")
    return float(w.max())


class Moments:
    """Mean and variance of columns, joined run by run.

    T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances", 1979.
    """

    def __init__(self, features: int) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(features), np.zeros(features)

    def add(self, x: Array) -> None:
        """Take in some rows."""
        part = x.astype(np.float64)
        mean = part.mean(axis=0)
        part -= mean
        difference, both = mean - self.mean, self.count + len(x)
        self.squares += np.einsum("ij,ij->j", part, part) + difference**2 * (self.count * len(x) / both)
        self.mean += difference * (len(x) / both)
        self.count = both

    def result(self) -> Standardisation:
        """Return mean and deviation; the deviation of a constant feature is 1."""
        deviation = np.sqrt(self.squares / self.count)
        deviation[deviation == 0] = 1.0
        return Standardisation(self.mean, deviation)
