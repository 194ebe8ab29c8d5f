"""What training and inference ask of samples, whether they lie in memory or stay in a file.

A source of samples (`Samples`) makes batches (`Batches`), which yield one `Batch` after the other. Who trains or
evaluates knows these three, and nothing of arrays and files behind them.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from lowmem.common.shards import Shards
from lowmem.data.formats.columns import Schema
from lowmem.data.standardisation import Standardisation
from lowmem.network.architecture import Architecture

Array = NDArray[Any]

LABEL_DTYPE = np.dtype(np.int64)
"""The dtype of labels in a batch."""

LABEL_KINDS = "biu"
"""Kinds of dtypes that labels may have where they are stored."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some samples: row i of every array belongs to the same sample.

    x: (rows, features).
    y: (rows,) class numbers, or (rows, columns) targets.
    weights: (rows,), by which the loss of each sample is multiplied in training; None where all are 1.
    whole: how many samples the batch has where several ranks share it, and these are the ones of this rank.
    """

    x: Array
    y: Array
    weights: Array | None = None
    whole: int | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.x)

    @property
    def samples(self) -> int:
        """The number of samples of the batch, those of other ranks included."""
        return len(self.x) if self.whole is None else self.whole

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.x.nbytes + self.y.nbytes + (0 if self.weights is None else self.weights.nbytes)

    def part(self, start: int, stop: int) -> "Batch":
        """Return views of the rows from `start` to before `stop`."""
        weights = None if self.weights is None else self.weights[start:stop]
        return Batch(self.x[start:stop], self.y[start:stop], weights)


class Batches(Protocol):
    """Goes through samples in batches, through buffers that were made beforehand."""

    @property
    def nbytes(self) -> int:
        """Bytes of every array owned here."""

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of one epoch, each valid until the next one is asked for.

        epoch: its number, from 0, which decides the order. start: the first batch wanted, to go on inside an epoch.
        Only one epoch may run at a time, as all share the buffers.
        """


@dataclass(frozen=True, slots=True)
class Targets:
    """What y holds, as a loss gets it.

    labels: True where y is one class number for each sample, False where it is targets.
    classes: the width that a network's output needs: the largest label + 1, or the number of target columns.
    low, high: the least and the largest number. row_of_high: the row with the latter.
    """

    labels: bool
    classes: int
    low: float
    high: float
    row_of_high: int

    @property
    def columns(self) -> int:
        """The number of columns of y: 1 for labels."""
        return 1 if self.labels else self.classes


_alive: "WeakSet[Samples]" = WeakSet()


def samples_alive() -> list["Samples"]:
    """Return all samples that somebody in this process holds."""
    return list(_alive)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Samples(ABC):
    """Samples with their targets: in memory (`Dataset`) or in a file (`Stream`). Rows and classes count from 0.

    name: where the samples come from, for messages.
    scale: x is multiplied by it when a batch is cast, unless there is a standardisation.
    standardisation: mean and deviation of x, with which batches are standardised.
    fitted: True where the standardisation was found in these samples; a split finds it anew in those to train on.
    class_names: the names of the classes by class number, where labels were text or negative numbers.
    columns: of the table that the samples come from; None where they come from arrays.
    notes: what was found in the data and chosen, in lines for people.
    remarks: what people should know before they trust a result, such as columns in another order.
    files: that the samples come from; none where they come from arrays.
    shuffle_rows: the rows of a block that are shuffled among each other; None where all rows are.
    """

    name: str
    scale: float = field(default=1.0, kw_only=True)
    standardisation: Standardisation | None = field(default=None, kw_only=True, repr=False)
    fitted: bool = field(default=False, kw_only=True, repr=False)
    class_names: tuple[str, ...] | None = field(default=None, kw_only=True, repr=False)
    columns: Schema | None = field(default=None, kw_only=True, repr=False)
    notes: tuple[str, ...] = field(default=(), kw_only=True, repr=False)
    remarks: tuple[str, ...] = field(default=(), kw_only=True, repr=False)
    files: tuple[Path, ...] = field(default=(), kw_only=True, repr=False)
    shuffle_rows: int | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        """Note that there are such samples, for advice on memory before it is known which of them will be used."""
        _alive.add(self)

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @property
    @abstractmethod
    def features(self) -> int:
        """The number of columns of x."""

    @property
    @abstractmethod
    def targets(self) -> Targets:
        """What y holds."""

    @property
    def reading_bytes(self) -> int:
        """Bytes that reading takes beside the buffers of batches, while an epoch or an evaluation goes on."""
        return 0

    @property
    def reading_loss(self) -> int:
        """Bytes that the process holds for reading beyond those that are allocated, as measured."""
        return 0

    @property
    def labels(self) -> bool:
        """True where y is one class number for each sample."""
        return self.targets.labels

    @property
    def classes(self) -> int:
        """The width that a network's output needs: the number of classes, or of target columns."""
        return self.targets.classes

    @property
    def task(self) -> str:
        """What y is for: "classification" or "regression"."""
        return "classification" if self.labels else "regression"

    @abstractmethod
    def split(self, held_out: float, seed: int = 0) -> tuple["Samples", "Samples"]:
        """Return the samples to train on, and those held out: round(held_out * samples) of them.

        The seed decides which; of every class its share is held out, as nearly as whole numbers allow. Samples in a
        file and in memory are split in the same way. A standardisation that was found in these samples is found anew
        in those to train on, and is that of both parts. Raises `InputError` where either part would be empty.
        """

    @abstractmethod
    def class_counts(self, classes: int) -> NDArray[np.int64]:
        """Return the number of samples of each class, for labels below `classes`."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a checksum of some samples: it tells one data set from another."""

    @abstractmethod
    def batches(self, rows: int, architecture: Architecture, seed: int | None, share: Shards | None = None) -> Batches:
        """Return what goes through the samples in batches of `rows` that fit a network.

        seed: decides the order of each epoch, for training. None keeps the order of the rows, for evaluation, and
        leaves out the samples' weights.
        share: of several ranks. Batches then hold the rows of this rank alone, in the order that one process has.

        Raises `InputError` for numbers that are too large for the network's dtype.
        """

    @abstractmethod
    def batch_bytes(
        self, rows: int, architecture: Architecture, *, shuffled: bool = True, share: Shards | None = None
    ) -> int:
        """Return the bytes that `batches` will own; shuffled: with a seed."""
