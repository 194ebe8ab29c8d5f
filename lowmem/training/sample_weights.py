"""Factors for the losses of samples in training: the weight of a sample's class times the sample's own weight."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.data.samples import Batch
from lowmem.errors import InputError, UnknownNameError
from lowmem.network.architecture import Architecture
from lowmem.nn.losses import check_weights

Array = NDArray[Any]

BALANCED = "balanced"


class BatchWeights:
    """The weights of the samples of a batch: the weight of a sample's class times the sample's own weight.

    of_classes: a number for each class; None gives every class the weight 1. "balanced" waits until `balance` knows
        how many samples each class has.

    Raises `InputError` if the loss has no classes, or if their number differs.
    """

    def __init__(self, architecture: Architecture, of_classes: Sequence[float] | str | None) -> None:
        if isinstance(of_classes, str) and of_classes != BALANCED:
            raise UnknownNameError("class_weights", of_classes, (BALANCED,))
        self.waiting = isinstance(of_classes, str)
        self._weighted = of_classes is not None
        self._outputs, self._dtype = architecture.widths[-1], np.dtype(architecture.dtype)
        self._table, self._buffer = np.zeros(0, self._dtype), np.zeros(0, self._dtype)
        self.of_classes: list[float] | None = None
        if self._weighted and not architecture.loss_facts.labels:
            raise InputError(_need(self._outputs))
        if of_classes is not None and not isinstance(of_classes, str):
            self._set([float(weight) for weight in of_classes])

    def _set(self, of_classes: list[float]) -> None:
        """Check the weights of the classes, and put them into the network's dtype."""
        if len(of_classes) != self._outputs:
            raise InputError(_need(self._outputs))
        self._table = np.array(of_classes, self._dtype)
        check_weights(self._table, self._outputs, self._dtype.name)
        self.of_classes = of_classes

    def balance(self, counts: Array) -> None:
        """Weigh a class with n_c of n samples n / (k n_c), where k classes have samples; the others weigh 1.

        counts: n_c by class.
        """
        samples, classes = int(counts.sum()), np.count_nonzero(counts)
        self._set([samples / (classes * count) if count else 1.0 for count in counts.tolist()])
        self.waiting = False

    def bytes_for(self, rows: int) -> int:
        """Return the bytes that batches of at most `rows` samples need here."""
        return (rows + self._outputs) * self._dtype.itemsize if self._weighted else 0

    def allocate(self, rows: int) -> None:
        """Allocate the memory for batches of at most `rows` samples."""
        self._buffer = np.zeros(rows if self._weighted else 0, self._dtype)

    def of(self, batch: Batch) -> Array | None:
        """Return the weights of the samples of a batch, (rows,), None if all are 1."""
        if not self._weighted:
            return batch.weights
        weights = self._buffer[: len(batch)]
        np.take(self._table, batch.y, out=weights, mode="clip")
        if batch.weights is not None:
            np.multiply(weights, batch.weights, out=weights)
        return weights


def _need(outputs: int) -> str:
    return f'class_weights needs a loss of labels and "balanced" or a number for each of the {outputs} outputs.'
