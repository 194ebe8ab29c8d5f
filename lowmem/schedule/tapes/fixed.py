"""Schedules by rule: record everything once, or cut the chain in segments and record one after the other.

T. Chen, B. Xu, C. Zhang, C. Guestrin, "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174 (2016). The
last segment is recorded at once, as its backward comes first.
"""

from collections.abc import Sequence
from itertools import pairwise

from lowmem.chain import Chain
from lowmem.common.checks import whole
from lowmem.schedule.ops import Backward, Forward, Loss, Op, Record, Schedule
from lowmem.schedule.segments import sqrt_starts
from lowmem.schedule.tapes.needs import tapes_of


def store_all(chain: Chain) -> Schedule:
    """Record every stage in the first sweep: nothing is run again."""
    return _segments(chain, "store_all", [0])


def sqrt(chain: Chain) -> Schedule:
    """Cut the chain in round(sqrt(L)) segments, as even as can be, the longer ones first."""
    return _segments(chain, "sqrt", sqrt_starts(chain.length))


def segments(chain: Chain, *, segments: int) -> Schedule:
    """Keep every `segments`-th state: ceil(L / segments) segments of that many stages.

    Raises `InputError` unless `segments` is a whole number from 1.
    """
    return _segments(chain, "segments", range(0, chain.length, whole("segments", segments, 1)))


def _segments(chain: Chain, planner: str, starts: Sequence[int]) -> Schedule:
    """Keep the states `starts` (0 first), and record one segment after the other, the last one first."""
    tapes_of(chain)
    ops: list[Op] = [Forward(start + 1, end) for start, end in pairwise(starts)]
    end = chain.length
    for start in reversed(starts):
        ops += map(Record, range(start + 1, end))
        ops += (Record(end), Loss()) if end == chain.length else (Record(end, output=False),)
        ops += map(Backward, range(end, start, -1))
        end = start
    return Schedule(planner, tuple(ops))
