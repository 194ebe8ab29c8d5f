"""From a rule that says which state to keep next to the whole list of ops.

To reverse layers i+1..j with state i in hand: keep some state k between, reverse k+1..j from there, then i+1..k
from state i. Every schedule whose checkpoints stay until their segment is done is such a tree of splits, so a
planner need only say where to split.
"""

from collections.abc import Callable

from lowmem.chain import Chain
from lowmem.schedule.ops import Backward, Forward, Loss, Op, Schedule

Split = Callable[[int, int, int], int]
"""(i, j, free) -> k, i < k < j: which state to keep while reversing layers i+1..j with `free` slots left."""


def reverse(chain: Chain, planner: str, split: Split, *, slots: int = 0) -> Schedule:
    """Write out the schedule that splits as `split` says.

    slots: checkpoints besides state 0 that `split` may place; each split leaves its right part one less.
    """
    ops: list[Op] = []
    todo = [(0, chain.length, slots)]
    while todo:
        i, j, free = todo.pop()
        if j > i + 1:
            k = split(i, j, free)
            ops.append(Forward(i + 1, k))
            todo.append((i, k, free))
            todo.append((k, j, free - 1))
            continue
        if j == chain.length:
            ops += (Forward(j, j), Loss())
        ops.append(Backward(j))
    return Schedule(planner, tuple(ops))
