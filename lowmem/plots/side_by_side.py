"""Several schedules side by side: what runs when in the upper row, the memory that it takes in the lower one."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lowmem.chain import Chain
from lowmem.common.checks import instance, text
from lowmem.errors import InputError
from lowmem.measure.report import Report
from lowmem.planning.plan import Plan
from lowmem.plots.diagram import draw_schedule, price
from lowmem.plots.lettering import TEXT, in_lines, mark_from_0, set_marks, with_scale
from lowmem.plots.style import house_style, legend_above, new_figure, set_title
from lowmem.plots.subject import Axis, Subject, subject_of
from lowmem.plots.timeline import draw_stack
from lowmem.schedule import PLANNERS, Schedule, simulate
from lowmem.units import byte_unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL, HEIGHT, ROW = 2.4, 5.2, 1.8
"""Inches of a panel across, of both rows, and, at least, of the axes of a row."""


def side_by_side(
    sources: Mapping[str, Plan | Report | Schedule], chain: Chain | None = None, *, over: Axis = "flops"
) -> "Figure":
    """Draw schedule diagrams in a row and the memory timeline of each below it, all on the same axes.

    sources: plans, reports or schedules by the name that is written above each, with its cost and its memory relative
        to storing everything.
    chain: the chain that the schedules reverse; plans and reports have their own.
    over: the horizontal axis, FLOPs done (for a schedule: its cost so far) or the number of the op.

    Raises `InputError` if there is nothing to draw or a schedule has no chain.

    >>> import lowmem as lm
    >>> arch = lm.Architecture(widths=(64, *[64] * 35, 10))
    >>> plans = {name: lm.plan(arch, batch_size=256, strategy=name) for name in ("store_all", "sqrt")}
    >>> lm.plots.side_by_side(plans).savefig("strategies.svg")
    """
    instance("sources", sources, Mapping, "a mapping of names to plans, reports or schedules")
    if not sources:
        raise InputError("there is nothing to draw: sources must hold at least one plan, report or schedule.")
    subjects = {
        text("each name of sources", str(name)): subject_of(source, chain if isinstance(source, Schedule) else None)
        for name, source in sources.items()
    }
    series = [subject.moments() for subject in subjects.values()]
    drawn = [subject.edges(moments, over) for subject, moments in zip(subjects.values(), series, strict=True)]
    end = max(edges[-1] for edges, _ in drawn)
    highest = max(moment.bytes for moments in series for moment in moments) or 1
    unit, factor = byte_unit(highest)
    deepest = max(subject.chain.length for subject in subjects.values())
    count = len(subjects)
    with house_style():
        figure, axes = new_figure(PANEL * max(count, 2) + 0.6, HEIGHT, count, 2, sharex=True, sharey="row")
        for number, (name, subject) in enumerate(subjects.items()):
            upper, lower, edges = axes[number], axes[count + number], drawn[number][0]
            draw_schedule(upper, subject, edges)
            set_title(upper, f"{name}\n{_caption(subject)}", PANEL - 0.35)
            draw_stack(lower, series[number], edges, 0, factor)
            lower.grid(visible=False)
        label = in_lines(with_scale(drawn[0][1]), PANEL - 0.35, TEXT)
        for lower in axes[count:]:
            lower.set_xlim(0, 1.01 * end)
            set_marks(lower.xaxis, 0, 1.01 * end, PANEL - 0.7)
            lower.set_xlabel(label)
        mark_from_0(axes[0], deepest, "layer", ROW, whole=True)
        mark_from_0(axes[count], highest / factor, f"memory in {unit}", ROW)
        legend_above(figure)
    return figure


def _caption(subject: Subject) -> str:
    """Say what a schedule costs and takes, relative to storing everything."""
    if subject.plan is not None:
        share = subject.plan.arena_bytes / subject.plan.store_all_bytes
    else:
        chain = subject.chain
        whole = simulate(chain, PLANNERS["store_all"](chain)).peak_bytes
        share = simulate(chain, subject.schedule).peak_bytes / whole if whole else 1.0
    return f"{price(subject)}\n{100 * share:.3g} % of the memory"
