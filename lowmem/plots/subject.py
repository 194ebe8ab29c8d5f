"""What a figure of one pass shows: a schedule on a chain, be it of a plan, of a report, or anybody's own."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from lowmem.chain import Chain
from lowmem.common.checks import instance, one_of
from lowmem.errors import InputError
from lowmem.measure.report import Report
from lowmem.planning.plan import Plan
from lowmem.planning.timeline import Moment, chain_of, moments
from lowmem.plots.style import flop_unit
from lowmem.schedule import Schedule, lower

Axis = Literal["flops", "ops"]


@dataclass(frozen=True, slots=True)
class Subject:
    """A schedule on a chain, and the plan and report that it belongs to, if any."""

    chain: Chain
    schedule: Schedule
    plan: Plan | None = None
    report: Report | None = None

    @property
    def title(self) -> str:
        """What is shown, in a line."""
        if self.plan is None:
            return f"{self.chain.length} layers; {self.schedule.planner}"
        plan, architecture = self.plan, self.plan.architecture
        widest = max(architecture.widths[1:-1], default=architecture.widths[-1])
        shown = f"{architecture.layers} layers up to {widest} wide, {architecture.activation}, batch {plan.batch_size}"
        if plan.micro_batches > 1:
            shown += f", one pass of {plan.micro_batch}"
        return f"{shown}; {plan.strategy}"

    def moments(self) -> list[Moment]:
        """Return what is alive during each op. Raises `ScheduleError` if the schedule does not reverse the chain."""
        return moments(self.chain, self.schedule)

    def edges(self, series: list[Moment], over: Axis) -> tuple[list[float], str]:
        """Return where each op begins on the horizontal axis, with the end of the last one, and the axis's label."""
        one_of("axis", over, ("flops", "ops"))
        costs = [moment.flops for moment in series]
        if over == "ops" or not sum(costs):
            return [float(number) for number in range(len(costs) + 1)], "op number"
        unit, scale = ("", 1.0) if self.plan is None else flop_unit(sum(costs))
        edges = [done / scale for done in accumulate(costs, initial=0.0)]
        return edges, f"work done ({unit})" if unit else "work done, as the chain counts it"


def subject_of(source: Plan | Report | Schedule, chain: Chain | None) -> Subject:
    """Return what is to be drawn of a source.

    Raises `InputError` for a schedule without a chain, and for a plan or report with one, as those have their own.
    """
    if isinstance(source, Schedule):
        if chain is None:
            raise InputError(
                f"the schedule of {source.planner!r} knows no sizes; give the chain that it reverses as well: "
                "schedule_diagram(schedule, chain)."
            )
        instance("chain", chain, Chain, "a lowmem.chain.Chain, such as Chain.abstract(...) makes")
        return Subject(chain, lower(chain, source))
    if chain is not None:
        instance("source", source, (Plan, Report), "a lowmem.Plan, a lowmem.Report, or a schedule with its chain")
        raise InputError(f"a {type(source).__name__.lower()} has a chain of its own; leave chain out.")
    need = "a lowmem.Plan, a lowmem.Report, or a schedule with its chain"
    instance("source", source, (Plan, Report), need)
    plan, report = (source.plan, source) if isinstance(source, Report) else (source, None)
    return Subject(chain_of(plan), plan.schedule, plan, report)
