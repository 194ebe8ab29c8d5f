"""The table that `optimal` reads schedules from: segments inside a window that grows, and bounds of all suffixes."""

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from lowmem.chain import Chain
from lowmem.schedule.optimal.levels import Levels
from lowmem.schedule.optimal.segment_table import SegmentTable
from lowmem.schedule.optimal.suffix_bounds import SuffixBounds, deep_work, upper_costs

if TYPE_CHECKING:
    from numpy.typing import NDArray

AT_ONCE = 1e8
"""Additions up to which the whole chain is done without looking at bounds on the way."""

GOOD_ENOUGH = 1e-4
"""Difference of the bounds, relative to the cost of all forwards, at which a window does not grow any more."""

WORTH_WIDENING = 1e-3
"""Cost, relative to that of all forwards, that a schedule must save for its window to grow on."""

WORTH_MUCH, PATIENCE = 1e-2, 3
"""Cost, relative to that of all forwards, that a schedule must save for its window to grow on at a multiple of the
usual work, and that multiple."""

FIRST_WINDOW = 24

ROUNDING = 1e-5
"""More than float32 loses, relatively, over the sums of a table."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a table may take: additions, counted and not timed so that plans are repeatable, and bytes."""

    work: float
    bytes: int

    def twice(self) -> "Limits":
        """Return the limits of one table that serves as two: twice the work, and no more memory."""
        return Limits(2 * self.work, self.bytes)


