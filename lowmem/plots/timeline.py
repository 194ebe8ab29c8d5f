"""One step over time: how many bytes of states, deltas and scratch are alive at every op."""

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from lowmem.chain import Chain
from lowmem.common.checks import truth
from lowmem.errors import InputError, shown
from lowmem.measure.report import Report
from lowmem.planning.plan import Plan
from lowmem.planning.timeline import Moment
from lowmem.plots.diagram import HEIGHT, WIDTH
from lowmem.plots.lettering import SMALL_TEXT, mark_from_0, set_marks, with_scale
from lowmem.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    PURPLE,
    SKY,
    VERMILION,
    house_style,
    legend_above,
    new_figure,
    set_title,
)
from lowmem.plots.subject import Axis, Subject, subject_of
from lowmem.schedule import Schedule
from lowmem.units import byte_unit, format_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESIDENT = (
    "Resident memory of the process above its floor, measured. It holds pages of the libraries and of the interpreter "
    "as well, which no plan promises: it may lie above the peak."
)

LINES = ((BLACK, "--"), (GREY, ":"), (GREEN, "-."))
"""Colour and style of the horizontal lines."""


def memory_timeline(
    source: Plan | Report | Schedule,
    chain: Chain | None = None,
    *,
    over: Axis = "flops",
    everything: bool = False,
    measured: Sequence[tuple[float, int]] = (),
) -> "Figure":
    """Draw where the memory of one step goes, stacked by kind, with the promise as a line; on top what is on a disk.

    source: a plan; a report, whose measured peak is drawn as well where it was traced and `everything` is shown; or
        any schedule, of any planner.
    chain: the chain that a schedule reverses, abstract ones too; plans and reports have their own.
    over: the horizontal axis, FLOPs done (for a schedule: its cost so far) or the number of the op.
    everything: put the arena on top of all else that is allocated (parameters, gradients, optimizer, ...), with the
        promised peak as the line, and the budget if there is one. A schedule has nothing else.
    measured: (FLOPs done, bytes) along the pass, drawn in axes of its own below. A report that has `memory_over_work`
        brings its own where `everything` is shown: resident memory above the floor. It is no part of the promise: it
        holds pages of libraries and of the interpreter besides what training allocates.

    Where a batch is run in several passes one of them is shown: they are alike. Raises `InputError` for a schedule
    without a chain, `ScheduleError` for one that does not reverse it.

    >>> import lowmem as lm
    >>> plan = lm.plan(lm.Architecture(widths=(64, *[128] * 20, 10)), batch_size=512, budget="60%")
    >>> lm.plots.memory_timeline(plan).savefig("memory.svg")
    """
    subject, measured = subject_of(source, chain), _pairs(measured)
    everything = truth("everything", everything)
    if everything and subject.plan is None:
        raise InputError("everything=True needs a plan or a report: a schedule knows of activations only.")
    series = subject.moments()
    if everything and subject.report is not None:
        measured = measured or subject.report.memory_over_work
    lines = _lines(subject, series, everything=everything)
    base = subject.plan.fixed_bytes if everything and subject.plan else 0
    on_top = max((base + moment.bytes + moment.disk for moment in series if moment.disk), default=0)
    highest = max(*lines.values(), on_top)
    unit, factor = byte_unit(highest)
    edges, label = subject.edges(series, over)
    rows = 2 if measured else 1
    with house_style():
        heights: dict[str, Any] = {"height_ratios": (3.2, 1.5), "sharex": True} if measured else {}
        figure, axes = new_figure(WIDTH, HEIGHT + 1.8 * (rows - 1), rows=rows, **heights)
        draw_stack(axes[0], series, edges, base / factor, factor)
        for (name, size), (colour, style) in zip(lines.items(), LINES, strict=False):
            axes[0].axhline(size / factor, color=colour, linestyle=style, label=f"{name}: {format_bytes(size)}")
        mark_from_0(axes[0], highest / factor, f"memory in {unit}", HEIGHT - 1.3)
        if measured:
            _resident(axes[1], series, edges, measured)
        set_marks(axes[-1].xaxis, 0, edges[-1], WIDTH - 1.2)
        axes[-1].set_xlabel(with_scale(label))
        legend_above(figure)
        set_title(axes[0], subject.title, WIDTH - 1.2)
    return figure


def _pairs(measured: object) -> list[tuple[float, int]]:
    """Return measured points as given. Raises `InputError` for what is no list of (FLOPs, bytes)."""
    try:
        pairs = [(float(flops), int(size)) for flops, size in measured]  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"measured must be a list of pairs (FLOPs done, bytes); got {shown(measured)}.") from None
    return pairs


def _lines(subject: Subject, series: list[Moment], *, everything: bool) -> dict[str, int]:
    """Return the horizontal lines by name, in bytes."""
    plan, report = subject.plan, subject.report
    if plan is None:
        return {"peak, simulated": max(moment.bytes for moment in series)}
    if not everything:
        return {"arena, promised": plan.arena_bytes}
    lines = {"peak, promised": plan.peak_bytes}
    if plan.budget:
        lines["budget"] = plan.budget
    if report is not None and report.traced_peak is not None:
        lines["peak, measured"] = report.traced_peak
    return lines


def draw_stack(axis: "Axes", series: list[Moment], edges: list[float], base: float, factor: int) -> None:
    """Draw the areas; each op lasts from one edge to the next."""
    kinds = {
        "all else": (PALE, [base] * len(series)),
        "states": (SKY, [moment.states / factor for moment in series]),
        "deltas": (VERMILION, [moment.deltas / factor for moment in series]),
        "scratch": (ORANGE, [moment.scratch / factor for moment in series]),
        "states on the disk": (PURPLE, [moment.disk / factor for moment in series]),
    }
    below = [0.0] * (len(series) + 1)
    for name, (colour, sizes) in kinds.items():
        if not any(sizes):
            continue
        top = [low + size for low, size in zip(below, [*sizes, sizes[-1]], strict=True)]
        axis.fill_between(edges, below, top, step="post", color=colour, linewidth=0, label=name)
        below = top
    axis.set_xlim(0, edges[-1])


def _resident(axis: "Axes", series: list[Moment], edges: list[float], measured: Sequence[tuple[float, int]]) -> None:
    """Draw the measured line below the stack, at the FLOPs or within the op that was running."""
    import numpy as np

    highest = max(size for _, size in measured)
    unit, factor = byte_unit(highest)
    done = list(accumulate((moment.flops for moment in series), initial=0.0))
    at = np.interp([flops for flops, _ in measured], done, edges)
    axis.plot(at, [size / factor for _, size in measured], color=BLUE, linewidth=2)
    set_title(axis, RESIDENT, WIDTH - 1.2, SMALL_TEXT)
    mark_from_0(axis, highest / factor, unit, 0.9)
