"""Buffers of evaluation that are given back for a while, so that those of other data have their place."""

from collections.abc import Generator

from lowmem.data.samples import Batch, Batches, Samples
from lowmem.network.architecture import Architecture


class LentBatches:
    """Batches of validation data, whose buffers are made again where they were given back.

    rows: samples per batch. See `lowmem.data.samples.Batches` for the methods.
    """

    def __init__(self, samples: Samples, rows: int, architecture: Architecture) -> None:
        self._samples, self._rows, self._architecture = samples, rows, architecture
        self._made: Batches | None = samples.batches(rows, architecture, None)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, also while they are given back."""
        return self._samples.batch_bytes(self._rows, self._architecture, shuffled=False)

    def give_back(self) -> None:
        """Let the buffers go until the next epoch."""
        self._made = None

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self._samples) // self._rows)

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[Batch, None, None]:
        """See `Batches.epoch`."""
        if self._made is None:
            self._made = self._samples.batches(self._rows, self._architecture, None)
        return self._made.epoch(epoch, start=start)
