"""Early stopping: a run ends once it no longer improves, and then has the weights of its best epoch."""

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Literal

from lowmem.common.checks import number, one_of, positive
from lowmem.errors import InputError
from lowmem.training.callbacks.base import Callback
from lowmem.training.callbacks.best_weights import BestWeights

if TYPE_CHECKING:
    from lowmem.training.loop import Epoch, Loop

METRICS = ("loss", "accuracy")
"""What epochs are compared by."""

Metric = Literal["loss", "accuracy"]


@dataclass(frozen=True, slots=True)
class Stopping:
    """When a run ends early.

    epochs: in a row without an improvement, after which it ends; None never ends a run.
    metric: "loss", of the validation data or, where there are none, of the training data; or "accuracy", of the
        validation data.
    least: the improvement that an epoch needs to count as one, in units of the loss, or as a share from 0 to 1.

    Raises `InputError` for other values.
    """

    epochs: int | None = None
    metric: Metric = "loss"
    least: float = 0.0

    def __post_init__(self) -> None:
        """Check every value, and keep Python's numbers in place of NumPy's."""
        if self.epochs is not None:
            object.__setattr__(self, "epochs", positive("patience", self.epochs))
        one_of("patience_metric", self.metric, METRICS)
        object.__setattr__(self, "least", number("min_improvement", self.least))
        if self.epochs is None and (self.metric != "loss" or self.least):
            name = "min_improvement" if self.metric == "loss" else "patience_metric"
            raise InputError(f"{name} goes with patience=N, the epochs to wait for it; give that too.")

    def check_data(self, *, validated: bool, labels: bool) -> None:
        """Refuse an accuracy that nobody measures, without validation data or labels as targets."""
        if self.metric == "accuracy" and not (validated and labels):
            lack = "a loss of labels, such as cross_entropy" if validated else "validation data"
            raise InputError(f'patience_metric="accuracy" needs {lack}; give that, or leave patience_metric out.')

    def measured(self, epoch: "Epoch") -> float:
        """Return the number that an epoch is compared by, NaN if there is none."""
        if self.metric == "accuracy":
            return float("nan") if epoch.accuracy is None else epoch.accuracy
        return epoch.loss if epoch.validation_loss is None else epoch.validation_loss

    def gain(self, value: float, than: float) -> float:
        """Return by how much a value is better than another one."""
        return value - than if self.metric == "accuracy" else than - value


class Patience(Callback):
    """Counts epochs without an improvement, ends a run by them, and keeps the best weights.

    stopping: when the run ends early. What is counted is saved with the run, which may be resumed with patience.
    weights: where the best weights are kept; None keeps none.

    The best weights are those of the epoch with the best value, however small its gain; an epoch counts as an
    improvement if it gains more than `stopping.least` on the last one that did.
    """

    def __init__(self, stopping: Stopping, weights: BestWeights | None) -> None:
        self.stopping, self.weights = stopping, weights
        self.best: Epoch | None = None
        """The best epoch, if it was trained here and not before the run was resumed."""

    def on_epoch(self, loop: "Loop", epoch: "Epoch") -> None:
        """Compare the epoch with the best so far."""
        at, stopping = loop.at, self.stopping
        value = stopping.measured(epoch)
        if isfinite(value) and (at.best is None or stopping.gain(value, at.best) > 0):
            at.best, at.best_epoch, self.best = value, epoch.number, epoch
            if self.weights is not None:
                self.weights.keep()
        if isfinite(value) and (at.mark is None or stopping.gain(value, at.mark) > stopping.least):
            at.mark, at.waited = value, 0
        else:
            at.waited += 1
        if stopping.epochs is not None and at.waited >= stopping.epochs:
            at.until = at.epoch
        if self.weights is not None and at.best is not None and at.epoch >= at.until:
            self.weights.show(best=True)
