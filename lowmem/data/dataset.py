"""`Dataset`: samples in memory, as stored. They are cast and scaled one batch at a time.

MNIST, for example, stays 47 MB of bytes; as float32 it would be 188 MB.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lowmem.common.checks import check_finite, check_sample_weights, numeric
from lowmem.data.batches import ArrayBatches, buffer_bytes
from lowmem.data.class_names import ClassNames, as_text, numbered
from lowmem.data.samples import LABEL_KINDS, Samples, Targets
from lowmem.errors import InputError
from lowmem.network.architecture import Architecture


@dataclass(frozen=True, slots=True, eq=False)
class Dataset(Samples):
    """Samples and targets in memory, as stored. `Samples` tells the other fields and the methods.

    x: (samples, features), any numeric dtype.
    y: (samples,) integer labels, or targets of shape (samples,) or (samples, columns).
    weights: (samples,), by which the loss of each sample is multiplied in training; None is 1 for all.
    """

    x: NDArray[Any] = field(repr=False)
    y: NDArray[Any] = field(repr=False)
    weights: NDArray[Any] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.x)

    @property
    def features(self) -> int:
        """The number of columns of x."""
        return int(self.x.shape[1])

    @property
    def targets(self) -> Targets:
        """What y holds."""
        columns, largest = int(self.y[0].size), int(self.y.argmax())
        low, high = float(self.y.min()), float(self.y.reshape(-1)[largest])
        labels = self.y.ndim == 1 and self.y.dtype.kind in LABEL_KINDS
        classes = (int(high) + 1 if self.class_names is None else len(self.class_names)) if labels else columns
        return Targets(labels, classes, low, high, largest // columns)

    def class_counts(self, classes: int) -> NDArray[np.int64]:
        """See `Samples.class_counts`."""
        counts = np.zeros(classes, np.int64)
        for start in range(0, len(self), 4096):  # bincount makes a copy
            counts += np.bincount(self.y[start : start + 4096].astype(np.intp), minlength=classes)
        return counts

    def fingerprint(self) -> str:
        """Return a checksum of some samples spread over the data; see `Samples.fingerprint`."""
        code = 0
        for row in range(0, len(self), max(1, len(self) // 64)):
            for array in (self.x, self.y):
                code = crc32(np.ascontiguousarray(array[row]).tobytes(), code)
        return f"{len(self)} x {self.features}, {code:08x}"

    def batches(self, rows: int, architecture: Architecture, seed: int | None) -> ArrayBatches:
        """See `Samples.batches`."""
        return ArrayBatches(
            self.x,
            self.y,
            rows,
            architecture.dtype,
            self.scale,
            seed,
            labels=architecture.loss_facts.labels,
            weights=None if seed is None else self.weights,
            standardisation=self.standardisation,
        )

    def batch_bytes(self, rows: int, architecture: Architecture, *, shuffled: bool = True) -> int:
        """See `Samples.batch_bytes`."""
        return buffer_bytes(
            rows=rows,
            features=self.features,
            targets=architecture.widths[-1],
            samples=len(self),
            x_dtype=self.x.dtype,
            y_dtype=self.y.dtype,
            labels=architecture.loss_facts.labels,
            dtype=architecture.dtype,
            weighted=shuffled and self.weights is not None,
            standardised=self.standardisation is not None,
        )

    def take(self, rows: NDArray[np.integer[Any]]) -> "Dataset":
        """Return a data set of these rows; they are copied."""
        weights = None if self.weights is None else self.weights[rows]
        return replace(self, x=self.x[rows], y=self.y[rows], weights=weights)


def from_arrays(
    x: ArrayLike,
    y: ArrayLike,
    *,
    name: str = "arrays",
    scale: float = 1.0,
    weights: ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """Return x and y as a `Dataset`. NumPy arrays are not copied.

    x: (samples, ...), numbers; more than two dimensions are flattened to (samples, features).
    y: (samples,) labels from 0 or text, or (samples, ...) targets.
    name: what to call the data set in messages.
    scale: x is multiplied by it when a batch is cast.
    weights: (samples,), by which the loss of each sample is multiplied in training; numbers from 0.
    class_names: of labels that are text, in the order of their numbers; by default those in y, sorted.

    Raises `InputError` for arrays that are empty, not numeric, one-dimensional (x), of different lengths, with
    NaN or infinite values, with negative labels, or with text that is none of the `class_names`.
    """
    text = as_text(y)
    if text is not None:
        names = ClassNames(class_names)
        numbers = numbered(text, names, f"{name}: y")
        y = names.settle().take(numbers)  # in the order of the sorted names
    inputs, targets = numeric(x, "x", name), numeric(y, "y", name)
    if inputs.ndim < 2:
        raise InputError(
            f"{name}: x has shape {inputs.shape}; one row per sample is needed, shape (samples, features). "
            "A single feature is x.reshape(-1, 1)."
        )
    if targets.ndim < 1 or len(inputs) != len(targets):
        raise InputError(
            f"{name}: x has {len(inputs)} samples and y has shape {targets.shape}. Both need one entry per "
            "sample; check that they belong together."
        )
    if inputs.size == 0 or targets.size == 0:
        raise InputError(
            f"{name}: x has shape {inputs.shape} and y {targets.shape}; at least one sample, feature and target "
            "are needed. Check how the arrays were made."
        )
    inputs = inputs.reshape(len(inputs), -1)
    targets = targets if targets.ndim == 1 else targets.reshape(len(targets), -1)
    check_finite(inputs, "x", name)
    check_finite(targets, "y", name)
    checked_weights = None if weights is None else _weights(weights, len(inputs), name)
    found = None if text is None else names.names
    dataset = Dataset(name, inputs, targets, checked_weights, scale=scale, class_names=found)
    if dataset.labels and targets.min() < 0:
        raise InputError(
            f"{name}: the labels y go down to {targets.min()}; labels are whole numbers from 0. "
            "Number the classes from 0, or store targets that are not labels as floats."
        )
    return dataset


def _weights(weights: ArrayLike, samples: int, name: str) -> NDArray[Any]:
    """Return weights of samples as an array, if there is one for each and not all are 0."""
    array = numeric(weights, "weights", name)
    if array.shape != (samples,):
        raise InputError(f"{name}: weights have shape {array.shape}; one for each of the {samples} samples is needed.")
    check_sample_weights(array, name)
    if not array.max() > 0:
        raise InputError(f"{name}: all weights are zero; some must be larger, or nothing would be learnt.")
    return array
