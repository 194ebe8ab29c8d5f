"""Draw, from a model, time and memory of a step per rank for 1 to 4,096 ranks: three networks over three links.

`analysis.rank_model` is the model. Its constants are assumed, unless a machine's own are there. Bytes per rank are
those of `lowmem.plan`, not of a model.

Reads docs/data/measure_ranks.json where it is there: date, constants of the machine and measured points, which `python
-m scripts.measure_ranks` prints. Writes docs/figures/ranks.{svg,png}; prints which way wins where.
Run: python -m analysis.ranks
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

import lowmem as lm
from analysis.drawing import DOCS, OLDER, save
from analysis.rank_model import WAYS, Link, Machine, Network, step_seconds
from lowmem.plots.lettering import set_marks
from lowmem.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    PURPLE,
    SKY,
    VERMILION,
    house_style,
    legend_above,
    new_figure,
    set_title,
)
from scripts.measuring import is_older

RANKS = [1 << power for power in range(13)]

SIZE, PANEL = (10, 6.8), (3.6, 2.2)
"""Inches: of the figure without its legend and note, and, at least, of the axes of a panel."""

LINK_LOOKS = ((VERMILION, "--"), (GREEN, "-."), (BLUE, ":"))
BYTES_LOOKS = ((PURPLE, "--"), (BLACK, "-."), (SKY, ":"))
"""Colour and line of each link, and of each network where bytes are drawn: no two of the six are alike."""

MEASURED = (("measured, in memory", "*", 13), ("measured, over a slow network", "D", 7))
"""What a measured point is called, its marker and the size of that."""

LINKS = (
    Link("memory of one machine", 5e-6, 3e9, 3e-10),
    Link("Ethernet, 1 Gbit/s", 5e-5, 1.1e8, 3e-10),
    Link("InfiniBand, 100 Gbit/s", 5e-6, 1.1e10, 0.0),
)

NETWORKS = (Network(60, 128, 4096), Network(200, 256, 8192), Network(20, 2048, 8192))


def rank_bytes(network: Network, ranks: int) -> int:
    """Return the bytes that a plan promises for one of so many ranks, each with one shard."""
    architecture = lm.Architecture((network.width, *[network.width] * network.layers))
    return lm.plan(architecture, network.batch, None, "adam", "store_all", shards=ranks, ranks=ranks).peak_bytes


def quickest_way(network: Network, ranks: int, machine: Machine, link: Link) -> str:
    """Return which of `WAYS` shares gradients in the least time."""
    return min(WAYS, key=lambda way: step_seconds(network, ranks, way, machine, link)[0])


def quickest_ranks(network: Network, machine: Machine, link: Link) -> int:
    """Return with how many ranks a step of sharded updates is quickest."""
    return min(RANKS, key=lambda ranks: step_seconds(network, ranks, "sharded", machine, link)[0])


def winners(machine: Machine) -> Iterator[str]:
    """Yield, for each network and link, up to how many ranks which way is quickest, and what a step takes then."""
    for network in NETWORKS:
        for link in LINKS:
            spans: list[list[Any]] = []
            for ranks in RANKS[1:]:
                best = quickest_way(network, ranks, machine, link)
                if spans and spans[-1][0] == best:
                    spans[-1][2] = ranks
                else:
                    spans.append([best, ranks, ranks])
            alone = step_seconds(network, 1, "sharded", machine, link)[0]
            quickest = quickest_ranks(network, machine, link)
            gain = alone / step_seconds(network, quickest, "sharded", machine, link)[0]
            told = ", ".join(f"{way} {low:,} to {high:,}" for way, low, high in spans)
            yield (
                f"{network.layers} x {network.width}, {link.name}: {told}; sharded is {gain:.1f} times as quick as "
                f"one rank at {quickest:,}"
            )


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured on a machine.

    where: date and machine, and whether sources have changed since.
    links: memory, and a slow network where one could be made, each with its steps: their ranks, layers, width, batch,
        seconds, and those that the rank that waited longest did.
    """

    where: str
    machine: Machine
    links: list[tuple[Link, list[dict[str, Any]]]]


def measurement() -> Measured | None:
    """Return what was measured, None where nothing was."""
    path = DOCS / "data" / "measure_ranks.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    links = [(Link("memory", **found["link"]), found["steps"])]
    links += [(Link(f"loopback at {slow['rate']}/s", **slow["link"]), slow["steps"]) for slow in found["slow"]]
    constants = found["machine"]
    rates = {int(width): rate for width, rate in constants["rates"].items()}
    older = f", {OLDER}" if is_older(found) else ""
    where = f"{found['date']} on {found['on']['processor']}, {found['on']['cores']} cores{older}"
    return Measured(where, Machine(**(constants | {"rates": rates})), links)


def over_measured(machine: Machine, link: Link, steps: list[dict[str, Any]]) -> Iterator[float]:
    """Yield the seconds of the model over those of each measured step on several ranks."""
    for one in steps:
        if one["ranks"] == 1:
            continue
        network = Network(one["layers"], one["width"], one["batch"])
        yield step_seconds(network, one["ranks"], "sharded", machine, link)[0] / one["seconds"]


