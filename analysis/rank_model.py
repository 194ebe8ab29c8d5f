"""The model behind `analysis.ranks`: how long a step takes on ranks that share gradients in one of three ways.

A rank has three constants: FLOPs a second, and the seconds to add and to update a number. A link has two: latency and
bandwidth. `tree`: ranks exchange whole gradients in pairs, log2 R rounds, and each updates everything. `ring`: parts
go round twice; each rank adds and updates everything. `sharded`, what lowmem does: each rank gets its part of every
layer from every other one and updates it; then the parts are gathered. Backward of a layer and travel of the layers
above overlap, at most `TRAVELLING` layers at a time; a link carries one layer after the other.
"""

from dataclasses import dataclass
from math import ceil, log2

from lowmem.schedule.lowering import TRAVELLING

WAYS = ("sharded", "tree", "ring")


@dataclass(frozen=True, slots=True)
class Machine:
    """One rank, as assumed. rate: FLOPs a second of products. add, update: seconds a number."""

    rate: float = 6.0e10
    add: float = 2.5e-10
    update: float = 1.5e-9


@dataclass(frozen=True, slots=True)
class Link:
    """What lies between ranks. latency: seconds of a message. bandwidth: bytes a second of a rank, each way."""

    name: str
    latency: float
    bandwidth: float


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


def messages(way: str, ranks: int, numbers: int, machine: Machine, link: Link) -> tuple[float, float]:
    """Return how long a layer's gradients travel, and then the rank's work of adding, updating and gathering."""
    size = 4 * numbers
    rounds, share = ceil(log2(ranks)) if ranks > 1 else 0, numbers / ranks
    if ranks == 1:
        return 0.0, numbers * machine.update
    part = size * (ranks - 1) / ranks / link.bandwidth
    if way == "tree":
        return rounds * (link.latency + size / link.bandwidth + numbers * machine.add), numbers * machine.update
    if way == "ring":
        travel = 2 * ((ranks - 1) * link.latency + part) + numbers * machine.add
        return travel, numbers * machine.update
    # Both halves travel on the same link: what is gathered follows what was sent.
    travel = 2 * ((ranks - 1) * link.latency + part)
    return travel, (ranks - 1) * share * machine.add + share * machine.update


def step_seconds(network: Network, ranks: int, way: str, machine: Machine, link: Link) -> tuple[float, float]:
    """Return the seconds of a step, and those of it that a rank waits."""
    rows = network.batch / ranks
    forward = 2 * rows * network.width**2 / machine.rate
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
