"""Saves of a run: every so many steps or seconds, or after each epoch, and when a signal ends the run."""

import re
import warnings
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from lowmem.common.checks import is_digits, positive
from lowmem.errors import InputError, SaveError, shown
from lowmem.training.callbacks.base import Callback

if TYPE_CHECKING:
    from lowmem.training.loop import Epoch, Loop

_SPAN = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?)\s*(s|min|h)\s*")
_SECONDS = {"s": 1, "min": 60, "h": 3600}


class Saves(Callback):
    """Saves a run when a save is due, after the last epoch, and when a signal ends the run.

    save: saves the run, or raises `SaveError`.
    every: how often, as `read_interval` takes it.

    A save that fails becomes a warning, and training goes on. `problem` is the error of the last save, None if that
    save succeeded; it is raised at the end of the run.
    """

    def __init__(self, save: Callable[[], None], every: int | str | None = None) -> None:
        self._save = save
        self.every_steps, self.every_seconds = read_interval(every)
        self.problem: SaveError | None = None
        self._steps, self._saved_at = 0, monotonic()

    def on_begin(self, loop: "Loop") -> None:
        """Let the loop ask whether the time for a save has come."""
        loop.save_due = self._is_time

    def _is_time(self) -> bool:
        """Say whether the seconds since the last save are enough."""
        return self.every_seconds is not None and monotonic() - self._saved_at >= self.every_seconds

    def on_step(self, loop: "Loop") -> None:
        """Save if the steps or seconds since the last save are enough."""
        self._steps += 1
        if loop.due or (self.every_steps is not None and self._steps >= self.every_steps):
            self.save()

    def on_epoch(self, loop: "Loop", epoch: "Epoch") -> None:
        """Save after the last epoch, and after each one unless steps or seconds are counted."""
        last = loop.at.epoch >= loop.at.until
        if last or (self.every_steps is None and self.every_seconds is None):
            self.save()

    def on_stop(self, loop: "Loop", signal: int) -> None:
        """Save the step that the signal came in."""
        self.save()

    def on_end(self, loop: "Loop") -> None:
        """Raise the error of the last save if it failed: the run is not on the disk."""
        if self.problem is not None:
            raise self.problem

    def save(self) -> None:
        """Save now; warn if that fails."""
        self._steps, self._saved_at = 0, monotonic()
        try:
            self._save()
            self.problem = None
        except SaveError as problem:
            self.problem = problem
            warnings.warn(f"{problem} Training goes on.", RuntimeWarning, stacklevel=4)


def read_interval(every: int | str | None) -> tuple[int | None, float | None]:
    """Return how many steps, and how many seconds, lie between two saves; both are None for a save after each epoch.

    every: a number of steps (100 or "100"), a time ("30s", "10min", "1h"), or None.
    Raises `InputError` for anything else.
    """
    if every is None:
        return None, None
    steps: int | str = every
    if isinstance(every, str):
        match = _SPAN.fullmatch(every)
        if match and float(match[1]) > 0:
            return None, float(match[1]) * _SECONDS[match[2]]
        steps = int(every) if is_digits(every.strip()) else every
    try:
        return positive("save_every", steps), None
    except InputError:
        raise InputError(
            f'save_every={shown(every)} is neither a number of steps, such as 100, nor a time, such as "30s".'
        ) from None
