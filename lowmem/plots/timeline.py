"""One step over time: how many bytes of states, deltas and scratch are alive at every op."""

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from lowmem.measure.report import Report
from lowmem.planning.plan import Plan
from lowmem.planning.timeline import Moment, chain_of, occupancy
from lowmem.plots.style import (
    BLACK,
    BLUE,
    LEGEND_TEXT,
    ORANGE,
    PALE,
    SKY,
    VERMILION,
    byte_unit,
    flop_unit,
    house_style,
    legend_above,
    new_figure,
)
from lowmem.units import format_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def memory_timeline(
    source: Plan | Report,
    *,
    over: Literal["flops", "ops"] = "flops",
    everything: bool = False,
    measured: Sequence[tuple[float, int]] = (),
) -> "Figure":
    """Draw where the memory of one step goes, stacked by kind, with the promise as a line.

    source: a plan, or a report, whose measured peak is drawn as well where it was traced and `everything` is shown.
    over: the horizontal axis, FLOPs done or the number of the op.
    everything: put the arena on top of all else that is allocated (parameters, gradients, optimizer, ...), with the
        promised peak as the line, and the budget if there is one.
    measured: (FLOPs done, bytes) along the pass, drawn over the stack. A report that has `memory_over_work` brings
        its own where `everything` is shown: resident memory, which does not tell the arena from all else.

    Where a batch is run in several passes one of them is shown: they are alike.

    >>> import lowmem as lm
    >>> plan = lm.plan(lm.Architecture(widths=(64, *[128] * 20, 10)), batch_size=512, budget="60%")
    >>> lm.plots.memory_timeline(plan).savefig("memory.svg")
    """
    plan = source.plan if isinstance(source, Report) else source
    moments = occupancy(chain_of(plan), plan.schedule)
    base = plan.fixed_bytes if everything else 0
    lines = {"arena, promised": plan.arena_bytes}
    if everything:
        lines = {"peak, promised": plan.peak_bytes}
        if plan.budget:
            lines["budget"] = plan.budget
        if isinstance(source, Report):
            measured = measured or source.memory_over_work
            if source.traced_peak is not None:
                lines["peak, measured"] = source.traced_peak
    highest = max([*lines.values(), *(size for _, size in measured)])
    unit, factor = byte_unit(highest)
    with house_style():
        figure, (axis,) = new_figure()
        _stack(axis, moments, base / factor, factor, over)
        for (name, size), style in zip(lines.items(), ("--", ":", "-."), strict=False):
            axis.axhline(size / factor, color=BLACK, linestyle=style, label=f"{name}: {format_bytes(size)}")
        if measured:
            _over_the_stack(axis, moments, measured, factor, over)
        axis.set_ylabel(f"memory ({unit})")
        axis.set_ylim(0, 1.05 * highest / factor)
        legend_above(figure)
        axis.set_title(pass_of(plan), fontsize=LEGEND_TEXT)
    return figure


def _stack(axis: "Axes", moments: list[Moment], base: float, factor: int, over: Literal["flops", "ops"]) -> None:
    """Draw the areas; each op lasts from one edge to the next."""
    edges, label = op_edges([moment.flops for moment in moments], over)
    kinds = {
        "all else": (PALE, [base] * len(moments)),
        "states": (SKY, [moment.states / factor for moment in moments]),
        "deltas": (VERMILION, [moment.deltas / factor for moment in moments]),
        "scratch": (ORANGE, [moment.scratch / factor for moment in moments]),
    }
    below = [0.0] * (len(moments) + 1)
    for name, (colour, sizes) in kinds.items():
        if not any(sizes):
            continue
        top = [low + size for low, size in zip(below, [*sizes, sizes[-1]], strict=True)]
        axis.fill_between(edges, below, top, step="post", color=colour, linewidth=0, label=name)
        below = top
    axis.set_xlim(0, edges[-1])
    axis.set_xlabel(label)


def _over_the_stack(
    axis: "Axes",
    moments: list[Moment],
    measured: Sequence[tuple[float, int]],
    factor: int,
    over: Literal["flops", "ops"],
) -> None:
    """Draw the measured line, at the FLOPs or within the op that was running."""
    import numpy as np

    edges, _ = op_edges([moment.flops for moment in moments], over)
    done = list(accumulate((moment.flops for moment in moments), initial=0.0))
    at = np.interp([flops for flops, _ in measured], done, edges)
    axis.plot(at, [size / factor for _, size in measured], color=BLUE, linewidth=2, label="resident, measured")


def op_edges(flops: list[float], over: Literal["flops", "ops"]) -> tuple[list[float], str]:
    """Return where each op begins on the horizontal axis, with the end of the last one, and the axis's label."""
    if over == "ops":
        return [float(n) for n in range(len(flops) + 1)], "op number"
    unit, scale = flop_unit(sum(flops))
    return [done / scale for done in accumulate(flops, initial=0.0)], f"work done ({unit})"


def pass_of(plan: Plan) -> str:
    """Say in a line what is shown."""
    architecture = plan.architecture
    widest = max(architecture.widths[1:-1], default=architecture.widths[-1])
    shown = f"{architecture.layers} layers up to {widest} wide, {architecture.activation}, batch {plan.batch_size}"
    if plan.micro_batches > 1:
        shown += f", one pass of {plan.micro_batch}"
    return f"{shown}; {plan.strategy}"
