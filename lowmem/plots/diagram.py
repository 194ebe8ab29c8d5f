"""The schedule diagram of the literature: layer against time, with what is run, run again, and kept meanwhile."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lowmem.chain import Chain
from lowmem.measure.report import Report
from lowmem.planning.plan import Plan
from lowmem.plots.lettering import mark_from_0, set_marks, with_scale
from lowmem.plots.style import BLUE, GREEN, GREY, PURPLE, VERMILION, house_style, legend_above, new_figure, set_title
from lowmem.plots.subject import Axis, Subject, subject_of
from lowmem.schedule import Schedule, simulate
from lowmem.schedule.effects import effects

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 7.5, 4.5
"""Inches of a figure."""

KINDS = {
    "kept": ("state kept", GREY, 1.0),
    "disk": ("state on the disk", PURPLE, 1.0),
    "forward": ("forward", BLUE, 2.4),
    "again": ("forward again", VERMILION, 2.4),
    "backward": ("backward", GREEN, 2.4),
}
"""Label, colour and line width, in the order in which they are drawn."""


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line of the diagram: from layer `low` at time `start` to layer `high` at time `end`."""

    kind: Literal["kept", "disk", "forward", "again", "backward"]
    start: float
    end: float
    low: int
    high: int


def schedule_diagram(
    source: Plan | Report | Schedule, chain: Chain | None = None, *, over: Axis = "flops"
) -> "Figure":
    """Draw a schedule: rising lines are forwards, falling ones backwards, level ones states that are kept.

    source: a plan, a report, or any schedule, of any planner.
    chain: the chain that a schedule reverses, abstract ones too; plans and reports have their own.
    over: the horizontal axis, FLOPs done (for a schedule: its cost so far) or the number of the op.

    Of several passes over a batch one is shown. Raises `InputError` for a schedule without a chain, `ScheduleError`
    for one that does not reverse it.

    >>> import lowmem as lm
    >>> from lowmem.chain import Chain
    >>> from lowmem.schedule import PLANNERS
    >>> chain = Chain.abstract(forward=[1] * 9, backward=[2] * 9, state_bytes=[1] * 10)
    >>> lm.plots.schedule_diagram(PLANNERS["revolve"](chain, slots=2), chain).savefig("revolve.svg")
    """
    subject = subject_of(source, chain)
    edges, label = subject.edges(subject.moments(), over)
    with house_style():
        figure, (axis,) = new_figure(WIDTH, HEIGHT)
        draw_schedule(axis, subject, edges)
        set_marks(axis.xaxis, 0, edges[-1], WIDTH - 1.2)
        axis.set_xlabel(with_scale(label))
        mark_from_0(axis, subject.chain.length, "layer", HEIGHT - 1.1, whole=True)
        legend_above(figure)
        set_title(axis, f"{subject.title}, {price(subject)}", WIDTH - 1.2)
    return figure


def draw_schedule(axis: "Axes", subject: Subject, edges: list[float]) -> None:
    """Draw the lines of a schedule; edges[n] is when op n begins. Marks and labels are left to the caller."""
    from matplotlib.collections import LineCollection

    strokes = list(strokes_of(subject.chain, subject.schedule, edges))
    for kind, (name, colour, width) in KINDS.items():
        lines = [((s.start, s.low), (s.end, s.high)) for s in strokes if s.kind == kind]
        if lines:
            axis.add_collection(LineCollection(lines, colors=colour, linewidths=width, label=name))
    axis.set_xlim(0, edges[-1])
    axis.grid(visible=False)


def price(subject: Subject) -> str:
    """Say what the schedule costs, relative to storing everything."""
    if subject.plan is not None:
        return f"{subject.plan.flop_factor:.2f} × the FLOPs"
    chain = subject.chain
    stored = chain.forward_cost(1, chain.length) + chain.loss + sum(stage.backward for stage in chain.stages)
    return f"{simulate(chain, subject.schedule).cost / stored:.2f} × the cost" if stored else "no cost"


def _share(chain: Chain, first: int, turn: int, last: int) -> float:
    """Return the share that layers first..turn have in a sweep of first..last; where all cost nothing, by number."""
    whole = chain.forward_cost(first, last)
    return chain.forward_cost(first, turn) / whole if whole else (turn - first + 1) / (last - first + 1)


def strokes_of(chain: Chain, schedule: Schedule, edges: list[float]) -> Iterator[Stroke]:
    """Yield the lines of the diagram; edges[n] is when op n begins."""
    reached = 0  # layers up to here have been run once
    for index, op in enumerate(schedule.ops):
        start, end = edges[index], edges[index + 1]
        effect = effects(chain, op)
        first, last = effect.first, effect.last
        if effect.phase == "forward":
            # A sweep may go beyond the layers that have run: its first part is run again, the rest for the first time.
            turn = min(max(reached, first - 1), last)
            middle = start + _share(chain, first, turn, last) * (end - start)
            if turn >= first:
                yield Stroke("again", start, middle, first - 1, turn)
            if last > turn:
                yield Stroke("forward", middle, end, turn, last)
            reached = max(reached, last)
        elif effect.phase == "backward":
            yield Stroke("backward", start, end, last, first - 1)
    for life in simulate(chain, schedule).lifetimes:
        if life.value.kind in ("x", "s", "d"):
            kind: Literal["kept", "disk"] = "disk" if life.value.kind == "d" else "kept"
            yield Stroke(kind, edges[life.start + 1], edges[life.end], life.value.layer, life.value.layer)
