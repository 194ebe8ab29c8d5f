"""The memory of a training step: planned before the data are known, allocated once when they are."""

import gc
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from lowmem.common.checks import instance
from lowmem.common.process_memory import return_large_blocks
from lowmem.common.shards import Shards
from lowmem.data.batches import LentBatches
from lowmem.data.samples import Batches, Samples
from lowmem.errors import BudgetError, InputError
from lowmem.measure.expected import (
    EVALUATION_ROWS,
    Expected,
    copied,
    evaluation_rows,
    likely_bytes,
    plan_counting,
    samples_for,
)
from lowmem.measure.memory import reset_resident_peak
from lowmem.measure.ram import plan_within, read_ram, warm_up
from lowmem.network.batch_rows import check_batches
from lowmem.nn.mlp import MLP
from lowmem.nn.optimizers import Optimizer
from lowmem.planning.choose import plan_for, request_of, with_costs
from lowmem.planning.engines.machine import DiskTier
from lowmem.planning.plan import Plan
from lowmem.planning.request import PlanRequest
from lowmem.runtime.backprop import Backprop, no_memory
from lowmem.runtime.clipping import ClippedBackprop
from lowmem.runtime.collectives.group import Group
from lowmem.schedule import Schedule
from lowmem.training.callbacks.best_weights import BestWeights
from lowmem.training.loop import Stepper
from lowmem.training.sample_weights import BatchWeights

EXPECTED_BLOCK = 8 << 20
"""Bytes of the block of a stream that `lowmem.data.open` makes, for advice before the data are known."""


