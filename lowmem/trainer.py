"""`Trainer`: epochs over a data set, inside a budget that is checked before anything is allocated."""

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.costs import CostModel
from lowmem.data import Batcher, Dataset, buffer_bytes, from_arrays
from lowmem.errors import InputError
from lowmem.executor import Backprop
from lowmem.meter import resident_peak
from lowmem.nn.mlp import MLP
from lowmem.nn.optimizers import Adam, Optimizer
from lowmem.planning import plan
from lowmem.plans import Plan
from lowmem.report import Report
from lowmem.workbench import positive

Data = Dataset | tuple[NDArray[Any], NDArray[Any]]

EVALUATION_ROWS = 256
"""Samples that are evaluated at a time, through buffers of their own."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the data.

    number: from 1. loss: mean over the samples, each taken before its step's update. seconds: training alone.
    validation_loss, accuracy: on the validation data, after the epoch; accuracy where the targets are labels.
    """

    number: int
    loss: float
    samples: int
    seconds: float
    validation_loss: float | None = None
    accuracy: float | None = None

    @property
    def samples_per_second(self) -> float:
        """Training throughput."""
        return self.samples / self.seconds if self.seconds else 0.0


class Trainer:
    """Trains a network inside a memory budget.

    mlp: the network, updated in place. optimizer: Adam(1e-3) unless given.
    batch_size: samples per step; the last batch of an epoch may have fewer.
    budget: for everything that training allocates, as in `lowmem.plan`: parameters, gradients, optimizer, arena,
        batch buffers. The data set itself is the caller's.
    strategy, micro_batch, segments, slots, costs: as in `lowmem.plan`.
    seed: of the order of the samples.

    Raises `BudgetError` if no plan fits.
    """

    def __init__(
        self,
        mlp: MLP,
        optimizer: Optimizer | None = None,
        *,
        batch_size: int,
        budget: int | str | None = None,
        strategy: str = "auto",
        micro_batch: int | None = None,
        segments: int | None = None,
        slots: int | None = None,
        costs: CostModel | None = None,
        seed: int = 0,
    ) -> None:
        self.mlp = mlp
        self.optimizer = Adam() if optimizer is None else optimizer
        self.batch_size, self.budget, self.seed = batch_size, budget, seed
        self._options = {
            "strategy": strategy,
            "micro_batch": micro_batch,
            "segments": segments,
            "slots": slots,
            "costs": costs,
        }
        self._buffers = 0
        self._odd = False
        self.plan: Plan = self._plan(0, odd=False)
        self._backprop: Backprop | None = None
        self._steps = 0
        self._epoch = 0
        self._last: Epoch | None = None
        self._last_steps = 0

    def _plan(self, buffers: int, *, odd: bool) -> Plan:
        """Plan with so many bytes of batch buffers, and batches of other sizes or not."""
        options: dict[str, Any] = self._options | {"batch_buffers": buffers, "odd_batches": odd}
        return plan(self.mlp.architecture, self.batch_size, self.budget, self.optimizer, **options)

    def epochs(self, data: Data, count: int, validation: Data | None = None) -> Iterator[Epoch]:
        """Train for `count` epochs, yielding an `Epoch` after each.

        data: (x, y) or a `Dataset`: x (samples, n_0) of any real dtype, cast a batch at a time; y labels (samples,)
        or targets (samples, n_L), by the loss. validation: the same, evaluated after each epoch.

        Everything is checked and planned at the call, before the first epoch is asked for. Raises `InputError` for
        data that do not fit the network, `BudgetError` if their buffers do not fit the budget.
        """
        count = positive("epochs", count)
        train = self._checked(data, "the data")
        held_out = None if validation is None else self._checked(validation, "the validation data")
        self._attach(train, held_out)
        batcher = self._batcher(train, min(self.batch_size, len(train)), self.seed)
        evaluation = None if held_out is None else self._batcher(held_out, self._evaluation_rows, None)
        return self._run(batcher, evaluation, count)

    def _run(self, batcher: Batcher, evaluation: Batcher | None, count: int) -> Iterator[Epoch]:
        assert self._backprop is not None
        for _ in range(count):
            start, loss, samples, steps = perf_counter(), 0.0, 0, 0
            for x, y in batcher.epoch(self._epoch):
                loss += self._backprop(x, y)[0] * len(x)
                samples += len(x)
                steps += 1
            seconds = perf_counter() - start
            self._epoch += 1
            self._steps += steps
            held_out = (None, None) if evaluation is None else self._evaluate(evaluation)
            self._last = Epoch(self._epoch, loss / samples, samples, seconds, *held_out)
            self._last_steps = steps
            yield self._last

    def evaluate(self, data: Data) -> tuple[float, float | None]:
        """Return the mean loss and, where targets are labels, the accuracy on `data`. Changes nothing.

        Raises `InputError` for data that do not fit the network, or before `epochs` has been called.
        """
        if self._backprop is None:
            raise InputError(
                "evaluate works in the memory of the training step, which trainer.epochs(...) makes: call that first. "
                "For the outputs alone, mlp.predict(x) needs no trainer."
            )
        dataset = self._checked(data, "the data")
        return self._evaluate(self._batcher(dataset, self._evaluation_rows, None))

    def _evaluate(self, batcher: Batcher) -> tuple[float, float | None]:
        """Loss and accuracy over one unshuffled pass, in the arena of the training step."""
        assert self._backprop is not None
        loss, correct, samples = 0.0, 0, 0
        labels = self.mlp.architecture.loss_facts.labels
        for x, y in batcher.epoch(0):
            outputs = self._outputs[: len(x)]
            self._backprop.forward(x, outputs)
            if labels:
                correct += int(np.count_nonzero(outputs.argmax(axis=1) == y))
            loss += self._backprop.loss(outputs, y) * len(x)
            samples += len(x)
        return loss / samples, correct / samples if labels else None

    def report(self) -> Report:
        """Return promise and measurement of the run so far. Raises `InputError` before the first epoch."""
        if self._last is None:
            raise InputError("there is nothing to report before the first epoch; run trainer.epochs(data, 1) first.")
        return Report(
            plan=self.plan,
            traced_peak=None,
            resident_peak=resident_peak(),
            seconds_per_step=self._last.seconds / self._last_steps,
            steps=self._steps,
            loss=self._last.loss,
            accuracy=self._last.accuracy,
            made=self._made(),
        )

    def _made(self) -> dict[str, int]:
        """Return the bytes of the arrays that the step works on; the batch's buffers come and go with the data."""
        assert self._backprop is not None
        return {name: size for name, size in self._backprop.account().items() if name != "batch"}

    def _attach(self, train: Dataset, held_out: Dataset | None) -> None:
        """Count the batch buffers, see that the plan still fits, and allocate the step's memory once."""
        buffers = self._buffer_bytes(train, min(self.batch_size, len(train)))
        # Those of an evaluation are counted in any case: `evaluate` may be called without validation data as well.
        buffers += self._buffer_bytes(held_out or train, self._evaluation_rows)
        buffers += self._evaluation_rows * self.mlp.architecture.widths[-1] * self.mlp.architecture.item_bytes
        odd = len(train) % self.batch_size != 0
        if self._backprop is None or buffers > self._buffers or odd > self._odd:
            planned = self._plan(buffers, odd=odd)
            if self._backprop is not None and planned.schedule != self.plan.schedule:
                raise InputError(
                    "these data need larger batch buffers than the data this trainer began with, and the plan would "
                    "change. Begin a new trainer with the larger data."
                )
            self.plan, self._buffers, self._odd = planned, buffers, odd
        if self._backprop is None:
            self._backprop = Backprop(self.mlp, self.plan, self.optimizer)
            self._outputs = np.empty(
                (self._evaluation_rows, self.mlp.architecture.widths[-1]), self.mlp.parameters.dtype
            )

    @property
    def _evaluation_rows(self) -> int:
        # No more than a pass has, as evaluation works in the memory of one.
        return min(EVALUATION_ROWS, self.plan.micro_batch)

    def _buffer_bytes(self, dataset: Dataset, rows: int) -> int:
        architecture = self.mlp.architecture
        return buffer_bytes(
            rows=rows,
            features=dataset.features,
            targets=architecture.widths[-1],
            samples=len(dataset),
            x_dtype=dataset.x.dtype,
            y_dtype=dataset.y.dtype,
            labels=architecture.loss_facts.labels,
            dtype=architecture.dtype,
        )

    def _batcher(self, dataset: Dataset, rows: int, seed: int | None) -> Batcher:
        architecture = self.mlp.architecture
        labels = architecture.loss_facts.labels
        return Batcher(dataset.x, dataset.y, rows, architecture.dtype, dataset.scale, seed, labels=labels)

    def _checked(self, data: Data, what: str) -> Dataset:
        """Return `data` as a data set that fits the network."""
        if not isinstance(data, Dataset | tuple | list) or (not isinstance(data, Dataset) and len(data) != 2):
            raise InputError(f"{what} must be a pair (x, y) of arrays or a Dataset; got {type(data).__name__}.")
        dataset = data if isinstance(data, Dataset) else from_arrays(*data, name=what)
        architecture = self.mlp.architecture
        if dataset.features != architecture.widths[0]:
            raise InputError(
                f"{what} has {dataset.features} features and the network {architecture.widths[0]} inputs; "
                f"make the network with widths[0]={dataset.features}."
            )
        if architecture.loss_facts.labels and dataset.labels and dataset.classes > architecture.widths[-1]:
            raise InputError(
                f"{what} has labels up to {dataset.classes - 1} and the network {architecture.widths[-1]} outputs; "
                f"make the network with widths[-1]={dataset.classes}."
            )
        if not architecture.loss_facts.labels:
            _check_targets(dataset, architecture.loss, architecture.widths[-1], what)
        return dataset


def _check_targets(dataset: Dataset, loss: str, outputs: int, what: str) -> None:
    """Refuse targets of a loss that compares them with the outputs, before the first epoch."""
    columns = 1 if dataset.y.ndim == 1 else dataset.y.shape[1]
    if columns != outputs:
        advice = f"make the network with widths[-1]={columns}"
        if dataset.labels:
            advice = "these are labels: use the loss cross_entropy, or one-hot rows as targets"
        raise InputError(
            f"{what} has {columns} target column{'s' * (columns > 1)} and the network {outputs} outputs; {advice}."
        )
    if loss == "bce" and not (dataset.y.min() >= 0 and dataset.y.max() <= 1):
        raise InputError(
            f"{what} has targets from {dataset.y.min():g} to {dataset.y.max():g}, and bce needs them from 0 to 1. "
            "Scale the targets to [0, 1], or use the loss mse."
        )
