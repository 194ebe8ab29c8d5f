"""How many threads BLAS uses, decided in one place.

BLAS's threads wait for each other by spinning. Where products are small, one thread is as fast on a quiet machine and
many times as fast on a busy one.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np  # noqa: F401 - brings BLAS
from threadpoolctl import ThreadpoolController

from lowmem.planning.lane_count import small
from lowmem.planning.plan import Plan


def threads_of(plan: Plan) -> AbstractContextManager[None]:
    """Return what holds BLAS to the threads that a plan gives it, while its passes run.

    That is one where the products of a pass are too small for several; else `plan.threads` or, where that is None, as
    many as BLAS has.
    """
    limit = 1 if small(plan.architecture, plan.micro_batch) else plan.threads
    return nullcontext() if limit is None else at_most(limit)


_LIBRARIES: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
"""NumPy's BLAS, which is loaded by now. Looked for here, as that takes memory that is no step's."""

_lock = threading.Lock()
_limits: list[int] = []
_before: list[int] = []


@contextmanager
def at_most(limit: int) -> Iterator[None]:
    """Hold BLAS to so many threads meanwhile; when nobody needs that any more, it has as many as before.

    BLAS counts threads for the whole process. Where several threads of Python hold it, the least of their limits
    holds.
    """
    with _lock:
        if not _limits:
            _before[:] = [library.num_threads for library in _LIBRARIES]
        _limits.append(limit)
        _apply()
    try:
        yield
    finally:
        with _lock:
            _limits.remove(limit)
            _apply()


def _apply() -> None:
    """Give every library the least of the limits that are held, and never more than it had before them."""
    for library, before in zip(_LIBRARIES, _before, strict=True):
        library.set_num_threads(min([before, *_limits]))
