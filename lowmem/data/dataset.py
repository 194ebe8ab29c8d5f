"""`Dataset`: samples in memory, as stored. They are cast and scaled one batch at a time.

MNIST, for example, stays 47 MB of bytes; as float32 it would be 188 MB.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lowmem.common.checks import check_finite, check_sample_weights, numeric
from lowmem.common.shards import Shards
from lowmem.data.batches import ArrayBatches, buffer_bytes
from lowmem.data.class_names import CODES, ClassNames, are_numbers, as_text, known_names, listed, numbered
from lowmem.data.formats.columns import Schema, Selection, choose_columns, known_columns
from lowmem.data.row_mask import RowMask, mark_rows
from lowmem.data.samples import LABEL_DTYPE, LABEL_KINDS, Samples, Targets
from lowmem.data.scan import Counts, Ranges, rows_at_once
from lowmem.data.standardisation import standardisation_of
from lowmem.data.task import Answers, check_task, decide
from lowmem.errors import InputError
from lowmem.network.architecture import Architecture

AT_ONCE = 4096
"""Numbers of y that are looked at together."""


@dataclass(frozen=True, slots=True, eq=False)
class Dataset(Samples):
    """Samples and targets in memory, as stored. `Samples` tells the other fields and the methods.

    x: (samples, features), any numeric dtype.
    y: (samples,) integer labels, or targets of shape (samples,) or (samples, columns).
    weights: (samples,), by which the loss of each sample is multiplied in training; None is 1 for all.
    regression: True where whole numbers in y are no labels.
    whole_classes: the number of classes of the data that this is a part of; 0 where it is none.
    """

    x: NDArray[Any] = field(repr=False)
    y: NDArray[Any] = field(repr=False)
    weights: NDArray[Any] | None = field(default=None, repr=False)
    regression: bool = field(default=False, repr=False)
    whole_classes: int = field(default=0, repr=False)

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
        labels = not self.regression and self.y.ndim == 1 and self.y.dtype.kind in LABEL_KINDS
        if labels:
            named = None if self.class_names is None else len(self.class_names)
            return Targets(True, max(named or int(high) + 1, self.whole_classes), low, high, largest // columns)
        return Targets(False, columns, low, high, largest // columns)

    def split(self, held_out: float, seed: int = 0) -> tuple["Dataset", "Dataset"]:
        """See `Samples.split`; the rows are copied."""
        mask = self.row_mask(held_out, seed)
        train, rest = (self.take(mask.between(0, len(self), marked=marked)) for marked in (False, True))
        classes = self.classes if self.labels else 0
        found = self.standardisation
        if self.fitted:
            rows = rows_at_once(len(train), self.features * self.x.itemsize)
            parts = (train.x[start : start + rows] for start in range(0, len(train), rows))
            found = standardisation_of(parts, self.features)
        about: dict[str, Any] = {"whole_classes": classes, "standardisation": found}
        return replace(train, **about), replace(rest, fitted=False, **about)

    def row_mask(self, held_out: float, seed: int) -> RowMask:
        """Return which rows `split` holds out."""
        targets = self.targets
        if not targets.labels:
            return mark_rows(len(self), held_out, seed)
        return mark_rows(len(self), held_out, seed, self.class_counts(targets.classes), (self.y,))

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

    def batches(
        self, rows: int, architecture: Architecture, seed: int | None, share: Shards | None = None
    ) -> ArrayBatches:
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
            share=share,
        )

    def batch_bytes(
        self, rows: int, architecture: Architecture, *, shuffled: bool = True, share: Shards | None = None
    ) -> int:
        """See `Samples.batch_bytes`."""
        return buffer_bytes(
            rows=rows if share is None else share.most_own_rows(rows),
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
    columns: Schema | None = None,
    task: str | None = None,
    remarked: bool = True,
) -> Dataset:
    """Return x and y as a `Dataset`. NumPy arrays are not copied, but for labels that are not numbered from 0.

    x: (samples, ...), numbers; more than two dimensions are flattened to (samples, features). A data frame gives the
        names of its columns.
    y: (samples,) or (samples, 1) labels or targets, or (samples, ...) targets.
    name: what to call the data set in messages.
    scale: x is multiplied by it when a batch is cast.
    weights: (samples,), by which the loss of each sample is multiplied in training; numbers from 0.
    class_names: of labels that are text or whole numbers, in the order of their numbers; by default those in y.
    columns: of the data that a network was trained on: those of a data frame are put in their order.
    task: "classification" or "regression"; by default y decides, as in `open_data`.
    remarked: whether to look for what people should know of the values; that goes through x once more.

    Raises `InputError` for arrays that are empty, not numeric, one-dimensional (x), of different lengths, with
    NaN or infinite values, for labels that are none of the `class_names`, and where y does not tell the task.
    """
    check_task(task)
    x, schema, remarks = in_order(x, known_columns(columns), name)
    text = as_text(y)
    known = known_names(class_names)
    names: tuple[str, ...] | None = None
    if text is not None:
        learnt = ClassNames(known)
        numbers = numbered(text, learnt, f"{name}: y")
        y = learnt.settle().take(numbers)  # in the order of the sorted names
        names = learnt.names
    inputs, targets = numeric(x, "x", name), numeric(y, "y", name)
    _check_shapes(inputs, targets, name)
    inputs = inputs.reshape(len(inputs), -1)
    flat = targets.ndim == 1 or targets[0].size == 1
    targets = targets.reshape(-1 if flat else (len(targets), -1)) if flat else targets.reshape(len(targets), -1)
    check_finite(inputs, "x", name)
    check_finite(targets, "y", name)
    checked_weights = None if weights is None else _weights(weights, len(inputs), name)
    if text is None and known is not None and are_numbers(known) and task != "regression" and flat:
        names, targets = known, _coded(targets, known, name)
    decided = decide(_answers(targets, names, name, labelled=known is not None), task)
    if decided.names is not None:
        names, targets = decided.names, _coded(targets, decided.names, name)
    labels = decided.targets.labels
    if labels and targets.dtype.kind not in LABEL_KINDS:
        targets = targets.astype(LABEL_DTYPE)
    if remarked and columns is None and not np.can_cast(inputs.dtype, np.float32):
        ranges, rows = Ranges(inputs.shape[1], inputs.dtype, read=False), rows_at_once(len(inputs), inputs[0].nbytes)
        for start in range(0, len(inputs), rows):
            ranges.add(inputs[start : start + rows])
        coarse = ranges.coarse()
        remarks += () if coarse is None else (f"feature {coarse.feature} (from 0) {coarse}, or train in float64",)
    about: dict[str, Any] = {"class_names": names, "columns": schema, "notes": (decided.note,), "remarks": remarks}
    return Dataset(name, inputs, targets, checked_weights, regression=not labels, scale=scale, **about)


def in_order(x: ArrayLike, columns: Schema | None, name: str) -> tuple[ArrayLike, Schema | None, tuple[str, ...]]:
    """Return the inputs with their columns in the order of training, their columns, and remarks for people.

    x: arrays have no names of columns, and stay as they are. columns: of the training, None if they are not known.

    Raises `InputError` for columns that are missing, unknown, or no numbers.
    """
    held = getattr(x, "columns", None)
    kinds = getattr(x, "dtypes", None)
    if held is None or kinds is None:
        return x, columns, ()
    names = tuple(map(str, held))
    if len(set(names)) < len(names):
        raise InputError(f"{name}: x has two columns of one name. Rename one.")
    for column, kind in zip(names, kinds, strict=True):
        if getattr(kind, "kind", "f") in "OSUMmV" or str(kind) in ("category", "string", "str"):
            raise InputError(
                f"{name}: column {column!r} of x holds {kind}; numbers are needed. Code it as numbers, or drop it."
            )
    wanted = Selection(columns=columns, inputs_only=True)
    chosen = choose_columns(names, len(names), wanted, Path(name))
    if chosen.x != tuple(range(len(names))):
        x = np.asarray(x)[:, list(chosen.x)]
    return x, chosen.schema if columns is None else columns, chosen.remarks


def first_part(y: NDArray[Any]) -> int:
    """Return the first row where numbers (samples,) are not whole, -1 if all are."""
    if y.dtype.kind in LABEL_KINDS:
        return -1
    for start in range(0, len(y), AT_ONCE):
        part = y[start : start + AT_ONCE]
        with np.errstate(invalid="ignore"):
            wrong = np.floor(part) != part
        if wrong.any():
            return start + int(wrong.argmax())
    return -1


def _check_shapes(inputs: NDArray[Any], targets: NDArray[Any], name: str) -> None:
    """Refuse arrays that are no samples with their targets."""
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


def _answers(y: NDArray[Any], names: tuple[str, ...] | None, name: str, *, labelled: bool) -> Answers:
    """Return what deciding the task needs to know of targets (samples,) or (samples, columns)."""
    columns = 1 if y.ndim == 1 else y.shape[1]
    largest, part = int(y.argmax()), -1 if columns > 1 else first_part(y)
    low, high = float(y.min()), float(y.reshape(-1)[largest])
    counts = Counts() if columns == 1 and part < 0 and low < 0 else None
    return Answers(
        name=name,
        samples=len(y),
        columns=columns,
        low=low,
        high=high,
        row_of_high=largest // columns,
        whole=part < 0,
        row_of_part=part,
        decimal=y.dtype.kind == "f",
        counts=counts.counts if counts is not None and counts.add(y) else None,
        class_names=names,
        labelled=labelled,
    )


def _coded(y: NDArray[Any], names: tuple[str, ...], name: str) -> NDArray[Any]:
    """Return the class numbers of labels that are whole numbers. Raises `InputError` for one that is none of them."""
    numbers = np.array([int(text) for text in names], np.int64)
    order = np.argsort(numbers)
    places = np.searchsorted(numbers, y, sorter=order).clip(max=len(numbers) - 1)
    wrong = numbers[order[places]] != y
    if wrong.any():
        row = int(wrong.argmax())
        known = f"{len(names)} known classes ({listed(names)})"
        raise InputError(f"{name}: y[{row}]: the label {y[row]:g} is none of the {known}.")
    coded: NDArray[Any] = order[places].astype(CODES)
    return coded


def _weights(weights: ArrayLike, samples: int, name: str) -> NDArray[Any]:
    """Return weights of samples as an array, if there is one for each and not all are 0."""
    array = numeric(weights, "weights", name)
    if array.shape != (samples,):
        raise InputError(f"{name}: weights have shape {array.shape}; one for each of the {samples} samples is needed.")
    check_sample_weights(array, name)
    if not array.max() > 0:
        raise InputError(f"{name}: all weights are zero; some must be larger, or nothing would be learnt.")
    return array
