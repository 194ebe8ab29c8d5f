"""The least bytes in which a chain with tapes can be reversed: the recurrence with max in place of +."""

from typing import TYPE_CHECKING, Any

from lowmem.chain import Chain
from lowmem.schedule.ops import Schedule
from lowmem.schedule.tapes.needs import Needs
from lowmem.schedule.tapes.tree import RECORD, write

if TYPE_CHECKING:
    from numpy.typing import NDArray


def least_memory(chain: Chain) -> Schedule:
    """Return a schedule with the least peak, as `simulate` counts it, among those whose checkpoints stay.

    Of the choices with that peak the tape is taken first, then the split nearest to the middle.
    """
    needs = Needs(chain)
    least = _table(needs)
    room = int(least[0, chain.length])

    def choose(i: int, j: int, level: int) -> tuple[int, int, int]:
        after_tape = level - int(needs.tapes[i + 1])
        if max(needs.tape(i, j), least[i + 1, j] + level - after_tape) <= level:
            return RECORD, after_tape, level
        behind = level - int(needs.states[i])
        sweeps = needs.sweeps(i, j) + needs.ahead[j]
        fits = [
            k for k in range(i + 1, j) if sweeps[k - i - 1] <= level and least[k, j] <= behind and least[i, k] <= level
        ]
        return min(fits, key=lambda k: abs(2 * k - i - j)), behind, level

    return write(chain, "least", room, choose)


def _table(needs: Needs) -> "NDArray[Any]":
    """Return the least bytes for reversing stages i+1..j, state i included, by [i, j]."""
    np, length = needs.np, needs.chain.length
    least = np.zeros((length + 1, length + 1), np.int64)
    for i in range(length - 1, -1, -1):
        least[i, i + 1] = needs.leaf(i)
        sweeps, shift, tape = needs.sweeps(i, length), needs.states[i], needs.tapes[i + 1]
        taped = np.maximum(needs.tape(i, slice(None)), least[i + 1] + tape)
        for j in range(i + 2, length + 1):
            splits = np.maximum(sweeps[: j - i - 1] + needs.ahead[j], least[i + 1 : j, j] + shift)
            np.maximum(splits, least[i, i + 1 : j], out=splits)
            least[i, j] = min(int(taped[j]), int(splits.min()))
    return least
