"""Schedules by rule: record everything once, or cut the chain in segments and record one after the other.

T. Chen, B. Xu, C. Zhang, C. Guestrin, "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174 (2016). The
last segment is recorded at once, as its backward comes first.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import isqrt

from lowmem.common.checks import positive
from lowmem.schedule.ops import Backward, Forward, Loss
from lowmem.schedule.tapes.chain import TapeChain
from lowmem.schedule.tapes.ops import Record, TapeOp, TapeSchedule


def store_all(chain: TapeChain) -> TapeSchedule:
    """Record every stage in the first sweep: nothing is run again."""
    return _segments(chain, "store_all", [0])


def sqrt(chain: TapeChain) -> TapeSchedule:
    """Cut the chain in round(sqrt(L)) segments, as even as can be, the longer ones first."""
    length = chain.length
    count = isqrt(4 * length - 3) + 1 >> 1  # round(sqrt(L)) in whole numbers
    short, longer = divmod(length, count)
    return _segments(chain, "sqrt", [n * short + min(n, longer) for n in range(count)])


def segments(chain: TapeChain, *, segments: int) -> TapeSchedule:
    """Keep every `segments`-th state: ceil(L / segments) segments of that many stages.

    Raises `InputError` unless `segments` is a whole number from 1.
    """
    return _segments(chain, "segments", range(0, chain.length, positive("segments", segments)))


def _segments(chain: TapeChain, planner: str, starts: Sequence[int]) -> TapeSchedule:
    """Keep the states `starts` (0 first), and record one segment after the other, the last one first."""
    ops: list[TapeOp] = [Forward(start + 1, end) for start, end in pairwise(starts)]
    end = chain.length
    for start in reversed(starts):
        ops += map(Record, range(start + 1, end + 1))
        if end == chain.length:
            ops.append(Loss())
        ops += map(Backward, range(end, start, -1))
        end = start
    return TapeSchedule(planner, tuple(ops))