class StepMemory:
    """The plan of a run's steps, and the arrays that it counts.

    weights: of the samples of a batch; their buffer is counted and allocated here.
    budget, ram: as in `Trainer`; one of the two is None.
    options: keywords of `lowmem.plan`: strategy, micro_batch, segments, slots, threads, costs, table_bytes.
    disk: what states may go to.
    group: the ranks that share batches, None for one process.
    expected: the data to come, None if they are not known yet.

    The plan is made at once, so that what cannot fit is refused before anything is allocated. Raises `BudgetError`
    then. `process_promise` is the peak of the whole process that was promised; None without `ram`.
    """

    def __init__(
        self,
        mlp: MLP,
        optimizer: Optimizer,
        weights: BatchWeights,
        *,
        batch_size: int,
        budget: int | str | None,
        ram: int | str | None,
        clip_norm: float | None,
        clip_twice: bool,
        options: dict[str, Any],
        disk: DiskTier | None = None,
        group: Group | None = None,
        expected: Expected | None = None,
    ) -> None:
        if callable(options["strategy"]) or isinstance(options["strategy"], Schedule):
            raise InputError(
                f"strategy={options['strategy']!r}: a trainer takes the name of a strategy, which saved runs keep. "
                "Planners of your own go with lowmem.plan and lowmem.Backprop."
            )
        self._group = group
        options = options | {"ranks": 1 if group is None else group.size}
        self._mlp, self._optimizer, self._weights = mlp, optimizer, weights
        self._batch_size, self._budget = batch_size, budget
        self._clip_norm, self._clip_twice = clip_norm, clip_twice
        self._options = with_costs(options, disk, mlp.architecture, optimizer, batch_size)
        self._cap = None if ram is None else read_ram(ram, self._warm_up())
        self._buffers, self._odd, self._evaluated, self._allocated = 0, False, 0, False
        self._lent: LentBatches | None = None
        self.process_promise: int | None = None
        if expected is not None:
            self._check(instance("expected", expected, Expected, "a lowmem.measure.expected.Expected"))
        self.plan = self._plan(expected)
        self._counted = None if expected is None else replace(expected, made=None)
        if expected is not None:
            self._note(expected)

    def _warm_up(self) -> int:
        """Let BLAS allocate what it keeps, as the engine of a plan will call it; return the lanes of a step."""
        given = {name: self._options[name] for name in ("engine", "threads", "shards", "micro_batch")}
        request = request_of(self._mlp, self._batch_size, None, self._optimizer, **given)
        warm_up(request.architecture, request.rows, request.lanes if request.engine == "native" else None)
        return request.lanes

    @property
    def evaluation_rows(self) -> int:
        """Samples of a batch of evaluation."""
        return evaluation_rows(self.plan)

    @property
    def share(self) -> Shards | None:
        """The shards of a batch that this rank has; None for one process, which has all."""
        return self._share_of(self.plan)

    def _share_of(self, plan: Plan) -> Shards | None:
        return None if self._group is None else plan.sharing.of_rank(self._group.rank)

    def count(self, expected: Expected) -> None:
        """Count the buffers of these data, and plan again if the plan did not count as much.

        Raises `BudgetError` if the data's buffers do not fit beside the step, `InputError` if the step is allocated
        already and the plan would change.
        """
        self._check(expected)
        if self._counted is not None and self._counted.is_same(expected):
            return
        fewer = self._needs(expected, self.plan) <= self._buffers and expected.odd(self._batch_size) <= self._odd
        if not (self._allocated and fewer):
            planned = self._plan(expected)
            if self._allocated and planned.schedule != self.plan.schedule:
                raise InputError(
                    "these data, or the weights that patience keeps, need more memory than what this trainer began "
                    "with, and the plan would change. Begin a new trainer with them."
                )
            self.plan = planned
            self._note(expected)
        self._counted, self._evaluated = expected, expected.evaluation_bytes(self.plan)

    def _note(self, expected: Expected) -> None:
        """Note what the plan counts."""
        self._buffers, self._odd = self._needs(expected, self.plan), expected.odd(self._batch_size)
        self._evaluated = expected.evaluation_bytes(self.plan)

    def _check(self, expected: Expected) -> None:
        """Refuse batches that the network cannot be trained on."""
        samples = len(expected.train)
        check_batches(self._mlp.architecture, samples, min(self._batch_size, samples))

    @property
    def _weighting(self) -> int:
        """Bytes in which the losses of a batch are weighted."""
        return self._weights.bytes_for(self._batch_size)

    def _needs(self, expected: Expected, plan: Plan) -> int:
        """Return the bytes that the data take with a plan."""
        second = BestWeights.bytes_for(self._mlp) if expected.patience else 0
        return second + expected.bytes_with(plan, self._weighting, self._share_of(plan))

    def validation(self, samples: Samples | None) -> LentBatches | None:
        """Return batches of validation data, None if there are none; `evaluation` borrows their buffers' place."""
        rows, architecture = self.evaluation_rows, self._mlp.architecture
        self._lent = None if samples is None else LentBatches(samples, rows, architecture)
        return self._lent

    def evaluation(self, samples: Samples) -> Batches:
        """Return batches of samples to evaluate by hand, of as many rows as take no more than was counted."""
        if self._lent is not None:
            self._lent.give_back()
        rows, architecture = self.evaluation_rows, self._mlp.architecture
        while rows > 1 and samples.batch_bytes(rows, architecture, shuffled=False) > self._evaluated:
            rows //= 2
        return samples.batches(rows, architecture, None)

    def allocate(self, seed: int, *, skips: bool) -> Stepper:
        """Allocate what the plan counts, once, and return what makes the steps.

        seed: determines the masks of dropout.
        skips: see `Stepper`.
        """
        gc.collect()  # what planning has left
        if self._cap is not None:
            return_large_blocks()
            reset_resident_peak()
        mlp, optimizer = self._mlp, self._optimizer
        if self._clip_norm is None:
            backprop = Backprop(mlp, self.plan, optimizer, seed=seed, group=self._group)
        else:
            backprop = ClippedBackprop(mlp, self.plan, optimizer, self._clip_norm, seed=seed, group=self._group)
        try:
            outputs = np.empty((self.evaluation_rows, mlp.architecture.widths[-1]), mlp.parameters.dtype)
            self._weights.allocate(self._batch_size)
        except (MemoryError, ValueError):  # NumPy's for more rows than can be counted
            raise no_memory(self.plan) from None
        self._allocated = True
        return Stepper(backprop, optimizer, outputs, self._weights, skips)

    def _plan(self, expected: Expected | None) -> Plan:
        """Plan a step beside the data, or beside none if they are not known."""
        options: dict[str, Any] = dict(self._options)
        options["gather"] = self._clip_norm is not None and not self._clip_twice
        options["rehearse"] = self._clip_twice
        if options["disk"] is not None and expected is not None and expected.patience:
            options["disk"] = replace(options["disk"], beside=BestWeights.file_bytes(self._mlp))

        def request(budget: int | str | None, buffers: int, tables: int | None = None) -> PlanRequest:
            more = {"batch_buffers": buffers} | ({} if tables is None else {"table_bytes": tables})
            # Of data that are not known yet, the last batch of an epoch may have another size.
            more["odd_batches"] = buffers > 0 if expected is None else expected.odd(self._batch_size)
            return request_of(self._mlp, self._batch_size, budget, self._optimizer, **options | more)

        def beside(budget: int | str | None, buffers: int, tables: int | None = None) -> Plan:
            gc.collect()  # planning takes memory for a moment: it shall not come on top of what is garbage by now
            return plan_for(request(budget, buffers, tables))

        def within(budget: int | str | None, tables: int | None = None, *, likely: bool = False) -> Plan:
            """Return the plan for a budget that counts the data; likely: those that are open."""
            if expected is None and not likely:
                return beside(budget, 0, tables)

            def needs(planned: Plan) -> int:
                return likely_bytes(planned, self._weighting) if expected is None else self._needs(expected, planned)

            return plan_counting(
                lambda buffers: beside(budget, buffers, tables),
                lambda least, buffers: beside(least, buffers, tables),
                needs,
            )

        if expected is not None and (made := expected.made) is not None:
            counted = made.request.batch_buffers
            if made.request == request(self._budget, counted) and self._needs(expected, made.plan) <= counted:
                return copied(made.plan)
        likely = partial(within, likely=True)
        if self._cap is not None:
            beyond, second = self._unknown_buffers, BestWeights.bytes_for(self._mlp)
            held = self._held()
            if expected is not None:
                beyond = second = 0
                held -= expected.reading_loss  # will come on top of what the process holds now
            planned, self.process_promise = plan_within(self._cap, held, within, likely, beyond, second)
            return planned
        try:
            return within(self._budget)
        except BudgetError:
            if expected is not None or not samples_for(self._mlp.architecture):
                raise
        return likely(self._budget)  # refuses it, with a budget that works

    def _held(self) -> int:
        """Return the bytes of what a plan counts that the process holds already."""
        if not self._allocated:
            return 0 if self._mlp.paged is not None else int(self._mlp.learned.nbytes)
        account, (parameters, moments) = self.plan.account(), self.plan.streams
        return account.total - account.parameters * parameters - account.optimizer * moments  # between two steps

    @property
    def _unknown_buffers(self) -> int:
        """Bytes beyond plans that data may take: reading those that are open, or else buffers of float64."""
        architecture = self._mlp.architecture
        if known := samples_for(architecture):
            return max(samples.reading_loss for samples in known)
        inputs, outputs = architecture.widths[0], architecture.widths[-1]
        rows = self._batch_size + EVALUATION_ROWS
        batches = 2 * rows * (inputs + outputs + 1) * (8 + architecture.item_bytes)
        return EXPECTED_BLOCK + batches + self._weights.bytes_for(rows)
