"""Keep no state but the batch: run forward from x^(0) again for every layer. The other end of the trade-off."""

from lowmem.chain import Chain
from lowmem.schedule.ops import Schedule
from lowmem.schedule.tree import reverse


def recompute_all(chain: Chain) -> Schedule:
    """Keep nothing but the batch: L (L-1) / 2 + 1 layer forwards, and two states' worth of memory."""
    return reverse(chain, "recompute_all", lambda i, j, free: j - 1)
