"""Epochs as scikit-learn's MLP runs them, with its losses, penalty and order of samples, in memory that is planned."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import InvalidParameterError

from lowmem.common.checks import as_list
from lowmem.common.process_memory import give_back
from lowmem.data.batches import ArrayBatches, buffer_bytes
from lowmem.data.samples import Batch
from lowmem.errors import Advice, BudgetError
from lowmem.network.architecture import Architecture
from lowmem.network.batch_rows import check_batches
from lowmem.nn.mlp import MLP
from lowmem.planning.candidates import LEAST_TABLES
from lowmem.planning.choose import plan
from lowmem.planning.engines.machine import disk_tier
from lowmem.planning.plan import Plan
from lowmem.sklearn._solvers import Solver

if TYPE_CHECKING:
    from lowmem.common.disk.paged_array import PagedArray

Array = NDArray[Any]

OBJECTS = 4096
"""Bytes of the Python objects around the steps."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Factors between lowmem's mean loss and scikit-learn's. Each is a function of the number of outputs.

    weight: of each sample, so that gradients are those of scikit-learn's loss.
    loss: of the loss that is reported for these weights.
    """

    weight: Callable[[int], float]
    loss: Callable[[int], float]


SCALES: Mapping[str, Scale] = MappingProxyType(
    {
        "cross_entropy": Scale(lambda outputs: 1.0, lambda outputs: 1.0),
        "bce": Scale(lambda outputs: float(outputs), lambda outputs: 1.0),
        "mse": Scale(lambda outputs: outputs / 2, lambda outputs: 1 / outputs),
        **dict.fromkeys(
            ("huber", "mae", "quantile", "poisson"),
            Scale(lambda outputs: float(outputs), lambda outputs: 1 / outputs),
        ),
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """The samples of a fit.

    x: inputs, (samples, n_0).
    y: targets, as `BaseMLP._targets` returns them.
    weights: (samples,), None if all are 1.
    rows: numbers of the samples to use, None for all.
    named: what the weights are called, such as "class_weight".
    """

    x: Array
    y: Array
    weights: Array | None = None
    rows: Array | None = None
    named: str = "sample_weight"


@dataclass(frozen=True, slots=True)
class Terms:
    """Everything that an estimator's plan depends on, besides the network and the solver.

    rows: samples of a batch.
    limit, strategy, threads: parameters of the estimator.
    buffers: bytes that the plan counts besides those of a step.
    odd: whether the last batch of an epoch has fewer samples.
    disk: parameters disk and disk_limit of the estimator.
    """

    rows: int
    limit: int | str | None
    strategy: str
    threads: int | None
    buffers: int
    odd: bool
    disk: tuple[str | PathLike[str] | None, int | str | None] = (None, None)

    def cover(self, other: "Terms") -> bool:
        """Return True if a plan made for these terms serves the other terms too."""
        same = (self.rows, self.limit, self.strategy, self.threads, self.disk)
        enough = self.buffers >= other.buffers and self.odd >= other.odd
        return enough and same == (other.rows, other.limit, other.strategy, other.threads, other.disk)


def batch_bytes(samples: Samples, count: int, rows: int, architecture: Architecture) -> int:
    """Return the bytes of the buffers of `Batches`, and of the encoded targets.

    count: how many of the samples are used.
    rows: samples of a batch.
    """
    item, labels = architecture.item_bytes, architecture.loss_facts.labels
    owned = buffer_bytes(
        rows=rows,
        features=samples.x.shape[1],
        targets=architecture.widths[-1],
        samples=count,
        x_dtype=samples.x.dtype,
        y_dtype=samples.y.dtype,
        labels=labels,
        dtype=architecture.dtype,
    )
    weights = rows * item if samples.weights is None else (len(samples.x) + rows) * item + samples.weights.nbytes
    return owned + weights + samples.y.nbytes + OBJECTS


def plan_within_limit(architecture: Architecture, optimizer: Solver, terms: Terms) -> Plan:
    """Return the plan of a step. Raises `BudgetError`, which names the estimator's parameters, if none fits."""
    options: dict[str, Any] = {"batch_buffers": terms.buffers, "odd_batches": terms.odd, "threads": terms.threads}
    tier = disk_tier(*terms.disk)
    options["disk"] = None if tier is None else replace(tier, parameters=False)  # coefs_ shows them
    if terms.limit is not None:
        options["table_bytes"] = LEAST_TABLES  # planning shall not take more than a small fit
    try:
        planned = plan(architecture, terms.rows, terms.limit, optimizer, terms.strategy, **options)
    except BudgetError as error:
        raise BudgetError(
            f"memory_limit: {error.reason}",
            budget=error.budget,
            minimum=error.minimum,
            advice=[ours for ours in map(_in_our_words, error.advice) if ours is not None],
        ) from None
    if terms.limit is not None:
        give_back()
    return planned


