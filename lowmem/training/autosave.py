"""When a run is saved: every so many steps or seconds, after each epoch, and when the process is asked to end."""

import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import Any

from lowmem.common.checks import as_whole
from lowmem.errors import InputError, SaveError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SPAN = re.compile(r"\s*(\d+(?:\.\d*)?)\s*(s|min|h)\s*")
_SECONDS = {"s": 1, "min": 60, "h": 3600}


class Autosave:
    """Saves a run when it is due.

    save: does it, and raises `SaveError` if it cannot; None never saves. every: steps (an int) or time ("30s",
    "10min", "1h"); None is once an epoch.

    A save that fails is a warning, and training goes on; `problem` is that of the last one, None if it succeeded.
    `last` says where the last good one is.
    """

    def __init__(
        self, save: Callable[[], None] | None, every: int | str | None = None, last: str | None = None
    ) -> None:
        self._save, self.last = save, last
        self.every_steps, self.every_seconds = _interval(every)
        self.problem: SaveError | None = None
        self.stopped_by: int | None = None
        self._steps, self._saved_at = 0, monotonic()
        self._earlier: dict[int, Any] = {}

    def step_done(self) -> None:
        """Save if it is time after this step."""
        self._steps += 1
        due = self.every_steps is not None and self._steps >= self.every_steps
        if due or (self.every_seconds is not None and monotonic() - self._saved_at >= self.every_seconds):
            self.save()

    def epoch_done(self, *, last: bool) -> None:
        """Save after an epoch, if that is when; after the last one in any case."""
        if last or (self.every_steps is None and self.every_seconds is None):
            self.save()

    def save(self) -> None:
        """Save now; warn if that fails."""
        if self._save is None:
            return
        self._steps, self._saved_at = 0, monotonic()
        try:
            self._save()
            self.problem = None
        except SaveError as problem:
            self.problem = problem
            warnings.warn(f"{problem} Training goes on.", RuntimeWarning, stacklevel=4)

    @contextmanager
    def holding_signals(self) -> Iterator[None]:
        """Only note SIGTERM and Ctrl-C inside, so that a step is finished and saved; a second one acts at once.

        On leaving, the handlers are those of before, and what was noted is sent again, to have its usual effect.
        Signals belong to the main thread: elsewhere, and where nothing is saved, nothing changes.
        """
        if self._save is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        self.stopped_by = None
        self._earlier = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            self._restore()
        if self.stopped_by is not None:
            signal.raise_signal(self.stopped_by)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stopped_by = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._earlier = {}


def _interval(every: int | str | None) -> tuple[int | None, float | None]:
    """Read an interval: in steps, or in seconds."""
    if every is None:
        return None, None
    if isinstance(every, str):
        match = _SPAN.fullmatch(every)
        if match and float(match[1]) > 0:
            return None, float(match[1]) * _SECONDS[match[2]]
        if every.strip().isdecimal():
            every = int(every)
    steps = as_whole(every)
    if steps is None or steps < 1:
        raise InputError(f'save_every={every!r} is neither a number of steps, such as 100, nor a time, such as "30s".')
    return steps, None
