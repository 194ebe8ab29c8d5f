"""Parameters and the optimizer's arrays that lie on a disk: when each layer's are fetched, and when they are let go.

A pass uses the parameters of its layers in an order that the schedule fixes: `Forward` those of its layers one after
the other, `Backward` and `Update` those of one, and `Update` the optimizer's arrays of its layer too. So the transfers
are known before the pass begins. What a use needs is fetched `ahead` uses before it, and let go of behind a use unless
one of the next `ahead` + 1 uses needs it again. Behind an update it is written first.

With ahead = 1, of layers 1 and 2 that are trained with Adam:

    fetch w1, w2; Forward(1); release w1, fetch m2; Forward(2), Loss, Backward(2); fetch w1; Update(2); release w2, m2,
    fetch m1; Backward(1); Update(1); release w1, m1

Fetches and releases are carried out one after the other, in the order in which they begin. So never more is resident
than the uses in one window of `ahead` + 1 need, however fast the disk is, and `resident` bounds that before the run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from mmap import PAGESIZE
from typing import Literal, NamedTuple

from lowmem.schedule.ops import Backward, Forward, Op, Update

Part = Literal["w", "m"]
"""What is streamed of a layer: its parameters w^(l), or the optimizer's arrays m^(l)."""


@dataclass(frozen=True, slots=True)
class Streaming:
    """What of each layer is fetched from a disk for its use and let go of behind it.

    parameters, moments: the layer's parameters, the optimizer's arrays. ahead: for how many uses ahead it is fetched.
    """

    parameters: bool
    moments: bool
    ahead: int

    def __str__(self) -> str:
        """Say what is streamed."""
        names = [name for name, there in (("parameters", self.parameters), ("moments", self.moments)) if there]
        return " and ".join(names)


class Move(NamedTuple):
    """A transfer begun or waited for. changed: of a release, whether an update has written to the part before."""

    kind: Literal["fetch", "arrive", "release"]
    layer: int
    part: Part
    changed: bool = False


class Moves(NamedTuple):
    """The moves before and behind one run of a layer."""

    before: tuple[Move, ...]
    behind: tuple[Move, ...]


def runs_of(op: Op) -> Iterator[tuple[int, bool]]:
    """Yield the layers whose parameters an op uses, in order, and whether it updates them."""
    match op:
        case Forward(first=first, last=last):
            yield from ((layer, False) for layer in range(first, last + 1))
        case Backward(layer=layer):
            yield layer, False
        case Update(layer=layer):
            yield layer, True
        case _:
            pass


@dataclass(slots=True)
class _Use:
    """A run of uses of the same parts. first, last: their numbers."""

    parts: tuple[tuple[Part, int], ...]
    first: int
    last: int
    updates: bool


def moves(ops: Sequence[Op], streaming: Streaming) -> list[Moves]:
    """Return the moves around each run of a layer, in the order of `runs_of` over all ops of a pass."""
    uses, count = _uses(ops, streaming)
    before: list[list[Move]] = [[] for _ in range(count)]
    behind: list[list[Move]] = [[] for _ in range(count)]
    here: dict[tuple[Part, int], bool] = {}  # what is resident or on its way, and whether it was changed
    awaited: set[tuple[Part, int]] = set()
    fetched = 0
    for number, use in enumerate(uses):
        while fetched < min(number + streaming.ahead + 1, len(uses)):
            for one in uses[fetched].parts:
                if one not in here:
                    here[one] = False
                    awaited.add(one)
                    before[use.first].append(Move("fetch", one[1], one[0]))
            fetched += 1
        for one in use.parts:
            if one in awaited:
                awaited.discard(one)
                before[use.first].append(Move("arrive", one[1], one[0]))
            here[one] |= use.updates
        soon = {one for other in uses[number + 1 : number + 2 + streaming.ahead] for one in other.parts}
        for one in use.parts:
            if one not in soon:
                behind[use.last].append(Move("release", one[1], one[0], here.pop(one)))
    return [Moves(tuple(one), tuple(other)) for one, other in zip(before, behind, strict=True)]


