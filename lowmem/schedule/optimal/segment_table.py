"""E(i, j, level) for all segments of up to `window` layers: what `optimal` reads schedules and bounds from."""

from bisect import bisect_left
from math import isfinite
from typing import TYPE_CHECKING, Any

from lowmem.schedule.optimal.levels import Levels

if TYPE_CHECKING:
    from numpy.typing import NDArray

CALL = 4000
"""Additions that take as long as the calls for one segment."""

IN_CACHE = 1 << 15
"""Costs that are added at once: half of them fill a first-level cache, all a small part of the second."""

NEVER = 1 << 40
"""More levels than there are."""


class SegmentTable:
    """Costs of segments of up to `window` layers, which `widen` makes longer.

    most_bytes: what the table may take; a chain whose whole table fits in float64 gets that, others float32.

    `costs[i, n, level]` is E(i, i+n) plus the cost of running layers 1..i forward. The level is counted beside what
    lies before state i, so it is the memory that state i and the segment take together. Stored like this, the right
    part of a split is looked up at the level of the whole; the left part is shifted by the same levels for all
    splits of a segment; and the sweep between the two parts needs no addition of its own. Short segments need few
    levels: from `cap` on everything is stored, and E does not change.

    Bounds for suffixes (i, L) have the same form, `[i, level]`: `stored` and `store` convert it to plain costs.
    """

    def __init__(self, levels: Levels, most_bytes: int) -> None:
        np = levels.np
        self.np, self.levels = np, levels
        self.window, self.cap = 0, 0
        full = self._bytes_of(levels.length, 8) <= most_bytes
        self.dtype: Any = np.float64 if full else np.float32
        self.costs: NDArray[Any] = np.empty((levels.length, 1, 1), self.dtype)
        # The first level at which a segment can be reversed at all.
        self._first: NDArray[Any] = np.full((levels.length + 1, 1), NEVER, np.int64)
        self._buffer: NDArray[Any] = np.empty(IN_CACHE, self.dtype)
        self._sweeps: list[NDArray[Any]] = []  # `sweep_needs` of all sweeps inside the window, by first state

    # what a window takes ------------------------------------------------------------------------------------------

    def bytes_of(self, window: int) -> int:
        """Return the bytes of a table of a window."""
        return self._bytes_of(window, self.np.dtype(self.dtype).itemsize)

    def _bytes_of(self, window: int, item: int) -> int:
        return self.levels.length * (window + 1) * (self.levels.cap_of(window) + 1) * item

    def work_of(self, window: int) -> float:
        """Return the additions that segments of up to `window` layers take, calls included."""
        levels, sizes = self.levels, range(2, window + 1)
        return sum((levels.length - n + 1) * (n * (levels.cap_of(n) + 1) + CALL) for n in sizes)

    # filling ------------------------------------------------------------------------------------------------------

    def widen(self, window: int) -> None:
        """Add all segments of up to `window` layers; there must be more of them than before."""
        self._make_room(window)
        length, caps = self.levels.length, [self.levels.cap_of(n) for n in range(window + 1)]
        # From the last layer to the first: what a row reads, itself and the rows of its window, stays in the cache.
        for i in range(length - 1, -1, -1):
            self._row(i, range(self.window + 1, min(window, length - i) + 1), caps)
        self.window = window

    def _make_room(self, window: int) -> None:
        """Make a larger table and copy the present one in: beyond its cap nothing changes."""
        np, levels, before = self.np, self.levels, self.costs
        length = levels.length
        self.cap = levels.cap_of(window)
        self._sweeps = [levels.sweep_needs(i, min(window, length - i)) for i in range(length)]
        self.costs = np.full((length, window + 1, self.cap + 1), np.inf, self.dtype)
        # One row more than there are states: what is looked up and masked may lie behind the last.
        first, self._first = self._first, np.full((length + 1, window + 1), NEVER, np.int64)
        self._first[:, : self.window + 1] = first
        if self.window:
            width = before.shape[2]
            self.costs[:, 1 : self.window + 1, :width] = before[:, 1:]
            self.costs[:, 1 : self.window + 1, width:] = before[:, 1:, -1:]

    def _row(self, i: int, lengths: range, caps: list[int]) -> None:
        """Fill in E(i, i+n) for these n, the rows of later states being there: all splits of a segment at once."""
        np, table, levels = self.np, self.costs, self.levels
        if lengths and lengths[0] == 1:
            self._leaf(i)
            lengths = lengths[1:]
        shift, (_, rows, columns) = int(levels.shifts[i]), table.shape
        lowest, forbidden = self._feasible(i, lengths) if lengths else ([], {})
        segments, buffer, before = table.reshape(-1, columns), self._buffer, self.dtype(levels.sums[i])
        first = self._first[i]
        for n, low in zip(lengths, lowest, strict=True):
            width = caps[n] + 1
            if low >= width:
                continue
            # costs[i+s, n-s] for s = 1..n-1: one row down the table in the state is one row up in the length.
            begin = (i + 1) * rows + n - 1
            left, right = table[i, 1:n], segments[begin : begin + (n - 1) * (rows - 1) : rows - 1]
            too_little = [(s, level) for s, level in forbidden.get(n, ()) if level > first[s + 1]]
            at_once = max(buffer.size // (n - 1), 1)
            for start in range(low, width, at_once):
                stop = min(start + at_once, width)
                sums = buffer[: (n - 1) * (stop - start)].reshape(n - 1, stop - start)
                np.add(left[:, start:stop], right[:, start - shift : stop - shift], out=sums)
                for split, level in too_little:
                    sums[split, : max(level - start, 0)] = np.inf
                np.minimum.reduce(sums, axis=0, out=table[i, n, start:stop])
            best = table[i, n, low:width]
            best -= before
            table[i, n, width:] = best[-1]
            first[n] = low + bisect_left(best, True, key=isfinite)

    def _feasible(self, i: int, lengths: range) -> tuple[list[int], dict[int, list[tuple[int, int]]]]:
        """Return for each n a level below which (i, i+n) cannot be reversed, and what the sweeps to splits need.

        The latter only for splits whose sweep needs more than what comes after it: by n, pairs (split, level).
        """
        np, levels, first, window = self.np, self.levels, self._first, self._first.shape[1] - 1
        longest, shift = lengths[-1], int(levels.shifts[i])
        n = np.arange(lengths[0], longest + 1)
        s = np.arange(1, longest)[:, None]
        needed = levels.working(self._sweeps[i][: longest - 1, None] + levels.deltas[i + n]) + shift
        # first[i+s, n-s], where there is such a segment
        rights = np.lib.stride_tricks.as_strided(
            first[i + 1 :].reshape(-1)[lengths[0] - 1 :],
            needed.shape,
            (window * first.itemsize, first.itemsize),
            writeable=False,
        )
        parts = np.where(s < n, np.maximum(rights + shift, first[i, 1]), NEVER)
        forbidden: dict[int, list[tuple[int, int]]] = {}
        splits, ends = np.nonzero(needed > parts)
        least = needed[splits, ends]
        for split, end, level in zip(splits.tolist(), ends.tolist(), least.tolist(), strict=True):
            forbidden.setdefault(lengths[0] + end, []).append((split, level))
        return np.maximum(parts, needed).min(axis=0).tolist(), forbidden

    def _leaf(self, i: int) -> None:
        """Fill in a segment of one layer: nothing to run, if the backward fits."""
        levels, first = self.levels, 0  # in the abstract model the state in hand costs nothing
        if not levels.chain.in_hand_free:
            first = int(levels.shifts[i] + levels.working(levels.leaves[i]))
        self.costs[i, 1, first:] = levels.sums[i]
        self._first[i, 1] = first

    # reading ------------------------------------------------------------------------------------------------------

    def row(self, i: int, k: int, more: int = 0) -> "NDArray[Any]":
        """Return E(i, k) with so many levels more than the level beside state i; zeros for an empty segment."""
        np, levels = self.np, self.levels
        if k == i or (levels.chain.in_hand_free and k == i + 1):
            return np.zeros(levels.top + 1)
        first = int(levels.shifts[i]) + more
        row = self.costs[i, k - i, first : first + levels.top + 1].astype(np.float64) - levels.sums[i]
        if not len(row):
            return np.full(levels.top + 1, np.inf)
        return np.pad(row, (0, levels.top + 1 - len(row)), mode="edge")

    def at(self, i: int, j: int, level: int) -> float:
        """Return E(i, j) at a level beside state i; the segment is inside the window."""
        shift = int(self.levels.shifts[i])
        return float(self.costs[i, j - i, min(level + shift, self.cap)] - self.levels.sums[i])

    def sweep_levels(self, i: int, delta: int) -> "NDArray[Any]":
        """Return the levels that the sweeps from i inside the window need, beside `delta` bytes of δ."""
        return self.levels.working(self._sweeps[i] + delta)

    def best_split(self, bound: "NDArray[Any]", i: int, delta: int = 0) -> "NDArray[Any]":
        """Return the least cost from state i over the splits inside the window, by level.

        bound: costs of the segments from every later state to one end, as `[state, level]` in the form of `costs`.
        delta: bytes of δ at that end.
        """
        np, levels = self.np, self.levels
        shift, count = int(levels.shifts[i]), bound.shape[1]
        width = min(count, self.cap + 1 - shift)
        if width <= 0:
            return np.full(count, np.inf)
        sums = bound[i + 1 : i + self.window + 1].copy()
        left = self.costs[i, 1 : self.window + 1, shift : shift + width]
        sums[:, :width] += left
        sums[:, width:] += left[:, -1:]
        self._forbid(sums, levels.working(self._sweeps[i][: self.window] + delta))
        return sums.min(axis=0).astype(np.float64) - 2 * levels.sums[i]

    def _forbid(self, costs: "NDArray[Any]", needed: "NDArray[Any]") -> None:
        """Rule out, split by split, the levels below those that the sweep itself needs."""
        np = self.np
        if self.levels.chain.in_hand_free:
            return
        last = np.minimum(needed, costs.shape[1]) - 1
        for row in np.flatnonzero((last >= 0) & np.isfinite(costs[np.arange(len(costs)), last])):
            costs[row, : needed[row]] = np.inf

    def stored(self, bound: "NDArray[Any]", i: int) -> "NDArray[Any]":
        """Return the plain costs of suffix (i, L) from a bound, as far as they were stored."""
        shift = int(self.levels.shifts[i])
        costs: NDArray[Any] = bound[i, shift:].astype(self.np.float64) - self.levels.sums[i]
        return costs

    def store(self, bound: "NDArray[Any]", i: int, costs: "NDArray[Any]") -> None:
        """Write the plain costs of suffix (i, L) to a bound."""
        levels, shift = self.levels, int(self.levels.shifts[i])
        if levels.chain.in_hand_free and i == levels.length - 1:
            shift = 0
        if shift <= levels.top:
            bound[i, shift:] = costs[: levels.top + 1 - shift] + levels.sums[i]
