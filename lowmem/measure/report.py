"""The report: what was promised beside what was measured, as text, JSON and Markdown of the same data.

`lowmem.plots.report_html` makes a web page of a report, with figures.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lowmem.common.tables import Table
from lowmem.measure.learning import EpochRecord
from lowmem.measure.provenance import Provenance
from lowmem.measure.step_profile import StepProfile, twice
from lowmem.planning.plan import LABELS, Account, Plan
from lowmem.planning.timeline import PHASES, chain_of, moments, planned_flops
from lowmem.units import format_bytes, format_count, format_loss, format_seconds


@dataclass(frozen=True, slots=True)
class Part:
    """A part of memory, in bytes; None where nothing was promised, or nothing measured. of: the part that holds it."""

    name: str
    promised: int | None
    measured: int | None
    of: str | None = None


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase of a step: FLOPs planned, FLOPs counted while it ran, and seconds; None for what was not measured."""

    name: str
    planned_flops: int
    flops: int | None
    seconds: float | None


MOST_COLUMNS = 8
"""Ranks that each have a column of a report; of more there are three."""


@dataclass(frozen=True, slots=True)
class RankRecord:
    """What one rank took in the last epoch: seconds of its steps and of waiting, and its peak of resident bytes."""

    seconds: float
    waited: float
    resident_peak: int


