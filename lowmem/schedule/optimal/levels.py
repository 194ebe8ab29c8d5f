"""A chain in levels of memory: what checkpoints occupy, and what ops need to work in, as NumPy arrays by layer.

NumPy is imported when the levels of a chain are made: planning a network of one width needs none.
"""

from itertools import accumulate
from typing import TYPE_CHECKING, Any

from lowmem.chain import Chain

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Levels:
    """Sizes and working memory of a chain, a level being `quantum` bytes.

    budget: bytes, of which there are `top` levels. What is left of the budget is lost where sizes are rounded, and
        kept for the working memory of ops where they are exact.
    down: round sizes down (for a lower bound of the cost) instead of up (for a schedule that fits).
    exact: all states are multiples of the quantum, so that one table serves for both.

    By layer, from 0: `sizes` and `deltas` in bytes, `shifts` the levels of a checkpoint, and `sums` the cost of
    running all layers up to it forward. `leaves[i]`: bytes that the backward of layer i+1 takes beside state i.
    `slack[M]`: levels by which far segments that end at M are bounded too strictly, as `_slacks` explains.
    `reach`: the highest level at which a table is ever looked up.
    """

    def __init__(self, chain: Chain, budget: int, quantum: int, *, down: bool, exact: bool = False) -> None:
        import numpy as np

        self.np, self.chain, self.quantum, self.down, self.exact = np, chain, quantum, down, exact
        self.bounds = down or exact  # whether a table of these levels gives lower bounds
        self.length, self.top = chain.length, budget // quantum
        self.rest = budget % quantum if exact else 0
        self.sizes = np.array([chain.state_bytes(layer) for layer in range(self.length + 1)], np.int64)
        self.deltas = np.array([0, *(stage.delta_bytes for stage in chain.stages[:-1]), 0], np.int64)
        self.shifts = self._rounded(self.sizes)
        self.sums = np.array(list(accumulate((stage.forward for stage in chain.stages), initial=0)), np.float64)
        self.slack = self._slacks()
        # Bounds look segments up with the whole budget beside their first state, schedules never do.
        self.reach = self.top + (int(self.shifts.max()) + max(self.slack) if self.bounds else 0)
        self.leaves = self._leaf_needs()
        self._shift_sums = np.concatenate([[0], np.cumsum(self.shifts)])
        self._most_working = self._most_working_bytes()

    def working(self, sizes: "NDArray[Any]") -> "NDArray[Any]":
        """Return the level from which ops have so many bytes to work in."""
        levels: NDArray[Any] = self.np.maximum(self._rounded(sizes - self.rest), 0)
        return levels

    def enough(self, budget: int) -> int:
        """Return the level that has all of a budget: of sizes rounded down, or exact ones. Rounded up, the nearest."""
        return -(-(budget - self.rest) // self.quantum) if self.exact else budget // self.quantum

    def sweep_needs(self, i: int, count: int) -> "NDArray[Any]":
        """Return the bytes beside state i, without δ, of the sweeps from i to i+1, ..., i+count."""
        np, stages = self.np, self.chain.stages
        needs: NDArray[Any] = np.zeros(count, np.int64)
        if self.chain.in_hand_free:
            return needs
        scratch = [stages[i].forward_scratch, *(stage.advance_scratch for stage in stages[i + 1 : i + count])]
        widest = np.maximum.accumulate(self.sizes[i + 1 : i + count + 1])
        return widest + np.maximum.accumulate(np.array(scratch, np.int64))  # type: ignore[no-any-return]

    def below(self, k: int, j: int, level: int) -> int:
        """Return the level that is left for segment (k, j) when state k is kept."""
        return level if self.chain.in_hand_free and j == k + 1 else level - int(self.shifts[k])

    def cap_of(self, window: int) -> int:
        """Return the level from which on segments of up to `window` layers keep everything.

        It is at most the highest level at which segments are looked up.
        """
        width = min(window + 1, self.length + 1)
        stored = int((self._shift_sums[width:] - self._shift_sums[:-width]).max())
        return min(self.reach, stored + self._most_working // self.quantum + 1)

    def _rounded(self, sizes: "NDArray[Any]") -> "NDArray[Any]":
        """Return the levels that checkpoints of so many bytes occupy."""
        levels: NDArray[Any] = sizes // self.quantum if self.down else -(-sizes // self.quantum)
        return levels

    def _slacks(self) -> list[int]:
        """Return, for each end M of a segment, the most levels that a sweep may gain inside a longer segment.

        A sweep of segment (i, M) is charged for δ^(M), which lives beside it. As a part of a longer segment (i, k)
        the same sweep may run beside a smaller δ^(k), and then has more room than the bound of (i, M) allows for.
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

    def _most_working_bytes(self) -> int:
        """Return bytes that are enough for any op to work in."""
        working = int(self.leaves.max())
        if self.chain.in_hand_free:
            return working
        scratch = max(max(stage.forward_scratch, stage.advance_scratch) for stage in self.chain.stages)
        return max(working, int(self.sizes.max() + self.deltas.max()) + scratch)
