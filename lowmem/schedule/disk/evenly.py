"""Plans with a disk that need no tables: every so-many-th state goes there, the rest is kept while it is needed."""

from collections.abc import Callable, Iterator
from math import inf

from lowmem.chain import Chain
from lowmem.schedule.disk.spilling import fit, spill
from lowmem.schedule.disk.transfers import DiskRates
from lowmem.schedule.ops import Schedule
from lowmem.schedule.segments import segments

STRIDES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)


def evenly(
    chain: Chain,
    room: int,
    rates: DiskRates,
    disk_bytes: int | None,
    taken: Callable[[Schedule], int],
    best: float = inf,
) -> Schedule | None:
    """Return the quickest plan that keeps the states between two on the disk, while it needs them, in memory.

    chain: costs in seconds. room: bytes, as `taken` counts them. disk_bytes: the most that the states on the disk may
    take, None for no limit. best: seconds of a pass that it must stay below.

    Return None if no such plan fits.
    """
    chain, found = chain.reversal, None
    for kept, states in _strides(chain, disk_bytes):
        fitted = fit(chain, kept, states, room, rates, taken, best)
        if fitted is not None:
            found, best = fitted
    return found


def leanest(chain: Chain, disk_bytes: int | None) -> Iterator[Schedule]:
    """Yield for each stride the plan whose transfers take no memory but what ops need: ops wait for them.

    disk_bytes: the most that the states on the disk may take, None for no limit.
    """
    for kept, states in _strides(chain, disk_bytes):
        yield spill(chain, kept, states, 0)


def _strides(chain: Chain, disk_bytes: int | None) -> Iterator[tuple[Schedule, range]]:
    """Yield for each stride the schedule that keeps states in memory, and those that may go to the disk."""
    for stride in STRIDES:
        states = range(stride, chain.length - 1, stride)
        if states and sum(map(chain.state_bytes, states)) <= (inf if disk_bytes is None else disk_bytes):
            yield segments(chain, segments=stride), states
