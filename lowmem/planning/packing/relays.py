"""Sweeps that put their last state at the upper end of the arena without a gap above it. No NumPy.

A state that travels through layers keeps its offset, so at the upper end of the arena it leaves a gap where it was
wider on its way. A sweep in two parts leaves none: the first part runs at the lower end, the second part puts its
result at the upper end, where it takes what it needs and no more, and the state between the two is given back. The
layers that run are the same.
"""

from lowmem.chain import Chain, Value
from lowmem.planning.packing.placing import Gaps
from lowmem.schedule.effects import Effects, effects
from lowmem.schedule.ops import Forward, Free, Op, Schedule

Place = tuple[bool, int, int]
"""Whether it is in the upper stack, offset from that end, and bytes."""


def relayed(chain: Chain, schedule: Schedule, limit: int) -> Schedule:
    """Return the schedule with sweeps in two parts where that closes a gap and takes at most `limit` bytes.

    chain: one in which every live byte counts. limit: bytes of an arena with a stack at each end.
    """
    stacks = Stacks(chain)
    ops: list[Op] = []
    for op in schedule.ops:
        if isinstance(op, Forward) and (middle := stacks.relay(op, limit)):
            parts: tuple[Op, ...] = (
                Forward(op.first, middle),
                Forward(middle + 1, op.last),
                Free(chain.state(middle)),
            )
        else:
            parts = (op,)
        for part in parts:
            stacks.run(effects(chain, part), passing=part is parts[0] and len(parts) > 1)
        ops += parts
    return Schedule(schedule.planner, tuple(ops))


class Stacks:
    """The two stacks of an arena while a schedule runs: the same sides as in `lowmem.planning.packing.placing`."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.lower, self.upper = Gaps(0), Gaps(0)
        self.places: dict[Value, Place] = {}
        self.delta: Place | None = None

    def relay(self, op: Forward, limit: int) -> int:
        """Return the state at which to part a sweep whose result would leave a gap, 0 if it had better stay whole.

        Of the states behind which nothing is wider than the result, the narrowest that comes last.
        """
        chain, size = self.chain, self.chain.state_bytes(op.last)
        if self.delta is None or self.delta[0] or chain.travelling_bytes(op.first, op.last) <= size:
            return 0
        best = middle = op.last - 1
        while middle >= op.first and chain.travelling_bytes(middle + 1, op.last) <= size:
            if chain.state_bytes(middle) < chain.state_bytes(best):
                best = middle
            middle -= 1
        scratch = chain.forward_scratch(best + 1, op.last)
        together = self.lower.end + self.upper.end + chain.state_bytes(best) + size + scratch
        free = best >= op.first and chain.state(best) not in self.places
        return best if free and together <= limit else 0

    def run(self, effect: Effects, *, passing: bool = False) -> None:
        """Place what an op makes, and give back what it ends."""
        result = next((value for value in effect.makes if value.in_arena), None)
        if result is not None and effect.in_place:
            self.places[result] = self.places.pop(effect.needs[-1])
            if result.kind == "δ":
                self.delta = self.places[result]
        elif result is not None:
            upper = (self.delta is not None and not self.delta[0]) != passing
            self.places[result] = self._put(upper, effect.place_bytes, self.chain.bytes_of(result))
        for value in effect.ends:
            if value in self.places:
                upper, offset, size = self.places.pop(value)
                (self.upper if upper else self.lower).give(offset, size)

    def _put(self, upper: bool, widest: int, size: int) -> Place:
        """Take a place, and give back what the value does not keep of it."""
        if not upper:
            offset = self.lower.take(widest)
            self.lower.give(offset + size, widest - size)
            return False, offset, size
        offset = self.upper.take(widest)
        self.upper.give(offset, widest - size)
        return True, offset + widest - size, size
