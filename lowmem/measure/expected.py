"""What data take beside a step, and plans that count it.

How much that is depends on the plan: an evaluation has no more rows than a pass, and each op has objects of its own.
So a plan is made, what the data take with it is counted, and another one is made beside that.
"""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

from lowmem.common.checks import instance, truth
from lowmem.common.shards import Shards
from lowmem.data.samples import Samples, samples_alive
from lowmem.errors import BudgetError
from lowmem.network.architecture import Architecture
from lowmem.planning.plan import Plan
from lowmem.planning.request import PlanRequest

EVALUATION_ROWS = 256
"""Samples of a batch of evaluation, which has buffers of its own."""

RUN_OBJECTS = 4096
"""Bytes of the Python objects around the steps: callbacks, counters, the journal's lines."""

OP_OBJECTS = 160
"""Bytes of the Python objects for an op of the plan, which a trainer makes and keeps."""

COPIES, FEW = 5, 4096
"""How often the text of the marks is in memory while a run is saved, and the bytes of it that are not counted."""

MOST_PLANS = 8
"""Plans that are made, at most, for one that counts what the data take with it."""


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A plan, and the request that it was made for, which counts data."""

    request: PlanRequest
    plan: Plan


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """The data that `Trainer.epochs` will get, for a trainer that counts them from the start.

    train: to train on. held_out: to validate on, None if there are none.
    patience: whether `epochs` will get patience, which keeps a second network.
    made: a plan that counts them, if there is one by now: planning takes several times as long while memory is traced.
        A trainer that would ask for another plan makes it.
    """

    train: Samples
    held_out: Samples | None = None
    patience: bool = False
    made: Made | None = None

    def __post_init__(self) -> None:
        """Refuse what are no data. Raises `InputError`."""
        data = "data, such as lowmem.open_data(...) returns"
        instance("train", self.train, Samples, data)
        instance("held_out", self.held_out, (Samples, type(None)), data)
        truth("patience", self.patience)

    @property
    def _all(self) -> tuple[Samples, ...]:
        return (self.train,) if self.held_out is None else (self.train, self.held_out)

    def is_same(self, other: "Expected") -> bool:
        """Say whether the other data are these very ones."""
        samples = self.train is other.train and self.held_out is other.held_out
        return samples and self.patience == other.patience

    def odd(self, batch_size: int) -> bool:
        """Say whether the last batch of an epoch has another size than the others."""
        return len(self.train) % batch_size != 0

    def evaluation_bytes(self, plan: Plan) -> int:
        """Return the bytes of the buffers of an evaluation, whichever of the data are evaluated."""
        rows = evaluation_rows(plan)
        # `evaluate` may be called without validation data too, and of the training data beside it.
        return max(samples.batch_bytes(rows, plan.architecture, shuffled=False) for samples in self._all)

    @property
    def reading_loss(self) -> int:
        """See `Samples.reading_loss`: no plan counts it, since it is not allocated; a cap of the process does."""
        return max(samples.reading_loss for samples in self._all)

    def bytes_with(self, plan: Plan, weighting: int, share: Shards | None = None) -> int:
        """Return the bytes that training on the data takes beside the step of a plan, a second network left aside.

        weighting: bytes in which the losses of a batch are weighted.
        share: the shards that this rank has of a batch, None for one process.
        """
        architecture, rows = plan.architecture, min(plan.batch_size, len(self.train))
        batches = self.train.batch_bytes(rows, architecture, share=share) + self.evaluation_bytes(plan)
        outputs = evaluation_rows(plan) * architecture.widths[-1] * architecture.item_bytes
        reading = max(samples.reading_bytes for samples in self._all)  # one after the other
        objects = RUN_OBJECTS + saving_bytes(self.train) + OP_OBJECTS * len(plan.schedule)
        return batches + outputs + weighting + reading + objects


def copied(plan: Plan) -> Plan:
    """Return a plan with ops of its own: who traces memory sees what they take, whenever the plan was made."""
    return replace(plan, schedule=deepcopy(plan.schedule), program=deepcopy(plan.program))


def evaluation_rows(plan: Plan) -> int:
    """Return the samples of a batch of evaluation: no more than a pass has, in whose memory evaluation works."""
    return min(EVALUATION_ROWS, plan.micro_batch)


def samples_for(architecture: Architecture) -> list[Samples]:
    """Return the samples that are open now and have the features that a network needs."""
    return [samples for samples in samples_alive() if samples.features == architecture.widths[0]]


def likely_bytes(plan: Plan, weighting: int) -> int:
    """Return the most bytes that training takes on data that are open now; 0 if there are none for the network."""
    likely = samples_for(plan.architecture)
    return max((Expected(one, other).bytes_with(plan, weighting) for one in likely for other in likely), default=0)


def saving_bytes(samples: Samples) -> int:
    """Return the bytes that many or long names take while a run is saved: as text, encoded, and in the file's header.

    Few names take none beyond the bytes of Python's objects that plans count in any case.
    """
    if samples.columns is None and samples.class_names is None:
        return 0
    columns = None if samples.columns is None else samples.columns.to_dict()
    length = len(json.dumps([columns, samples.class_names]))
    return COPIES * length if length > FEW else 0


def second_network(architecture: Architecture) -> int:
    """Return the bytes of a second network, which patience keeps in memory."""
    return (architecture.parameters + architecture.running) * architecture.item_bytes


def plan_counting(
    make: Callable[[int], Plan], least: Callable[[int, int], Plan], needs: Callable[[Plan], int]
) -> Plan:
    """Return a plan that counts at least what the data take with it.

    make: returns the plan beside so many bytes of data. least: returns the plan for a budget in bytes, beside so many
    bytes of data. needs: returns the bytes that the data take with a plan.

    Raises `BudgetError` if none fits, with a budget that works.
    """
    counted = 0
    try:
        plan = make(counted)
        for _ in range(MOST_PLANS - 1):
            taken = needs(plan)
            if taken <= counted:
                break
            counted = taken
            del plan  # the next one shall not come on top of it
            plan = make(counted)
        return plan
    except BudgetError as error:
        leanest = least(error.minimum, counted)
    # The plan of the least memory has other ops, and with them the data take more or less.
    beside = leanest.peak_bytes - counted
    counted = needs(leanest)
    plan = make(counted)
    return plan if needs(plan) <= counted else least(beside + counted, counted)