def _uses(ops: Sequence[Op], streaming: Streaming) -> tuple[list[_Use], int]:
    """Return the uses of a pass, runs of the same parts as one, and how many runs of layers there are."""
    uses: list[_Use] = []
    count = 0
    for op in ops:
        for layer, updates in runs_of(op):
            parts: list[tuple[Part, int]] = [("w", layer)] if streaming.parameters else []
            if updates and streaming.moments:
                parts.append(("m", layer))
            if parts and uses and uses[-1].parts == tuple(parts):
                uses[-1].last, uses[-1].updates = count, uses[-1].updates or updates
            elif parts:
                uses.append(_Use(tuple(parts), count, count, updates))
            count += 1
    return uses, count


@dataclass(frozen=True, slots=True)
class PartBytes:
    """Bytes that a fetch or a release of each layer's parts moves: those of the whole pages within them.

    parameters, moments: by layer, from the first. borders: bytes of the pages between layers, which stay resident, in
    one array shaped like the parameters. states: how many such arrays the optimizer keeps.
    """

    parameters: tuple[int, ...]
    moments: tuple[int, ...]
    borders: int
    states: int

    @property
    def whole(self) -> int:
        """Bytes of all pages of an array shaped like the parameters."""
        return sum(self.parameters) + self.borders

    @classmethod
    def of(cls, sizes: Sequence[int], item_bytes: int, states: int) -> "PartBytes":
        """Return the bytes for layers of so many numbers, which lie one behind the other."""
        bounds = [number * item_bytes for number in accumulate(sizes, initial=0)]
        inside = [
            max(stop // PAGESIZE * PAGESIZE - -(-start // PAGESIZE) * PAGESIZE, 0) for start, stop in pairwise(bounds)
        ]
        whole = -(-bounds[-1] // PAGESIZE) * PAGESIZE
        return cls(tuple(inside), tuple(states * size for size in inside), whole - sum(inside), states)

    def moved(self, move: Move) -> int:
        """Return the bytes of a fetch or a release."""
        return (self.parameters if move.part == "w" else self.moments)[move.layer - 1]


def resident(sizes: PartBytes, streaming: Streaming) -> tuple[int, int]:
    """Return the most bytes of parameters, and of moments, that are resident at a time, whatever the schedule.

    A window of uses has updates and other uses. Between two updates lies the backward of the later one's layer, so
    with u updates it has parameters of at most `ahead` + 2 - u layers, and without any of `ahead` + 1.

    What is not streamed counts 0.
    """
    window = streaming.ahead + 1
    if not streaming.parameters:
        return 0, _largest(sizes.moments, window) + sizes.states * sizes.borders
    best = _largest(sizes.parameters, window), 0
    if streaming.moments:
        for updates in range(1, -(-window // 2) + 1):
            both = _largest(sizes.parameters, window + 1 - updates), _largest(sizes.moments, updates)
            best = max(best, both, key=sum)
    beside = sizes.states * sizes.borders if streaming.moments else 0
    return best[0] + sizes.borders, best[1] + beside


def _largest(sizes: Sequence[int], count: int) -> int:
    """Return the sum of the largest `count` sizes."""
    return sum(sorted(sizes, reverse=True)[:count])


def traffic(planned: Sequence[Moves], sizes: PartBytes, *, updating: bool) -> tuple[int, int]:
    """Return the bytes written and read in a pass. updating: whether its updates are carried out."""
    written = read = 0
    for around in planned:
        for move in (*around.before, *around.behind):
            if move.kind == "fetch" and (updating or move.part == "w"):
                read += sizes.moved(move)
            elif move.kind == "release" and move.changed and updating:
                written += sizes.moved(move)
    return written, read
