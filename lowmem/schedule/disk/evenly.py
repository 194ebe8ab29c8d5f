"""Plans with a disk that need no tables, for little memory to plan in: every so-many-th state goes there."""

from collections.abc import Callable
from math import inf

from lowmem.chain import Chain
from lowmem.schedule.disk.spilling import fit
from lowmem.schedule.disk.transfers import DiskRates
from lowmem.schedule.ops import Schedule
from lowmem.schedule.segments import segments

STRIDES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)


def evenly(
    chain: Chain, room: int, rates: DiskRates, disk_bytes: int | None, taken: Callable[[Schedule], int]
) -> Schedule | None:
    """Return the quickest plan that keeps the states between two on the disk, while it needs them, in memory.

    chain: costs in seconds. room: bytes, as `taken` counts them. disk_bytes: the most that the states on the disk may
    take, None for no limit.

    Return None if no such plan fits.
    """
    chain, found, best = chain.reversal, None, inf
    for stride in STRIDES:
        states = range(stride, chain.length - 1, stride)
        if not states or sum(map(chain.state_bytes, states)) > (inf if disk_bytes is None else disk_bytes):
            continue
        fitted = fit(chain, segments(chain, segments=stride), states, room, rates, taken, best)
        if fitted is not None:
            found, best = fitted
    return found
