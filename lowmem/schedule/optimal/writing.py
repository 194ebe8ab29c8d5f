"""The schedule of a table: splits are read off it, and checkpoints dropped early where that is cheaper."""

from math import inf

from lowmem.schedule.ops import Backward, Forward, Free, Loss, Op, Schedule
from lowmem.schedule.optimal.table import ROUNDING, Table


def write(table: Table, level: int) -> Schedule:
    """Write out the best schedule for a level of the table, dropping a checkpoint early where that is cheaper."""
    return Schedule("optimal", tuple(write_segment(table, 0, table.levels.length, level)))


def write_segment(table: Table, first: int, last: int, level: int) -> list[Op]:
    """Write out how layers first+1..last are reversed at a level beside state `first`; see `write`."""
    levels = table.levels
    ops: list[Op] = []
    todo = [(first, last, level)]
    while todo:
        i, j, at = todo.pop()
        while todo and i != first and _drop_pays(table, todo[-1], (i, j, at)):
            # The checkpoint i would serve this segment only, and its bytes are worth more than the way it shortens.
            ops.append(Free(levels.chain.state(i)))
            i, _, at = todo.pop()
        if j > i + 1:
            k = _best_split(table, i, j, at)
            ops.append(Forward(i + 1, k))
            todo += ((i, k, at), (k, j, levels.below(k, j, at)))
            continue
        if j == levels.length:
            ops += (Forward(j, j), Loss())
        ops.append(Backward(j))
    return ops


def _best_split(table: Table, i: int, j: int, level: int) -> int:
    """Return the best split of segment (i, j) at this level."""
    levels = table.levels
    splits = levels.np.arange(i + 1, min(j, i + table.window + 1))
    costs = levels.sums[splits] + table.rights(i, j, level) + table.lefts(i, j, level)
    if not levels.chain.in_hand_free:
        costs[table.segments.sweep_levels(i, int(levels.deltas[j]))[: len(splits)] > level] = inf
    return i + 1 + int(costs.argmin())


def _drop_pays(table: Table, outer: tuple[int, int, int], inner: tuple[int, int, int]) -> bool:
    """Say whether reversing both segments from the outer one's start costs less than with the checkpoint between."""
    i, k, level = outer
    _, j, left = inner
    apart = table.segment(k, j, left) + table.segment(i, k, level)
    return table.segment(i, j, level) < apart * (1 - ROUNDING)
