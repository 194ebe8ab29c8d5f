"""Draw, from a model, time and memory of a step per rank for 1 to 4,096 ranks: three networks over three links.

The model has constants of a rank, FLOPs a second by width and seconds to add or to update a number, and three of a
link, latency, bandwidth, and the work that bytes are for the core that computes meanwhile. All are assumed, unless a
machine's own are there; a rank's are then measured while a neighbour computes, but no messages travel. So measured
steps on several ranks check what the model says of messages, shared updates and waiting. Three ways to share gradients
are compared. `tree`: ranks exchange whole gradients in pairs, log2 R rounds, and each updates everything. `ring`:
parts go round twice; each adds and updates everything. `sharded`, what lowmem does: each rank gets its part of every
layer from every other one, updates it, and parts are gathered. Backward of a layer and travel of the layers above
overlap, at most `TRAVELLING` layers at a time; a link carries one layer after the other. Bytes per rank are those of
`lowmem.plan`, not a model.

Reads docs/data/measure_ranks.json where it is there: date, constants of the machine and measured points, which `python
-m scripts.measure_ranks` prints. Writes docs/figures/ranks.{svg,png}; prints which way wins where.
Run: python -m analysis.ranks
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil, log2
from typing import Any

from matplotlib.figure import Figure

import lowmem as lm
from analysis.drawing import DOCS, save
from lowmem.plots.style import house_style, looks, new_figure, set_title
from lowmem.schedule.lowering import TRAVELLING

RANKS = [1 << power for power in range(13)]
WAYS = ("sharded", "tree", "ring")


@dataclass(frozen=True, slots=True)
class Machine:
    """One rank, as assumed. rate: FLOPs a second of a layer, and rates by width where they were measured.

    add, update: seconds a number.
    """

    rate: float = 6.0e10
    rates: Mapping[int, float] = field(default_factory=dict)
    add: float = 2.5e-10
    update: float = 1.5e-9


@dataclass(frozen=True, slots=True)
class Link:
    """What lies between ranks. latency: seconds of a message. bandwidth: bytes a second of a rank, each way.

    work: seconds of a rank's core for each byte that it sends and receives, while it computes.
    """

    name: str
    latency: float
    bandwidth: float
    work: float


LINKS = (
    Link("memory of one machine", 5e-6, 3e9, 3e-10),
    Link("Ethernet, 1 Gbit/s", 5e-5, 1.1e8, 3e-10),
    Link("InfiniBand, 100 Gbit/s", 5e-6, 1.1e10, 0.0),
)


@dataclass(frozen=True, slots=True)
class Network:
    """Layers of one width, and the rows of a batch, of which there are as many for any number of ranks."""

    layers: int
    width: int
    batch: int

    @property
    def numbers(self) -> int:
        """Parameters of a layer."""
        return self.width * (self.width + 1)


NETWORKS = (Network(60, 128, 4096), Network(200, 256, 8192), Network(20, 2048, 8192))


def messages(way: str, ranks: int, numbers: int, machine: Machine, link: Link) -> tuple[float, float]:
    """Return how long a layer's gradients travel, and the rank's work of sending, adding and updating meanwhile."""
    size = 4 * numbers
    rounds, share = ceil(log2(ranks)) if ranks > 1 else 0, numbers / ranks
    if ranks == 1:
        return 0.0, numbers * machine.update
    sent = size * (ranks - 1) / ranks
    part, moving = sent / link.bandwidth, 2 * sent * link.work
    if way == "tree":
        travel = rounds * (link.latency + size / link.bandwidth + numbers * machine.add)
        return travel, rounds * size * link.work + numbers * machine.update
    if way == "ring":
        travel = 2 * ((ranks - 1) * link.latency + part) + numbers * machine.add
        return travel, moving + numbers * machine.update
    # Both halves travel on the same link: what is gathered follows what was sent.
    travel = 2 * ((ranks - 1) * link.latency + part)
    return travel, moving + (ranks - 1) * share * machine.add + share * machine.update


def step_seconds(network: Network, ranks: int, way: str, machine: Machine, link: Link) -> tuple[float, float]:
    """Return the seconds of a step, and those of it that a rank waits."""
    rows = network.batch / ranks
    forward = 2 * rows * network.width**2 / machine.rates.get(network.width, machine.rate)
    travel, work = messages(way, ranks, network.numbers, machine, link)
    now, free, waited = forward * network.layers, 0.0, 0.0
    arrive: list[float] = []
    for layer in range(network.layers):
        now += 2 * forward
        free = max(free, now) + travel  # the link carries one layer after the other
        arrive.append(free)
        due = layer - TRAVELLING + 1
        if due >= 0:
            waited += max(arrive[due] - now, 0.0)
            now = max(now, arrive[due]) + work
    for last in arrive[max(network.layers - TRAVELLING + 1, 0) :]:
        waited += max(last - now, 0.0)
        now = max(now, last) + work
    return now, waited


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
    """What was measured on a machine, and when.

    links: memory, and a slow network where one could be made, each with its steps: their ranks, layers, width, batch,
        seconds, and those that the rank that waited longest did.
    """

    date: str
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
    return Measured(found["date"], Machine(**(constants | {"rates": rates})), links)


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
        f"{model}; stars are measured steps in memory, diamonds over a slow network, scaled to the batch.\n"
        f"Measured on {measured.date}: a rank beside another computes {rates} GFLOP/s; {told}.\n"
        f"Assumed: {links}."
    )


def ends(numbers: Iterator[float]) -> tuple[float, float]:
    """Return the least and the largest of some numbers."""
    ordered = sorted(numbers)
    return ordered[0], ordered[-1]


def drawn(machine: Machine, measured: list[tuple[Link, list[dict[str, Any]]]]) -> Figure:
    """Return time per step by ranks, a panel for each network, and bytes per rank behind them."""
    names = looks([link.name for link in LINKS])
    with house_style():
        figure, panels = new_figure(13.5, 4.2, len(NETWORKS) + 1)
        for axes, network in zip(panels[:-1], NETWORKS, strict=True):
            for link in LINKS:
                times = [step_seconds(network, ranks, "sharded", machine, link)[0] for ranks in RANKS]
                look = names[link.name]
                axes.plot(RANKS, times, color=look.colour, linestyle=look.line, label=link.name)
            for (_, steps), mark in zip(measured, ("k*", "kd"), strict=False):
                for one in steps:
                    if (one["layers"], one["width"]) == (network.layers, network.width):
                        rows = network.batch / one["batch"]
                        axes.plot(one["ranks"], one["seconds"] * rows, mark, markersize=8 if mark == "k*" else 5)
            set_title(axes, f"{network.layers} x {network.width}, batch {network.batch:,}", 3.0)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xlabel("ranks (log scale)")
        panels[0].set_ylabel("seconds a step (log scale)")
        panels[0].legend(fontsize=7)
        bytes_look = looks([f"{network.layers} x {network.width}" for network in NETWORKS])
        for network in NETWORKS:
            name = f"{network.layers} x {network.width}"
            sizes = [rank_bytes(network, ranks) / 2**20 for ranks in RANKS]
            panels[-1].plot(RANKS, sizes, color=bytes_look[name].colour, linestyle=bytes_look[name].line, label=name)
        set_title(panels[-1], "bytes of a rank, planned", 3.0)
        panels[-1].set_xscale("log", base=2)
        panels[-1].set_yscale("log")
        panels[-1].set_xlabel("ranks (log scale)")
        panels[-1].set_ylabel("MiB (log scale)")
        panels[-1].legend(fontsize=7)
    return figure


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
