"""`MpiGroup`: the ranks of an MPI program, as `lowmem.runtime.collectives.group.Group` asks for them.

Arrays travel by plain sends and receives. MPICH's Ialltoallv, and Iallgatherv of uneven parts, move 8 KiB each time
they are asked: 8 MiB take a second where a rank asks every millisecond. A send of 8 MiB is asked for some ten times.
"""

import atexit
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate, pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowmem.errors import InputError
from lowmem.runtime.collectives import witness
from lowmem.runtime.collectives.group import Request
from lowmem.runtime.collectives.progress import Progress

if TYPE_CHECKING:
    from mpi4py import MPI

Array = NDArray[Any]

SPIN, REST = 2e-4, 5e-5
"""Seconds that a wait asks again and again, and seconds between two questions after that. Ranks that share a core
must let each other work; on a core of its own a rank loses less by a rest than a message takes."""


TOGETHER = 1.0
"""Seconds within which all ranks fail if they fail for the same reason, such as a flag that none of them knows."""


class MpiRequest:
    """MPI operations in flight, which are asked for together. The arrays that belong to them live as long."""

    __slots__ = ("_arrays", "_done", "_lock", "_requests")

    def __init__(self, requests: "list[MPI.Request]", *arrays: Array | None) -> None:
        self._requests, self._arrays = requests, arrays
        self._lock, self._done = threading.Lock(), False

    def done(self) -> bool:
        """See `Request.done`. Threads may call this: while one asks MPI, the others hear what was so before."""
        if not self._done and self._lock.acquire(blocking=False):
            try:
                self._done = not self._requests or self._requests[0].Testall(self._requests)
            finally:
                self._lock.release()
        return self._done


class MpiGroup:
    """The ranks of a communicator; see `lowmem.runtime.collectives.group.Group`.

    communicator: of mpi4py. It is duplicated, so that messages of others do not mix with these.
    """

    def __init__(self, communicator: "MPI.Comm") -> None:
        from mpi4py import MPI

        self._mpi, self._communicator = MPI, communicator.Dup()
        self._failures, self._failed = communicator.Dup(), False
        self.rank, self.size = communicator.Get_rank(), communicator.Get_size()
        self.waited = 0.0
        self._progress: Progress | None = None
        if self.size > 1 and MPI.Query_thread() == MPI.THREAD_MULTIPLE:
            self._progress = Progress()
            atexit.register(self._progress.stop)
        self._lifeline = self._watched() if self.size > 1 else None

    def _watched(self) -> witness.Lifeline:
        """Connect to a witness, which says so if this rank dies."""
        address = self.agree(witness.start(self.size) if self.rank == 0 else None)[0]
        lifeline = witness.Lifeline(address, self.rank)
        atexit.register(lifeline.bye)
        return lifeline

    def exchange(
        self, send: Array | None, send_bounds: Sequence[int], receive: Array, receive_counts: Sequence[int]
    ) -> MpiRequest:
        """See `Group.exchange`."""
        begins = [0, *accumulate(receive_counts)]
        if send is not None and receive_counts[self.rank]:
            own = send[send_bounds[self.rank] : send_bounds[self.rank + 1]]
            np.copyto(receive[begins[self.rank] : begins[self.rank + 1]], own)
        requests = [*self._receives(receive, begins)]
        if send is not None:
            requests += self._sends([send[first:stop] for first, stop in pairwise(send_bounds)])
        return self._flying(requests, send, receive)

    def gather(self, array: Array, bounds: Sequence[int]) -> MpiRequest:
        """See `Group.gather`."""
        own = array[bounds[self.rank] : bounds[self.rank + 1]]
        return self._flying([*self._receives(array, bounds), *self._sends([own] * self.size)], array)

    def share(self, numbers: Array, all_numbers: Array) -> MpiRequest:
        """See `Group.share`."""
        return self._flying([self._communicator.Iallgather(numbers, all_numbers)], numbers, all_numbers)

    def wait(self, request: Request) -> None:
        """See `Group.wait`."""
        start = time.perf_counter()
        while not request.done():
            if time.perf_counter() - start > SPIN:
                time.sleep(REST)
        self.waited += time.perf_counter() - start

    def agree(self, what: Any) -> list[Any]:  # noqa: ANN401 - whatever pickles
        """See `Group.agree`."""
        return list(self._communicator.allgather(what))

    def fail_together(self, seconds: float = TOGETHER) -> bool:
        """Say whether all ranks call this within some seconds, as they do where all fail for the same reason."""
        if self._failed:
            return False
        self._failed = True
        request, end = self._failures.Ibarrier(), time.monotonic() + seconds
        while not request.Test():
            if time.monotonic() > end:
                return False
            time.sleep(REST)
        return True

    def saved(self, text: str) -> None:
        """See `Group.saved`."""
        if self._lifeline is not None:
            self._lifeline.saved(text)

    def abort(self, code: int) -> None:
        """End all ranks now; this one has said why."""
        if self._lifeline is not None:
            self._lifeline.bye()
        self._communicator.Abort(code)

    def _receives(self, array: Array, bounds: Sequence[int]) -> "Iterator[MPI.Request]":
        """Begin to receive what each other rank sends, at its place in the array."""
        for rank, (first, stop) in enumerate(pairwise(bounds)):
            if rank != self.rank and first < stop:
                yield self._communicator.Irecv([array[first:stop], self._type(array)], rank)

    def _sends(self, parts: Sequence[Array]) -> "Iterator[MPI.Request]":
        """Begin to send each other rank its part. The next rank comes first, so that not all send to the same one."""
        for distance in range(1, self.size):
            rank = (self.rank + distance) % self.size
            if len(parts[rank]):
                yield self._communicator.Isend([parts[rank], self._type(parts[rank])], rank)

    def _flying(self, requests: "list[MPI.Request]", *arrays: Array | None) -> MpiRequest:
        """Return operations that have begun as one request, which moves on while this rank computes."""
        request = MpiRequest(requests, *arrays)
        if self._progress is not None and not request.done():
            self._progress.watch(request)
        return request

    def _type(self, array: Array) -> "MPI.Datatype":
        return self._mpi.DOUBLE if array.itemsize == 8 else self._mpi.FLOAT


@cache
def mpi() -> MpiGroup:
    """Return the ranks of this MPI program: of one rank where it was not started by `mpiexec`.

    Raises `InputError` without mpi4py, or without an MPI library.
    """
    try:
        from mpi4py import MPI
    except ImportError as problem:
        raise InputError(
            f"several ranks need MPI, and it cannot be loaded: {problem}. Install it with pip install 'lowmem[mpi]', "
            "or mpi4py for the MPI of your machine."
        ) from None
    group = MpiGroup(MPI.COMM_WORLD)
    if group.size > 1:
        usual = sys.excepthook

        def end_all(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            """Show an error that nobody has caught, and end the other ranks, which would wait for ever."""
            together = group.fail_together()
            if group.rank == 0 or not together:
                usual(kind, error, trace)
                print(f"lowmem: rank {group.rank}: {error or kind.__name__}", file=sys.stderr, flush=True)
            if not together:
                group.abort(1)

        sys.excepthook = end_all
    return group
