"""Compute versus memory: what each strategy and budget costs, beside what was measured."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import mul
from typing import TYPE_CHECKING, Literal

from lowmem.common.checks import items, positive, text, truth
from lowmem.planning.plan import Plan
from lowmem.planning.queries import Comparison
from lowmem.plots.lettering import LEGEND_TEXT, TEXT, in_lines, plain, set_marks, text_width, with_scale
from lowmem.plots.style import (
    DARK,
    FEWER_ROWS,
    GREY,
    Look,
    house_style,
    legend_above,
    looks,
    new_figure,
    set_title,
)
from lowmem.units import byte_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEMORY = "activations, relative to storing everything"
COMPUTE, TIME = "FLOPs, relative to storing all", "predicted time, relative to storing all"

CURVES = ("optimal", "disk", "lowmem")
"""Series that are one thing at many budgets, so that a line may join their points."""

BETTER = "lower left is better"

WIDTH, HEIGHT, LENGTH = 7.5, 4.5, (5.5, 3.4)
"""Inches of a figure, and, at least, of its axes."""


@dataclass(frozen=True, slots=True)
class Point:
    """One way to do a step.

    series: the name of a strategy, or any other name.
    memory, compute: in the units of the axes; by default `frontier` has both relative to storing everything.
    measured: whether it was measured, and is drawn as an open marker, or predicted.
    """

    series: str
    memory: float
    compute: float
    measured: bool = False

    @classmethod
    def of(cls, plan: Plan) -> "Point":
        """Return what a plan predicts. Passes of fewer rows are a series of their own."""
        return cls(series_of(plan), plan.arena_bytes / plan.store_all_bytes, plan.flop_factor)


def series_of(plan: Plan) -> str:
    """Return the series that a plan belongs to: its strategy, or passes of fewer rows, in which it saves memory."""
    if plan.micro_batches == 1:
        return plan.strategy
    return FEWER_ROWS if plan.strategy == "store_all" else f"{plan.strategy}, {FEWER_ROWS}"


def frontier(
    points: Comparison | Iterable[Point],
    *,
    title: str = "",
    memory_label: str = MEMORY,
    compute_label: str = COMPUTE,
    relative: bool = True,
    whole: int | None = None,
    curves: Collection[str] = CURVES,
) -> "Figure":
    """Draw compute against memory, so that lower left is better: a marker for each point, a colour for each tool.

    points: a comparison, or points of any origin. Predicted points are drawn filled or as lines, measured ones open.
    title: above the figure. memory_label, compute_label: of the axes.
    relative: memory is a share, and (1, 1) is storing everything; otherwise memory is in MiB.
    whole: bytes of the share 1, for a second axis on top. A comparison needs none.
    curves: series that are one thing at many budgets; a line joins their points. Settings that have nothing to do with
        one another get none.

    An axis is logarithmic where its range asks for it, and says which it is.
    """
    title, memory_label = text("title", title), text("memory_label", memory_label)
    compute_label = text("compute_label", compute_label)
    if isinstance(points, Comparison):
        plans = [answer.plan for answer in points.answers if answer.plan is not None]
        whole = plans[0].store_all_bytes
        title = title or f"{points.architecture.layers} layers, {points.architecture.activation}, " + (
            f"batch {points.batch_size}"
        )
        points = [Point.of(plan) for plan in plans]
        base = plans[0].seconds  # of storing everything
        if base is not None:  # time is what these plans minimise: by FLOPs small passes would seem dear or cheap
            points = [
                replace(point, compute=(plan.seconds or 0) / base) for point, plan in zip(points, plans, strict=True)
            ]
            compute_label = TIME
    points = items("points", points, Point, "lowmem.plots.Point records, or a comparison of lowmem.compare")
    whole = None if whole is None else positive("whole", whole)
    relative = truth("relative", relative)
    curves = set(items("curves", curves, str, "names of series"))
    given = sorted(points, key=lambda point: (point.series not in curves, point.series, point.measured, point.memory))
    with house_style():
        figure, (axis,) = new_figure(WIDTH, HEIGHT)
        across = _scales(axis, given, relative=relative, top=whole is not None)
        _draw(axis, given, curves)
        if relative:
            axis.axhline(1, color=GREY, linewidth=1, zorder=1)
            axis.axvline(1, color=GREY, linewidth=1, zorder=1)
        _mark_least(axis, given, relative=relative)
        axis.set_xlabel(in_lines(with_scale(memory_label, axis.get_xscale()), LENGTH[0], TEXT))
        axis.set_ylabel(in_lines(with_scale(compute_label, axis.get_yscale()), LENGTH[1], TEXT))
        if whole is not None:
            _top_axis(axis, whole, across)
        legend_above(figure)
        one_line = f"{title}; {BETTER}" if title else BETTER
        fits = text_width(one_line, LEGEND_TEXT) <= LENGTH[0]
        set_title(axis, one_line if fits else f"{title}\n{BETTER}", LENGTH[0])
    return figure


def _draw(axis: "Axes", points: Sequence[Point], curves: Collection[str]) -> None:
    """Draw all series."""
    predicted = {point.series for point in points if not point.measured}
    look = looks([point.series for point in points])
    for (name, measured), group in groupby(points, key=lambda point: (point.series, point.measured)):
        row = list(group)
        # A measured series lies on the line that was predicted for it.
        joined = len(row) > 1 and name in curves and not (measured and name in predicted)
        label = f"{name}, measured" if measured and name in predicted else name
        _series(axis, row, look[name], label, joined=joined, measured=measured)


def _series(axis: "Axes", row: Sequence[Point], look: Look, label: str, *, joined: bool, measured: bool) -> None:
    """Draw one series."""
    axis.plot(
        [point.memory for point in row],
        [point.compute for point in row],
        color=look.colour,
        linestyle=look.line if joined else "none",
        linewidth=1.2 if measured else 2,
        marker="" if joined and len(row) > 12 and not measured else look.marker,
        markerfacecolor="white" if measured else look.colour,
        markeredgecolor=look.colour,
        markeredgewidth=1.8,
        zorder=4 if measured else 3,
        label=label,
        clip_on=False,
    )


def _mark_least(axis: "Axes", points: Sequence[Point], *, relative: bool) -> None:
    """Ring the point of least memory and say in the legend what it takes."""
    least = min(points, key=lambda point: (point.memory, point.compute))
    size = f"{100 * least.memory:.3g} %" if relative else f"{plain(round(least.memory, 1))} MiB"
    axis.plot(
        [least.memory],
        [least.compute],
        linestyle="none",
        marker="o",
        markersize=15,
        markerfacecolor="none",
        markeredgecolor=GREY,
        markeredgewidth=1.5,
        zorder=2,
        label=f"least memory here: {size} at {_times(least.compute)}",
        clip_on=False,
    )


def _scales(axis: "Axes", points: Sequence[Point], *, relative: bool, top: bool) -> tuple[float, float]:
    """Set the scales, their ends and their marks. Return the ends of the memory."""
    memory, compute = [point.memory for point in points], [point.compute for point in points]
    if relative:
        memory, compute = [*memory, 1.0], [*compute, 1.0]
    across = _set_scale(axis, "x", memory)
    set_marks(axis.xaxis, *across, LENGTH[0], _percent if relative else plain)
    set_marks(axis.yaxis, *_set_scale(axis, "y", compute), LENGTH[1], _times)
    axis.spines["top"].set_visible(top)
    return across


def _set_scale(axis: "Axes", which: Literal["x", "y"], values: Sequence[float]) -> tuple[float, float]:
    """Make an axis logarithmic if its values differ by more than a factor of 4; return its ends, with some room."""
    low, high = min(values), max(values)
    if low > 0 and 4 * low < high:
        low, high = low * (low / high) ** 0.05, high * (high / low) ** 0.05
        scale = "log"
    else:
        room = 0.06 * (high - low) or 0.05 * abs(high) or 1
        low, high, scale = low - room, high + room, "linear"
    axis.set(**{f"{which}scale": scale, f"{which}lim": (low, high)})
    return low, high


def _percent(share: float) -> str:
    return f"{100 * share:.6g} %"


def _times(factor: float) -> str:
    return f"{factor:.3g} ×" if factor < 1000 else f"{plain(round(factor))} ×"


def _top_axis(axis: "Axes", whole: int, across: tuple[float, float]) -> None:
    """Add the same memory in bytes on top. across: the ends of the axis, as shares."""
    unit, factor = byte_unit(whole)
    top = axis.secondary_xaxis("top", functions=(partial(mul, whole / factor), partial(mul, factor / whole)))
    top.tick_params(labelsize=LEGEND_TEXT, color=DARK)
    top.set_xscale(axis.get_xscale())
    low, high = (share * whole / factor for share in across)
    set_marks(top.xaxis, low, high, LENGTH[0], lambda size: f"{plain(size)} {unit}")
