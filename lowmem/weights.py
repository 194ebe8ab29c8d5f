"""Weights by which the losses of samples are multiplied in training: of their classes, and their own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.architecture import Architecture
from lowmem.errors import InputError
from lowmem.nn.losses import check_weights

Array = NDArray[Any]


class BatchWeights:
    """The weights of a batch's samples: those of their classes, times their own."""

    def __init__(self, architecture: Architecture, of_classes: Sequence[float] | None) -> None:
        self.of_classes = None if of_classes is None else [float(weight) for weight in of_classes]
        self._dtype, self._table, self._buffer = np.dtype(architecture.dtype), np.zeros(0), np.zeros(0)
        if self.of_classes is None:
            return
        outputs = architecture.widths[-1]
        if not architecture.loss_facts.labels or len(self.of_classes) != outputs:
            raise InputError(f"class_weights needs a loss of labels and a number for each of the {outputs} outputs.")
        self._table = np.array(self.of_classes, self._dtype)
        check_weights(self._table, outputs, architecture.dtype)

    def bytes_for(self, rows: int) -> int:
        """Return the bytes for batches of so many rows."""
        return 0 if self.of_classes is None else (rows + len(self.of_classes)) * self._dtype.itemsize

    def allocate(self, rows: int) -> None:
        """Make the memory for a batch."""
        self._buffer = np.zeros(0 if self.of_classes is None else rows, self._dtype)

    def of(self, y: Array, own: Array | None) -> Array | None:
        """Return the weights of a batch with labels y, None if all are 1."""
        if self.of_classes is None:
            return own
        weights = self._buffer[: len(y)]
        np.take(self._table, y, out=weights, mode="clip")
        if own is not None:
            np.multiply(weights, own, out=weights)
        return weights
