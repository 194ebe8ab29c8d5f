"""`Progress`: a thread that keeps messages moving while a rank computes.

MPI libraries move a large message only while some thread of the process is inside one of their functions. A rank that
computes a layer for a tenth of a second calls none, so its messages would stand still and be waited for afterwards.
The thread asks every millisecond for what is in flight, and sleeps without end while nothing is.
"""

import threading
import time
from typing import Protocol

INTERVAL = 1e-3
"""Seconds between two questions. A network of 1 GB/s carries 1 MB meanwhile, which buffers of the system hold."""


class Moved(Protocol):
    """What is in flight, and moves on when it is asked."""

    def done(self) -> bool:
        """Say whether it is done, and move it on. May be called by several threads."""


class Progress:
    """The thread, which starts with the first message."""

    def __init__(self) -> None:
        self._flying: list[Moved] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._over = False

    def watch(self, request: Moved) -> None:
        """Ask for a request from time to time until it is done."""
        with self._changed:
            self._flying.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lowmem messages", daemon=True)
                self._thread.start()
            self._changed.notify()

    def stop(self) -> None:
        """End the thread, before MPI ends."""
        with self._changed:
            self._over = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._flying or self._over)
                if self._over:
                    return
                flying = [*self._flying]
            time.sleep(INTERVAL)
            done = [request for request in flying if request.done()]
            with self._changed:
                self._flying = [request for request in self._flying if request not in done]