class Table:
    """E(i, j, level) for segments inside a window, and bounds of E(i, L, level) for every suffix.

    budget, quantum, down, exact: as for `Levels`. `upper_costs` and `lower_costs` are the bounds, in the form of
    `SegmentTable.costs`.
    """

    def __init__(
        self, chain: Chain, budget: int, quantum: int, *, down: bool, limits: Limits, exact: bool = False
    ) -> None:
        self.levels = Levels(chain, budget, quantum, down=down, exact=exact)
        self.limits = limits
        self.segments = SegmentTable(self.levels, limits.bytes)
        self.spent = 0.0
        np = self.levels.np
        self.upper_costs: NDArray[Any] = np.empty((0, 0))
        self.lower_costs: NDArray[Any] = np.empty((0, 0))

    @property
    def window(self) -> int:
        """The length of the longest segments in the table."""
        return self.segments.window

    @property
    def top(self) -> int:
        """The level that is the whole budget."""
        return self.levels.top

    # growing ------------------------------------------------------------------------------------------------------

    def grow(self, spent: float = 0.0) -> bool:
        """Widen the window until bounds meet, or schedules get no cheaper; False where limits are reached before.

        spent: work done elsewhere, which counts.
        """
        self.spent += spent
        levels, patience, before = self.levels, 1, inf
        all_forwards = float(levels.sums[-1])
        while self.widen(patience):
            upper = self.upper(self.top)
            saved = before - upper if upper < inf else inf
            if self.met() if levels.bounds else saved <= WORTH_WIDENING * all_forwards:
                return True
            patience = PATIENCE if not levels.bounds and saved > WORTH_MUCH * all_forwards else 1
            before = upper
        if self.window == levels.length:
            return True
        if levels.bounds and self._deep_affordable():
            self.lower_costs = SuffixBounds(self.segments, self.upper_costs, deep=True).costs
        return False

    def met(self) -> bool:
        """Say whether the bounds have met, for all the budget, near enough."""
        upper, lower = self.upper(self.top), self.lower(self.top)
        return upper < inf and upper - lower <= GOOD_ENOUGH * float(self.levels.sums[-1])

    def widen(self, patience: int = 1) -> bool:
        """Add longer segments, twice as many as there are; False once all are there, or work or memory is spent.

        patience: how many times the work of the limits may be spent.
        """
        length, window = self.levels.length, self.window
        target = min(length, max(FIRST_WINDOW, 2 * window))
        if self.segments.work_of(length) <= AT_ONCE and self.affordable(length):
            target = length
        while window and target > window and not self.affordable(target, patience=patience):
            target = (target + window) // 2
        if target <= window or (window and target < window * 5 // 4 and target < length):
            return False
        self.spent += self.segments.work_of(target)
        self.segments.widen(target)
        self.upper_costs = self.lower_costs = upper_costs(self.segments)
        if self.levels.bounds and target < length:
            self.lower_costs = SuffixBounds(self.segments, self.upper_costs, deep=False).costs
        return True

    def affordable(self, window: int, spent: float = 0.0, *, patience: int = 1) -> bool:
        """Say whether a window stays within the work and memory of a table, so much being spent elsewhere."""
        work, room = self.segments.work_of(window), self.segments.bytes_of(window)
        return spent + self.spent + work <= patience * self.limits.work and room <= self.limits.bytes

    def _deep_affordable(self) -> bool:
        """Say whether deep bounds are within the limits, beside what was done."""
        work, room = deep_work(self.segments)
        return self.segments.costs.nbytes + room <= self.limits.bytes * 3 // 2 and work <= self.limits.work

    # reading ------------------------------------------------------------------------------------------------------

    def costs(self) -> list[float]:
        """Return the cost of forward runs by level."""
        return [float(cost) for cost in self.upper_costs[0]]

    def upper(self, level: int) -> float:
        """Return the cost of forward runs of the schedule that is written for this level, or more."""
        return float(self.upper_costs[0, level])

    def lower(self, level: int) -> float:
        """Return a lower bound of the cost of forward runs. In float32 it is lowered by the worst rounding error."""
        bound = float(self.lower_costs[0, level])
        return bound if self.segments.dtype == self.levels.np.float64 else bound * (1 - ROUNDING)

    def lower_bounds(self) -> list[float]:
        """Return `lower` for every level."""
        return [self.lower(level) for level in range(self.top + 1)]

    def lefts(self, i: int, j: int, level: int) -> "NDArray[Any]":
        """Return E(i, k) for the splits k of segment (i, j) inside the window, at a level beside state i."""
        levels, segments = self.levels, self.segments
        at = min(level + int(levels.shifts[i]), segments.cap)
        most = min(j - i, self.window + 1)
        left: NDArray[Any] = segments.costs[i, 1:most, at].astype(levels.np.float64) - levels.sums[i]
        return left

    def rights(self, i: int, j: int, level: int) -> "NDArray[Any]":
        """Return E(k, j) for the splits k of segment (i, j) inside the window, at what a level beside state i leaves.

        Costs are stored by the level beside what lies before state k: the bytes of state k need not be taken off.
        """
        np, levels, segments = self.levels.np, self.levels, self.segments
        splits = np.arange(i + 1, min(j, i + self.window + 1))
        if j == levels.length:
            right = self.upper_costs[splits, min(level, levels.top)]
        else:
            right = np.full(len(splits), np.inf)
            known = splits[j - splits <= self.window]
            right[len(splits) - len(known) :] = segments.costs[known, j - known, min(level, segments.cap)]
        costs: NDArray[Any] = right.astype(np.float64) - levels.sums[splits]
        costs[levels.shifts[splits] > level] = np.inf
        if levels.chain.in_hand_free and splits[-1] == j - 1:  # state j-1 is in hand then, and costs nothing
            costs[-1] = self.segment(j - 1, j, level)
        return costs

    def segment(self, i: int, j: int, level: int) -> float:
        """Return E(i, j) at a level beside state i, or infinity where the table does not have it."""
        levels = self.levels
        if level < 0:
            return inf
        if j == levels.length:
            if levels.chain.in_hand_free and i == j - 1:
                return 0.0
            at = min(level + int(levels.shifts[i]), levels.top)
            return float(self.upper_costs[i, at] - levels.sums[i])
        return inf if j - i > self.window else self.segments.at(i, j, level)
