"""Progress: a function of the caller's hears how far the epoch is."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from lowmem.training.callbacks.base import Callback

if TYPE_CHECKING:
    from lowmem.training.loop import Loop


class Progress(Callback):
    """Calls a function after each step.

    tell: takes the number of batches done in this epoch, and the number of batches of an epoch.
    """

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self._tell = tell

    def on_step(self, loop: "Loop") -> None:
        """Tell how far the epoch is."""
        self._tell(loop.at.batch, len(loop.train))
