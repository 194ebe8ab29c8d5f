"""The first pass over a file of samples: what is in it, and what must not be."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.array_checks import check_finite
from lowmem.block_files import Rows, blocks
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
    """What the first pass finds: the range of y, whether all is whole; the largest, mean and deviation of x."""

    low: float
    high: float
    row_of_high: int
    whole: bool
    largest: float
    standardisation: Standardisation | None


def survey(rows: Rows, *, fit: bool) -> Facts:
    """Go through all rows once, a small run at a time: refuse what is not finite, with its row."""
    at_once = max(1, min(rows.samples, AT_ONCE // max(1, rows.features * rows.x_dtype.itemsize)))
    x = np.empty((at_once, rows.features), rows.x_dtype)
    y = np.empty((at_once, *rows.y_shape), rows.y_dtype)
    low, high, at, whole, largest = math.inf, -math.inf, 0, True, 0.0
    moments = Moments(rows.features) if fit else None
    for start, stop in blocks(rows.samples, at_once):
        count = stop - start
        try:
            rows.read(start, x[:count], y[:count])
        except RunError as problem:  # nothing has been started yet
            raise InputError(str(problem)) from None
        for what, array in (("x", x[:count]), ("y", y[:count])):
            check_finite(array, what, rows.name, start)
        part = y[:count]
        low, largest = (
            min(low, float(part.min())),
            max(largest, *(abs(float(edge)) for edge in (x[:count].min(), x[:count].max()))),
        )
        if part.max() > high:
            high, at = float(part.max()), start + int(part.argmax()) // max(1, math.prod(rows.y_shape))
        whole = whole and (part.dtype.kind in "biu" or bool((np.floor(part) == part).all()))
        if moments is not None:
            moments.add(x[:count])
    return Facts(low, high, at, whole, largest, None if moments is None else moments.result())


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
