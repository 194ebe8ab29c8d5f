"""Transfers between memory and a file, and the threads that carry them out, one for each direction.

A thread is there only while there is something to move and for a moment after.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from time import perf_counter, sleep

from lowmem.common.disk.conditions import Conditions, conditions

IDLE = 0.5
"""Seconds after which a thread without work ends."""


@dataclass(slots=True, eq=False)
class Transfer:
    """Bytes on their way.

    move: carries the transfer out. size: bytes, 0 if memory is let go and nothing is moved.
    after: the transfer that must end first, if any.
    error: what went wrong, once it is done.
    """

    move: Callable[[], None]
    size: int
    after: "Transfer | None" = None
    done: bool = False
    error: Exception | None = None


@dataclass(slots=True)
class Traffic:
    """Bytes that were moved, and the seconds that somebody waited for it."""

    written: int = 0
    read: int = 0
    waited: float = 0.0


class Direction:
    """A queue of transfers, and the thread that carries them out while there are any.

    lock: guards all transfers. ended: is notified when one ends, and has that lock. That one begins, only the thread
    hears that carries it out: each thread that wakes takes a core from the lanes of a step for a moment.
    """

    def __init__(self, lock: threading.RLock, ended: threading.Condition, gate: "Gate", name: str) -> None:
        self._ended, self._gate, self._name = ended, gate, name
        self._begun = threading.Condition(lock)
        self._queue: deque[Transfer] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, transfer: Transfer) -> None:
        """Begin a transfer. The caller holds the lock."""
        self._queue.append(transfer)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._begun.notify()

    def close(self) -> None:
        """Let the thread end once its queue is empty."""
        with self._begun:
            self._closed = True
            self._begun.notify()

    def _work(self) -> None:
        """Carry out transfers until none has come for a moment."""
        while True:
            with self._begun:
                if not self._queue and not self._closed:
                    self._begun.wait_for(lambda: self._queue or self._closed, IDLE)
                if not self._queue:
                    self._thread = None
                    return
                transfer = self._queue[0]
                while transfer.after is not None and not transfer.after.done:
                    self._ended.wait()
            error = self._gate.pass_through(transfer)
            with self._ended:
                transfer.error, transfer.done = error, True
                transfer.move, transfer.after = _nothing, None
                self._queue.popleft()
                self._ended.notify_all()


class Gate:
    """Carries out transfers as the conditions of a test say: slowly, or with an error. All directions share one."""

    def __init__(self) -> None:
        self._conditions: Conditions = conditions()
        self._numbers: Iterator[int] = count(1)

    def pass_through(self, transfer: Transfer) -> Exception | None:
        """Return the error that came up, None if it went well."""
        began = perf_counter()
        try:
            if transfer.size and next(self._numbers) == self._conditions.fail:
                raise OSError(5, os.strerror(5))
            transfer.move()
        except Exception as error:  # whatever it is, the step must hear of it: nobody else does
            return error
        if self._conditions.throttle is not None:
            sleep(max(began + transfer.size / self._conditions.throttle - perf_counter(), 0))
        return None


def _nothing() -> None:
    """Stand in for the move of a transfer that is done, so that its memory is let go."""
