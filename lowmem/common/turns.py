"""`Turn`: an object with memory of its own works for one thread at a time, and refuses the others."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lowmem.errors import InputError

_Lock: type[threading._RLock] = type(threading.RLock())  # type: ignore[assignment, unused-ignore]


WAIT = 0.01
"""Seconds for which a turn is waited for before it is looked whether somebody works in it by now."""


class Turn(_Lock):  # type: ignore[misc, valid-type, unused-ignore]
    """A context in which an object works. Raises `InputError` on entering it while another thread is in it.

    what: the object and what it does, such as "this Backprop runs a step".
    advice: what to do instead, as a sentence.
    again: whether the thread that is in it may enter it again.

    It is a lock, and left as locks are, in one call that no Ctrl-C can come into: an `__exit__` in Python could be
    broken off before its first line, and the object would refuse to work for ever. A forked process begins anew:
    of its parent's threads only the one that forked is there.
    """

    def __init__(self, what: str, advice: str, *, again: bool = False) -> None:
        self._what, self._advice, self._again = what, advice, again
        self._process, self._looking = os.getpid(), threading.Lock()

    def __enter__(self) -> bool:  # type: ignore[override, unused-ignore]
        """Begin to work."""
        self._begin_anew()
        if self._is_owned() and not self._again:
            raise self._refused("at the moment, from which this call comes")
        try:
            taken = self.acquire(blocking=False)
            while not taken:
                looked_at = self._looking.locked()
                taken = self.acquire(timeout=WAIT) if looked_at else self.acquire(blocking=False)
                if not (taken or looked_at or self._looking.locked()):
                    break  # another thread works in it
        except BaseException:  # a Ctrl-C, which comes once the lock is taken or is not
            if self._is_owned():
                self.release()
            raise
        if not taken:
            raise self._refused("in another thread at the moment")
        return True

    @contextmanager
    def between(self) -> Iterator[None]:
        """Look at the object while nothing works in it: this waits for who does, and who then wants to waits for this.

        For a moment, as a copy takes.
        """
        self._begin_anew()
        with self._looking:
            self.acquire()
            try:
                yield
            finally:
                self.release()

    def _begin_anew(self) -> None:
        """In a forked process, forget the threads of its parent."""
        if self._process == os.getpid():
            return
        if not self._is_owned():  # else the thread that is in it has forked, as in a callback, and is here
            self._at_fork_reinit()
        self._process, self._looking = os.getpid(), threading.Lock()

    def check_outermost(self) -> None:
        """Refuse a thread that is in this context. Raises `InputError`."""
        if self._is_owned():
            raise InputError(
                f"{self._what} at the moment, and cannot begin anew within that, as in a callback. Do it afterwards."
            )

    def _refused(self, where: str) -> InputError:
        return InputError(f"{self._what} {where}. {self._advice}")
