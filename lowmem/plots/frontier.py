"""Compute versus memory: what each strategy and budget costs, beside what was measured."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import mul
from typing import TYPE_CHECKING, Any

from lowmem.common.checks import items, positive, truth
from lowmem.planning.plan import Plan
from lowmem.planning.queries import Comparison
from lowmem.plots.style import GREY, LEGEND_TEXT, Look, byte_unit, house_style, legend_above, looks, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

MEMORY = "activations, relative to storing everything"
COMPUTE, TIME = "FLOPs, relative to storing all", "predicted time, relative to storing all"

STEPS = (1, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
"""Where the axes are marked."""


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
        """Return what a plan predicts."""
        return cls(plan.strategy, plan.arena_bytes / plan.store_all_bytes, plan.flop_factor)


def frontier(
    points: Comparison | Iterable[Point],
    *,
    title: str = "",
    memory_label: str = MEMORY,
    compute_label: str = COMPUTE,
    relative: bool = True,
    whole: int | None = None,
) -> "Figure":
    """Draw compute against memory: each strategy a marker, and a series of many points a curve.

    points: a comparison, or points of any origin. Predicted points are drawn filled or as lines, measured ones open.
    title: above the figure. memory_label, compute_label: of the axes.
    relative: memory is a share, and (1, 1) is storing everything; otherwise memory is in MiB.
    whole: bytes of the share 1, for a second axis on top. A comparison needs none.
    """
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
    memory_label, compute_label, title = map(str, (memory_label, compute_label, title))
    whole = None if whole is None else positive("whole", whole)
    relative = truth("relative", relative)
    # Predicted curves run along the memory; measured series keep their order, which may be that of a setting.
    given = sorted(points, key=lambda point: (point.series, point.measured, 0 if point.measured else point.memory))
    with house_style():
        figure, (axis,) = new_figure()
        _scales(axis, given, relative=relative)
        _draw(axis, given)
        if relative:
            axis.axhline(1, color=GREY, linewidth=1, zorder=1)
            axis.axvline(1, color=GREY, linewidth=1, zorder=1)
        _mark_least(axis, given, relative=relative)
        axis.set_xlabel(memory_label)
        axis.set_ylabel(compute_label)
        if whole is not None:
            _top_axis(axis, whole)
        legend_above(figure)
        axis.set_title(title, fontsize=LEGEND_TEXT)
    return figure


def _draw(axis: "Axes", points: Sequence[Point]) -> None:
    """Draw all series."""
    predicted = {point.series for point in points if not point.measured}
    order = sorted({point.series for point in points}, key=lambda name: (name != "optimal", name))
    look = looks(order)
    for (name, measured), group in groupby(points, key=lambda point: (point.series, point.measured)):
        row = list(group)
        # A measured series lies on the line that was predicted for it; if there is none, its points are joined.
        joined = len(row) > 1 and not (measured and name in predicted)
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
        marker="" if len(row) > 12 and not measured else look.marker,
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
    size = f"{least.memory:.1%}" if relative else f"{least.memory:.0f} MiB"
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
        label=f"least memory: {size} at {least.compute:.3g} ×",
        clip_on=False,
    )


def _scales(axis: "Axes", points: Sequence[Point], *, relative: bool) -> None:
    """Set logarithmic axes where the range asks for them, with round marks."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    memory, compute = [point.memory for point in points], [point.compute for point in points]
    axis.set_xscale("log")
    axis.set_xlim(0.8 * min(memory), (1.05 if relative else 1.25) * max(memory))
    axis.xaxis.set_minor_locator(NullLocator())
    scale = 1.0 if relative else 10.0 ** (len(str(int(max(memory)))) - 1) * 10
    axis.xaxis.set_major_locator(FixedLocator([scale * share for share in SHARES]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.3g} %" if relative else f"{x:,.0f}"))
    if max(compute) > 4 * min(compute):
        # Logarithmic in what lies above nine tenths of the least: both a few per cent and a factor of 30 show.
        below = 0.9 * min(compute)
        axis.set_yscale("function", functions=(partial(_squeeze, below), partial(_stretch, below)))
        axis.yaxis.set_major_locator(FixedLocator(STEPS))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.3g} ×"))
    room = 0.06 * (max(compute) - min(compute) or 1)
    axis.set_ylim(0.96 * min(compute), max(compute) + (room if axis.get_yscale() == "linear" else 5 * room))


def _squeeze(below: float, y: "NDArray[Any]") -> "NDArray[Any]":
    """Map compute to the height at which it is drawn."""
    import numpy as np

    return np.asarray(np.log(np.maximum(y - below, 1e-9)))


def _stretch(below: float, height: "NDArray[Any]") -> "NDArray[Any]":
    """Map a height back to compute."""
    import numpy as np

    return np.asarray(np.exp(height) + below)


def _top_axis(axis: "Axes", whole: int) -> None:
    """Add the same memory in bytes on top."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    unit, factor = byte_unit(whole)
    top = axis.secondary_xaxis("top", functions=(partial(mul, whole / factor), partial(mul, factor / whole)))
    top.tick_params(labelsize=LEGEND_TEXT, color="#404040")
    top.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
    top.xaxis.set_minor_locator(NullLocator())
    top.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g} {unit}"))
