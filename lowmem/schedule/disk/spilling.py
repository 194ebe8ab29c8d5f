"""From a schedule that keeps states to one that keeps some of them on a disk: transfers are put in.

A state that is kept has a long gap in which no op needs it. There it can lie on the disk. It is written as soon as it
is made. Its place is given back as late as memory allows, so that the write can end meanwhile; a state whose turn
comes before that is neither written nor read. It is read back as early as memory allows, in the order in which states
are needed. So all memory that the ops leave free serves to let transfers run beside them.

With a limit of 300 bytes, states of 100 and state 1 to be spilled:

    Forward(1) Forward(2) Forward(3) Loss Backward(3) ...
    Forward(1) Store(x1) Forward(2) Free(x1) Forward(3) Loss Load(x1) Backward(3) ...
"""

from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import inf

from lowmem.chain import Chain, Value
from lowmem.schedule.disk.transfers import DiskRates
from lowmem.schedule.effects import effects
from lowmem.schedule.ops import Forward, Free, Load, Op, Schedule, Store
from lowmem.schedule.simulate import Trace, simulate

ATTEMPTS = 8
"""To place transfers in less memory, where packing takes more than the simulated peak."""


@dataclass(slots=True)
class _Gap:
    """The ops between which a state is not needed: it is made by op `made`, needed by `last`, and again by `next`."""

    value: Value
    size: int
    made: int
    last: int
    next: int


def spill(chain: Chain, schedule: Schedule, states: Collection[int], limit: int) -> Schedule:
    """Return a schedule with the same ops that keeps these states on a disk while nothing needs them.

    states: their numbers. limit: bytes, as `simulate` counts them, up to which memory is used to let transfers run
    beside the ops; what the ops themselves need is not made less.
    """
    trace = simulate(chain, schedule)
    level = _levels(chain, schedule, trace)
    gaps = _gaps(schedule, trace, set(states))
    for gap in gaps:
        for at in range(gap.last + 1, gap.next):
            level[at] -= gap.size
    frees = _linger(level, gaps, limit)
    spilled = [gap for gap in gaps if gap.value in frees]
    loads = _load_early(level, spilled, frees, limit)
    return _written(schedule, spilled, frees, loads)


def fit(
    chain: Chain,
    kept: Schedule,
    states: Collection[int],
    room: int,
    rates: DiskRates,
    taken: Callable[[Schedule], int],
    best: float = inf,
) -> tuple[Schedule, float] | None:
    """Return a schedule that spills these states and takes at most `room` bytes, with its seconds.

    kept: the schedule that keeps them in memory. taken: bytes that a schedule takes, at least the simulated peak.
    best: seconds that it must stay below.

    Return None if that does not go.
    """
    limit = room
    for _ in range(ATTEMPTS):
        schedule = spill(chain, kept, states, limit)
        trace = simulate(chain, schedule, rates)
        if trace.seconds >= best:
            return None
        excess = max(trace.peak_bytes, taken(schedule) if trace.peak_bytes <= room else 0) - room
        if excess <= 0:
            return schedule, trace.seconds
        limit = min(limit - excess, trace.peak_bytes - 1)
    return None


def _levels(chain: Chain, schedule: Schedule, trace: Trace) -> list[int]:
    """Return the bytes alive while each op runs."""
    changes = [0] * (len(schedule) + 2)
    for _, _, start, end, size in trace.lives:
        changes[start + 1] += size
        changes[end + 1] -= size
    level = list(accumulate(changes))
    for at, op in enumerate(schedule.ops):
        effect = effects(chain, op)
        level[at] += effect.place_bytes + effect.scratch_bytes
    return level


def _gaps(schedule: Schedule, trace: Trace, states: set[int]) -> list[_Gap]:
    """Return the longest gap in the first life of each state, in the order in which the gaps begin."""
    lives: dict[int, tuple[int, int, Value, int]] = {}
    for kind, layer, start, end, size in trace.lives:
        if kind in ("x", "s") and layer in states and (layer not in lives or start < lives[layer][0]):
            lives[layer] = start, end, Value(kind, layer), size
    uses: dict[int, list[int]] = defaultdict(list)
    for at, op in enumerate(schedule.ops):
        if isinstance(op, Forward) and op.first - 1 in lives:
            uses[op.first - 1].append(at)
    gaps = []
    for layer, (start, end, value, size) in lives.items():
        needed = [start, *(at for at in uses[layer] if start < at < end), end]
        last, following = max(pairwise(needed), key=lambda pair: pair[1] - pair[0])
        gaps.append(_Gap(value, size, start, last, following))
    return sorted(gaps, key=lambda gap: gap.last)


def _linger(level: list[int], gaps: list[_Gap], limit: int) -> dict[Value, int]:
    """Return for each state that leaves memory the op before which its place is given back.

    The state that has waited longest goes first: its write has most likely ended, and it is needed last. `level` is
    raised by what stays.
    """
    frees: dict[Value, int] = {}
    waiting: dict[Value, int] = {}  # with its size, the oldest first
    ends: dict[int, list[Value]] = defaultdict(list)
    begun, held = 0, 0
    for at in range(len(level)):
        for value in ends.pop(at, ()):
            held -= waiting.pop(value, 0)
        while begun < len(gaps) and gaps[begun].last < at:
            gap = gaps[begun]
            if gap.next > at:
                waiting[gap.value] = gap.size
                held += gap.size
                ends[gap.next].append(gap.value)
            begun += 1
        while waiting and level[at] + held > limit:
            oldest = next(iter(waiting))
            held -= waiting.pop(oldest)
            frees[oldest] = at
        level[at] += held
    return frees


def _load_early(level: list[int], gaps: list[_Gap], frees: dict[Value, int], limit: int) -> list[tuple[int, Value]]:
    """Return (op, state): before which op the transfer back begins. `level` is raised by what has come back."""
    loads: list[tuple[int, Value]] = []
    earliest = 0
    for gap in sorted(gaps, key=lambda gap: gap.next):
        at = gap.next
        while at > max(frees[gap.value], earliest) and level[at - 1] + gap.size <= limit:
            at -= 1
            level[at] += gap.size
        loads.append((at, gap.value))
        earliest = at
    return loads


def _written(
    schedule: Schedule, gaps: list[_Gap], frees: dict[Value, int], loads: list[tuple[int, Value]]
) -> Schedule:
    """Return the ops with the transfers between them."""
    before: dict[int, list[Op]] = defaultdict(list)
    stores = {gap.made: gap.value for gap in gaps}
    for value, at in frees.items():
        before[at].append(Free(value))
    for at, value in loads:
        before[at].append(Load(value))
    ops: list[Op] = []
    for at, op in enumerate(schedule.ops):
        ops += before.get(at, ())
        ops.append(op)
        if at in stores:
            ops.append(Store(stores[at]))
    return Schedule("disk", tuple(ops))
