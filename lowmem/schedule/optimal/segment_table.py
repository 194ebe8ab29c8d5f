"""The table behind `optimal`: costs of segments by memory level, and bounds for whole suffixes.

NumPy is imported when a table is made: planning a network of one width needs none.
"""

from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

from lowmem.chain import Chain
from lowmem.schedule.ops import Backward, Forward, Free, Loss, Op, Schedule, Update
from lowmem.schedule.optimal.suffix_bounds import SuffixBounds

if TYPE_CHECKING:
    from numpy.typing import NDArray

CALL = 4000
"""Additions that take as long as the calls for one segment."""

AT_ONCE = 1e8
"""Additions up to which the whole chain is done without looking at bounds on the way."""

GOOD_ENOUGH = 1e-4
"""Difference of the bounds, relative to the cost of all forwards, at which a window does not grow any more."""

WORTH_WIDENING, WORTH_MUCH, PATIENCE = 1e-3, 1e-2, 3
"""Cost, relative to that of all forwards, that a schedule must save for its window to grow on, and for its window to
grow on at so many times the work."""

FIRST_WINDOW = 24

IN_CACHE = 1 << 15
"""Costs that are added at once: half of them fill a first-level cache, all a small part of the second."""

NEVER = 1 << 40
"""More levels than there are."""

ROUNDING = 1e-5
"""More than float32 loses, relatively, over the sums of a table."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a table may take: additions, counted and not timed so that plans are repeatable, and bytes."""

    work: float
    bytes: int

    def twice(self) -> "Limits":
        """Return what one table may take where it serves for two, of memory no more."""
        return Limits(2 * self.work, self.bytes)