@dataclass(frozen=True, slots=True)
class Report:
    """A plan, and what running it really took. What was not measured is None or empty, and shown nowhere.

    traced_peak: the most bytes that Python and NumPy held for training, None if it was not traced.
    resident_peak: the most bytes the whole process held, interpreter, libraries and data included.
    seconds_per_step: mean over the steps of the last epoch, or median where steps were timed one by one.
    steps: how many were run in all.
    ranks: what each of several ranks took; empty for one process.
    loss: mean over the last epoch, or of the last step.
    accuracy: on held-out samples, None without labels or validation.
    process_promise: the bytes promised for the whole process, where that has a cap.
    first_step_peak: the bytes that the whole process took in the first step.
    floor: the bytes that the process held resident before it planned and allocated.
    arrays: bytes of the arrays that were allocated, None for what is not known.
    arena_written: bytes of the arena that a step has written to.
    profile: one step, phase by phase.
    product_rate: FLOPs a second of matrix products alone, at the network's shape.
    memory_over_work: (FLOPs done, bytes resident above the floor) along one pass.
    spread: by how much the timed steps differ at most, relative to their median.
    epochs: how the run learned, epoch by epoch.
    provenance: machine, versions and date of the measurement.
    """

    plan: Plan
    traced_peak: int | None
    resident_peak: int
    seconds_per_step: float
    steps: int
    loss: float
    accuracy: float | None = None
    process_promise: int | None = None
    first_step_peak: int | None = None
    floor: int | None = None
    arrays: Account[int | None] | None = None
    arena_written: int | None = None
    profile: StepProfile | None = None
    product_rate: float | None = None
    memory_over_work: Sequence[tuple[float, int]] = ()
    spread: float | None = None
    epochs: Sequence[EpochRecord] = ()
    provenance: Provenance | None = None
    ranks: Sequence[RankRecord] = ()

    @property
    def flop_rate(self) -> float:
        """FLOPs a second of a whole step. FLOPs of the update are not counted."""
        return self.plan.flops / self.seconds_per_step

    @property
    def backward_over_forward(self) -> tuple[float, float | None]:
        """The rule of thumb "backward costs twice the forward": planned in FLOPs, and measured in seconds."""
        planned = twice(planned_flops(self.plan))
        assert planned is not None  # every network has a forward
        return planned, None if self.profile is None else twice(self.profile.seconds)

    def memory(self) -> list[Part]:
        """Return where the bytes go, promised and measured, from the parameters to the whole process."""
        plan = self.plan
        parts = [] if plan.budget is None else [Part("budget", plan.budget, None)]
        measured = dict(self._measured().items())
        for label, size in plan.account().items():
            parts.append(Part(label, size, measured.get(label)))
            if label == LABELS["arena"]:
                parts += _inside(plan)
        parts.append(Part("peak memory of training", plan.peak_bytes, self.traced_peak))
        parts.append(Part("process floor", None, self.floor))
        whole = None if self.floor is None else self.floor + plan.peak_bytes
        if self.first_step_peak is not None and self.process_promise is not None:
            parts.append(Part("whole process, after the first step", self.process_promise, self.first_step_peak))
        return [*parts, Part("whole process", whole or self.process_promise, self.resident_peak)]

    def _measured(self) -> Account[int | None]:
        """Return what was measured of the plan's account; the overhead is all that was traced and is no array."""
        account = self.arrays or Account.from_dict({})
        known = replace(account, overhead=0)
        if self.traced_peak is not None and None not in dict(known.items()).values():
            account = replace(account, overhead=self.traced_peak - known.total)
        return account if self.arena_written is None else replace(account, arena=self.arena_written)

    def phases(self) -> list[Phase]:
        """Return the work of a step by phase; phases without work or time are left out."""
        planned, counted = planned_flops(self.plan), self.profile
        phases = []
        for name in (*PHASES, "disk"):
            flops, seconds = (None, None) if counted is None else (counted.flops.get(name), counted.seconds.get(name))
            if planned.get(name) or seconds:
                phases.append(Phase(name, planned.get(name, 0), flops, seconds))
        return phases

    def to_dict(self) -> dict[str, Any]:
        """Return the report's numbers for JSON."""
        planned, measured = self.backward_over_forward
        return {
            "plan": self.plan.to_dict(),
            "traced_peak_bytes": self.traced_peak,
            "resident_peak_bytes": self.resident_peak,
            "floor_bytes": self.floor,
            "seconds_per_step": self.seconds_per_step,
            "steps": self.steps,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "process_promise_bytes": self.process_promise,
            "first_step_peak_bytes": self.first_step_peak,
            "ranks": [asdict(rank) for rank in self.ranks],
            "memory": [asdict(part) for part in self.memory()],
            "phases": [asdict(phase) for phase in self.phases()],
            "backward_over_forward": {"planned_flops": planned, "measured_seconds": measured},
            "flops_per_second": self.flop_rate,
            "product_flops_per_second": self.product_rate,
            "memory_over_work": [list(point) for point in self.memory_over_work],
            "predicted_seconds": self.plan.seconds,
            "spread": self.spread,
            "epochs": [epoch.to_dict() for epoch in self.epochs],
            "provenance": None if self.provenance is None else self.provenance.to_dict(),
        }

    def tables(self) -> tuple[Table, ...]:
        """Return the report as tables: where the bytes go, what a step does, and what came of it."""
        tables = self._memory_table(), self._step_table(), self._outcome_table()
        return (*tables[:2], self._rank_table(), tables[2]) if self.ranks else tables

    def __str__(self) -> str:
        """Show promise and measurement side by side."""
        return "\n\n".join(map(str, self.tables()))

    def to_markdown(self) -> str:
        """Return the report as Markdown tables."""
        return "\n\n".join(table.markdown() for table in self.tables()) + "\n"

    def _memory_table(self) -> Table:
        rows = [
            [f"{'  ' * (part.of is not None)}{part.name}", _size(part.promised), _size(part.measured), _apart(part)]
            for part in self.memory()
            if (part.promised, part.measured) != (None, None)
        ]
        plan = self.plan
        note = (
            "Of the arena: states, deltas and scratch while the op runs at which most is alive.\n"
            f"Storing everything takes an arena of {format_bytes(plan.store_all_bytes)}."
        )
        if plan.budget is not None:
            note += (
                "\nThe budget is for what training allocates. The whole process holds the interpreter, libraries and "
                "data besides."
            )
        if self.traced_peak is not None and 0 < self.traced_peak - plan.peak_bytes <= SMALL:
            note += f"\nThe promise leaves {format_bytes(SMALL)} above the peak for Python's own objects."
        if self.traced_peak is None:
            note += "\nPython's and NumPy's allocations were not traced."
        passes = f", {plan.micro_batches} passes" if plan.micro_batches > 1 else ""
        engine = f"{plan.engine} engine" + (f", {plan.lanes} threads" if plan.lanes > 1 else "")
        title = f"{plan.architecture}\nbatch {plan.batch_size}{passes}, strategy {plan.strategy}, {engine}"
        return Table(title, ["memory", "promised", "measured", ""], rows, note)

    def _step_table(self) -> Table:
        columns = ["step", "FLOPs promised"]
        if self.profile is not None:
            columns += ["counted", "time", "share", "speed"]
        rows = [_phase_row(phase, self.profile) for phase in self.phases()]
        planned, measured = self.backward_over_forward
        note = f"Backward over forward (rule of thumb: 2): {planned:.2f} in FLOPs"
        note += "." if measured is None else f", {measured:.2f} in time."
        return Table("", columns, rows, note)

    def _rank_table(self) -> Table:
        """Return what each rank took, a column for each; of many ranks the extremes."""
        names, ranks = [f"rank {number}" for number in range(len(self.ranks))], list(self.ranks)
        if len(ranks) > MOST_COLUMNS:
            by_wait = sorted(ranks, key=lambda rank: rank.waited)
            names, ranks = ["waits least", "median", "waits most"], [by_wait[at] for at in (0, len(ranks) // 2, -1)]
        rows = [
            ["time of the steps", *(format_seconds(rank.seconds) for rank in ranks)],
            ["of which waiting for others", *(format_seconds(rank.waited) for rank in ranks)],
            ["share waiting", *(f"{rank.waited / rank.seconds:.1%}" if rank.seconds else "" for rank in ranks)],
            ["whole process", *(format_bytes(rank.resident_peak) for rank in ranks)],
        ]
        return Table("", [f"{len(self.ranks)} ranks, last epoch", *names], rows)

    def _outcome_table(self) -> Table:
        plan = self.plan
        rows = [["FLOPs, times storing everything", f"{plan.flop_factor:.3f}"]]
        if plan.seconds is not None:
            rows.append(["time per step, predicted without the update", format_seconds(plan.seconds)])
        spread = "" if self.spread is None else f", repeats differ by {self.spread:.0%}"
        rows.append(["time per step", f"{format_seconds(self.seconds_per_step)}{spread}"])
        rows.append(["speed of the step", _rate(self.flop_rate)])
        if self.product_rate is not None:
            share = f"{self.flop_rate / self.product_rate:.0%}"
            rows.append(["of matrix products alone", f"{_rate(self.product_rate)}, so {share}"])
        rows.append(["steps", f"{self.steps:,}"])
        rows.append(["training loss", format_loss(self.loss)])
        if self.accuracy is not None:
            rows.append(["held-out accuracy", f"{self.accuracy:.2%}"])
        return Table("", ["outcome", ""], rows, "" if self.provenance is None else str(self.provenance))


def _inside(plan: Plan) -> list[Part]:
    """Return what the arena is promised for, at the op where most of it is alive."""
    fullest = max(moments(chain_of(plan), plan.schedule), key=lambda moment: moment.bytes)
    parts = {"states": fullest.states, "deltas": fullest.deltas, "scratch": fullest.scratch}
    parts["gaps between them"] = plan.arena_bytes - fullest.bytes
    return [Part(name, size, None, LABELS["arena"]) for name, size in parts.items() if size]


def _phase_row(phase: Phase, profile: StepProfile | None) -> list[str]:
    """Write a phase."""
    row = [phase.name, _work(phase.planned_flops)]
    if profile is None or phase.flops is None or phase.seconds is None:
        return row
    rate = _rate(phase.flops / phase.seconds) if phase.flops and phase.seconds else ""
    share = phase.seconds / profile.total_seconds
    return [*row, _work(phase.flops), format_seconds(phase.seconds), f"{share:.1%}", rate]


def _work(flops: float) -> str:
    number = format_count(flops)
    return f"{number}{' ' * number[-1].isdigit()}FLOP" if flops else ""


def _rate(flops: float) -> str:
    return f"{_work(flops)}/s"


def _size(size: int | None) -> str:
    return "" if size is None else format_bytes(size)


SMALL = 64 << 10
"""Differences below this, which no promise excludes, are said in bytes: per cent of little would look like much."""


def _apart(part: Part) -> str:
    """Say how far a measured size is from the promise."""
    return "" if part.measured is None or part.promised is None else difference(part.promised, part.measured)


def difference(promised: int, measured: int) -> str:
    """Write by how much a measured size differs from a promised one: in bytes if that is little, else in per cent."""
    apart = measured - promised
    if apart == 0:
        return "equal"
    if abs(apart) < SMALL or not promised:
        return f"{'+' if apart > 0 else '-'}{format_bytes(abs(apart))}"
    return f"{apart / promised:+.2%}"
