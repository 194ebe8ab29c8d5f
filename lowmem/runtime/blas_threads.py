"""How many threads BLAS uses, decided in one place.

BLAS's threads wait for each other by spinning. Where products are small, one thread is as fast on a quiet machine and
many times as fast on a busy one.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from lowmem.planning.engines.lane_count import small
from lowmem.planning.plan import Plan
from lowmem.runtime.blas import numpy_blas


def threads_of(plan: Plan) -> AbstractContextManager[None]:
    """Return what holds BLAS to the threads that a plan gives it, while its passes run.

    That is one where the products of a pass are too small for several; else `plan.threads` or, where that is None, as
    many as BLAS has.
    """
    limit = 1 if small(plan.architecture, plan.micro_batch) else plan.threads
    return nullcontext() if limit is None else at_most(limit)


_lock = threading.Lock()
_limits: list[int] = []
_before = 0


@contextmanager
def at_most(limit: int) -> Iterator[None]:
    """Hold BLAS to so many threads meanwhile; when nobody needs that any more, it has as many as before.

    BLAS counts threads for the whole process. Where several threads of Python hold it, the least of their limits
    holds. Nothing is done where NumPy's BLAS has functions of unknown names.
    """
    hold(limit)
    try:
        yield
    finally:
        release(limit)


def hold(limit: int) -> None:
    """Hold BLAS to so many threads until `release` is called with the same limit."""
    global _before
    with _lock:
        if not _limits and _BLAS is not None:
            _before = _BLAS.threads()
        _limits.append(limit)
        _apply()


def release(limit: int) -> None:
    """Undo one `hold` of this limit."""
    with _lock:
        _limits.remove(limit)
        _apply()


def _apply() -> None:
    """Give BLAS the least of the limits that are held, and never more than it had before them."""
    if _BLAS is not None:
        _BLAS.use_threads(min([_before, *_limits]))


def _forget() -> None:
    """In a forked child: nobody holds BLAS, as only the forking thread lives on, and that one is in no step."""
    global _lock
    _lock = threading.Lock()
    if _limits:
        _limits.clear()
        _apply()


_BLAS = numpy_blas()
"""NumPy's BLAS, which is loaded by now. Looked for here, as that takes memory that is no step's."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
