"""A plan's promises beside what was measured: as text, and as a web page with figures of the same data."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lowmem.common.tables import Table
from lowmem.errors import BudgetError
from lowmem.torch.chain import MeasuredChain
from lowmem.torch.plan import Plan, plan
from lowmem.units import format_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
"""Budgets of a frontier: of the way from the least that works to storing everything."""


@dataclass(frozen=True)
class Report:
    """A plan, and what a step by it really took.

    peak_bytes: as `measured_peak` gives it. seconds: of a step, the loss included. None where it was not measured.
    """

    plan: Plan
    peak_bytes: int | None = None
    seconds: float | None = None

    def table(self) -> Table:
        """Return promised and measured side by side."""
        promised = self.plan
        rows = [] if promised.budget is None else [["budget", format_bytes(promised.budget), "", ""]]
        measured, apart = "", ""
        if self.peak_bytes is not None:
            measured = format_bytes(self.peak_bytes)
            apart = f"{self.peak_bytes / promised.peak_bytes - 1:+.2%}"
        rows.append(["peak of a step", format_bytes(promised.peak_bytes), measured, apart])
        seconds = "" if self.seconds is None else f"{1e3 * self.seconds:,.1f} ms"
        rows.append(["time of forwards and backwards", f"{1e3 * promised.cost:,.1f} ms", seconds, ""])
        title = promised.table().title
        return Table(title, ["", "promised", "measured", ""], rows, promised.table().note)

    def __str__(self) -> str:
        """Write the table."""
        return str(self.table())

    def to_html(self) -> str:
        """Return the report as one self-contained web page, its figures inside."""
        from lowmem.plots import memory_timeline, schedule_diagram
        from lowmem.plots.page import page

        chain, schedule = self.plan.chain, self.plan.schedule
        return page(
            "lowmem: a PyTorch chain, promised and measured",
            [
                ("A step", self.table().without_title()),
                ("Beside storing everything", self.plan.table()),
                ("Memory over one step", memory_timeline(schedule, chain)),
                ("The schedule", schedule_diagram(schedule, chain)),
                ("What other budgets cost", self.frontier()),
                ("The stages", self.plan.measured.table()),
            ],
        )

    def frontier(self) -> "Figure":
        """Draw what the cheapest plans cost, from the least budget that works to storing everything."""
        from lowmem.plots import Point, frontier

        plans = cheapest(self.plan.measured, accumulating=self.plan.accumulating)
        whole, cost = self.plan.store_all_bytes, self.plan.store_all_cost
        points = [Point("optimal", each.peak_bytes / whole, each.cost / cost) for each in plans]
        own = Point(self.plan.strategy, self.plan.peak_bytes / whole, self.plan.cost / cost)
        if self.peak_bytes is not None:
            own = replace(own, memory=self.peak_bytes / whole, measured=True)
        return frontier(
            [*points, own],
            title=f"{len(self.plan.measured.stages)} stages",
            memory_label="peak of a step, relative to storing everything",
            compute_label="time of forwards and backwards",
            whole=whole,
        )


def cheapest(measured: MeasuredChain, *, accumulating: bool = False) -> list[Plan]:
    """Return the cheapest plans for budgets from the least that works to what storing everything takes."""
    most = plan(measured, accumulating=accumulating).peak_bytes
    try:
        least = plan(measured, budget=1, accumulating=accumulating).peak_bytes
    except BudgetError as error:
        least = error.minimum
    budgets = dict.fromkeys(int(least + share * (most - least)) for share in SHARES)
    return [plan(measured, budget=budget, accumulating=accumulating) for budget in budgets]