def _in_our_words(advice: Advice | str) -> Advice | str | None:
    """Return advice to a caller of `lowmem.plan` as advice to an estimator's; None where estimators have no such."""
    if isinstance(advice, Advice) and advice.keyword == "budget":
        return advice._replace(keyword="memory_limit")
    return None if isinstance(advice, Advice) and advice.keyword == "optimizer" else advice


class Batches(ArrayBatches):
    """Samples in batches, in the order of scikit-learn: each epoch shuffles the order of the epoch before.

    random: shuffles the order; None keeps the order of the samples.
    """

    def __init__(
        self, samples: Samples, rows: int, architecture: Architecture, random: np.random.RandomState | None
    ) -> None:
        labels = architecture.loss_facts.labels
        super().__init__(
            samples.x,
            samples.y,
            rows,
            architecture.dtype,
            labels=labels,
            indices=samples.rows,
            weights=samples.weights,
        )
        self._random = random
        self._factor = SCALES[architecture.loss].weight(architecture.widths[-1])
        self._constant = np.full(0 if self._factor == 1 else rows, self._factor, architecture.dtype)

    @property
    def samples(self) -> int:
        """The number of samples in an epoch."""
        return len(self._order)

    def _arrange(self, epoch: int) -> None:
        if self._random is not None:
            self._random.shuffle(self._order)

    def weighed(self, batch: Batch) -> tuple[Array | None, float]:
        """Return the weights of a batch's samples, None if they are 1, and their sum as given."""
        w, rows = batch.weights, len(batch)
        if w is None:
            return (self._constant[:rows] if len(self._constant) else None), float(rows)
        total = float(np.add.reduce(w, dtype=np.float64))
        if total > 0:
            np.multiply(w, self._factor * rows / total, out=w)
        return w, total


@dataclass(frozen=True, slots=True, eq=False)
class Paused:
    """A solver and its arrays, from a session that will be continued. Pickles name this class and module."""

    optimizer: Solver
    states: tuple["Array | PagedArray", ...]

    def paused(self) -> "Paused":
        """Return itself, as what `Session.paused` returns."""
        return self

    def in_memory(self) -> "Paused":
        """Return what is pickled, where arrays on a disk are read when they are written."""
        return Paused(self.optimizer, tuple(getattr(array, "array", array) for array in self.states))


def network(
    architecture: Architecture, random: np.random.RandomState, *, activation: str, initialiser: str | None
) -> MLP:
    """Return a new network.

    activation: parameter of the estimator.
    initialiser: a scheme of `lowmem.nn.initialisers`. None initialises as scikit-learn does, drawing in its order,
        where scikit-learn has such networks: weights and biases are uniform within sqrt(6 / (n_in + n_out)), or
        sqrt(2 / (n_in + n_out)) for "logistic". Other networks get lowmem's own scheme.
    """
    known = activation in ("identity", "logistic", "tanh", "relu")
    same = Architecture(architecture.widths, architecture.activation, architecture.loss, architecture.dtype)
    plain = architecture == same  # neither residual nor norm nor dropout
    if initialiser is not None or not (known and plain):
        return MLP(architecture, int(random.randint(2**31 - 1)), initialiser=initialiser)
    mlp = MLP.empty(architecture)
    for w, b in zip(mlp.weights, mlp.biases, strict=True):
        bound = ((2.0 if activation == "logistic" else 6.0) / sum(w.shape)) ** 0.5
        step = max(1, 65_536 // len(b))
        for start in range(0, w.shape[1], step):  # draws float64 as scikit-learn does, but some rows at a time
            part = w.T[start : start + step]
            part[:] = random.uniform(-bound, bound, part.shape)
        b[:] = random.uniform(-bound, bound, b.shape)
    return mlp


def whole_sizes(given: Any) -> list[int]:  # noqa: ANN401 - it is checked here
    """Return the sizes of hidden layers, given as one or several.

    Raises scikit-learn's error for bad parameters if one is no whole number above 0.
    """
    sizes = [given] if (listed := as_list(given)) is None else listed
    if not all(isinstance(size, Integral) and int(size) > 0 for size in sizes):
        raise InvalidParameterError(f"hidden_layer_sizes must be whole numbers > 0, got {sizes}.")
    return [int(size) for size in sizes]


def clipped_batch(batch_size: int | str, samples: int, architecture: Architecture) -> int:
    """Return the samples of a batch: at most all of them; "auto" is at most 200.

    Raises `InputError` if the last batch has a single sample and the network compares those of a batch.
    """
    given = 200 if batch_size == "auto" else int(batch_size)
    if batch_size != "auto" and given > samples:
        warnings.warn(f"batch_size={batch_size} is more than the {samples} samples; it is clipped.", stacklevel=7)
    check_batches(architecture, samples, min(given, samples))
    return min(given, samples)
