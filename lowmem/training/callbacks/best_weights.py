"""The best weights of a run, kept beside those of its last step, so that a run ends with the former and can go on."""

from collections.abc import Generator
from contextlib import closing

import numpy as np

from lowmem.interchange.safetensors import checksum
from lowmem.nn.mlp import MLP, Array
from lowmem.planning.streamed import network_bytes

SWAPPED = 4096
"""Numbers that change places at a time: a small buffer is enough."""


class BestWeights:
    """Two networks, of which one has the best weights and one the last.

    mlp: the network that is trained, whose weights are the best so far. It has the last weights while steps are run,
        and the best ones after `show`. The other network is made here, on the disk if the first one is, and takes as
        many bytes of memory as `bytes_for` says.
    """

    def __init__(self, mlp: MLP) -> None:
        folder = None if mlp.paged is None else mlp.paged.folder
        self._mlp, self._aside = mlp, MLP.empty(mlp.architecture, folder)
        self._shown, self._code = False, 0
        self.keep()

    @staticmethod
    def bytes_for(mlp: MLP) -> int:
        """Return the bytes of a second network; on the disk, of the pieces of both that are in memory together."""
        return int(mlp.learned.nbytes) if mlp.paged is None else 2 * mlp.paged.sweep_bytes

    @staticmethod
    def file_bytes(mlp: MLP) -> int:
        """Return the bytes of the second network's file, 0 in memory."""
        return 0 if mlp.paged is None else network_bytes(mlp.architecture)

    @property
    def best(self) -> MLP:
        """The network that has the best weights."""
        return self._mlp if self._shown else self._aside

    @property
    def last(self) -> MLP:
        """The network that has the weights of the last step."""
        return self._aside if self._shown else self._mlp

    @property
    def overwritten(self) -> bool:
        """Whether the network that is trained was given its best weights and has others by now."""
        return self._shown and self._code != self._checksum()

    def _checksum(self) -> int:
        """Return a checksum of the weights of the network that is trained."""
        return checksum(lambda: [("", self._mlp.streamed(self._mlp.learned))])

    def keep(self) -> None:
        """Copy the weights of the network that is trained: they are the best so far."""
        with closing(self._pieces(overwritten=True)) as pieces:
            for ours, theirs in pieces:
                np.copyto(theirs, ours)

    def show(self, *, best: bool) -> None:
        """Give the network that is trained the best weights, or its last ones again."""
        if best == self._shown:
            return
        buffer = np.empty(min(SWAPPED, len(self._mlp.learned)), self._mlp.learned.dtype)
        with closing(self._pieces(overwritten=False)) as pieces:
            for ours, theirs in pieces:
                for start in range(0, len(ours), SWAPPED):
                    one, other = ours[start : start + SWAPPED], theirs[start : start + SWAPPED]
                    between = buffer[: len(one)]
                    np.copyto(between, one)
                    np.copyto(one, other)
                    np.copyto(other, between)
        self._shown, self._code = best, self._checksum() if best else 0

    def _pieces(self, *, overwritten: bool) -> Generator[tuple[Array, Array]]:
        """Yield the same pieces of both networks' weights; both may be written to.

        overwritten: what the other network's hold is of no use, and those of the network that is trained stay.
        """
        one, other = self._mlp.paged, self._aside.paged
        if one is None or other is None:
            yield self._mlp.learned, self._aside.learned
            return
        ours, theirs = one.pieces(changed=not overwritten), other.pieces(changed=True, fetched=not overwritten)
        with closing(ours), closing(theirs):
            yield from zip(ours, theirs, strict=True)
