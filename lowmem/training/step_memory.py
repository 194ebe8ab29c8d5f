"""The memory of a training step: planned before the data are known, allocated once when they are."""

import gc
from typing import Any

import numpy as np

from lowmem.common.shards import Shards
from lowmem.data.batches import LentBatches
from lowmem.data.samples import Batches, Samples
from lowmem.errors import InputError
from lowmem.measure.memory import reset_resident_peak
from lowmem.measure.ram import plan_within, read_ram, warm_up
from lowmem.network.batch_rows import check_batches
from lowmem.nn.mlp import MLP
from lowmem.nn.optimizers import Optimizer
from lowmem.planning.choose import plan, with_costs
from lowmem.planning.engines.machine import DiskTier
from lowmem.planning.plan import Plan
from lowmem.runtime.backprop import Backprop
from lowmem.runtime.clipping import ClippedBackprop
from lowmem.runtime.collectives.group import Group
from lowmem.schedule import Schedule
from lowmem.training.data_marks import saving_bytes
from lowmem.training.loop import Stepper
from lowmem.training.sample_weights import BatchWeights

EVALUATION_ROWS = 256
"""Samples of a batch of evaluation, which has buffers of its own."""

RUN_OBJECTS = 4096
"""Bytes of the Python objects around the steps: callbacks, counters, the journal's lines."""

EXPECTED_BLOCK = 8 << 20
"""Bytes of the block of a stream that `lowmem.data.open` makes, for advice before the data are known."""

OP_OBJECTS = 160
"""Bytes of the Python objects for an op of the plan, which a trainer makes and keeps."""


class StepMemory:
    """The plan of a run's steps, and the arrays that it counts.

    weights: of the samples of a batch; their buffer is counted and allocated here.
    budget, ram: as in `Trainer`; one of the two is None.
    options: keywords of `lowmem.plan`: strategy, micro_batch, segments, slots, threads, costs, table_bytes.
    disk: what states may go to.

    group: the ranks that share batches, None for one process.

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
        self._cap = None if ram is None else read_ram(ram)
        if ram is not None:
            warm_up(mlp.architecture.dtype)
        self._buffers, self._evaluated, self._odd, self._allocated = 0, 0, False, False
        self._lent: LentBatches | None = None
        self.process_promise: int | None = None
        self.plan: Plan = self._plan(0, odd=False)

    @property
    def evaluation_rows(self) -> int:
        """Samples of a batch of evaluation: no more than a pass has, as evaluation works in the memory of a pass."""
        return min(EVALUATION_ROWS, self.plan.micro_batch)

    @property
    def share(self) -> Shards | None:
        """The shards of a batch that this rank has; None for one process, which has all."""
        return None if self._group is None else self.plan.sharing.of_rank(self._group.rank)

    def count(self, train: Samples, held_out: Samples | None, weights: int = 0) -> None:
        """Count the buffers of these data, and plan again if the plan did not count as much.

        weights: bytes of the best weights, which early stopping keeps.

        Raises `BudgetError` if the data's buffers do not fit beside the step, `InputError` if the step is allocated
        already and the plan would change.
        """
        architecture = self._mlp.architecture
        check_batches(architecture, len(train), min(self._batch_size, len(train)))
        buffers = train.batch_bytes(min(self._batch_size, len(train)), architecture, share=self.share)
        # The buffers of an evaluation are counted in any case: `evaluate` may be called without validation data too,
        # and of the training data beside it.
        evaluated = [
            samples.batch_bytes(self.evaluation_rows, architecture, shuffled=False)
            for samples in (train, held_out)
            if samples is not None
        ]
        self._evaluated = max(evaluated)
        buffers += self._evaluated
        buffers += self.evaluation_rows * architecture.widths[-1] * architecture.item_bytes
        buffers += self._weights.bytes_for(self._batch_size)
        buffers += max(train.reading_bytes, 0 if held_out is None else held_out.reading_bytes)  # one after the other
        buffers += RUN_OBJECTS + saving_bytes(train) + OP_OBJECTS * len(self.plan.schedule)
        buffers += weights
        odd = len(train) % self._batch_size != 0
        if self._allocated and buffers <= self._buffers and odd <= self._odd:
            return
        planned = self._plan(buffers, odd=odd)
        if self._allocated and planned.schedule != self.plan.schedule:
            raise InputError(
                "these data, or the weights that patience keeps, need more memory than what this trainer began with, "
                "and the plan would change. Begin a new trainer with them."
            )
        self.plan, self._buffers, self._odd = planned, buffers, odd

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
            reset_resident_peak()
        mlp, optimizer = self._mlp, self._optimizer
        if self._clip_norm is None:
            backprop = Backprop(mlp, self.plan, optimizer, seed=seed, group=self._group)
        else:
            backprop = ClippedBackprop(mlp, self.plan, optimizer, self._clip_norm, seed=seed, group=self._group)
        outputs = np.empty((self.evaluation_rows, mlp.architecture.widths[-1]), mlp.parameters.dtype)
        self._weights.allocate(self._batch_size)
        self._allocated = True
        return Stepper(backprop, optimizer, outputs, self._weights, skips)

    def _plan(self, buffers: int, *, odd: bool) -> Plan:
        """Plan a step.

        buffers: bytes of the batches' buffers.
        odd: whether the last batch of an epoch has another size.
        """
        gc.collect()  # planning takes memory for a moment: it shall not come on top of what is garbage by now
        options: dict[str, Any] = self._options | {"batch_buffers": buffers, "odd_batches": odd}
        options["gather"] = self._clip_norm is not None and not self._clip_twice
        options["rehearse"] = self._clip_twice
        rows = self._batch_size
        if self._cap is None:
            return plan(self._mlp, rows, self._budget, self._optimizer, **options)
        held = self._held()

        def make(room: int, tables: int) -> Plan:
            return plan(self._mlp, rows, room, self._optimizer, **options | {"table_bytes": tables})

        known, counted = buffers > 0, len(self.plan.schedule) if buffers else 0

        def more(planned: Plan) -> int:
            """Return the bytes of what the data will need, and of the objects of a plan with more ops."""
            unknown = 0 if known else self._expected_buffers()
            return unknown + OP_OBJECTS * max(len(planned.schedule) - counted, 0)

        planned, self.process_promise = plan_within(self._cap, held, make, more)
        return planned

    def _held(self) -> int:
        """Return the bytes of what a plan counts that the process holds already."""
        if not self._allocated:
            return 0 if self._mlp.paged is not None else int(self._mlp.learned.nbytes)
        account, (parameters, moments) = self.plan.account(), self.plan.streams
        return account.total - account.parameters * parameters - account.optimizer * moments  # between two steps

    def _expected_buffers(self) -> int:
        """Return the bytes that the buffers of data may take which are not known yet: those of a stream of float64."""
        architecture = self._mlp.architecture
        inputs, outputs = architecture.widths[0], architecture.widths[-1]
        rows = self._batch_size + EVALUATION_ROWS
        batches = 2 * rows * (inputs + outputs + 1) * (8 + architecture.item_bytes)
        return EXPECTED_BLOCK + batches + self._weights.bytes_for(rows)
