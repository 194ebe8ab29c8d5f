"""What the suffixes (i, L) of a chain cost, where a table holds segments up to a window only.

From above: the best split inside the window. From below: a schedule for layers i+1..k does at least what its parts
need, those up to a mark M and those behind it, and runs layer M, whose output neither part makes, once at least:

    E(i, k, m) >= E(i, M, m) + f_M + E(M, k, m).

Marks lie at most a window apart, so the second part is in the table for the last mark before k. For the first part
there are two bounds, and the larger one counts: the sum over the pieces between marks, and, deeper, the recurrence of
`optimal` for the segments that end at M, which uses the bound above for splits outside the window.

Bounds beyond the window suppose that a layer takes no less scratch in the place of its input than beside it.
"""

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from lowmem.schedule.optimal.segment_table import CALL, SegmentTable

if TYPE_CHECKING:
    from numpy.typing import NDArray


def upper_costs(table: SegmentTable) -> "NDArray[Any]":
    """Bound E(i, L, .) from above for every i, by splits inside the window, in the form of `SegmentTable.costs`."""
    np, levels = table.np, table.levels
    upper = np.full((levels.length, levels.top + 1), np.inf, table.dtype)
    for i in range(levels.length - 1, -1, -1):
        inside = levels.length - i <= table.window
        table.store(upper, i, table.row(i, levels.length) if inside else table.best_split(upper, i))
    return upper


def marks_of(table: SegmentTable) -> list[int]:
    """Return states from 0 to L, at most a window apart, at which far segments may be cut with little slack."""
    slack, marks = table.levels.slack, [table.levels.length]
    while marks[-1] > 0:
        nearest, farthest = marks[-1] - max(table.window // 2, 1), max(marks[-1] - table.window, 0)
        marks.append(min(range(max(nearest, 0), farthest - 1, -1), key=slack.__getitem__))
    return marks[::-1]


def deep_work(table: SegmentTable) -> tuple[float, int]:
    """Return the additions and bytes that deep bounds take."""
    levels = table.levels
    marks, width = len(marks_of(table)), min(table.cap, levels.top) + 1
    work = marks / 2 * levels.length * (table.window * width + 4 * CALL)
    return work, marks * levels.length * width * table.np.dtype(table.dtype).itemsize // 2


class SuffixBounds:
    """Bounds E(i, L, .) from below for every i, from the last to the first, in the form of `SegmentTable.costs`.

    upper: the bounds of `upper_costs`. deep: use the recurrence to every mark; otherwise sums of pieces alone.
    The result is `costs`.
    """

    def __init__(self, table: SegmentTable, upper: "NDArray[Any]", *, deep: bool) -> None:
        np, levels = table.np, table.levels
        self.table, self.levels, self.np, self.upper, self.deep = table, levels, np, upper, deep
        self.marks = marks_of(table)[1:-1]
        self.width = min(table.cap, levels.top) + 1  # in levels above, left parts run every layer once at least
        count, length = len(self.marks), levels.length
        self.costs = upper.copy()
        # For segments that end at a mark: their bounds (rows behind the mark stay untouched, and take no memory).
        self.to_mark = np.empty((count if deep else 0, length, self.width), table.dtype)
        # For splits k outside the window: the least of E(k, end) + E(M, k), by end and by the last mark M before k.
        self.beyond = np.full((count, levels.top + 1), np.inf)
        self.beyond_to_mark = np.full((count if deep else 0, count, self.width), np.inf)
        # E(i, M, .) + f_M for the i that is being done, by mark.
        self.lefts = np.zeros((count, self.width))
        self._runs = [float(levels.sums[mark] - levels.sums[mark - 1]) for mark in self.marks]
        self._proven = True
        for i in range(length - 1, -1, -1):
            self._enter(i + table.window + 1)
            first = bisect_right(self.marks, i)
            self._left_parts(i, first)
            if length - i > table.window:
                self._suffix(i, first)

    def _enter(self, k: int) -> None:
        """Let state k be a split outside the window, from now on."""
        table = self.table
        if k >= self.levels.length:
            return
        last = bisect_right(self.marks, k) - 1
        piece = table.row(self.marks[last], k)
        if k == self.marks[last]:
            piece -= self._runs[last]  # the mark is where the left part ends
        self.np.minimum(self.beyond[last], self.costs[k] + piece, out=self.beyond[last])
        if self.deep:
            farther = slice(last + 1, None)
            costs = self.to_mark[farther, k] + piece[: self.width]
            into = self.beyond_to_mark[farther, last]
            self.np.minimum(into, costs, out=into)

    def _left_parts(self, i: int, first: int) -> None:
        """Bound E(i, M, .) for every mark M behind i."""
        np, table, lefts, slack = self.np, self.table, self.lefts, self.levels.slack
        for at in range(first, len(self.marks)):
            mark = self.marks[at]
            if mark - i <= table.window:
                lefts[at] = table.row(i, mark, slack[mark])[: self.width] + self._runs[at]
                if self.deep:
                    self.to_mark[at, i] = table.costs[i, mark - i, : self.width]
                continue
            piece = table.row(self.marks[at - 1], mark, slack[mark])[: self.width]
            np.add(lefts[at - 1], piece + self._runs[at], out=lefts[at])
            if self.deep:
                # The bound is stored for the level of (i, M) alone. Inside a longer segment it may have had more.
                least = self._to_mark(i, at, first)
                usable = least[slack[mark] :] + self._runs[at]
                np.maximum(lefts[at, : len(usable)], usable, out=lefts[at, : len(usable)])

    def _to_mark(self, i: int, at: int, first: int) -> "NDArray[Any]":
        """Bound E(i, M, .) by the recurrence, M being the mark number `at`, and store it."""
        np, table, levels = self.np, self.table, self.levels
        far = (self.beyond_to_mark[at, first:at] + self.lefts[first:at]).min(axis=0) - levels.sums[i]
        inside = table.best_split(self.to_mark[at], i, int(levels.deltas[self.marks[at]]))
        least: NDArray[Any] = np.minimum(inside, far)
        shift = int(levels.shifts[i])
        self.to_mark[at, i, :shift] = np.inf
        self.to_mark[at, i, shift:] = least[: max(self.width - shift, 0)] + levels.sums[i]
        return least

    def _suffix(self, i: int, first: int) -> None:
        """Bound E(i, L, .)."""
        np, table, sums = self.np, self.table, self.levels.sums
        far = self.beyond[first:].copy()
        far[:, : self.width] += self.lefts[first:]
        far[:, self.width :] += sums[self.marks[first:]][:, None] - sums[i]
        least = far.min(axis=0) - sums[i]
        # As long as the bounds have met in all that lies behind, inside the window they are the same.
        inside = table.stored(self.upper, i) if self._proven else table.best_split(self.costs, i)
        least = least[: len(inside)]
        self._proven = self._proven and bool((inside <= least).all())
        table.store(self.costs, i, np.minimum(inside, least))
