"""From lifetimes to addresses: every value of a schedule gets an offset in one arena.

Values are placed before the run, in several ways, see `placing`. Where a value takes over the place of
another value (state l becomes δ^(l), a travelling state overwrites its input), the offset stays. The peak of the
packed arena, not the simulated sum of live bytes, is what a plan promises.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from operator import add

from lowmem.chain import Chain, Value
from lowmem.planning.packing.placing import Block, Effort, Gaps, placements
from lowmem.schedule.effects import effects
from lowmem.schedule.ops import Free, Load, Op, Schedule, Store

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


def pack(
    chain: Chain,
    schedule: Schedule,
    *,
    at_best: int = 0,
    beside: Callable[[Program], int] | None = None,
    effort: Effort = Effort.ALL,
) -> Program:
    """Place every value of a valid schedule; of several placements the one that takes the least is returned.

    chain: one in which every live byte counts; an abstract chain has no places to give.
    at_best: the simulated peak, which no arena can beat: with it the search ends early.
    beside: says how many bytes a program takes beside its arena, where that depends on the placement.
    effort: how many placements are looked at.
    """
    blocks, steps = _blocks(chain, schedule)
    sizes = [block.largest() for block in blocks]
    best, least, tightest = Program((), 0), inf, inf
    disk = _copies(chain, schedule)
    for offsets in placements(blocks, sizes, few_places=beside is not None, effort=effort):
        arena = max(map(add, offsets, sizes), default=0)
        if arena < least:
            program = _program(steps, offsets, arena, disk)
            taken = arena if beside is None else arena + beside(program)
            if taken < least:
                best, least = program, taken
        tightest = min(tightest, arena)
        if tightest <= at_best:
            break
    return best


def _program(steps: Sequence[Step], offsets: Sequence[int], arena: int, disk: tuple[dict[int, int], int]) -> Program:
    """Return steps of blocks as steps of offsets; disk: where copies lie in the file, by op, and its bytes."""
    places = [*offsets, BATCH]  # block -1 is the caller's
    copies, disk_bytes = disk
    placed = (
        Step(step.op, places[step.source], places[step.target], copies.get(at, max(places[step.scratch], 0)))
        for at, step in enumerate(steps)
    )
    return Program(tuple(placed), arena, disk_bytes)


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

    delta: int | None = None  # the block in which δ lies

    def new(at: int, size: int, *, scratch: bool = False) -> int:
        if scratch and not size:
            return BATCH
        blocks.append(Block([(at, at, size)], scratch, None if scratch else delta))
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
                block = places.pop(value)
                if isinstance(op, Free) and block != BATCH:
                    blocks[block].passing = True
        if result is not None:
            places[result] = target
            delta = target if result.kind == "δ" else delta
    for value in places:
        last(value, len(steps) - 1)
    return blocks, steps
