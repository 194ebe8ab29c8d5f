"""Segments: keep the state at each segment's start, recompute a segment as a whole when its backward comes.

T. Chen, B. Xu, C. Zhang, C. Guestrin, "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174 (2016):
with about sqrt(L) segments there are sqrt(L) boundaries to keep, and sqrt(L) states in the segment that is being
reversed, at the price of at most one more forward. Here the recomputation of a segment leaves out its last layer,
whose output no backward needs, and the last segment is not recomputed at all.
"""

from bisect import bisect_right
from math import isqrt

from lowmem.chain import Chain
from lowmem.common.checks import whole
from lowmem.schedule.ops import Schedule
from lowmem.schedule.tree import reverse


def sqrt(chain: Chain) -> Schedule:
    """Cut the chain in round(sqrt(L)) segments, as even as can be, the longer ones first."""
    return _keep(chain, "sqrt", sqrt_starts(chain.length))


def sqrt_starts(length: int) -> list[int]:
    """Return the states at which round(sqrt(length)) segments begin, as even as can be, the longer ones first."""
    count = isqrt(4 * length - 3) + 1 >> 1  # round(sqrt(length)) in whole numbers
    short, longer = divmod(length, count)
    return [n * short + min(n, longer) for n in range(count)]


def segments(chain: Chain, *, segments: int) -> Schedule:
    """Keep every `segments`-th state, 1 for every state: ceil(L / segments) segments of that many layers.

    segments: 1 keeps every state. Raises `InputError` unless it is a whole number from 1.
    """
    return _keep(chain, "segments", list(range(0, chain.length, whole("segments", segments, 1))))


def _keep(chain: Chain, planner: str, starts: list[int]) -> Schedule:
    """Keep the states `starts`, the first of which is 0, and every state of the segment that is being reversed."""
    known = set(starts)

    def split(i: int, j: int, free: int) -> int:
        if i in known:
            following = bisect_right(starts, i)
            if following < len(starts) and starts[following] < j:
                return starts[following]
        return i + 1

    return reverse(chain, planner, split)
