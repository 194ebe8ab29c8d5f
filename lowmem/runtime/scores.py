"""How good predictions are: a confusion matrix and scores of classes, or errors of numbers, batch by batch."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def probabilities(outputs: Array, loss: str) -> Array:
    """Return the probabilities that outputs s stand for, of the same shape, as float64.

    loss: "cross_entropy" takes the softmax of a row, "bce" the sigmoid of each output.
    """
    s = outputs.astype(np.float64)
    if loss == "bce":
        return 0.5 + 0.5 * np.tanh(s / 2)
    s -= s.max(axis=1, keepdims=True)
    np.exp(s, out=s)
    s /= s.sum(axis=1, keepdims=True)
    return s


@dataclass(slots=True)
class ClassScores:
    """Counts of classes: confusion[i, j] is how many samples of class i were taken for class j."""

    confusion: NDArray[np.int64]

    @classmethod
    def of(cls, classes: int) -> "ClassScores":
        """Return scores of no sample yet."""
        return cls(np.zeros((classes, classes), np.int64))

    def add(self, predicted: Array, true: Array) -> None:
        """Count a batch. predicted, true: class numbers, (rows,)."""
        classes = len(self.confusion)
        cells = true.astype(np.intp) * classes + predicted.astype(np.intp)
        self.confusion += np.bincount(cells, minlength=classes**2).reshape(classes, classes)

    def per_class(self) -> list[dict[str, float | int | None]]:
        """Return precision, recall and F1 of each class, and how many samples it has; None where it would be 0 / 0."""
        rows: list[dict[str, float | int | None]] = []
        for number, right in enumerate(self.confusion.diagonal().tolist()):
            true, taken = int(self.confusion[number].sum()), int(self.confusion[:, number].sum())
            rows.append(
                {
                    "precision": right / taken if taken else None,
                    "recall": right / true if true else None,
                    "f1": 2 * right / (true + taken) if true + taken else None,
                    "samples": true,
                }
            )
        return rows

    @property
    def accuracy(self) -> float:
        """The share of the samples whose class is right."""
        return float(self.confusion.trace() / self.confusion.sum())


@dataclass(slots=True)
class NumberScores:
    """Errors of predicted numbers, over all outputs and samples. Sums are of float64.

    squared, absolute: sums of errors, (outputs,). mean, spread: mean of the targets, and the sum of their squared
    distances from it, (outputs,), updated as in Chan, Golub, LeVeque (1979), which loses no digits to large targets.
    """

    samples: int = 0
    squared: Array = field(default_factory=lambda: np.zeros(1))
    absolute: Array = field(default_factory=lambda: np.zeros(1))
    mean: Array = field(default_factory=lambda: np.zeros(1))
    spread: Array = field(default_factory=lambda: np.zeros(1))

    def add(self, predicted: Array, true: Array) -> None:
        """Count a batch. predicted, true: (rows, outputs)."""
        y = true.astype(np.float64).reshape(len(true), -1)
        error = predicted.astype(np.float64).reshape(y.shape) - y
        self.squared = self.squared + (error**2).sum(axis=0)
        self.absolute = self.absolute + np.abs(error).sum(axis=0)
        mean, rows = y.mean(axis=0), len(y)
        apart, together = mean - self.mean, self.samples + rows
        self.spread = self.spread + ((y - mean) ** 2).sum(axis=0) + apart**2 * (self.samples * rows / together)
        self.mean = self.mean + apart * (rows / together)
        self.samples = together

    @property
    def rmse(self) -> float:
        """The root of the mean squared error."""
        return float(np.sqrt(self.squared.mean() / self.samples))

    @property
    def mae(self) -> float:
        """The mean absolute error."""
        return float(self.absolute.mean() / self.samples)

    @property
    def r2(self) -> float | None:
        """The mean over the outputs of 1 - squared error / variance; None where an output's targets are all alike."""
        return None if (self.spread == 0).any() else float((1 - self.squared / self.spread).mean())
