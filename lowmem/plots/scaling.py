"""Growth with depth: memory and compute of each strategy, beside the square root and the logarithm."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log2, sqrt
from typing import TYPE_CHECKING

from lowmem.common.checks import items
from lowmem.planning.plan import Plan
from lowmem.plots.frontier import COMPUTE
from lowmem.plots.style import GREY, LEGEND_TEXT, byte_unit, house_style, legend_above, looks, new_figure

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
    title, compute_label = str(title), str(compute_label)
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
        memory.set_ylabel(f"activations ({unit})")
        compute.set_ylabel(compute_label)
        for axis in (memory, compute):
            _scales(axis, given)
        legend_above(figure)
        memory.set_title(title, fontsize=LEGEND_TEXT)
    return figure


def _guides(axis: "Axes", records: Sequence[Depth], factor: int) -> None:
    """Draw sqrt(L) and log(L), both from the middle of what the shallowest network takes."""
    depths = sorted({record.layers for record in records})
    first = [record.memory for record in records if record.layers == depths[0]]
    start = sqrt(min(first) * max(first)) / factor
    for name, function, style in (("∝ √L", sqrt, (0, (6, 2))), ("∝ log L", log2, (0, (1.5, 1.5)))):
        values = [start * function(layers) / function(depths[0]) for layers in depths]
        axis.plot(depths, values, color=GREY, linewidth=1.4, linestyle=style, zorder=1, label=name)


def _scales(axis: "Axes", records: Sequence[Depth]) -> None:
    """Set logarithmic axes, with a mark at every depth."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.xaxis.set_major_locator(FixedLocator(sorted({record.layers for record in records})))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}"))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}" if y >= 1 else f"{y:.2g}"))
    axis.set_xlabel("layers L")
