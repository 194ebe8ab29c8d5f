"""Data sets: read from disk, split, and handed out in batches through buffers that are counted beforehand.

Samples stay as stored (MNIST is 47 MB as uint8, 188 MB as float32) and are cast and scaled one batch at a time.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lowmem.common.checks import check_finite, lookup, numeric
from lowmem.common.random import generator
from lowmem.data.batches import LABEL_KINDS, Batcher, buffer_bytes
from lowmem.data.class_names import ClassNames, as_text, numbered
from lowmem.data.formats.array_headers import PARTS, existing, idx_images, idx_labels, kind_of, read_array, read_pair
from lowmem.errors import InputError
from lowmem.network.architecture import Architecture

DIGITS = Path(__file__).with_name("datasets") / "digits.npz"


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Samples and targets as stored.

    name: where they come from, for messages.
    x: (samples, features), any numeric dtype.
    y: (samples,) integer labels, or targets of shape (samples,) or (samples, outputs).
    scale: x is multiplied by it when a batch is cast.
    weights: (samples,), by which the loss of each sample is multiplied in training; None is 1 for all.
    class_names: where labels were text: the names of the classes, sorted; y are their numbers.
    """

    name: str
    x: NDArray[Any] = field(repr=False)
    y: NDArray[Any] = field(repr=False)
    scale: float = 1.0
    weights: NDArray[Any] | None = field(default=None, repr=False)
    class_names: tuple[str, ...] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.x)

    @property
    def features(self) -> int:
        """The number of columns of x."""
        return int(self.x.shape[1])

    @property
    def labels(self) -> bool:
        """True where y holds one integer label per sample."""
        return self.y.ndim == 1 and self.y.dtype.kind in LABEL_KINDS

    @property
    def classes(self) -> int:
        """The width that a network's output needs: the largest label + 1, or the number of target columns."""
        if self.class_names is not None:
            return len(self.class_names)
        if self.labels:
            return int(self.y.max()) + 1
        return 1 if self.y.ndim == 1 else int(self.y.shape[1])

    @property
    def columns(self) -> int:
        """The number of columns of y."""
        return 1 if self.y.ndim == 1 else int(self.y.shape[1])

    @property
    def y_range(self) -> tuple[float, float]:
        """The least and the largest target."""
        return float(self.y.min()), float(self.y.max())

    @property
    def row_of_largest(self) -> int:
        """The sample with the largest target."""
        return int(self.y.argmax()) // self.columns

    def class_counts(self, classes: int) -> NDArray[np.int64]:
        """Return the number of samples of each class, for labels below `classes`."""
        counts = np.zeros(classes, np.int64)
        for start in range(0, len(self), 4096):  # bincount makes a copy
            counts += np.bincount(self.y[start : start + 4096].astype(np.intp), minlength=classes)
        return counts

    def fingerprint(self) -> str:
        """Return a checksum of some samples spread over the data: it tells one data set from another."""
        code = 0
        for row in range(0, len(self), max(1, len(self) // 64)):
            for array in (self.x, self.y):
                code = crc32(np.ascontiguousarray(array[row]).tobytes(), code)
        return f"{len(self)} x {self.features}, {code:08x}"

    def batches(self, rows: int, architecture: Architecture, seed: int | None) -> Batcher:
        """Return what goes through the samples in batches that fit a network."""
        labels = architecture.loss_facts.labels
        weights = None if seed is None else self.weights  # what is not shuffled is evaluated
        return Batcher(self.x, self.y, rows, architecture.dtype, self.scale, seed, labels=labels, weights=weights)

    def batch_bytes(self, rows: int, architecture: Architecture, *, shuffled: bool = True) -> int:
        """Return the bytes that `batches` will own, in order or shuffled."""
        weights = len(self) + rows if shuffled and self.weights is not None else 0
        return weights * architecture.item_bytes + buffer_bytes(
            rows=rows,
            features=self.features,
            targets=architecture.widths[-1],
            samples=len(self),
            x_dtype=self.x.dtype,
            y_dtype=self.y.dtype,
            labels=architecture.loss_facts.labels,
            dtype=architecture.dtype,
        )

    def take(self, rows: NDArray[np.integer[Any]]) -> "Dataset":
        """Return a data set of these rows; they are copied."""
        weights = None if self.weights is None else self.weights[rows]
        return Dataset(self.name, self.x[rows], self.y[rows], self.scale, weights, self.class_names)


def from_arrays(
    x: ArrayLike,
    y: ArrayLike,
    *,
    name: str = "arrays",
    scale: float = 1.0,
    weights: ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """Check x and y and make a `Dataset` of them, without copying NumPy arrays.

    x: (samples, ...), numbers; more than two dimensions are flattened to (samples, features).
    y: (samples,) labels from 0 or text, or (samples, ...) targets.
    weights: (samples,), by which the loss of each sample is multiplied in training.
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
    dataset = Dataset(name, inputs, targets, scale, checked_weights, found)
    if dataset.labels and targets.min() < 0:
        raise InputError(
            f"{name}: the labels y go down to {targets.min()}; labels are whole numbers from 0. "
            "Number the classes from 0, or store targets that are not labels as floats."
        )
    return dataset


def _weights(weights: ArrayLike, samples: int, name: str) -> NDArray[Any]:
    """Check the weights of samples."""
    array = numeric(weights, "weights", name)
    if array.shape != (samples,):
        raise InputError(f"{name}: weights have shape {array.shape}; one for each of the {samples} samples is needed.")
    check_finite(array, "weights", name)
    if array.min() < 0 or not array.max() > 0:
        raise InputError(f"{name}: weights go from {array.min()} to {array.max()}; numbers from 0 are needed.")
    return array


def load(
    source: str | os.PathLike[str],
    targets: str | os.PathLike[str] | None = None,
    *,
    part: str = "train",
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """Read a data set: the name "digits", or a path to one of these (a file's first bytes say which).

    - `.npz` with arrays x and y; or just images and labels, or data and target; or x_train, y_train, x_test and
      y_test.
    - `.npy` with x, and `targets` the path of a second one with y.
    - MNIST idx, gzipped or not: an images file, its labels found by name or given as `targets`; or a directory
      that holds them.

    targets: the file with y, where it is a file of its own.
    part: "train" or "test", where the source holds both.
    class_names: of labels that are text; see `from_arrays`.

    Returns a `Dataset`; scale is 1/16 for the digits, 1/255 for idx images and 1 otherwise. Raises `InputError`
    where the source cannot be read or what it holds is no data set, `UnknownNameError` for unknown names.
    """
    lookup("part", part, PARTS)
    name, scale = str(source), 1.0
    if isinstance(source, str) and source == "digits":
        path, scale = DIGITS, 1 / 16
    else:
        path = existing(source, names=("digits",))
    targets = None if targets is None else existing(targets)
    if path.is_dir():
        path, part = idx_images(path, part), "train"
    kind = kind_of(path)
    if kind == "npz":
        if targets is not None:
            raise InputError(f"{name} holds x and y itself; leave targets={str(targets)!r} out.")
        return from_arrays(*read_pair(path, part), name=name, scale=scale, class_names=class_names)
    if part != "train":
        raise InputError(f"{path} has no parts; part={part!r} needs a directory of idx files, or an .npz.")
    if kind == "idx":
        targets, scale = targets or idx_labels(path), 1 / 255
    elif targets is None:
        raise InputError(f"{path} holds one array, which is x; y is needed too. Give its file as targets=.")
    y = read_array(targets, text=True)
    return from_arrays(read_array(path), y, name=name, scale=scale, class_names=class_names)


def split(dataset: Dataset, held_out: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose samples to hold out: round(held_out * samples) of them, of every class its share where y is labels.

    held_out: the fraction to hold out, between 0 and 1.

    Returns the sorted row numbers (train, held out), the same for the same seed. Raises `InputError` where either
    would be empty.
    """
    samples = len(dataset)
    chosen = round(samples * held_out) if isinstance(held_out, float | np.floating) and 0 < held_out < 1 else 0
    if not 0 < chosen < samples:
        raise InputError(
            f"held_out={held_out!r} of {samples} samples leaves none on one side. Give a fraction between 0 and 1 "
            "of at least two samples, such as 0.2."
        )
    order = generator(seed).permutation(samples)
    if dataset.labels:
        order = order[np.argsort(dataset.y[order], kind="stable")]
    # Evenly spaced along samples sorted by class: each class gives its share, rounded up or down.
    steps = np.arange(samples + 1) * chosen // samples
    mask = steps[1:] > steps[:-1]
    return np.sort(order[~mask]), np.sort(order[mask])
