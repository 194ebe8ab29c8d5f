"""Dropout's random numbers, made again whenever they are wanted and never kept.

N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever, R. Salakhutdinov, "Dropout: A Simple Way to Prevent Neural
Networks from Overfitting", JMLR 15 (2014); here "inverted": what is kept is scaled by 1/(1 - rate) in training, so
that prediction drops and scales nothing.

The generator is counter-based: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel Random Numbers: As Easy
as 1, 2, 3" (SC 2011). Philox is keyed by seed and step, and its counter says layer, row of the batch and column.
So a number depends on what it is for and not on when or where it is drawn: recomputation and passes of fewer rows all
meet the same mask.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def philox_key(seed: int) -> int:
    """Return the first word of Philox's key for a seed; the second is the number of the step."""
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])


class Philox:
    """Random numbers that depend on a seed, a step, a layer, a row and a column.

    seed: of the run.
    step: number of the training step, from 1; set before a pass.
    start: the first row of the pass in its batch; set before a pass.
    """

    def __init__(self, seed: int) -> None:
        self.step = self.start = 0
        self._bits = np.random.Philox(0)
        self._numbers = np.random.Generator(self._bits)
        # The state is set by handing over this dictionary, whose arrays are changed in place.
        self._state = self._bits.state
        self._key, self._counter = self._state["state"]["key"], self._state["state"]["counter"]
        self._key[0] = philox_key(seed)

    def draw(self, layer: int, row: int, out: NDArray[np.floating[Any]]) -> None:
        """Fill `out`, (rows, padded width) and contiguous, with numbers of [0, 1) for rows `row`, ... of the pass."""
        per_row = out.shape[1] * out.itemsize // 32
        self._key[1] = self.step
        self._counter[:] = ((self.start + row) * per_row, layer, 0, 0)
        self._bits.state = self._state
        self._numbers.random(dtype=out.dtype, out=out)
