"""Where a run stands, which a saved run keeps."""

import math
from dataclasses import dataclass
from typing import Any

from lowmem.training.callbacks.patience import METRICS
from lowmem.training.saved_run_checks import MOST, exact

POSITION = {
    **dict.fromkeys(("epoch", "batch", "steps", "until", "samples", "skipped", "waited"), (int,)),
    **dict.fromkeys(("loss", "seconds"), (float,)),
    **dict.fromkeys(("best", "mark"), (float, type(None))),
    "metric": (str,),
    "best_epoch": (int,),
    "aside": (bool,),
}


@dataclass(slots=True)
class Position:
    """Where a run stands. Position and seed determine which samples come next.

    epoch: number of epochs done.
    batch: number of batches done in the epoch that was begun.
    steps: number of steps done in the whole run.
    until: number of epochs after which the run ends.
    loss: sum of the losses of the samples in the epoch that was begun.
    samples: number of these samples.
    skipped: steps without an update in the epoch that was begun.
    seconds: time of the steps in the epoch that was begun.
    best: the best value of an epoch so far, for early stopping; None if there is none, or its weights are lost.
    waited: number of epochs since the last improvement.
    metric: what best and mark are values of: "loss" or "accuracy".
    mark: the value of the last improvement, which the next one is measured from; None before the first.
    best_epoch: number of the epoch with the best value, counted from 1.
    aside: True in a file whose layers have the best weights, and which holds those of the last step beside them.
    """

    epoch: int = 0
    batch: int = 0
    steps: int = 0
    until: int = 0
    loss: float = 0.0
    samples: int = 0
    skipped: int = 0
    seconds: float = 0.0
    best: float | None = None
    waited: int = 0
    metric: str = "loss"
    mark: float | None = None
    best_epoch: int = 0
    aside: bool = False

    def forget(self) -> None:
        """Compare no epoch to come with those that were."""
        self.best, self.mark, self.waited, self.best_epoch = None, None, 0, 0

    def next_epoch(self) -> None:
        """Go on to the begin of the next epoch."""
        self.epoch += 1
        self.batch = self.samples = self.skipped = 0
        self.loss = self.seconds = 0.0


def position_of(given: object) -> dict[str, Any]:
    """Return the fields of a position. Raises `ValueError` for names, types and numbers that no run has."""
    if (
        isinstance(given, dict)
        and "metric" not in given
        and type(given.get("waited")) is type(given.get("epoch")) is int
    ):
        # Earlier versions knew the lowest loss and the epochs since.
        since = {"mark": given.get("best"), "best_epoch": given["epoch"] - given["waited"]}
        given = given | since | {"metric": "loss", "aside": False}
    exact("position", given, POSITION)
    assert isinstance(given, dict)
    numbers = [value for value in given.values() if type(value) is not bool and isinstance(value, int | float)]
    if not all(math.isfinite(value) for value in numbers):
        raise ValueError("its position has a number that is not finite")
    if not all(0 <= value < MOST for value in numbers if isinstance(value, int)):
        raise ValueError("its position has a number that is negative or too large")
    if given["metric"] not in METRICS:
        raise ValueError(f"its epochs are compared by {given['metric'][:60]!r}")
    return given
