"""Schedules that drop a checkpoint before its segment is done: what `optimal` uses on short chains.

Where states differ in size, a checkpoint k kept on the first sweep can pay twice by moving on: a later state k' is
made from it, k is dropped for the room it takes, and layers up to k' are reversed from the checkpoint i before. Let
V(i, k, j, m) be the least cost of forward runs for reversing layers i+1..j with states i and k in hand and m bytes
beside i:

    E(i, j, m)    = min over k of   f_{i+1} + ... + f_k + V(i, k, j, m)
    V(i, k, j, m) = min of          E(k, j, m - a_k) + E(i, k, m)                             k stays to the end,
                    over k' of      f_{k+1} + ... + f_k' + E(k', j, m - a_k - a_k')           k serves once more,
                                      + min(V(i, k, k', m), E(i, k', m))                      then stays, or is dropped
                    over k' of      f_{k+1} + ... + f_k' + V(i, k', j, m)                     k moves on to k'

This recurrence covers every persistent schedule, so it costs at most the persistent optimum. It does not cover all
schedules: an exhaustive search over random chains of up to 8 layers finds cheaper ones in rare cases (the tests count
them). The table grows with L^4, so the recurrence is used for short chains only.
"""

from typing import TYPE_CHECKING, Any

from lowmem.chain import Chain
from lowmem.schedule.ops import Backward, Forward, Free, Loss, Op, Schedule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowmem.schedule.optimal.table import Table

LONGEST = 24
"""Layers up to which the recurrence is used: it then takes some tenths of a second."""

STAY, SERVE, SERVE_AND_DROP, MOVE = range(4)


class EarlyDrops:
    """The recurrence over the levels of a `Table` that holds the whole chain."""

    def __init__(self, chain: Chain, table: "Table") -> None:
        import numpy as np

        self.np, self.chain, self.levels = np, chain, table.levels
        self.cost: dict[tuple[int, int], NDArray[Any]] = {}
        self.split: dict[tuple[int, int], NDArray[Any]] = {}
        self.held: dict[tuple[int, int, int], NDArray[Any]] = {}
        self.choice: dict[tuple[int, int, int], NDArray[Any]] = {}
        length = chain.length
        for i in range(length):
            self.cost[i, i + 1] = table.segments.row(i, i + 1)
        for n in range(2, length + 1):
            for i in range(length - n + 1):
                for k in range(i + n - 1, i, -1):
                    self._hold(i, k, i + n)
                self._segment(i, i + n)

    def _sweep(self, i: int, k: int, j: int, *, beside: int = 0) -> "NDArray[Any]":
        """Return the cost of running layers i+1..k while j is the next to be reversed, by level; `beside` is held."""
        np, levels = self.np, self.levels
        if self.chain.in_hand_free:
            # While one layer runs, its input is in hand; while more layers run, the input is a checkpoint.
            needed = beside if k > i + 1 else 0
        else:
            needed = beside + int(levels.working(levels.sweep_needs(i, k - i)[-1] + levels.deltas[j]))
        cost = np.full(levels.top + 1, np.inf)
        cost[needed:] = levels.sums[k] - levels.sums[i]
        return cost

    def _from(self, k: int, j: int, beside: int = 0) -> "NDArray[Any]":
        """Return E(k, j) by the level that is free before the levels of state k and those `beside` it are taken."""
        np, levels = self.np, self.levels
        shift = beside + (0 if self.chain.in_hand_free and j == k + 1 else int(levels.shifts[k]))
        moved = np.full(levels.top + 1, np.inf)
        if shift <= levels.top:
            moved[shift:] = self.cost[k, j][: levels.top + 1 - shift]
        return moved

    def _hold(self, i: int, k: int, j: int) -> None:
        """Fill in V(i, k, j)."""
        np = self.np
        best = self._from(k, j) + self.cost[i, k]
        choice = np.full(len(best), STAY)
        beside = int(self.levels.shifts[k])
        for later in range(k + 1, j):
            sweep = self._sweep(k, later, j, beside=beside)
            serve = sweep + self._from(later, j, beside)
            options = (
                (SERVE, serve + self.held[i, k, later]),
                (SERVE_AND_DROP, serve + self.cost[i, later]),
                (MOVE, sweep + self.held[i, later, j]),
            )
            for kind, cost in options:
                better = cost < best
                best[better] = cost[better]
                choice[better] = 4 * later + kind
        self.held[i, k, j], self.choice[i, k, j] = best, choice

    def _segment(self, i: int, j: int) -> None:
        """Fill in E(i, j)."""
        np = self.np
        splits = range(i + 1, j)
        costs = np.stack([self._sweep(i, k, j) + self.held[i, k, j] for k in splits])
        at = costs.argmin(axis=0)
        self.cost[i, j] = np.take_along_axis(costs, at[None], axis=0)[0]
        self.split[i, j] = at + i + 1

    def costs(self) -> list[float]:
        """Return the least cost of forward runs by level."""
        return [float(cost) for cost in self.cost[0, self.chain.length]]

    def write(self, level: int) -> Schedule:
        """Write out the best schedule for a level."""
        chain, levels = self.chain, self.levels
        ops: list[Op] = []
        todo: list[tuple[int, ...]] = [(0, chain.length, level)]
        while todo:
            match todo.pop():
                case (-1, k):
                    ops.append(Free(chain.state(k)))
                case (i, j, at) if j == i + 1:
                    if j == chain.length:
                        ops += (Forward(j, j), Loss())
                    ops.append(Backward(j))
                case (i, j, at):
                    k = int(self.split[i, j][at])
                    ops.append(Forward(i + 1, k))
                    todo.append((i, k, j, at))
                case (i, k, j, at):
                    later, kind = divmod(int(self.choice[i, k, j][at]), 4)
                    if kind == STAY:
                        todo += ((i, k, at), (k, j, levels.below(k, j, at)))
                        continue
                    ops.append(Forward(k + 1, later))
                    if kind == MOVE:
                        todo += ((i, later, j, at), (-1, k))
                        continue
                    rest = ((i, k, later, at),) if kind == SERVE else ((i, later, at), (-1, k))
                    todo += (*rest, (later, j, levels.below(later, j, at - int(levels.shifts[k]))))
        return Schedule("optimal", tuple(ops))
