"""Early stopping: a run ends once its loss has stopped falling."""

from typing import TYPE_CHECKING

from lowmem.training.callbacks.base import Callback

if TYPE_CHECKING:
    from lowmem.training.loop import Epoch, Loop


class Patience(Callback):
    """Ends a run after some epochs in a row whose loss was not the lowest so far.

    epochs: how many such epochs; None never ends a run. The lowest loss and the epochs since are counted in any case:
    they are saved with the run, which may be resumed with patience.
    The loss is that of the validation data, or of the training data where there is no validation.
    """

    def __init__(self, epochs: int | None) -> None:
        self.epochs = epochs

    def on_epoch(self, loop: "Loop", epoch: "Epoch") -> None:
        """Compare the loss with the lowest so far."""
        at = loop.at
        loss = epoch.loss if epoch.validation_loss is None else epoch.validation_loss
        if at.best is None or loss < at.best:
            at.best, at.waited = loss, 0
        else:
            at.waited += 1
        if self.epochs is not None and at.waited >= self.epochs:
            at.until = at.epoch
