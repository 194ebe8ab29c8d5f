"""The table behind `optimal`: the least cost of every segment at every level of memory."""

from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import TYPE_CHECKING, Any

from lowmem.schedule.ops import Schedule
from lowmem.schedule.tapes.needs import Needs
from lowmem.schedule.tapes.tree import RECORD, write

if TYPE_CHECKING:
    from numpy.typing import NDArray

IN_CACHE = 1 << 15
"""Costs that are added at once."""

SHORT = 150
"""Stages up to which costs are added in double precision."""

ROUNDING = 1e-5
"""More than single precision loses, relatively, over the sums of a table."""


@dataclass(frozen=True, slots=True)
class Levels:
    """How bytes become levels: `count` of them, of `quantum` bytes, sizes rounded up or down.

    rest: bytes that ops have beside the levels; only where all sizes are multiples of the quantum.
    """

    quantum: int
    count: int
    down: bool = False
    rest: int = 0


class Table:
    """C(i, j, level) for segments of up to `window` stages, and C(i, L, level) for every suffix.

    A segment's level is what it has from the line below state i on, state i included. So recording stage i+1 leaves
    level - tape, and keeping another state leaves level - state i to what is behind it: both shifts depend on i alone.

    Costs of the forwards up to state i are added (`sums`): then the sweep between the two parts of a split needs no
    addition of its own.

    Where sizes are rounded down, a suffix may also be split beyond the window, at the least that can cost: every stage
    up to the split is swept once and recorded once. So the table stays a lower bound for every window.
    """

    def __init__(self, needs: Needs, levels: Levels, window: int) -> None:
        np = self.np = needs.np
        self.needs, self.levels, self.length = needs, levels, needs.chain.length
        self.window = min(window, self.length - 1)
        self.top = levels.count
        self.dtype: Any = np.float64 if self.length <= SHORT else np.float32
        forwards = (stage.forward for stage in needs.chain.stages)
        self.sums = np.array([*accumulate(forwards, initial=0.0)])
        self.backward = np.array([0.0, *(stage.backward for stage in needs.chain.stages)])
        self.plain = np.cumsum(self.backward) + self.sums  # of recording and reversing stages 1..l once
        # Every way to reverse a segment records its last stage without its output, once; behind L there is the loss.
        self.spared = needs.spared
        self.state_shifts, self.tape_shifts = self._round(needs.states), self._round(needs.tapes)
        self.inner = np.full((self.length, self.window + 1, self.top + 1), inf, self.dtype)
        self.suffix = np.full((self.length, self.top + 1), inf, self.dtype)
        # From the first level on a segment can be reversed; from the second on everything in it is recorded once.
        self._least = np.full((self.length + 1, self.length + 1), self.top + 1, np.int64)
        self._enough = np.full((self.length + 1, self.length + 1), self.top + 1, np.int64)
        self._fill()

    def _round(self, sizes: "NDArray[Any]") -> "NDArray[Any]":
        """Return the levels that so many bytes occupy while they stay."""
        return sizes // self.levels.quantum if self.levels.down else -(-sizes // self.levels.quantum)

    def _level(self, needs: Any) -> Any:  # noqa: ANN401 - a number or an array, and so is the result
        """Return the level from which an op has so many bytes."""
        return self.np.maximum(-(-(needs - self.levels.rest) // self.levels.quantum), 0)

    def _fill(self) -> None:
        """Fill the table in from the last state to the first."""
        np, needs, length = self.np, self.needs, self.length
        far = np.full(self.top + 1, inf)  # the least cost of a suffix behind the window, and of what lies before it
        for i in range(length - 1, -1, -1):
            ends = range(i + 1, min(i + self.window, length - 1) + 1)
            sweeps = needs.sweeps(i, length)
            taped = self._level(needs.tape(i, slice(None)))
            shift = int(self.tape_shifts[i + 1])
            for j in (*ends, length):
                if j > i + 1 and i + 1 < length:
                    self._enough[i, j] = max(int(taped[j]), int(self._enough[i + 1, j]) + shift)
                elif j == i + 1:
                    self._enough[i, j] = self._level(needs.leaf(i))
                row = self.suffix[i] if j == length else self.inner[i, j - i]
                enough = int(self._enough[i, j])
                row[max(enough, 0) :] = self.plain[j] - self.spared[j] - self.plain[i] + self.sums[i]
                self._least[i, j] = enough
                if j > i + 1:
                    self._splits(i, j, row, sweeps, int(taped[j]))
            k = i + self.window + 1
            if self.levels.down and k < length:
                np.minimum(far, self.suffix[k] + (self.plain[k] - self.spared[k]), out=far)
                at = min(int(self.state_shifts[i]), self.top + 1)
                row = self.suffix[i, at:]
                np.minimum(row, far[: self.top + 1 - at] - self.plain[i], out=row)
                self._least[i, length] = min(int(np.isfinite(self.suffix[i]).argmax()), self._least[i, length])

    def _splits(self, i: int, j: int, row: "NDArray[Any]", sweeps: "NDArray[Any]", taped: int) -> None:
        """Fill in C(i, j) below the level from which everything is recorded once."""
        np, shift, tape = self.np, int(self.state_shifts[i]), int(self.tape_shifts[i + 1])
        stop = min(j, i + self.window + 1)  # states i+1..stop-1 may be kept
        needed = self._level(sweeps[: stop - i - 1] + self.needs.ahead[j])
        parts = np.maximum(self._least[i + 1 : stop, j] + shift, self._least[i, i + 1 : stop])
        lowest = np.maximum(parts, needed)
        late = np.flatnonzero(needed > parts)
        low = max(int(min(lowest.min(), max(taped, self._least[i + 1, j] + tape))), 0)
        high = min(int(self._enough[i, j]), self.top + 1)
        if low >= high:
            return
        count = stop - i - 1
        lefts = self.inner[i, 1 : count + 1]
        rights = self._rights(i, j, count)
        at_once = max(IN_CACHE // count, 16)
        for start in range(low, high, at_once):
            end = min(start + at_once, high)
            best = self._taped(i, j, start, end, taped, tape)
            begin = max(start, shift)  # below, there is no room for anything behind state i
            if begin < end:
                costs = lefts[:, begin:end] + rights[:, begin - shift : end - shift]
                for split in late:
                    costs[split, : max(int(needed[split]) - begin, 0)] = inf
                splits = costs.min(axis=0) - self.dtype(self.sums[i])
                np.minimum(best[begin - start :], splits, out=best[begin - start :])
            row[start:end] = best
        finite = np.flatnonzero(np.isfinite(row[low:high]))
        self._least[i, j] = low + int(finite[0]) if len(finite) else high

    def _rights(self, i: int, j: int, count: int) -> "NDArray[Any]":
        """Return C(k, j) for k = i+1..i+count: a suffix each, or a walk down the table and up in length."""
        if j == self.length:
            return self.suffix[i + 1 : i + 1 + count]
        flat = self.inner.reshape(-1, self.top + 1)
        begin = (i + 1) * (self.window + 1) + j - i - 1
        return flat[begin : begin + count * self.window : self.window] if self.window else flat[:0]

    def _taped(self, i: int, j: int, start: int, end: int, taped: int, shift: int) -> "NDArray[Any]":
        """Return the cost of recording stage i+1 and then reversing i+2..j, at levels start..end-1."""
        np = self.np
        best = np.full(end - start, inf, self.dtype)
        if j > i + 1 + self.window and j < self.length:
            return best
        begin = max(start, taped, shift)
        if begin < end:
            row = self.suffix[i + 1] if j == self.length else self.inner[i + 1, j - i - 1]
            at = np.minimum(np.arange(begin, end) - shift, self.top)
            best[begin - start :] = row[at] + self.dtype(self.backward[i + 1])
        return best

    def cost(self, level: int) -> float:
        """Return the cost of reversing the chain at a level."""
        return float(self.suffix[0, min(level, self.top)])

    def steps(self) -> list[int]:
        """Return the levels at which the chain gets cheaper to reverse, the highest first."""
        row = self.suffix[0]
        cheaper = self.np.flatnonzero(row[1:] < row[:-1]) + 1
        return [*cheaper[::-1].tolist(), *([0] if row[0] < inf else [])]

    def write(self, level: int) -> Schedule:
        """Write out the cheapest schedule of a level."""
        return write(self.needs.chain, "optimal", level, self._choose)

    def _choose(self, i: int, j: int, level: int) -> tuple[int, int, int]:
        """Return the cheapest choice for a segment at a level: recording, where several cost the same."""
        np, shift, tape = self.np, int(self.state_shifts[i]), int(self.tape_shifts[i + 1])
        level = min(level, self.top)
        best, choice, first = inf, RECORD, level - tape
        if level >= self._level(self.needs.tape(i, j)) and level >= tape:
            row = self.suffix[i + 1] if j == self.length else self.inner[i + 1, j - i - 1]
            best = float(row[min(level - tape, self.top)]) + float(self.backward[i + 1])
        if level >= shift:
            count = min(j, i + self.window + 1) - i - 1
            needed = self._level(self.needs.sweeps(i, i + 1 + count) + self.needs.ahead[j])
            costs = self.inner[i, 1 : count + 1, level] + self._rights(i, j, count)[:, level - shift]
            costs = np.where(needed <= level, costs, inf) - self.dtype(self.sums[i])
            k = int(costs.argmin())
            if costs[k] < best * (1 - 1e-6):
                choice, first = i + 1 + k, level - shift
        return choice, first, level
