"""`Turn`: an object with memory of its own works for one thread at a time, and refuses the others."""

import os
import threading
from types import TracebackType

from lowmem.errors import InputError


class Turn:
    """A context in which an object works. Raises `InputError` on entering it while another thread is in it.

    what: the object and what it does, such as "this Backprop runs a step".
    advice: what to do instead, as a sentence.
    again: whether the thread that is in it may enter it again.

    A forked process begins anew: threads of its parent are not there.
    """

    def __init__(self, what: str, advice: str, *, again: bool = False) -> None:
        self._what, self._advice, self._again = what, advice, again
        self._renew()

    def _renew(self) -> None:
        self._process = os.getpid()
        self._lock = threading.RLock() if self._again else threading.Lock()
        self._entered = 0

    def __enter__(self) -> None:
        """Begin to work."""
        if self._process != os.getpid():
            self._renew()
        if not self._lock.acquire(blocking=False):
            raise InputError(f"{self._what} in another thread at the moment. {self._advice}")
        self._entered += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let others work."""
        self._entered -= 1
        self._lock.release()

    def check_outermost(self) -> None:
        """Refuse a thread in this context that was in it already. Raises `InputError`."""
        if self._entered > 1:
            raise InputError(
                f"{self._what} at the moment, and cannot begin anew within that, as in a callback. Do it afterwards."
            )
