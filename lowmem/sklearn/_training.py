"""Epochs as scikit-learn's MLP counts them: its losses, its penalty, its order of samples, in lowmem's memory."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.data.batches import ArrayBatches, buffer_bytes
from lowmem.data.samples import Batch
from lowmem.errors import Advice, BudgetError
from lowmem.measure.memory import resident_peak
from lowmem.measure.ram import give_back
from lowmem.measure.report import Report
from lowmem.network.architecture import Architecture
from lowmem.nn.mlp import MLP
from lowmem.planning.choose import plan
from lowmem.planning.plan import Plan
from lowmem.planning.request import LEAST_TABLES
from lowmem.runtime.backprop import Backprop
from lowmem.sklearn._solvers import Penalised, PenalisedAdamW, Spans

Array = NDArray[Any]

OBJECTS = 4096
"""Bytes of Python's objects around the steps."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What turns lowmem's mean loss into scikit-learn's, by the number of outputs.

    weight: of each sample, so that gradients are those of the sum over outputs. loss: of what is then reported.
    """

    weight: Callable[[int], float]
    loss: Callable[[int], float]


SCALES: Mapping[str, Scale] = MappingProxyType(
    {
        "cross_entropy": Scale(lambda outputs: 1.0, lambda outputs: 1.0),
        "bce": Scale(lambda outputs: float(outputs), lambda outputs: 1.0),
        "mse": Scale(lambda outputs: outputs / 2, lambda outputs: 1 / outputs),
        "huber": Scale(lambda outputs: float(outputs), lambda outputs: 1 / outputs),
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """What is learnt from: x (samples, n_0), y, weights (samples,) or None for 1, the rows to use or None for all."""

    x: Array
    y: Array
    weights: Array | None = None
    rows: Array | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """What a plan of an estimator depends on, besides the network and the solver.

    rows: of a batch. limit, strategy, threads: as given. buffers: bytes that are counted beside the step's own.
    odd: whether the last batch of an epoch has fewer rows.
    """

    rows: int
    limit: int | str | None
    strategy: str
    threads: int | None
    buffers: int
    odd: bool

    def cover(self, other: "Terms") -> bool:
        """Say whether a plan made for these does for the others."""
        same = (self.rows, self.limit, self.strategy, self.threads)
        enough = self.buffers >= other.buffers and self.odd >= other.odd
        return enough and same == (other.rows, other.limit, other.strategy, other.threads)


def batch_bytes(samples: Samples, count: int, rows: int, architecture: Architecture) -> int:
    """Return the bytes that `Batches` of `count` of the samples will own, and those of the encoded targets."""
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


def made_plan(architecture: Architecture, optimizer: Penalised, terms: Terms) -> Plan:
    """Return the plan of a step. Raises `BudgetError`, in the estimator's words, if none fits."""
    options: dict[str, Any] = {"batch_buffers": terms.buffers, "odd_batches": terms.odd, "threads": terms.threads}
    if terms.limit is not None:
        options["table_bytes"] = LEAST_TABLES  # what planning takes for a moment shall not be the peak of a small fit
    try:
        made = plan(architecture, terms.rows, terms.limit, optimizer, terms.strategy, **options)
    except BudgetError as error:
        raise BudgetError(
            f"memory_limit: {error.reason}",
            budget=error.budget,
            minimum=error.minimum,
            advice=[ours for ours in map(_in_our_words, error.advice) if ours is not None],
        ) from None
    if terms.limit is not None:
        give_back()
    return made


def _in_our_words(advice: Advice | str) -> Advice | str | None:
    """Return advice to a caller of `lowmem.plan` as advice to an estimator's; None where estimators have no such."""
    if isinstance(advice, Advice) and advice.keyword == "budget":
        return advice._replace(keyword="memory_limit")
    return None if isinstance(advice, Advice) and advice.keyword == "optimizer" else advice


