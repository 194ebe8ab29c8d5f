"""The bytes that every step of the recurrence needs, as the simulator counts them.

All are counted from the same line: what lives before state i was made. So state i itself is included, and so is what
has been reversed already (`TapeChain.ahead`).
"""

from typing import TYPE_CHECKING, Any

from lowmem.schedule.tapes.chain import TapeChain

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Needs:
    """Arrays for one chain; index l of an array is stage or state l, index 0 of one for stages is unused."""

    def __init__(self, chain: TapeChain) -> None:
        import numpy as np

        self.np, self.chain = np, chain
        stages = chain.stages
        self.states = np.array(chain.state_bytes, np.int64)
        self.tapes = np.array([0, *(stage.tape_bytes for stage in stages)], np.int64)
        self.ahead = np.array(chain.ahead, np.int64)
        # A tape that counts less than nothing (abstract chains only) may lift a segment above the budget.
        self.lift = -int(self.tapes[self.tapes < 0].sum())
        if chain.in_hand_free:  # only that indices stay above zero counts
            self.ahead = self.records = self.backwards = self.reach = np.zeros(chain.length + 1, np.int64)
            self.last = 0
            return
        self.records = np.array([0, *(stage.record_peak for stage in stages)], np.int64)
        self.records[1:] += self.states[:-1]
        self.backwards = np.array([0, *(stage.backward_peak for stage in stages)], np.int64)
        self.backwards += np.array(chain.behind, np.int64)
        self.reach = np.array([0, *(stage.forward_peak for stage in stages)], np.int64)
        self.last = int(self.tapes[-1] + self.states[-1]) + chain.loss_peak

    def sweeps(self, i: int, stop: int) -> "NDArray[Any]":
        """Return the bytes of running from state i to k, for k = i+1..stop-1, without what is ahead."""
        np = self.np
        if self.chain.in_hand_free:
            return np.zeros(stop - i - 1, np.int64)
        sources = self.states[i : stop - 1] + 0
        sources[:1] = 0  # state i is counted once
        return self.states[i] + np.maximum.accumulate(sources + self.reach[i + 1 : stop])

    def leaf(self, i: int) -> int:
        """Return the bytes of recording and reversing stage i+1, with nothing between."""
        need = max(int(self.records[i + 1] + self.ahead[i + 1]), int(self.backwards[i + 1]))
        return max(need, self.last) if i + 1 == self.chain.length else need

    def tape(self, i: int, j: "int | slice") -> Any:  # noqa: ANN401 - a number, or an array for a slice
        """Return the bytes of recording stage i+1 in the segment (i, j), and of reversing it at the end."""
        return self.np.maximum(self.records[i + 1] + self.ahead[j], self.backwards[i + 1])
