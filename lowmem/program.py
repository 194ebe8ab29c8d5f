"""From lifetimes to addresses: every value of a schedule gets an offset in one arena.

First-fit over the free gaps, in the order of the ops, as an allocator would do it but before the run. A hand-over
(state l becomes δ^(l), a travelling state overwrites its input) keeps the offset. The peak of the packed arena, not
the simulated sum of live bytes, is what a plan promises.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass

from lowmem.chain import Chain
from lowmem.schedule.ops import Backward, Forward, Free, Loss, Op, Schedule

BATCH = -1
"""The offset of x^(0): not in the arena, it is the caller's."""


@dataclass(frozen=True, slots=True)
class Step:
    """An op with the offsets, in bytes, of what it reads, writes and works in.

    source: Forward: state first-1; Loss: state L; Backward: δ^(l). `BATCH` for x^(0).
    target: Forward: state last; Loss: δ^(L), the same place; Backward: state l-1, which becomes δ^(l-1).
    scratch: where the op's working memory begins.
    """

    op: Op
    source: int
    target: int
    scratch: int


@dataclass(frozen=True, slots=True)
class Program:
    """A schedule with addresses: the steps, and the bytes of the arena they need."""

    steps: tuple[Step, ...]
    arena_bytes: int


def pack(chain: Chain, schedule: Schedule, *, at_best: int = 0) -> Program:
    """Place every value of a valid schedule; the smallest of three placements is returned.

    at_best: the simulated peak, which no placement can beat: with it the search ends early.

    The lowest gap that fits does well in even chains. In ragged ones it sometimes pays to reserve the arena's lower
    end for scratch, or to take the gap that fits most closely.
    """
    best: Program | None = None
    for reserve, closest in ((0, False), (max(_scratches(chain, schedule)), False), (0, True)):
        placed = _place(chain, schedule, reserve=reserve, closest=closest)
        best = placed if best is None or placed.arena_bytes < best.arena_bytes else best
        if best.arena_bytes <= at_best:
            break
    assert best is not None
    return best


def _scratches(chain: Chain, schedule: Schedule) -> Iterator[int]:
    """Yield the scratch bytes of every op."""
    for op in schedule.ops:
        match op:
            case Forward(first, last):
                yield chain.forward_scratch(first, last)
            case Loss():
                yield chain.loss_scratch
            case Backward(layer):
                yield chain.stages[layer - 1].backward_scratch


def _place(chain: Chain, schedule: Schedule, *, reserve: int, closest: bool) -> Program:
    """Walk the ops with an allocator. With `reserve`, all scratch lies in that many bytes at the start."""
    gaps = Gaps(reserve, closest=closest)
    places: dict[int, int] = {0: BATCH}  # state -> offset
    delta = BATCH
    steps: list[Step] = []

    def scratch(size: int) -> int:
        if reserve or not size:
            return 0
        offset = gaps.take(size)
        gaps.give(offset, size)
        return offset

    for op in schedule.ops:
        match op:
            case Forward(first, last):
                place = chain.travelling_bytes(first, last)
                target = gaps.take(place)
                steps.append(Step(op, places[first - 1], target, scratch(chain.forward_scratch(first, last))))
                kept = chain.state_bytes(last)
                gaps.give(target + kept, place - kept)
                places[last] = target
            case Loss():
                delta = places.pop(chain.length)
                steps.append(Step(op, delta, delta, scratch(chain.loss_scratch)))
            case Backward(layer):
                target = places[layer - 1]
                steps.append(Step(op, delta, target, scratch(chain.stages[layer - 1].backward_scratch)))
                gaps.give(delta, chain.stages[layer - 1].delta_bytes)
                if layer > 1:
                    delta = places.pop(layer - 1)
                    left = chain.state_bytes(layer - 1) - chain.stages[layer - 2].delta_bytes
                    gaps.give(delta + chain.stages[layer - 2].delta_bytes, left)
            case Free(value):
                gaps.give(places.pop(value.layer), chain.state_bytes(value.layer))
                steps.append(Step(op, BATCH, BATCH, 0))
            case _:
                steps.append(Step(op, BATCH, BATCH, 0))
    return Program(tuple(steps), gaps.top)


class Gaps:
    """An allocator that only does the arithmetic: free gaps below `top`, the highest byte ever used.

    closest: take the gap that fits most closely instead of the lowest one that fits.
    """

    def __init__(self, start: int, *, closest: bool = False) -> None:
        self.closest = closest
        self.top = start
        self._offsets: list[int] = []  # of the gaps, ascending
        self._sizes: dict[int, int] = {}
        self._end = start  # everything from here on is free

    def take(self, size: int) -> int:
        """Return an offset where `size` bytes are free, and occupy them."""
        sizes = self._sizes
        if self.closest:
            fitting = [offset for offset in self._offsets if sizes[offset] >= size]
            offset = min(fitting, key=sizes.__getitem__, default=self._end)
        else:
            offset = next((offset for offset in self._offsets if sizes[offset] >= size), self._end)
        if offset == self._end:
            self._end += size
            self.top = max(self.top, self._end)
            return offset
        room = sizes.pop(offset)
        self._offsets.remove(offset)
        if room > size:
            self._insert(offset + size, room - size)
        return offset

    def give(self, offset: int, size: int) -> None:
        """Free `size` bytes at `offset` and join them with the gaps beside them."""
        if not size:
            return
        position = bisect_left(self._offsets, offset)
        if position < len(self._offsets) and self._offsets[position] == offset + size:
            size += self._sizes.pop(self._offsets.pop(position))
        if position:
            before = self._offsets[position - 1]
            if before + self._sizes[before] == offset:
                del self._offsets[position - 1]
                offset, size = before, size + self._sizes.pop(before)
        if offset + size == self._end:
            self._end = offset
        else:
            self._insert(offset, size)

    def _insert(self, offset: int, size: int) -> None:
        insort(self._offsets, offset)
        self._sizes[offset] = size
