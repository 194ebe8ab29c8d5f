"""Batches that tell how many of them are done."""

from collections.abc import Callable, Generator
from contextlib import closing

from lowmem.data.samples import Batch, Batches


class Counted(Batches):
    """Batches whose number is told as they are done."""

    def __init__(self, batches: Batches, tell: Callable[[int], None]) -> None:
        self._batches, self._tell = batches, tell

    @property
    def nbytes(self) -> int:
        """Bytes of every array owned here."""
        return self._batches.nbytes

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self._batches)

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of one epoch; one is done when the next is asked for, or no more are."""
        with closing(self._batches.epoch(epoch, start=start)) as batches:
            for done, batch in enumerate(batches, start=start + 1):
                try:
                    yield batch
                finally:
                    self._tell(done)