class Batches(ArrayBatches):
    """Samples in batches, in scikit-learn's order: each epoch shuffles what the last one left.

    random: where the order comes from; None keeps that of the samples.
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
        """Samples in an epoch."""
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
    """A solver and its arrays, of a session that is to go on later."""

    optimizer: Penalised
    states: tuple[Array, ...]


class Session:
    """A network with a bound plan and a solver, epoch after epoch.

    states: of the solver, from an earlier session.
    """

    def __init__(
        self,
        mlp: MLP,
        made: Plan,
        optimizer: Penalised,
        *,
        alpha: float,
        terms: Terms,
        states: Sequence[Array] = (),
        seed: int = 0,
    ) -> None:
        self.mlp, self.plan, self.optimizer, self.terms = mlp, made, optimizer, terms
        self.backprop = Backprop(mlp, made, optimizer, seed=seed)
        for mine, earlier in zip(self.states, states, strict=False):
            np.copyto(mine, earlier)
        self.steps = self.steps_of_epoch = 0
        self.seconds = 0.0
        self._scale = SCALES[mlp.architecture.loss].loss(mlp.architecture.widths[-1])
        self._weights = [w.reshape(-1) for w in mlp.weights]
        self.begin(alpha)

    def begin(self, alpha: float) -> None:
        """Get ready for epochs with a penalty of alpha."""
        self.alpha, self.optimizer.weights = alpha, Spans(self.mlp.weights)

    @property
    def states(self) -> tuple[Array, ...]:
        """The solver's arrays, each shaped like the parameters."""
        return self.backprop.optimizer_state

    def epoch(self, batches: Batches) -> float:
        """Run one epoch and return scikit-learn's loss: the mean over batches by rows, penalty included.

        A batch whose samples all have weight 0 says nothing and is passed over. Raises `NonFiniteError`.
        """
        begin, total = perf_counter(), 0.0
        self.steps_of_epoch = 0
        for batch in batches.epoch(0):
            weights, mass = batches.weighed(batch)
            if mass > 0:
                loss = self._penalise(mass)
                loss += self.backprop(batch.x, batch.y, weights)[0] * self._scale
                total += loss * len(batch)
                self.steps_of_epoch += 1
        self.steps += self.steps_of_epoch
        self.seconds = perf_counter() - begin
        return total / batches.samples

    def _penalise(self, mass: float) -> float:
        """Set λ for the next step and return the penalty, ½ λ |w|²."""
        if isinstance(self.optimizer, PenalisedAdamW):
            self.optimizer.penalty = self.alpha
            return 0.0
        self.optimizer.penalty = self.alpha / mass
        if not self.alpha:
            return 0.0
        return 0.5 * self.optimizer.penalty * sum(float(np.dot(w, w)) for w in self._weights)

    def report(self, loss: float, accuracy: float | None) -> Report:
        """Return what was promised and what it took; of the last epoch the seconds."""
        return Report(
            plan=self.plan,
            traced_peak=None,
            resident_peak=resident_peak(),
            seconds_per_step=self.seconds / max(self.steps_of_epoch, 1),
            steps=self.steps,
            loss=loss,
            accuracy=accuracy,
            made={name: size for name, size in self.backprop.account().items() if name != "batch"},
        )

    def close(self) -> None:
        """Forget where the weights are: another session may have them elsewhere."""
        self.optimizer.weights = None


def network(
    architecture: Architecture, random: np.random.RandomState, *, activation: str, initialiser: str | None
) -> MLP:
    """Return a new network.

    initialiser: a scheme of `lowmem.nn.initialisers`; or None: where scikit-learn has such networks as it does, with
        weights and biases uniform within sqrt(6 / (n_in + n_out)), for "logistic" sqrt(2 / (n_in + n_out)), drawn in
        its order, and elsewhere lowmem's own.
    """
    known = activation in ("identity", "logistic", "tanh", "relu")
    it = architecture
    plain = it == Architecture(it.widths, it.activation, it.loss, it.dtype)  # neither residual nor norm nor dropout
    if initialiser is not None or not (known and plain):
        return MLP(architecture, int(random.randint(2**31 - 1)), initialiser=initialiser)
    mlp = MLP.empty(architecture)
    for w, b in zip(mlp.weights, mlp.biases, strict=True):
        bound = ((2.0 if activation == "logistic" else 6.0) / sum(w.shape)) ** 0.5
        step = max(1, 65_536 // len(b))
        for start in range(0, w.shape[1], step):  # in float64, as there, but some rows at a time
            part = w.T[start : start + step]
            part[:] = random.uniform(-bound, bound, part.shape)
        b[:] = random.uniform(-bound, bound, b.shape)
    return mlp


def clipped_batch(batch_size: int | str, samples: int) -> int:
    """Return the rows of a batch; "auto" is 200, and never more than there are samples."""
    if batch_size == "auto":
        return min(200, samples)
    if int(batch_size) > samples:
        warnings.warn(f"batch_size={batch_size} is more than the {samples} samples; it is clipped.", stacklevel=4)
    return min(int(batch_size), samples)