def waits(measured: Measured) -> Iterator[str]:
    """Yield, for each measured step on several ranks, the share of it that ranks waited, modelled and measured."""
    for link, steps in measured.links:
        for one in steps:
            if one["ranks"] == 1:
                continue
            network = Network(one["layers"], one["width"], one["batch"])
            seconds, waited = step_seconds(network, one["ranks"], "sharded", measured.machine, link)
            yield (
                f"{network.layers} x {network.width}, batch {network.batch}, {link.name}: a step of "
                f"{seconds:.3f} s, {waited:.3f} s of it waiting, by the model; {one['seconds']:.3f} s and "
                f"{one['waited']:.3f} s measured"
            )


def note(measured: Measured | None) -> str:
    """Say below the figure what the model is made of: numbers assumed, or measured and when."""
    model = "python -m analysis.ranks: a model of latency, bandwidth and compute, sharded updates"
    links = "; ".join(f"{link.name} {link.latency * 1e6:.0f} µs, {link.bandwidth / 1e9:g} GB/s" for link in LINKS)
    if measured is None:
        rate = Machine().rate / 1e9
        return f"{model}. Nothing here is measured.\nAssumed: a rank computes {rate:.0f} GFLOP/s; {links}."
    rates = " to ".join(f"{rate / 1e9:.0f}" for rate in ends(iter(measured.machine.rates.values())))
    told = "; ".join(
        f"{link.name} {link.latency * 1e6:.0f} µs, {link.bandwidth / 1e9:.2g} GB/s, where the model says "
        + " to ".join(f"{ratio:.2f}" for ratio in ends(over_measured(measured.machine, link, steps)))
        + " times the measured seconds"
        for link, steps in measured.links
    )
    return (
        f"{model}. Markers: measured steps, scaled to the batch.\n"
        f"Measured {measured.where}: a rank beside another computes {rates} GFLOP/s; {told}.\n"
        f"Assumed: {links}."
    )


def ends(numbers: Iterator[float]) -> tuple[float, float]:
    """Return the least and the largest of some numbers."""
    ordered = sorted(numbers)
    return ordered[0], ordered[-1]


def drawn(machine: Machine, measured: list[tuple[Link, list[dict[str, Any]]]]) -> Figure:
    """Return time per step by ranks, a panel for each network, and bytes per rank behind them."""
    with house_style():
        figure, panels = new_figure(*SIZE, 2, 2)
        for axes, network in zip(panels[:-1], NETWORKS, strict=True):
            times = {
                link.name: [step_seconds(network, ranks, "sharded", machine, link)[0] for ranks in RANKS]
                for link in LINKS
            }
            points = [
                [(one["ranks"], one["seconds"] * network.batch / one["batch"]) for one in steps if is_of(one, network)]
                for _, steps in measured
            ]
            title = f"{network.layers} × {network.width}, batch {network.batch:,}"
            _panel(axes, title, "seconds a step (log scale)", times, LINK_LOOKS)
            _mark(axes, points, [number for line in times.values() for number in line])
        sizes = {
            f"bytes of {network.layers} × {network.width}": [rank_bytes(network, ranks) / 2**20 for ranks in RANKS]
            for network in NETWORKS
        }
        _panel(panels[-1], "memory of a rank, planned", "MiB (log scale)", sizes, BYTES_LOOKS)
        _mark(panels[-1], [], [number for line in sizes.values() for number in line])
        legend_above(figure)
    return figure


def is_of(step: dict[str, Any], network: Network) -> bool:
    """Return whether a measured step was one of a network, at any batch."""
    return (step["layers"], step["width"]) == (network.layers, network.width)


def _panel(
    axes: Axes, title: str, label: str, lines: dict[str, list[float]], looks: Sequence[tuple[str, str]]
) -> None:
    """Draw lines over ranks, both axes logarithmic."""
    for (name, values), (colour, style) in zip(lines.items(), looks, strict=True):
        axes.plot(RANKS, values, color=colour, linestyle=style, label=name)
    axes.set(xscale="log", yscale="log", xlabel="ranks (log scale)", ylabel=label)
    set_title(axes, title, PANEL[0])


def _mark(axes: Axes, points: Sequence[Sequence[tuple[int, float]]], values: Sequence[float]) -> None:
    """Draw measured points, and set the ends and marks of the axes. values: those of all lines."""
    for pairs, (name, marker, size) in zip(points, MEASURED, strict=False):
        if pairs:
            style: dict[str, Any] = {
                "color": "black",
                "marker": marker,
                "markersize": size,
                "markerfacecolor": "white",
            }
            axes.plot(*zip(*pairs, strict=True), linestyle="none", zorder=4, label=name, **style)
    every = [*values, *(seconds for pairs in points for _, seconds in pairs)]
    for axis, low, high, length, among in (
        (axes.xaxis, RANKS[0] / 1.4, RANKS[-1] * 1.4, PANEL[0], RANKS),
        (axes.yaxis, min(every) / 1.4, max(every) * 1.4, PANEL[1], ()),
    ):
        axis.set_view_interval(low, high, ignore=True)
        set_marks(axis, low, high, length, among=among)


def main() -> None:
    """Draw the figure, and print which way wins where."""
    measured = measurement()
    machine = Machine() if measured is None else measured.machine
    save(drawn(machine, [] if measured is None else measured.links), "ranks", note(measured))
    print("\n".join(winners(machine)))
    if measured is not None:
        print("\n".join(waits(measured)))


if __name__ == "__main__":
    main()
