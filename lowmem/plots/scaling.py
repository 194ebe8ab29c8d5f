"""Growth with depth: memory and compute of each strategy, beside the square root and the logarithm."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import log2, sqrt
from typing import TYPE_CHECKING

from lowmem.common.checks import items, text
from lowmem.planning.plan import Plan
from lowmem.plots.frontier import COMPUTE
from lowmem.plots.lettering import TEXT, in_lines, plain, set_marks, with_scale
from lowmem.plots.style import GREY, house_style, legend_above, looks, new_figure, set_title
from lowmem.units import byte_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Depth:
    """What a network of some depth takes.

    series: the name of a strategy, or any other name.
    layers: L.
    memory: bytes of activations.
    compute: FLOPs relative to storing everything.
    measured: whether it was measured, and is drawn as an open marker without a line, or predicted.
    """

    series: str
    layers: int
    memory: float
    compute: float
    measured: bool = False

    @classmethod
    def of(cls, plan: Plan) -> "Depth":
        """Return what a plan predicts."""
        return cls(plan.strategy, plan.architecture.layers, plan.arena_bytes, plan.flop_factor)


def scaling(records: Iterable[Depth | Plan], *, title: str = "", compute_label: str = COMPUTE) -> "Figure":
    """Draw memory and compute against depth, both on logarithmic axes, with guides for sqrt(L) and log(L).

    records: plans of networks that differ in depth, or `Depth` records of any origin.
    """
    records = items("records", records, (Plan, Depth), "plans, or lowmem.plots.Depth records")
    title, compute_label = text("title", title), text("compute_label", compute_label)
    given = [Depth.of(record) if isinstance(record, Plan) else record for record in records]
    given.sort(key=lambda record: (record.series, record.measured, record.layers))
    with house_style():
        figure, (memory, compute) = new_figure(10, panels=2)
        unit, factor = byte_unit(max(record.memory for record in given))
        look = looks(sorted({record.series for record in given}))
        for name in look:
            for measured in (False, True):
                row = [record for record in given if record.series == name and record.measured == measured]
                for axis, values in ((memory, [r.memory / factor for r in row]), (compute, [r.compute for r in row])):
                    axis.plot(
                        [record.layers for record in row],
                        values,
                        color=look[name].colour,
                        linestyle="none" if measured else look[name].line,
                        marker=look[name].marker,
                        markerfacecolor="white" if measured else look[name].colour,
                        markeredgecolor=look[name].colour,
                        markeredgewidth=1.8,
                        label=(f"{name}, measured" if measured else name) if row else "",
                    )
        _guides(memory, given, factor)
        memory.set_ylabel(f"activations in {unit} (log scale)")
        compute.set_ylabel(in_lines(with_scale(compute_label, "log"), 2.8, TEXT))
        _scales(memory, given, [record.memory / factor for record in given], plain)
        _scales(compute, given, [record.compute for record in given], lambda y: f"{plain(y)} ×")
        legend_above(figure)
        set_title(memory, title, 8, pad=14)  # it may reach over the right panel, whose highest mark stands out
    return figure


def _guides(axis: "Axes", records: Sequence[Depth], factor: int) -> None:
    """Draw sqrt(L) and log(L), both from the middle of what the shallowest network takes."""
    depths = sorted({record.layers for record in records})
    if depths[0] == 1:  # whose logarithm is 0
        return
    first = [record.memory for record in records if record.layers == depths[0]]
    start = sqrt(min(first) * max(first)) / factor
    for name, function, style in (("∝ √L", sqrt, (0, (6, 2))), ("∝ log L", log2, (0, (1.5, 1.5)))):
        values = [start * function(layers) / function(depths[0]) for layers in depths]
        axis.plot(depths, values, color=GREY, linewidth=1.4, linestyle=style, zorder=1, label=name)


def _scales(axis: "Axes", records: Sequence[Depth], values: Sequence[float], write: Callable[[float], str]) -> None:
    """Set logarithmic axes: the depths that are drawn across, round numbers up."""
    axis.set(xscale="log", yscale="log")
    depths = [record.layers for record in records]
    low, high = _with_room(depths)
    axis.set_xlim(low, high)
    set_marks(axis.xaxis, low, high, 3.8, plain, among=depths)
    axis.set_xlabel("layers L (log scale)")
    low, high = _with_room(values)
    axis.set_ylim(low, high)
    set_marks(axis.yaxis, low, high, 3.5, write)


def _with_room(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of a logarithmic axis for some values."""
    low, high = min(values), max(values)
    room = (high / low) ** 0.05 if low < high else 1.4
    return low / room, high * room
