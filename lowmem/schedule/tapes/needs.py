"""The bytes that every step of the recurrence needs, as the simulator counts them.

All are counted from the same line: what lives before state i was made. So state i itself is included, and so is what
has been reversed already (`ahead`).
"""

from itertools import accumulate
from typing import TYPE_CHECKING, Any

from lowmem.chain import Chain, Stage, Tape
from lowmem.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def tapes_of(chain: Chain) -> list[Tape]:
    """Return the tapes of a chain's stages. Raises `InputError` if it has none."""
    tapes = [stage.tape for stage in chain.stages if stage.tape is not None]
    if len(tapes) != chain.length:
        raise InputError("this planner is for chains whose stages have tapes (Chain.abstract(..., tape_bytes=[...])).")
    return tapes


def _alone(stage: Stage) -> float:
    """Return the cost of recording a stage whose output nobody needs."""
    assert stage.tape is not None  # tapes_of has seen that
    return stage.forward if stage.tape.alone_cost is None else stage.tape.alone_cost


class Needs:
    """Arrays for one chain; index l of an array is stage or state l, index 0 of one for stages is unused.

    states, tapes: bytes that stay. ahead[j]: bytes that live while stages up to j run again, and belong to what was
    reversed: gradients of parameters, the gradient with respect to state j, and what the caller holds; 0 for j = L.
    records, backwards: bytes of recording a stage, without what is ahead, and of reversing it.
    spared[l]: what recording stage l costs less where nobody needs its output; 0 for the last, as the loss needs it.
    """

    def __init__(self, chain: Chain) -> None:
        import numpy as np

        self.np, self.chain = np, chain
        stages, tapes = chain.stages, tapes_of(chain)
        self.states = np.array([chain.state_bytes(layer) for layer in range(chain.length + 1)], np.int64)
        self.tapes = np.array([0, *(tape.kept_bytes for tape in tapes)], np.int64)
        spared = [stage.forward - _alone(stage) for stage in stages]
        self.spared = np.array([0.0, *spared[:-1], 0.0])
        # A tape that counts less than nothing (abstract chains only) may lift a segment above the budget.
        self.lift = -int(self.tapes[self.tapes < 0].sum())
        if chain.in_hand_free:  # only that indices stay above zero counts
            self.ahead = self.records = self.backwards = self._forwards = np.zeros(chain.length + 1, np.int64)
            self.last = 0
            return
        deltas = np.array([0, *(stage.delta_bytes for stage in stages)], np.int64)
        came = accumulate((tape.gradient_bytes for tape in reversed(tapes)), initial=chain.caller_bytes)
        behind = np.array([*came][::-1], np.int64)  # what lives while stage l is reversed, of the stages behind it
        self.ahead = behind + deltas
        self.ahead[-1] = 0
        self.records = np.array([0, *(tape.record_bytes for tape in tapes)], np.int64)
        self.records[1:] += self.states[:-1]
        scratch = np.array([0, *(stage.backward_scratch for stage in stages)], np.int64)
        self.backwards = behind + deltas + self.tapes + scratch
        self._forwards = np.array([0, *(stage.forward_scratch for stage in stages)], np.int64)
        self._forwards += self.states
        self.last = int(self.tapes[-1] + self.states[-1]) + chain.loss_scratch

    def sweeps(self, i: int, stop: int) -> "NDArray[Any]":
        """Return the bytes of running from state i to k, for k = i+1..stop-1, without what is ahead."""
        np = self.np
        if self.chain.in_hand_free:
            return np.zeros(stop - i - 1, np.int64)
        sources = self.states[i : stop - 1] + 0
        sources[:1] = 0  # state i is counted once
        return self.states[i] + np.maximum.accumulate(sources + self._forwards[i + 1 : stop])

    def leaf(self, i: int) -> int:
        """Return the bytes of recording and reversing stage i+1, with nothing between."""
        need = max(int(self.records[i + 1] + self.ahead[i + 1]), int(self.backwards[i + 1]))
        return max(need, self.last) if i + 1 == self.chain.length else need

    def tape(self, i: int, j: "int | slice") -> Any:  # noqa: ANN401 - a number, or an array for a slice
        """Return the bytes of recording stage i+1 in the segment (i, j), and of reversing it at the end."""
        return self.np.maximum(self.records[i + 1] + self.ahead[j], self.backwards[i + 1])
