"""The lanes of an engine: a pool of threads in the compiled library that lives as long as the object."""

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from lowmem.common.turns import Turn
from lowmem.runtime.blas_threads import at_most
from lowmem.runtime.engines.native.library import Library


class Pool:
    """Threads for `lanes` lanes, of which the caller's is the first; none for one lane. BLAS is held to one meanwhile.

    A pool belongs to one process: in a forked child, where only the calling thread lives on, it is started anew.
    """

    def __init__(self, library: Library, lanes: int) -> None:
        self._library, self._lanes = library, lanes
        self._process = 0
        self._end: weakref.finalize | None = None  # type: ignore[type-arg]
        self._address: int | None = None
        self._turn = Turn("this object runs a step", "Its memory is there only once: make one for each thread.")

    @contextmanager
    def running(self) -> Iterator[int | None]:
        """Give the pool's address for one run, which no other may use meanwhile."""
        with self._turn, at_most(1):
            if self._lanes > 1 and self._process != os.getpid():
                self._start()
            yield self._address

    def _start(self) -> None:
        if self._end is not None:
            self._end.detach()  # of the parent process, whose threads are not here
        self._address = self._library.functions.lm_pool_new(self._lanes)
        if not self._address:
            raise MemoryError(f"the system gives no {self._lanes} threads; ask for fewer with threads=1")
        self._process = os.getpid()
        self._end = weakref.finalize(self, _end, self._library, self._address, self._process)
        self._end.atexit = False  # the process ends its threads itself


def _end(library: Library, address: int, process: int) -> None:
    """End a pool in the process that started it."""
    if os.getpid() == process:
        library.functions.lm_pool_end(address)