class Table:
    """E(i, j, level) for segments inside a window, and bounds of E(i, L, level) for every suffix.

    budget: bytes, of which the table has `top` levels of `quantum` bytes. What is left of the budget is lost where
    sizes are rounded, and kept for the working memory of ops where they are exact.
    down: round sizes down (a lower bound of the cost) instead of up (a schedule that fits).
    exact: all states are multiples of the quantum, so that one table serves for both.
    Bounds beyond the window suppose that a layer takes no less scratch in the place of its input than beside it.

    Costs are stored by the memory that state i and the segment take together: `kept[i, n, level]` is E(i, i+n) with
    the level beside what lies before state i. As the right part of a split that is what is wanted, and as the left
    part it is one shift for all splits of a segment. The costs of layers 1..i are added, so that the sweep between the
    two parts needs no addition of its own. Short segments need few levels: from a cap on everything is
    kept, and E does not change.
    """

    def __init__(
        self, chain: Chain, budget: int, quantum: int, *, down: bool, limits: Limits, exact: bool = False
    ) -> None:
        import numpy as np

        self.limits = limits

        self.np, self.chain, self.quantum, self.down, self.bounds = np, chain, quantum, down, down or exact
        self.length, self.top = chain.length, budget // quantum
        self.rest = budget % quantum if exact else 0
        self.sizes = np.array([chain.state_bytes(layer) for layer in range(self.length + 1)], np.int64)
        self.deltas = np.array([0, *(stage.delta_bytes for stage in chain.stages[:-1]), 0], np.int64)
        self.shifts = self._round(self.sizes)
        self.sums = np.array(list(accumulate((stage.forward for stage in chain.stages), initial=0)), np.float64)
        self._shift_sums = np.concatenate([[0], np.cumsum(self.shifts)])
        self.slack = self._slacks()
        # Bounds look segments up with the whole budget beside their first state, schedules never do.
        self._reach = self.top + (int(self.shifts.max()) + max(self.slack) if down or exact else 0)
        self._leaves = self._leaf_needs()
        self._most_working = self._most_working_bytes()
        self.window, self.cap, self.spent = 0, 0, 0.0
        full = self._room(self.length, 8) <= self.limits.bytes
        self.dtype: Any = np.float64 if full else np.float32
        self.kept: NDArray[Any] = np.empty((self.length, 1, 1), self.dtype)
        # The first level at which a segment can be reversed at all.
        self._first: NDArray[Any] = np.full((self.length + 1, 1), NEVER, np.int64)
        self._buffer: NDArray[Any] = np.empty(IN_CACHE, self.dtype)
        self._sweep_rows: list[NDArray[Any]] = []
        self.upper_kept: NDArray[Any] = np.empty((0, 0))
        self.lower_kept: NDArray[Any] = np.empty((0, 0))

    # levels -------------------------------------------------------------------------------------------------------

    def _round(self, sizes: "NDArray[Any]") -> "NDArray[Any]":
        """Return the levels that checkpoints of so many bytes occupy."""
        return sizes // self.quantum if self.down else -(-sizes // self.quantum)

    def working_levels(self, sizes: "NDArray[Any]") -> "NDArray[Any]":
        """Return the level from which ops have so many bytes to work in."""
        return self.np.maximum(self._round(sizes - self.rest), 0)

    def _slacks(self) -> list[int]:
        """Return how many levels more the part of a far segment up to a state may have had than that part alone.

        Alone, its sweeps run beside δ of its end; as a part of a longer segment they may have run beside a smaller δ.
        """
        least = self.np.minimum.accumulate(self.deltas[self.length - 1 :: -1])[::-1]
        more = self.deltas[: self.length] - least
        return [*(-(-more // self.quantum)).tolist(), 0]

    def _leaf_needs(self) -> "NDArray[Any]":
        """Return the bytes beside state i that the backward of layer i+1 takes; of the last layer its output too."""
        needs = self.np.zeros(self.length, self.np.int64)
        if not self.chain.in_hand_free:
            for layer, stage in enumerate(self.chain.stages, start=1):
                needs[layer - 1] = stage.delta_bytes + stage.backward_scratch
            last = self.chain.stages[-1]
            needs[-1] = max(needs[-1], last.state_bytes + max(last.forward_scratch, self.chain.loss_scratch))
        return needs

    def sweep_needs(self, i: int, count: int) -> "NDArray[Any]":
        """Return the bytes beside state i, without δ, of the sweeps from i to i+1, ..., i+count."""
        np, stages = self.np, self.chain.stages
        if self.chain.in_hand_free:
            return np.zeros(count, np.int64)
        scratch = [stages[i].forward_scratch, *(stage.advance_scratch for stage in stages[i + 1 : i + count])]
        widest = np.maximum.accumulate(self.sizes[i + 1 : i + count + 1])
        return widest + np.maximum.accumulate(np.array(scratch, np.int64))

    def _cap_of(self, window: int) -> int:
        """Return the level from which on segments of up to `window` layers keep everything.

        Levels that segments are never looked up at are left out.
        """
        width = min(window + 1, self.length + 1)
        kept = int((self._shift_sums[width:] - self._shift_sums[:-width]).max())
        return min(self._reach, kept + self._most_working // self.quantum + 1)

    def _most_working_bytes(self) -> int:
        """Return bytes that are enough for any op to work in."""
        working = int(self._leaves.max())
        if self.chain.in_hand_free:
            return working
        scratch = max(max(stage.forward_scratch, stage.advance_scratch) for stage in self.chain.stages)
        return max(working, int(self.sizes.max() + self.deltas.max()) + scratch)

    def _room(self, window: int, item: int) -> int:
        """Return the bytes of the segments of a window."""
        return self.length * (window + 1) * (self._cap_of(window) + 1) * item

    # segments -----------------------------------------------------------------------------------------------------

    def grow(self, spent: float = 0.0) -> bool:
        """Widen the window until bounds meet, or schedules get no cheaper; False where limits are reached before."""
        self.spent += spent
        patience, before, all_forwards = 1, inf, float(self.sums[-1])
        while self.widen(patience):
            upper = self.upper(self.top)
            saved = before - upper if upper < inf else inf
            if self.met() if self.bounds else saved <= WORTH_WIDENING * all_forwards:
                return True
            patience = PATIENCE if not self.bounds and saved > WORTH_MUCH * all_forwards else 1
            before = upper
        if self.window == self.length:
            return True
        if self.bounds and self._deep_affordable():
            self.lower_kept = SuffixBounds(self, self.upper_kept, deep=True).costs
        return False

    def met(self) -> bool:
        """Say whether the bounds have met, for all the budget, near enough."""
        upper, lower = self.upper(self.top), self.lower(self.top)
        return upper < inf and upper - lower <= GOOD_ENOUGH * float(self.sums[-1])

    def widen(self, patience: int = 1) -> bool:
        """Add longer segments, twice as many as there are; False once all are there, or work or memory is spent.

        patience: how many times the work of the limits may be spent.
        """
        target = min(self.length, max(FIRST_WINDOW, 2 * self.window))
        if self._work(self.length) <= AT_ONCE and self.affordable(self.length):
            target = self.length
        while self.window and target > self.window and not self.affordable(target, patience=patience):
            target = (target + self.window) // 2
        if target <= self.window or (self.window and target < self.window * 5 // 4 and target < self.length):
            return False
        self.spent += self._work(target)
        self._make_room(target)
        # From the last layer to the first: what a row reads, itself and the rows of its window, stays in the cache.
        caps = [self._cap_of(n) for n in range(target + 1)]
        for i in range(self.length - 1, -1, -1):
            self._row(i, range(self.window + 1, min(target, self.length - i) + 1), caps)
        self.window = target
        self._suffixes()
        return True

    def affordable(self, window: int, spent: float = 0.0, *, patience: int = 1) -> bool:
        """Say whether a window stays within the work and memory of a table, so much being spent elsewhere."""
        room = self._room(window, self.np.dtype(self.dtype).itemsize)
        return spent + self.spent + self._work(window) <= patience * self.limits.work and room <= self.limits.bytes

    def _work(self, window: int) -> float:
        """Return the additions that segments of up to `window` layers take, calls included."""
        sizes = range(2, window + 1)
        return sum((self.length - n + 1) * (n * (self._cap_of(n) + 1) + CALL) for n in sizes)

    def _make_room(self, window: int) -> None:
        """Make a larger table and copy the present one in: beyond its cap nothing changes."""
        np, old = self.np, self.kept
        self.cap = self._cap_of(window)
        self._sweep_rows = [self.sweep_needs(i, min(window, self.length - i)) for i in range(self.length)]
        self.kept = np.full((self.length, window + 1, self.cap + 1), np.inf, self.dtype)
        # One row more than there are states: what is looked up and masked may lie behind the last.
        first, self._first = self._first, np.full((self.length + 1, window + 1), NEVER, np.int64)
        self._first[:, : self.window + 1] = first
        if self.window:
            width = old.shape[2]
            self.kept[:, 1 : self.window + 1, :width] = old[:, 1:]
            self.kept[:, 1 : self.window + 1, width:] = old[:, 1:, -1:]

    def _row(self, i: int, lengths: range, caps: list[int]) -> None:
        """Fill in E(i, i+n) for these n, the rows of later states being there: all splits of a segment at once."""
        np, kept = self.np, self.kept
        if lengths and lengths[0] == 1:
            self._leaf(i)
            lengths = lengths[1:]
        shift, (_, rows, columns) = int(self.shifts[i]), kept.shape
        lowest, forbidden = self._feasible(i, lengths) if lengths else ([], {})
        segments, buffer, before = kept.reshape(-1, columns), self._buffer, self.dtype(self.sums[i])
        first = self._first[i]
        for n, low in zip(lengths, lowest, strict=True):
            width = caps[n] + 1
            if low >= width:
                continue
            # kept[i+s, n-s] for s = 1..n-1: one row down the table in the state is one row up in the length.
            begin = (i + 1) * rows + n - 1
            left, right = kept[i, 1:n], segments[begin : begin + (n - 1) * (rows - 1) : rows - 1]
            too_little = [(s, level) for s, level in forbidden.get(n, ()) if level > first[s + 1]]
            at_once = max(buffer.size // (n - 1), 1)
            for start in range(low, width, at_once):
                stop = min(start + at_once, width)
                costs = buffer[: (n - 1) * (stop - start)].reshape(n - 1, stop - start)
                np.add(left[:, start:stop], right[:, start - shift : stop - shift], out=costs)
                for split, level in too_little:
                    costs[split, : max(level - start, 0)] = np.inf
                np.minimum.reduce(costs, axis=0, out=kept[i, n, start:stop])
            best = kept[i, n, low:width]
            best -= before
            kept[i, n, width:] = best[-1]
            first[n] = low + bisect_left(best, True, key=isfinite)

    def _feasible(self, i: int, lengths: range) -> tuple[list[int], dict[int, list[tuple[int, int]]]]:
        """Return for each n a level below which (i, i+n) cannot be reversed, and what the sweeps to splits need.

        The latter only for splits whose sweep needs more than what comes after it.
        """
        np, first, window = self.np, self._first, self._first.shape[1] - 1
        longest, shift = lengths[-1], int(self.shifts[i])
        n = np.arange(lengths[0], longest + 1)
        s = np.arange(1, longest)[:, None]
        needed = self.working_levels(self._sweeps(i)[: longest - 1, None] + self.deltas[i + n]) + shift
        # first[i+s, n-s], where there is such a segment
        rights = np.lib.stride_tricks.as_strided(
            first[i + 1 :].reshape(-1)[lengths[0] - 1 :],
            needed.shape,
            (window * first.itemsize, first.itemsize),
            writeable=False,
        )
        parts = np.where(s < n, np.maximum(rights + shift, first[i, 1]), NEVER)
        found: dict[int, list[tuple[int, int]]] = {}
        splits, ends = np.nonzero(needed > parts)
        levels = needed[splits, ends]
        for split, end, level in zip(splits.tolist(), ends.tolist(), levels.tolist(), strict=True):
            found.setdefault(lengths[0] + end, []).append((split, level))
        return np.maximum(parts, needed).min(axis=0).tolist(), found

    def _leaf(self, i: int) -> None:
        """Fill in a segment of one layer: nothing to run, if the backward fits."""
        first = 0  # the state in hand costs nothing, whatever is kept
        if not self.chain.in_hand_free:
            first = int(self.shifts[i] + self.working_levels(self._leaves[i]))
        self.kept[i, 1, first:] = self.sums[i]
        self._first[i, 1] = first

    def _sweeps(self, i: int) -> "NDArray[Any]":
        """Return `sweep_needs` of all sweeps from i inside the window, remembered."""
        return self._sweep_rows[i]

    def _forbid(self, costs: "NDArray[Any]", needed: "NDArray[Any]") -> None:
        """Rule out, split by split, the levels below those that the sweep itself needs."""
        np = self.np
        if self.chain.in_hand_free:
            return
        last = np.minimum(needed, costs.shape[1]) - 1
        for row in np.flatnonzero((last >= 0) & np.isfinite(costs[np.arange(len(costs)), last])):
            costs[row, : needed[row]] = np.inf

    # suffixes -----------------------------------------------------------------------------------------------------

    def _suffixes(self) -> None:
        """Bound E(i, L, .) for every i, in the form of `kept` with the costs up to i added."""
        np, length, window = self.np, self.length, self.window
        upper = np.full((length, self.top + 1), np.inf, self.dtype)
        for i in range(length - 1, -1, -1):
            costs = self.row(i, length) if length - i <= window else self.best_split(upper, i)
            self.store(upper, i, costs)
        self.upper_kept = self.lower_kept = upper
        if self.bounds and window < length:
            self.lower_kept = SuffixBounds(self, upper, deep=False).costs

    def _deep_affordable(self) -> bool:
        """Say whether bounds by the recurrence to every mark are within the limits, beside what was done."""
        marks, width = len(self.marks()), min(self.cap, self.top) + 1
        room = marks * self.length * width * self.np.dtype(self.dtype).itemsize // 2
        work = marks / 2 * self.length * (self.window * width + 4 * CALL)
        return self.kept.nbytes + room <= self.limits.bytes * 3 // 2 and work <= self.limits.work

    def marks(self) -> list[int]:
        """Return states from 0 to L, at most a window apart, at which far segments may be cut with little slack."""
        marks = [self.length]
        while marks[-1] > 0:
            nearest, farthest = marks[-1] - max(self.window // 2, 1), max(marks[-1] - self.window, 0)
            marks.append(min(range(max(nearest, 0), farthest - 1, -1), key=self.slack.__getitem__))
        return marks[::-1]

    def stored(self, bound: "NDArray[Any]", i: int) -> "NDArray[Any]":
        """Return a suffix's costs as far as they were stored."""
        costs: NDArray[Any] = bound[i, int(self.shifts[i]) :].astype(self.np.float64) - self.sums[i]
        return costs

    def store(self, bound: "NDArray[Any]", i: int, costs: "NDArray[Any]") -> None:
        """Write a suffix's costs to its bound."""
        shift = int(self.shifts[i])
        if self.chain.in_hand_free and i == self.length - 1:
            shift = 0
        if shift <= self.top:
            bound[i, shift:] = costs[: self.top + 1 - shift] + self.sums[i]

    def row(self, i: int, k: int, more: int = 0) -> "NDArray[Any]":
        """Return E(i, k) with so many levels more than the level beside state i; zeros for an empty segment."""
        np = self.np
        if k == i or (self.chain.in_hand_free and k == i + 1):
            return np.zeros(self.top + 1)
        first = int(self.shifts[i]) + more
        row = self.kept[i, k - i, first : first + self.top + 1].astype(np.float64) - self.sums[i]
        if not len(row):
            return np.full(self.top + 1, np.inf)
        return np.pad(row, (0, self.top + 1 - len(row)), mode="edge")

    def best_split(self, bound: "NDArray[Any]", i: int, delta: int = 0) -> "NDArray[Any]":
        """Return the least cost from state i over the splits inside the window, with the bounds of what is behind.

        bound: in the form of `kept`, for segments with one end. delta: bytes of δ there.
        """
        shift, levels = int(self.shifts[i]), bound.shape[1]
        width = min(levels, self.cap + 1 - shift)
        if width <= 0:
            return self.np.full(levels, self.np.inf)
        costs = bound[i + 1 : i + self.window + 1].copy()
        left = self.kept[i, 1 : self.window + 1, shift : shift + width]
        costs[:, :width] += left
        costs[:, width:] += left[:, -1:]
        self._forbid(costs, self.working_levels(self._sweeps(i)[: self.window] + delta))
        return costs.min(axis=0).astype(self.np.float64) - 2 * self.sums[i]

    def costs(self) -> list[float]:
        """Return the cost of forward runs by level."""
        return [float(cost) for cost in self.upper_kept[0]]

    def upper(self, level: int) -> float:
        """Return the cost of forward runs that `write` achieves or betters."""
        return float(self.upper_kept[0, level])

    def lower(self, level: int) -> float:
        """Return a lower bound of the cost of forward runs. In float32 it is lowered by the worst rounding error."""
        bound = float(self.lower_kept[0, level])
        return bound if self.dtype == self.np.float64 else bound * (1 - ROUNDING)

    # schedules ----------------------------------------------------------------------------------------------------

    def segment(self, i: int, j: int, level: int) -> float:
        """Return E(i, j) at a level beside state i, or infinity where the table does not have it."""
        if level < 0:
            return inf
        if j == self.length:
            if self.chain.in_hand_free and i == j - 1:
                return 0.0
            at = min(level + int(self.shifts[i]), self.top)
            return float(self.upper_kept[i, at] - self.sums[i])
        if j - i > self.window:
            return inf
        return float(self.kept[i, j - i, min(level + int(self.shifts[i]), self.cap)] - self.sums[i])

    def _split(self, i: int, j: int, level: int) -> int:
        """Return the best split of segment (i, j) at this level."""
        best, at = inf, -1
        needed = self.working_levels(self._sweeps(i) + self.deltas[j])
        for k in range(i + 1, min(j, i + self.window + 1)):
            if not self.chain.in_hand_free and needed[k - i - 1] > level:
                continue
            right = self.segment(k, j, self.below(k, j, level))
            cost = float(self.sums[k]) + right + self.segment(i, k, level)
            if cost < best:
                best, at = cost, k
        return at

    def below(self, k: int, j: int, level: int) -> int:
        """Return the level that is left for segment (k, j) when state k is kept."""
        return level if self.chain.in_hand_free and j == k + 1 else level - int(self.shifts[k])

    def write(self, level: int) -> Schedule:
        """Write out the best schedule for a level, dropping a checkpoint early where that is cheaper."""
        chain = self.chain
        ops: list[Op] = []
        todo = [(0, self.length, level)]
        while todo:
            i, j, at = todo.pop()
            while todo and i and self._drop_pays(todo[-1], (i, j, at)):
                # The checkpoint i would serve this segment only: its bytes are worth more than its shorter way.
                ops.append(Free(chain.state(i)))
                i, _, at = todo.pop()
            if j > i + 1:
                k = self._split(i, j, at)
                ops.append(Forward(i + 1, k))
                todo += ((i, k, at), (k, j, self.below(k, j, at)))
                continue
            if j == self.length:
                ops += (Forward(j, j), Loss())
            ops.append(Backward(j))
            if chain.updates:
                ops.append(Update(j))
        return Schedule("optimal", tuple(ops))

    def _drop_pays(self, outer: tuple[int, int, int], inner: tuple[int, int, int]) -> bool:
        """Say whether reversing both segments from the outer one's start costs less than with the checkpoint."""
        i, k, level = outer
        _, j, left = inner
        apart = self.segment(k, j, left) + self.segment(i, k, level)
        return self.segment(i, j, level) < apart * (1 - ROUNDING)
