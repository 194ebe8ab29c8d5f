"""`Turn`: an object with memory of its own works for one thread at a time, and refuses the others."""

import os
import threading

from lowmem.errors import InputError

_Lock: type[threading._RLock] = type(threading.RLock())  # type: ignore[assignment, unused-ignore]


class Turn(_Lock):  # type: ignore[misc, valid-type, unused-ignore]
    """A context in which an object works. Raises `InputError` on entering it while another thread is in it.

    what: the object and what it does, such as "this Backprop runs a step".
    advice: what to do instead, as a sentence.
    again: whether the thread that is in it may enter it again.

    It is a lock, and left as locks are, in one call that no Ctrl-C can come into: an `__exit__` in Python could be
    broken off before its first line, and the object would refuse to work for ever. A forked process begins anew:
    threads of its parent are not there.
    """

    def __init__(self, what: str, advice: str, *, again: bool = False) -> None:
        self._what, self._advice, self._again = what, advice, again
        self._process = os.getpid()

    def __enter__(self) -> bool:  # type: ignore[override, unused-ignore]
        """Begin to work."""
        if self._process != os.getpid():
            self._at_fork_reinit()
            self._process = os.getpid()
        if self._is_owned() and not self._again:
            raise self._refused("at the moment, from which this call comes")
        try:
            taken = self.acquire(blocking=False)
        except BaseException:  # a Ctrl-C, which comes once the lock is taken or is not
            if self._is_owned():
                self.release()
            raise
        if not taken:
            raise self._refused("in another thread at the moment")
        return True

    def check_outermost(self) -> None:
        """Refuse a thread that is in this context. Raises `InputError`."""
        if self._process == os.getpid() and self._is_owned():
            raise InputError(
                f"{self._what} at the moment, and cannot begin anew within that, as in a callback. Do it afterwards."
            )

    def _refused(self, where: str) -> InputError:
        return InputError(f"{self._what} {where}. {self._advice}")
