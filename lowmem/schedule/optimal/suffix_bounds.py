"""What a suffix of the chain costs at least, where a table holds segments up to a window only.

A schedule for layers i+1..k does at least what its parts need, those up to a mark M and those behind it, and runs
layer M, whose output neither part makes, once at least:

    E(i, k, m) >= E(i, M, m) + f_M + E(M, k, m).

Marks lie at most a window apart, so the second part is in the table for the last mark before k. For the first part
there are two bounds, and the larger one counts: the sum over the pieces between marks, and, deeper, the recurrence of
`optimal` for the segments that end at M, itself with this bound for splits outside the window.
"""

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowmem.schedule.optimal.segment_table import Table


class SuffixBounds:
    """Bounds E(i, L, .) from below for every i, from the last to the first; `costs` is in the form of `Table.kept`.

    upper: the same from above. deep: by the recurrence to every mark; else by sums of pieces.
    """

    def __init__(self, table: "Table", upper: "NDArray[Any]", *, deep: bool) -> None:
        np = table.np
        self.table, self.np, self.upper, self.deep = table, np, upper, deep
        self.marks = table.marks()[1:-1]
        self.levels = min(table.cap, table.top) + 1  # beyond, of left parts every layer runs once at least
        count, length = len(self.marks), table.length
        self.costs = upper.copy()
        # For segments that end at a mark: their bounds (rows behind the mark stay untouched, and take no memory).
        self.to_mark = np.empty((count if deep else 0, length, self.levels), table.dtype)
        # For splits k outside the window: the least of E(k, end) + E(M, k), by end and by the last mark M before k.
        self.beyond = np.full((count, table.top + 1), np.inf)
        self.beyond_to_mark = np.full((count if deep else 0, count, self.levels), np.inf)
        # E(i, M, .) + f_M for the i that is being done, by mark.
        self.lefts = np.zeros((count, self.levels))
        self._runs = [float(table.sums[mark] - table.sums[mark - 1]) for mark in self.marks]
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
        if k >= table.length:
            return
        last = bisect_right(self.marks, k) - 1
        piece = table.row(self.marks[last], k)
        if k == self.marks[last]:
            piece -= self._runs[last]  # the mark is where the left part ends
        self.np.minimum(self.beyond[last], self.costs[k] + piece, out=self.beyond[last])
        if self.deep:
            farther = slice(last + 1, None)
            costs = self.to_mark[farther, k] + piece[: self.levels]
            into = self.beyond_to_mark[farther, last]
            self.np.minimum(into, costs, out=into)

    def _left_parts(self, i: int, first: int) -> None:
        """Bound E(i, M, .) for every mark M behind i."""
        np, table, lefts = self.np, self.table, self.lefts
        for at in range(first, len(self.marks)):
            mark = self.marks[at]
            if mark - i <= table.window:
                lefts[at] = table.row(i, mark, table.slack[mark])[: self.levels] + self._runs[at]
                if self.deep:
                    self.to_mark[at, i] = table.kept[i, mark - i, : self.levels]
                continue
            piece = table.row(self.marks[at - 1], mark, table.slack[mark])[: self.levels]
            np.add(lefts[at - 1], piece + self._runs[at], out=lefts[at])
            if self.deep:
                # Stored as it is, looked up with the levels more that a part of a longer segment may have had.
                least = self._to_mark(i, at, first)
                more = table.slack[mark]
                usable = least[more:] + self._runs[at]
                np.maximum(lefts[at, : len(usable)], usable, out=lefts[at, : len(usable)])

    def _to_mark(self, i: int, at: int, first: int) -> "NDArray[Any]":
        """Bound E(i, M, .) by the recurrence, M being the mark number `at`, and store it."""
        np, table = self.np, self.table
        far = (self.beyond_to_mark[at, first:at] + self.lefts[first:at]).min(axis=0) - table.sums[i]
        inside = table.best_split(self.to_mark[at], i, int(table.deltas[self.marks[at]]))
        least: NDArray[Any] = np.minimum(inside, far)
        shift = int(table.shifts[i])
        self.to_mark[at, i, :shift] = np.inf
        self.to_mark[at, i, shift:] = least[: max(self.levels - shift, 0)] + table.sums[i]
        return least

    def _suffix(self, i: int, first: int) -> None:
        """Bound E(i, L, .)."""
        np, table = self.np, self.table
        far = self.beyond[first:].copy()
        far[:, : self.levels] += self.lefts[first:]
        far[:, self.levels :] += table.sums[self.marks[first:]][:, None] - table.sums[i]
        least = far.min(axis=0) - table.sums[i]
        # As long as the bounds have met in all that lies behind, inside the window they are the same.
        inside = table.stored(self.upper, i) if self._proven else table.best_split(self.costs, i)
        least = least[: len(inside)]
        self._proven = self._proven and bool((inside <= least).all())
        table.store(self.costs, i, np.minimum(inside, least))
