"""The model behind `analysis.ranks`: how long a step takes on ranks that share gradients in one of three ways.

A rank has constants: FLOPs a second by width, and the seconds to add and to update a number. Measured ones are those
of a rank whose neighbour computes too, while no messages travel; so measured steps on several ranks check what the
model says of messages, shared updates and waiting. A link has three: latency, bandwidth, and the work that bytes are
for the core that computes meanwhile. `tree`: ranks exchange whole gradients in pairs, log2 R rounds, and each updates
everything. `ring`: parts go round twice; each rank adds and updates everything. `sharded`, what lowmem does: each rank
gets its part of every layer from every other one and updates it; then the parts are gathered. Backward of a layer and
travel of the layers above overlap, at most `TRAVELLING` layers at a time; a link carries one layer after the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, log2

from lowmem.schedule.lowering import TRAVELLING

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
