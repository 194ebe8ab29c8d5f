"""The schedule that takes the least memory: the recurrence of `optimal` with max in place of +.

Keeping nothing is not always least: a sweep past a wide layer takes its bytes each time, and a narrow state kept
behind it spares them.
"""

from typing import TYPE_CHECKING, Any

from lowmem.chain import Chain
from lowmem.schedule.ops import Schedule
from lowmem.schedule.recompute_all import recompute_all
from lowmem.schedule.tree import reverse

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONGEST = 1500
"""Layers up to which the table of L^2 segments is made; beyond it nothing is kept, which is least for even widths."""


def least_memory(chain: Chain) -> Schedule:
    """Return a schedule with the least peak, as `simulate` counts it, among those whose checkpoints stay.

    Of the splits with that peak the one nearest to the middle is taken, which costs the least.
    """
    kept = {stage.state_bytes for stage in chain.stages[:-1]}
    if chain.in_hand_free or len(kept) <= 1 or chain.length > LONGEST:
        return Schedule("least", recompute_all(chain).ops)
    least, needs = _minimax(chain)
    peak = int(least[0, chain.length])
    sizes = [chain.state_bytes(layer) for layer in range(chain.length + 1)]
    # What a segment may take beside its first state: the peak, less the states kept before it.
    room = {0: peak}

    def split(i: int, j: int, free: int) -> int:
        held = 0 if j == chain.length else chain.stages[j - 1].delta_bytes
        fits = [k for k in range(i + 1, j) if max(needs[i, k] + held, sizes[k] + least[k, j], least[i, k]) <= room[i]]
        k = min(fits, key=lambda k: abs(2 * k - i - j))
        room[k] = room[i] - sizes[k]
        return k

    return reverse(chain, "least", split)


def _minimax(chain: Chain) -> tuple["NDArray[Any]", "NDArray[Any]"]:
    """Return the least bytes beside state i to reverse layers i+1..j, and to sweep from i to k, as matrices.

    All segments of one length are done at a time.
    """
    import numpy as np
    from numpy.lib.stride_tricks import as_strided

    length = chain.length
    side = length + 1
    sizes = np.array([chain.state_bytes(layer) for layer in range(side)], np.int64)
    deltas = np.array([0, *(stage.delta_bytes for stage in chain.stages[:-1]), 0], np.int64)
    least = np.zeros((side, side), np.int64)  # least[i, j]: bytes beside state i
    kept = np.zeros((side, side), np.int64)  # the same, beside what lies before state i
    sweeps = np.zeros((side, side), np.int64)  # sweeps[i, k]: bytes of the sweep from i to k
    scratch = np.array([stage.advance_scratch for stage in chain.stages], np.int64)
    for i in range(length):
        widest = np.maximum.accumulate(sizes[i + 1 :])
        working = np.maximum.accumulate(np.concatenate([[chain.stages[i].forward_scratch], scratch[i + 1 :]]))
        sweeps[i, i + 1 :] = widest + working
        stage = chain.stages[i]
        least[i, i + 1] = stage.delta_bytes + stage.backward_scratch
    last = chain.stages[-1]
    output = last.state_bytes + max(last.forward_scratch, chain.loss_scratch)
    least[length - 1, length] = max(least[length - 1, length], output)
    diagonal = np.arange(length)
    kept[diagonal, diagonal + 1] = least[diagonal, diagonal + 1] + sizes[diagonal]
    item = least.itemsize
    for n in range(2, length + 1):
        count = length - n + 1
        # Rows are splits i+1..i+n-1, columns all i: views along the diagonals, nothing is copied.
        shape, step = (n - 1, count), (side + 1) * item
        left = as_strided(least[0, 1:], shape, (item, step), writeable=False)
        sweep = as_strided(sweeps[0, 1:], shape, (item, step), writeable=False)
        right = as_strided(kept[1, n:], shape, (side * item, step), writeable=False)
        need = np.maximum(sweep + deltas[n : n + count], right)
        np.maximum(need, left, out=need)
        found = need.min(axis=0)
        rows = np.arange(count)
        least[rows, rows + n] = found
        kept[rows, rows + n] = found + sizes[rows]
    return least, sweeps
