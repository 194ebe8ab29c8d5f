"""Lanes: threads that each carry a part of a batch's rows through a step, while BLAS keeps to one thread.

NumPy's elementwise calls use one core, its products all; lanes use all cores for both, and a tile stays in its core's
cache. Lanes meet where one needs what another has made. The pool is started at the first run and ends with its object.
"""

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from queue import SimpleQueue
from typing import Any

import numpy as np  # noqa: F401 - brings BLAS
from threadpoolctl import ThreadpoolController

Task = Callable[[int], None]
Work = SimpleQueue[Task | None]
Done = SimpleQueue[tuple[int, BaseException | None]]


class Lanes:
    """A pool of `count` lanes, of which the first is the thread that calls `run`.

    small: the products are too small for BLAS to share one among threads, so it keeps to one with a single lane too.
    """

    def __init__(self, count: int, *, small: bool = False) -> None:
        self.count, self.small = count, small
        self._barrier = threading.Barrier(count)
        self._process = 0
        self._work: list[Work] = []
        self._done: Done = SimpleQueue()

    def wait(self) -> None:
        """Wait in a lane until all lanes are here. Raises `threading.BrokenBarrierError` if one has failed."""
        self._barrier.wait()

    def run(self, task: Task) -> None:
        """Run task(0), task(1), ... each in its lane, and return when all are done.

        If lanes fail, the error of one of them is raised, once; the pool is as good as new.
        """
        if self.count == 1:
            with one_blas_thread() if self.small else nullcontext():
                task(0)
            return
        if self._process != os.getpid():
            self._start()  # the first time, or in a forked child, where no thread but this one lives
        with one_blas_thread():
            for work in self._work:
                work.put(task)
            try:
                errors = {0: self._attempt(task)} | dict(self._done.get() for _ in self._work)
            except BaseException:  # an interrupt while the other lanes finish: what they still say is nobody's
                self._barrier.abort()
                _end(self._work)
                self._process = 0  # the next run starts other threads
                raise
        failed = [error for _, error in sorted(errors.items()) if error is not None]
        if failed:
            self._barrier.reset()
            raise next((e for e in failed if not isinstance(e, threading.BrokenBarrierError)), failed[0])

    def _attempt(self, task: Task) -> BaseException | None:
        """Run the first lane's part here; let the others know if it fails."""
        try:
            task(0)
        except BaseException as error:  # an interrupt, too, must wait for the other lanes before it goes on
            self._barrier.abort()
            return error
        return None

    def _start(self) -> None:
        """Start a thread for each lane but the first."""
        self._process = os.getpid()
        self._barrier, self._done = threading.Barrier(self.count), SimpleQueue()
        self._work = [SimpleQueue() for _ in range(self.count - 1)]
        for lane, work in enumerate(self._work, start=1):
            # The thread knows its queues and not the pool, so that the pool's end can be its own.
            threading.Thread(
                target=_serve, args=(lane, work, self._done, self._barrier), name=f"lowmem-{lane}", daemon=True
            ).start()
        weakref.finalize(self, _end, self._work)


def _serve(lane: int, work: Work, done: Done, barrier: threading.Barrier) -> None:
    """Be a lane: carry out tasks until there are no more."""
    while (task := work.get()) is not None:
        try:
            task(lane)
        except BaseException as error:  # goes to the thread that called `run`
            barrier.abort()
            done.put((lane, error))
        else:
            done.put((lane, None))
        del task  # it holds its caller


def _end(queues: list[Work]) -> None:
    """Tell threads to end."""
    for work in queues:
        work.put(None)


_CONTROLLER = ThreadpoolController()
"""Of NumPy's BLAS, which is loaded by now. Made here, as looking for it takes memory that is no step's."""

_limit_lock = threading.Lock()
_limited = 0
_limiter: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread meanwhile; when nobody needs that any more, it has as many as before."""
    global _limited, _limiter
    with _limit_lock:
        if not _limited:
            _limiter = _CONTROLLER.limit(limits=1, user_api="blas")
        _limited += 1
    try:
        yield
    finally:
        with _limit_lock:
            _limited -= 1
            if not _limited:
                _limiter.restore_original_limits()
