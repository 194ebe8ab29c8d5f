"""The schedule that takes the least memory: the recurrence of `optimal` with max in place of +.

Keeping no state is not always least: every sweep past a wide layer takes the bytes of that layer, and a narrow state
kept behind the layer spares them.
"""

from typing import TYPE_CHECKING, Any

from lowmem.chain import Chain
from lowmem.schedule.ops import Schedule
from lowmem.schedule.recompute_all import recompute_all
from lowmem.schedule.tree import reverse

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONGEST = 1500
"""Layers up to which the table of L^2 segments is made. In longer chains no state is kept, which is least where widths
are even."""

IN_CACHE = 1 << 15
"""Numbers that are worked on at once."""


def is_even(chain: Chain) -> bool:
    """Say whether all states between the batch and the output have one size: then keeping none takes the least."""
    return len({stage.state_bytes for stage in chain.stages[:-1]}) <= 1


def certain_peak(chain: Chain) -> int:
    """Return bytes that any schedule of a chain without tapes takes: those of the widest backward, or of the loss."""
    if chain.in_hand_free:
        return 0
    last = chain.stages[-1]
    output = last.state_bytes + max(last.forward_scratch, chain.loss_scratch)
    works = [stage.delta_bytes + stage.backward_scratch for stage in chain.stages]
    works[-1] = max(works[-1], output)
    return max(chain.state_bytes(entering) + work for entering, work in enumerate(works))


def least_memory(chain: Chain) -> Schedule:
    """Return a schedule with the least peak, as `simulate` counts it, among those whose checkpoints stay.

    Of the splits with that peak the one nearest to the middle is taken, which costs the least.
    """
    if chain.in_hand_free or is_even(chain) or chain.length > LONGEST:
        return Schedule("least", recompute_all(chain).ops)
    least, needs = _minimax(chain)
    peak = int(least[chain.length, 0])
    sizes = [chain.state_bytes(layer) for layer in range(chain.length + 1)]
    # What a segment may take beside its first state: the peak, less the states kept before it.
    room = {0: peak}

    def split(i: int, j: int, free: int) -> int:
        held = 0 if j == chain.length else chain.stages[j - 1].delta_bytes
        fits = [
            k
            for k in range(i + 1, j)
            if max(needs[k - i, i] + held, sizes[k] + least[j - k, k], least[k - i, i]) <= room[i]
        ]
        k = min(fits, key=lambda k: abs(2 * k - i - j))
        room[k] = room[i] - sizes[k]
        return k

    return reverse(chain, "least", split)


def _minimax(chain: Chain) -> tuple["NDArray[Any]", "NDArray[Any]"]:
    """Return two tables by [n, i]: bytes beside state i, the least to reverse layers i+1..i+n, and to sweep to i+n.

    All segments of one length are computed at a time.
    """
    import numpy as np
    from numpy.lib.stride_tricks import as_strided

    length = chain.length
    side = length + 1
    sizes = np.array([chain.state_bytes(layer) for layer in range(side)], np.int64)
    deltas = np.array([0, *(stage.delta_bytes for stage in chain.stages[:-1]), 0], np.int64)
    scratch = np.array([stage.advance_scratch for stage in chain.stages], np.int64)
    least = np.zeros((side, side), np.int64)  # least[n, i]: bytes beside state i
    with_state = np.zeros((side, side), np.int64)  # least[n, i] and the bytes of state i
    sweeps = np.zeros((side, side), np.int64)  # sweeps[n, i]: bytes of the sweep from i to i+n
    for i, stage in enumerate(chain.stages):
        widest = np.maximum.accumulate(sizes[i + 1 :])
        working = np.maximum.accumulate(np.concatenate([[stage.forward_scratch], scratch[i + 1 :]]))
        sweeps[1 : side - i, i] = widest + working
        least[1, i] = stage.delta_bytes + stage.backward_scratch
    last = chain.stages[-1]
    output = last.state_bytes + max(last.forward_scratch, chain.loss_scratch)
    least[1, length - 1] = max(least[1, length - 1], output)
    with_state[1] = least[1] + sizes
    item = least.itemsize
    buffer = np.empty(IN_CACHE + side, np.int64)
    for n in range(2, side):
        count = side - n
        # Rows are splits i+1..i+n-1, columns all i; the right part of split s is with_state[n-s, i+s], a view.
        rights = as_strided(with_state[n - 1, 1:], (n - 1, count), ((1 - side) * item, item), writeable=False)
        at_once = max(IN_CACHE // n, 1)
        for start in range(0, count, at_once):
            here = slice(start, min(start + at_once, count))
            width = here.stop - start
            need = buffer[: (n - 1) * width].reshape(n - 1, width)
            np.add(sweeps[1:n, here], deltas[n + start : n + here.stop], out=need)
            np.maximum(need, rights[:, here], out=need)
            np.maximum(need, least[1:n, here], out=need)
            need.min(axis=0, out=least[n, here])
        with_state[n, :count] = least[n, :count] + sizes[:count]
    return least, sweeps
