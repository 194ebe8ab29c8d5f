"""SIGTERM and Ctrl-C during a run: they wait until the step is finished and saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class HeldSignals:
    """Holds signals back while steps are run.

    active: False leaves signals alone, for runs that are not saved. Signals belong to the main thread of a process: in
    other threads nothing is held either.
    `noted` is the number of the signal that came in the last `held` block, None if none came.
    """

    def __init__(self, *, active: bool) -> None:
        self._active = active
        self.noted: int | None = None
        self._earlier: dict[int, Any] = {}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Note a first signal instead of acting on it; a second one acts at once.

        After the block the handlers of before are back, and the noted signal is raised again to have its usual effect.
        """
        if not self._active or threading.current_thread() is not threading.main_thread():
            yield
            return
        self.noted = None
        self._earlier = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            self._restore()
        if self.noted is not None:
            signal.raise_signal(self.noted)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._earlier = {}
