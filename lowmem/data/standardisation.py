"""Mean and deviation of features: fitted over all rows in one pass, applied to one batch at a time."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lowmem.errors import InputError

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Standardisation:
    """Mean and standard deviation of each feature as stored, float64, shape (features,)."""

    mean: Array
    deviation: Array


class Moments:
    """Mean and variance of columns, joined run by run.

    T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances", 1979.
    """

    def __init__(self, features: int) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(features), np.zeros(features)

    def add(self, x: Array) -> None:
        """Take in some rows."""
        part, both = x.astype(np.float64), self.count + len(x)
        with np.errstate(over="ignore", invalid="ignore"):  # `result` refuses what became infinite
            mean = part.mean(axis=0)
            part -= mean
            difference = mean - self.mean
            self.squares += np.einsum("ij,ij->j", part, part) + difference**2 * (self.count * len(x) / both)
            self.mean += difference * (len(x) / both)
        self.count = both

    def result(self) -> Standardisation:
        """Return mean and deviation; the deviation of a constant feature is 1.

        Raises `InputError` if a feature's squares are no finite numbers of float64: it would become 0 throughout.
        """
        large = ~np.isfinite(self.squares)
        if large.any():
            raise InputError(
                f"feature {int(large.argmax())} (from 0) has values too large to standardise: their squares are no "
                "finite numbers of float64. Scale the data."
            )
        deviation = np.sqrt(self.squares / self.count)
        deviation[deviation == 0] = 1.0
        return Standardisation(self.mean, deviation)


def standardisation_of(parts: Iterable[Array], features: int) -> Standardisation:
    """Return mean and deviation of x, (samples, features), that comes some rows at a time."""
    moments = Moments(features)
    for x in parts:
        moments.add(x)
    return moments.result()


class Transform:
    """What is done to x once it is in the dtype of the batches, in place: x ← scale x, or x ← (x - mean) / deviation.

    standardisation: if there is one, it is applied and the scale is not.

    Raises `InputError` for a mean, or one over a deviation, that is no finite number of the dtype.
    """

    def __init__(self, scale: float, standardisation: Standardisation | None, dtype: DTypeLike) -> None:
        self._scale = float(scale)
        self._mean = self._factor = np.zeros(0, dtype)
        if standardisation is not None:
            with np.errstate(over="ignore", divide="ignore"):
                self._mean = standardisation.mean.astype(dtype)
                self._factor = (1 / standardisation.deviation).astype(dtype)
            wrong = ~(np.isfinite(self._mean) & np.isfinite(self._factor))
            if wrong.any():
                at = int(wrong.argmax())
                raise InputError(
                    f"feature {at} (from 0) cannot be standardised in {self._mean.dtype}: its mean is "
                    f"{standardisation.mean[at]:.3g} and its deviation {standardisation.deviation[at]:.3g}. Scale it, "
                    "or use float64."
                )

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays owned here."""
        return self._mean.nbytes + self._factor.nbytes

    def apply(self, x: Array) -> None:
        """Transform a batch's x, (rows, features)."""
        if len(self._mean):
            np.subtract(x, self._mean, out=x)
            np.multiply(x, self._factor, out=x)
        elif self._scale != 1:
            np.multiply(x, self._scale, out=x)
