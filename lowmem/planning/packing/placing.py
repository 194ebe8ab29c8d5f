"""Where blocks of memory can lie: every way in which `pack` places them. No NumPy.

Checkpoints that stay until their segment is done end in the reverse order of their beginning, so they can lie on two
stacks, one at each end of the arena. While layers i+1..j are reversed, δ^(j) lies on top of one stack; the next state
is put on the other stack. When layer j is reversed, δ^(j) ends, and all that is free is one gap again: nothing is
lost between blocks.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from operator import add

ROUNDS, PAIRS = 24, 200_000
"""The most rounds in which all lifetimes are placed anew, and the most pairs of blocks that these compare in all."""


class Effort(Enum):
    """Which placements are looked at: stacks alone, all that are quickly done, or all."""

    STACKS = "stacks"
    QUICK = "quick"
    ALL = "all"


@dataclass(slots=True)
class Block:
    """Memory that keeps one offset: pieces (first op, last op, bytes), one after the other in time.

    beside: number of the block in which δ lies when this one begins; None before the loss, and for scratch.
    passing: whether it holds a state that is given back early: once a later state has been made from it.
    """

    pieces: list[tuple[int, int, int]]
    is_scratch: bool = False
    beside: int | None = None
    passing: bool = False

    def largest(self) -> int:
        """Bytes of the largest piece."""
        return max(size for _, _, size in self.pieces)


def placements(
    blocks: Sequence[Block], sizes: Sequence[int], *, few_places: bool = False, effort: Effort
) -> Iterator[list[int]]:
    """Yield offsets of the blocks, placed in several ways; sizes: bytes of each block's largest piece.

    few_places: yield placements first that use the same offsets again and again, at the price of bytes.

    The stacks do best where checkpoints stay, but for gaps above states that have come through wider ones. The lowest
    gap that fits does well in even chains. In ragged chains it sometimes pays to reserve the lower end of the arena
    for scratch, or to take the gap that fits most closely. Often it pays to place the largest blocks first, several
    times, each time giving more weight to the blocks that came to lie on top.
    """
    reserve = max((size for block, size in zip(blocks, sizes, strict=True) if block.is_scratch), default=0)
    sides = _sides(blocks)
    if few_places:
        slot = max((size for block, size in zip(blocks, sizes, strict=True) if not block.is_scratch), default=0)
        yield _first_fit(blocks, sides, reserve=reserve, slot=slot)
        yield _first_fit(blocks, sides, reserve=reserve)
    yield _first_fit(blocks, sides)
    if effort is Effort.STACKS:
        return
    yield _first_fit(blocks)
    if reserve:
        yield _first_fit(blocks, reserve=reserve)
    yield _first_fit(blocks, closest=True)
    weights = [float(size) for size in sizes]
    for _ in range(0 if effort is Effort.QUICK else min(ROUNDS, PAIRS // max(len(blocks), 1) ** 2)):
        offsets = _heaviest_first(blocks, weights)
        yield offsets
        tops = list(map(add, offsets, sizes))
        highest = max(tops)
        for number, top in enumerate(tops):
            if top == highest:
                weights[number] *= 1.5  # a block that ended up on top is placed earlier next time


def _sides(blocks: Sequence[Block]) -> list[bool]:
    """Say of each block whether it belongs to the upper stack: the one on which δ does not lie when the block begins.

    What only passes goes to the other stack, so that it leaves no gap below the state that is made from it.
    """
    upper: list[bool] = []
    for block in blocks:
        upper.append((block.beside is not None and not upper[block.beside]) != block.passing)
    return upper


def _first_fit(
    blocks: Sequence[Block],
    sides: Sequence[bool] = (),
    *,
    reserve: int = 0,
    slot: int = 0,
    closest: bool = False,
) -> list[int]:
    """Place blocks op by op, as an allocator would.

    sides: whether a block goes to the upper end of the arena; if empty, all go to the lower one.
    reserve: place all scratch in that many bytes at the start.
    slot: bytes that every other block is given, so that few offsets occur.
    """
    lower, upper = Gaps(reserve, closest=closest), Gaps(0, closest=closest)
    offsets: list[int] = []  # in the upper stack counted from the top, to the lower end of the block
    changes: dict[int, list[tuple[int, int, int]]] = {}  # last op of a piece -> (block, bytes, bytes from then on)
    begun, top = -1, 0
    for number, block in enumerate(blocks):
        first = block.pieces[0][0]
        for at in range(begun, first):
            for other, size, left in changes.pop(at, ()):
                if sides and sides[other]:
                    upper.give(offsets[other] - size, size - left)
                else:
                    lower.give(offsets[other] + left, size - left)
        begun = first
        if block.is_scratch and reserve:
            offsets.append(0)
            continue
        pieces = [(first, block.pieces[-1][1], slot)] if slot and not block.is_scratch else block.pieces
        size = pieces[0][2]
        if sides and sides[number]:
            offsets.append(upper.take(size) + size)
        else:
            offsets.append(lower.take(size))
        top = max(top, lower.end + upper.end)
        for (_, end, size), (_, _, left) in zip(pieces, [*pieces[1:], (0, 0, 0)], strict=True):
            changes.setdefault(end, []).append((number, size, left))
    return [top - offset if sides and sides[number] else offset for number, offset in enumerate(offsets)]


def _heaviest_first(blocks: Sequence[Block], weights: Sequence[float]) -> list[int]:
    """Place the heaviest block first, each as low as those before it let it."""
    offsets = [0] * len(blocks)
    placed: list[int] = []
    for at in sorted(range(len(blocks)), key=lambda at: -weights[at]):
        begin, end = blocks[at].pieces[0][0], blocks[at].pieces[-1][1]
        taken = sorted(
            (offsets[other] - size, offsets[other] + other_size)
            for other in placed
            if blocks[other].pieces[0][0] <= end and begin <= blocks[other].pieces[-1][1]
            for first, last, size in blocks[at].pieces
            for other_first, other_last, other_size in blocks[other].pieces
            if other_first <= last and first <= other_last
        )
        offset = 0
        for low, high in taken:  # no offset strictly between low and high is free
            if offset <= low:
                break
            offset = max(offset, high)
        offsets[at] = offset
        placed.append(at)
    return offsets


class Gaps:
    """An allocator without memory, which only does the arithmetic: free gaps below `top`, the highest byte ever used.

    closest: take the gap that fits most closely instead of the lowest one that fits.
    """

    def __init__(self, start: int, *, closest: bool = False) -> None:
        self.closest = closest
        self.top = start
        self._offsets: list[int] = []  # of the gaps, ascending
        self._sizes: dict[int, int] = {}
        self.end = start  # everything from here on is free

    def take(self, size: int) -> int:
        """Return an offset where `size` bytes are free, and occupy them."""
        sizes = self._sizes
        if self.closest:
            fitting = [offset for offset in self._offsets if sizes[offset] >= size]
            offset = min(fitting, key=sizes.__getitem__, default=self.end)
        else:
            offset = next((offset for offset in self._offsets if sizes[offset] >= size), self.end)
        if offset == self.end:
            self.end += size
            self.top = max(self.top, self.end)
            return offset
        gap = sizes.pop(offset)
        self._offsets.remove(offset)
        if gap > size:
            self._insert(offset + size, gap - size)
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
        if offset + size == self.end:
            self.end = offset
        else:
            self._insert(offset, size)

    def _insert(self, offset: int, size: int) -> None:
        insort(self._offsets, offset)
        self._sizes[offset] = size
