"""Factors for the losses of samples in training: the weight of a sample's class times the sample's own weight."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import check_range, check_some_left
from lowmem.data.samples import Batch
from lowmem.errors import InputError
from lowmem.network.architecture import Architecture
from lowmem.nn.losses import check_weights
from lowmem.training.class_weights import ClassWeights, by_class, check_form

Array = NDArray[Any]

OF_A_CLASS = 112
"""Bytes that a class's weight takes: a number of Python's in a list, and its text while a run is saved."""


class BatchWeights:
    """The weights of the samples of a batch: the weight of a sample's class times the sample's own weight.

    given: weights of the classes, as `Trainer` takes them; None gives every class the weight 1. "balanced" and
        dictionaries wait for `settle`, which knows the training data.

    `of_classes` is a number for each output, None as long as it is not known.

    Raises `InputError` if the loss has no classes, or if their number differs.
    """

    def __init__(self, architecture: Architecture, given: ClassWeights | None) -> None:
        self._weighted = given is not None
        self._outputs, self._dtype = architecture.widths[-1], np.dtype(architecture.dtype)
        self._table, self._buffer = np.zeros(0, self._dtype), np.zeros(0, self._dtype)
        self.of_classes: list[float] | None = None
        self._by_key: dict[Any, float] | None = None
        if not self._weighted:
            return
        form = check_form(given, self._outputs)
        if not architecture.loss_facts.labels:
            raise InputError(
                f"class_weights needs a loss of labels, such as cross_entropy; the loss is {architecture.loss}. Leave "
                "it out, or give weights of the samples with the data."
            )
        if isinstance(form, list):
            self._set(form)
        self._by_key = form if isinstance(form, dict) else None

    def _set(self, of_classes: list[float]) -> None:
        """Put the weights of the classes into the network's dtype."""
        check_range(np.array(of_classes), self._dtype, "class_weights")
        self._table = np.array(of_classes, self._dtype)
        check_some_left(self._table, max(of_classes), "class_weights")
        check_weights(self._table, self._outputs, self._dtype.name)
        self.of_classes = of_classes

    def name(self, class_names: Sequence[str] | None) -> None:
        """Understand the keys of a dictionary. Raises `InputError` for unknown and missing classes.

        class_names: of the training data, None if their classes are numbers.
        """
        if self._by_key is not None and self.of_classes is None:
            self._set(by_class(self._by_key, class_names, self._outputs))
            self._by_key = {}  # with many classes it is large

    @property
    def waiting(self) -> bool:
        """True for "balanced" until `balance` knows how many samples each class has."""
        return self._weighted and self._by_key is None and self.of_classes is None

    def balance(self, counts: Array) -> None:
        """Weigh a class with n_c of n samples n / (k n_c), where k classes have samples; the others weigh 1.

        counts: n_c by class.
        """
        samples, classes = int(counts.sum()), np.count_nonzero(counts)
        self._set([samples / (classes * count) if count else 1.0 for count in counts.tolist()])

    def bytes_for(self, rows: int) -> int:
        """Return the bytes that batches of at most `rows` samples, and saving the weights of classes, need here."""
        return (rows + self._outputs) * self._dtype.itemsize + self._outputs * OF_A_CLASS if self._weighted else 0

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
