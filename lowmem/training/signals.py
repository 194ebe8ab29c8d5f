"""SIGTERM, SIGHUP and Ctrl-C during a run: they wait until the step is finished and saved."""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What is held where a run is saved. SIGHUP comes when a terminal is closed; Windows has none."""

INTERRUPT = (signal.SIGINT,)
"""What is held where a run is not saved: a step is finished, so that whoever catches Ctrl-C can save the run."""


class HeldSignals:
    """Holds signals back while steps are run.

    numbers: the signals to hold. Those that the process ignores are left alone. Signals belong to the main thread of a
        process: in other threads nothing is held.
    `noted` is the number of the signal that came in the last `held` block, None if none came.
    """

    def __init__(self, numbers: Iterable[int] = SIGNALS) -> None:
        self._numbers = tuple(numbers)
        self.noted: int | None = None
        self._earlier: dict[int, Any] = {}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Note a first signal instead of acting on it; a second one acts at once.

        After the block the handlers of before are back, and the noted signal is raised again to have its usual effect.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.noted = None
        heard = [number for number in self._numbers if signal.getsignal(number) is not signal.SIG_IGN]
        self._earlier = {number: signal.signal(number, self._note) for number in heard}
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
