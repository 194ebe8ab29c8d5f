"""The best weights of a run, kept beside those of its last step, so that a run ends with the former and can go on."""

import numpy as np

from lowmem.nn.mlp import MLP

SWAPPED = 4096
"""Numbers that change places at a time: a small buffer is enough."""


class BestWeights:
    """Two networks, of which one has the best weights and one the last.

    mlp: the network that is trained, whose weights are the best so far. It has the last weights while steps are run,
        and the best ones after `show`. The other network is made here, and takes as many bytes as `bytes_for` says.
    """

    def __init__(self, mlp: MLP) -> None:
        self._mlp, self._aside = mlp, MLP.empty(mlp.architecture)
        self._shown = False
        self.keep()

    @staticmethod
    def bytes_for(mlp: MLP) -> int:
        """Return the bytes of a second network."""
        return int(mlp.learned.nbytes)

    @property
    def best(self) -> MLP:
        """The network that has the best weights."""
        return self._mlp if self._shown else self._aside

    @property
    def last(self) -> MLP:
        """The network that has the weights of the last step."""
        return self._aside if self._shown else self._mlp

    def keep(self) -> None:
        """Copy the weights of the network that is trained: they are the best so far."""
        np.copyto(self._aside.learned, self._mlp.learned)

    def show(self, *, best: bool) -> None:
        """Give the network that is trained the best weights, or its last ones again."""
        if best == self._shown:
            return
        ours, theirs = self._mlp.learned, self._aside.learned
        buffer = np.empty(min(SWAPPED, len(ours)), ours.dtype)
        for start in range(0, len(ours), SWAPPED):
            one, other = ours[start : start + SWAPPED], theirs[start : start + SWAPPED]
            between = buffer[: len(one)]
            np.copyto(between, one)
            np.copyto(one, other)
            np.copyto(other, between)
        self._shown = best
