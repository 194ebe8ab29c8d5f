"""How many threads BLAS uses, and who uses it, decided in one place.

BLAS's threads wait for each other by spinning. Where products are small, one thread is as fast on a quiet machine and
many times as fast on a busy one.

OpenBLAS ends its threads before a fork and waits for them. Where another thread hands them a product in that moment,
they never end, and the fork, which holds Python's lock, hangs for ever. So a fork waits here until no other thread
computes.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from math import ceil
from threading import Condition, RLock, get_ident
from weakref import ref

from lowmem.common.cores import core_quota
from lowmem.planning.engines.lane_count import small
from lowmem.planning.plan import Plan
from lowmem.runtime.blas import numpy_blas


def threads_of(plan: Plan) -> AbstractContextManager[None]:
    """Return what holds BLAS to the threads that a plan gives it, while its passes run.

    That is one where the products of a pass are too small for several; else `plan.threads` or, where that is None, as
    many as BLAS has.
    """
    return at_most(1 if small(plan.architecture, plan.micro_batch) else plan.threads)


FORK_WAIT = 30.0
"""Seconds after which a fork no longer waits for other threads that compute one step after the other."""

_lock = RLock()
"""Entered as it is, and not by way of `_changed`, whose `__enter__` in Python a Ctrl-C could break off while it holds
the lock."""
_changed = Condition(_lock)
_held: list[ref["_Use"]] = []
_forks = 0
_before = 0


class _Use:
    """That a thread holds BLAS to so many threads.

    Only the frame that does it has the use itself. So it ends with the frame, even if a Ctrl-C comes between.
    """

    def __init__(self, limit: int | None) -> None:
        self.thread, self.limit = get_ident(), limit


@contextmanager
def at_most(limit: int | None) -> Iterator[None]:
    """Hold BLAS to so many threads meanwhile; when nobody needs that any more, it has as many as before.

    limit: None for as many as there are.

    BLAS counts threads for the whole process. Where several threads of Python hold it, the least of their limits
    holds. Nothing is done where NumPy's BLAS has functions of unknown names.
    """
    use = _Use(limit)
    try:
        _hold(use)
        yield
    finally:
        _release(use)


def _hold(use: _Use) -> None:
    """Hold BLAS to the limit of a use."""
    global _before
    with _lock:
        while _forks and not _uses():  # where others compute, this thread may be a part of what they wait for
            _changed.wait()
        if not _uses() and _BLAS is not None:
            if _held:  # uses that were broken off, which have let nobody know
                _held.clear()
                _apply()
            _before = _BLAS.threads()
        _held.append(ref(use))
        _apply()


def _release(use: _Use) -> None:
    """Let go of a use."""
    with _lock:
        _held[:] = [other for other in _held if other() not in (None, use)]
        _apply()
        _changed.notify_all()


def _uses() -> list[_Use]:
    """Return the uses that go on."""
    return [use for other in _held if (use := other()) is not None]


def _apply() -> None:
    """Give BLAS the least of the limits that are held, and never more than it had before them or is granted."""
    if _BLAS is not None:
        limits = [use.limit or _GRANTED for use in _uses()]
        _BLAS.use_threads(min([_before, *(limit for limit in limits if limit is not None)]))


def _wait_for_others() -> None:
    """Before a fork: wait until no other thread computes, and let none begin."""
    global _forks
    _lock.acquire()
    _forks += 1
    own = get_ident()
    _changed.wait_for(lambda: all(use.thread == own for use in _uses()), FORK_WAIT)


def _go_on() -> None:
    """After a fork, in the process that forked."""
    global _forks
    _forks -= 1
    _changed.notify_all()
    _lock.release()


def _forget() -> None:
    """In a forked child: nobody holds BLAS, as only the forking thread lives on, and that one begins anew."""
    global _lock, _changed, _forks
    _lock, _forks = RLock(), 0
    _changed = Condition(_lock)
    if _held:
        _held.clear()
        _apply()


_QUOTA = core_quota()
_GRANTED = None if _QUOTA is None else max(ceil(_QUOTA), 1)
"""Threads for whose time the cgroup's quota is enough, which BLAS does not look at; None for no quota."""

_BLAS = numpy_blas()
"""NumPy's BLAS, which is loaded by now. Looked for here, as that takes memory that is no step's."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait_for_others, after_in_parent=_go_on, after_in_child=_forget)
