"""From choices to a schedule: to reverse stages i+1..j, record stage i+1, or run ahead to a state k and keep it.

Recording comes before the stages behind are reversed, and the backward after. So a schedule whose checkpoints stay is
a tree, whose nodes are segments (i, j).
"""

from collections.abc import Callable

from lowmem.chain import Chain
from lowmem.schedule.ops import Backward, Forward, Loss, Op, Record, Schedule

RECORD = 0
"""The choice of recording, where otherwise the state to keep stands: state 0 never is one."""

Choose = Callable[[int, int, int], tuple[int, int, int]]
"""(i, j, level) -> (choice, level of what is reversed first, level of what is reversed then); i+1 < j."""


def write(chain: Chain, planner: str, level: int, choose: Choose) -> Schedule:
    """Write out the schedule that reverses the chain by these choices. level: what the first segment has."""
    ops: list[Op] = []
    todo: list[tuple[int, int, int] | Backward] = [(0, chain.length, level)]
    while todo:
        item = todo.pop()
        if isinstance(item, Backward):
            ops.append(item)
            continue
        i, j, here = item
        if j == i + 1:
            # What comes behind stage j is reversed already and needs its output no more.
            ops += (Record(j), Loss()) if j == chain.length else (Record(j, output=False),)
            ops.append(Backward(j))
            continue
        choice, first, then = choose(i, j, here)
        if choice == RECORD:
            ops.append(Record(i + 1))
            todo += (Backward(i + 1), (i + 1, j, first))
        else:
            ops.append(Forward(i + 1, choice))
            todo += ((i, choice, then), (choice, j, first))
    return Schedule(planner, tuple(ops))
