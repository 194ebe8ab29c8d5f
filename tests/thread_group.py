"""Ranks that are threads of one process: what several ranks do, tested without MPI."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lowmem.runtime.collectives.group import Request

Array = NDArray[Any]
T = TypeVar("T")


class Done:
    """An operation that is over as soon as it has begun."""

    def done(self) -> bool:
        return True


class ThreadGroup:
    """A rank among threads; all of them meet at every operation. See `lowmem.runtime.collectives.group.Group`."""

    def __init__(self, rank: int, size: int, shared: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size, self.waited = rank, size, 0.0
        self._shared, self._barrier = shared, barrier

    def _meet(self, what: Any, use: Callable[[list[Any]], T]) -> T:
        """Let `use` see what all ranks give, while all wait."""
        self._shared[self.rank] = what
        self._barrier.wait(60)
        used = use(self._shared)
        self._barrier.wait(60)
        return used

    def exchange(self, send: Array | None, send_bounds: Sequence[int], receive: Array, counts: Sequence[int]) -> Done:
        first, stop = send_bounds[self.rank], send_bounds[self.rank + 1]

        def take(shared: list[Any]) -> None:
            at = 0
            for array, count in zip(shared, counts, strict=True):
                assert count == (0 if array is None else stop - first)
                receive[at : at + count] = [] if array is None else array[first:stop]
                at += count
            assert at == len(receive)

        self._meet(send, take)
        return Done()

    def gather(self, array: Array, bounds: Sequence[int]) -> Done:
        def take(shared: list[Any]) -> None:
            for rank, other in enumerate(shared):
                if rank != self.rank:
                    part = slice(bounds[rank], bounds[rank + 1])
                    array[part] = other[part]

        self._meet(array, take)
        return Done()

    def share(self, numbers: Array, all_numbers: Array) -> Done:
        self._meet(numbers, lambda shared: np.copyto(all_numbers, np.stack(shared)))
        return Done()

    def wait(self, request: Request) -> None:
        assert request.done()

    def saved(self, text: str) -> None:
        pass

    def agree(self, what: Any) -> list[Any]:
        return self._meet(what, list)


def in_ranks(size: int, work: Callable[[ThreadGroup], T]) -> list[T]:
    """Run `work` on so many ranks, and return what each returns. Raises the error of the first rank that has one."""
    shared, barrier = [None] * size, threading.Barrier(size)
    results: list[Any] = [None] * size
    errors: dict[int, BaseException] = {}

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadGroup(rank, size, shared, barrier))
        except BaseException as problem:
            errors[rank] = problem
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        broken = threading.BrokenBarrierError
        first = next((error for _, error in sorted(errors.items()) if not isinstance(error, broken)), None)
        raise first or next(iter(errors.values()))
    return results
