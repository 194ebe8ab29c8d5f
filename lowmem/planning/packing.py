"""From lifetimes to addresses: every value of a schedule gets an offset in one arena.

Blocks are placed first-fit into the free gaps in the order of the ops, as an allocator would do it, but before the
run. Where that loses bytes, blocks are placed in the order of their sizes, with all lifetimes in view. Where a value
takes over the place of another value (state l becomes δ^(l), a travelling state overwrites its input), the offset
stays. The peak of the packed arena, not the simulated sum of live bytes, is what a plan promises.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from operator import add

from lowmem.chain import Chain, Value
from lowmem.schedule.effects import effects
from lowmem.schedule.ops import Load, Op, Schedule, Store

BATCH = -1
"""The offset of x^(0), which is the caller's and not in the arena."""


@dataclass(frozen=True, slots=True)
class Step:
    """An op with the offsets, in bytes, of what it reads, writes and works in.

    source: of the first value that the op needs. Forward: state first-1; Loss: state L; Backward: δ^(l).
    target: of the value that it makes, or of the last one that it needs if it makes none in the arena. Forward: state
        last; Loss: δ^(L), which takes the place of state L; Backward: state l-1, which becomes δ^(l-1).
    scratch: where the op's working memory begins; Store and Load, which need none: where the copy begins in the file.

    `BATCH` stands for x^(0) and for what does not lie in the arena.
    """

    op: Op
    source: int
    target: int
    scratch: int


@dataclass(frozen=True, slots=True)
class Program:
    """A schedule with addresses: the steps, and the bytes of the arena and of the file on the disk that they need."""

    steps: tuple[Step, ...]
    arena_bytes: int
    disk_bytes: int = 0


@dataclass(slots=True)
class Block:
    """Memory that keeps one offset: pieces (first op, last op, bytes), one after the other in time."""

    pieces: list[tuple[int, int, int]]
    is_scratch: bool = False

    def largest(self) -> int:
        """Bytes of the largest piece."""
        return max(size for _, _, size in self.pieces)


ROUNDS, PAIRS = 24, 200_000
"""The most rounds in which all lifetimes are placed anew, and the most pairs of blocks that these compare in all."""


def pack(chain: Chain, schedule: Schedule, *, at_best: int = 0) -> Program:
    """Place every value of a valid schedule; the smallest of several placements is returned.

    chain: one in which every live byte counts; an abstract chain has no places to give.
    at_best: the simulated peak, which no placement can beat: with it the search ends early.

    The lowest gap that fits does well in even chains. In ragged chains it sometimes pays to reserve the lower end of
    the arena for scratch, or to take the gap that fits most closely. Often it pays to place the largest blocks first,
    several times, each time giving more weight to the blocks that came to lie on top.
    """
    blocks, steps = _blocks(chain, schedule)
    sizes = [block.largest() for block in blocks]
    best, arena = [0] * len(blocks), inf
    for offsets in _placements(blocks, sizes):
        top = max(map(add, offsets, sizes), default=0)
        if top < arena:
            best, arena = offsets, top
        if arena <= at_best:
            break
    best.append(BATCH)  # block -1 is the caller's
    copies, disk_bytes = _copies(chain, schedule)
    placed = (
        Step(step.op, best[step.source], best[step.target], copies.get(at, max(best[step.scratch], 0)))
        for at, step in enumerate(steps)
    )
    return Program(tuple(placed), int(arena), disk_bytes)


def _copies(chain: Chain, schedule: Schedule) -> tuple[dict[int, int], int]:
    """Return where each Store and Load, by its number, has its copy in the file, and the bytes of the file."""
    gaps, offsets = Gaps(0), dict[int, int]()
    lies: dict[int, int] = {}  # layer -> offset of its copy
    for at, op in enumerate(schedule.ops):
        if isinstance(op, Store):
            lies[op.value.layer] = offsets[at] = gaps.take(chain.state_bytes(op.value.layer))
        elif isinstance(op, Load):
            offsets[at] = lies.pop(op.value.layer)
            gaps.give(offsets[at], chain.state_bytes(op.value.layer))
    return offsets, gaps.top


def _blocks(chain: Chain, schedule: Schedule) -> tuple[list[Block], list[Step]]:
    """Return the blocks of a schedule in the order of their first op, and the steps with blocks for offsets."""
    blocks: list[Block] = []
    steps: list[Step] = []
    places = {chain.state(0): BATCH}  # value in the arena -> block

    def new(at: int, size: int, *, scratch: bool = False) -> int:
        if scratch and not size:
            return BATCH
        blocks.append(Block([(at, at, size)], scratch))
        return len(blocks) - 1

    def last(value: Value, at: int) -> None:
        """Let the block of a value live until op `at`, with the bytes of the value from the block's last piece on."""
        block = places[value]
        if block != BATCH:
            _, end, _ = blocks[block].pieces[-1]
            if at > end:
                blocks[block].pieces.append((end + 1, at, chain.bytes_of(value)))

    for at, op in enumerate(schedule.ops):
        effect = effects(chain, op)
        operands = [places.get(value, BATCH) for value in effect.needs]
        result = next((value for value in effect.makes if value.in_arena), None)
        target = operands[-1] if result is None or effect.in_place else new(at, effect.place_bytes)
        steps.append(Step(op, operands[0], target, new(at, effect.scratch_bytes, scratch=True)))
        for value in effect.ends:
            if value in places:
                last(value, at)
                del places[value]
        if result is not None:
            places[result] = target
    for value in places:
        last(value, len(steps) - 1)
    return blocks, steps


def _placements(blocks: Sequence[Block], sizes: Sequence[int]) -> Iterator[list[int]]:
    """Yield offsets of the blocks, placed in several ways; sizes: bytes of each block's largest piece."""
    reserve = max((size for block, size in zip(blocks, sizes, strict=True) if block.is_scratch), default=0)
    yield _first_fit(blocks)
    if reserve:
        yield _first_fit(blocks, reserve=reserve)
    yield _first_fit(blocks, closest=True)
    weights = [float(size) for size in sizes]
    for _ in range(min(ROUNDS, PAIRS // max(len(blocks), 1) ** 2)):
        offsets = _heaviest_first(blocks, weights)
        yield offsets
        tops = list(map(add, offsets, sizes))
        highest = max(tops)
        for number, top in enumerate(tops):
            if top == highest:
                weights[number] *= 1.5  # a block that ended up on top is placed earlier next time


def _first_fit(blocks: Sequence[Block], *, reserve: int = 0, closest: bool = False) -> list[int]:
    """Place blocks op by op, as an allocator would; with `reserve`, all scratch in that many bytes at the start."""
    gaps = Gaps(reserve, closest=closest)
    offsets: list[int] = []
    changes: dict[int, list[tuple[int, int, int]]] = {}  # last op of a piece -> (block, bytes, bytes from then on)
    begun = -1
    for number, block in enumerate(blocks):
        first = block.pieces[0][0]
        for at in range(begun, first):
            for other, size, left in changes.pop(at, ()):
                gaps.give(offsets[other] + left, size - left)
        begun = first
        if block.is_scratch and reserve:
            offsets.append(0)
            continue
        offsets.append(gaps.take(block.pieces[0][2]))
        for (_, end, size), (_, _, left) in zip(block.pieces, [*block.pieces[1:], (0, 0, 0)], strict=True):
            changes.setdefault(end, []).append((number, size, left))
    return offsets


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
        if offset + size == self._end:
            self._end = offset
        else:
            self._insert(offset, size)

    def _insert(self, offset: int, size: int) -> None:
        insort(self._offsets, offset)
        self._sizes[offset] = size
