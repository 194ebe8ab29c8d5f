"""`MpiGroup`: the ranks of an MPI program, as `lowmem.runtime.collectives.group.Group` asks for them."""

import atexit
import sys
import time
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from lowmem.errors import InputError
from lowmem.runtime.collectives import witness
from lowmem.runtime.collectives.group import Request

if TYPE_CHECKING:
    from mpi4py import MPI

Array = NDArray[Any]

SPIN, REST = 2e-4, 5e-5
"""Seconds that a wait asks again and again, and seconds between two questions after that. Ranks that share a core
must let each other work; on a core of its own a rank loses less by a rest than a message takes."""


TOGETHER = 1.0
"""Seconds within which all ranks fail if they fail for the same reason, such as a flag that none of them knows."""


class MpiRequest:
    """An MPI operation in flight. It holds the arrays that belong to the operation."""

    __slots__ = ("_arrays", "_request")

    def __init__(self, request: "MPI.Request", *arrays: Array | None) -> None:
        self._request, self._arrays = request, arrays

    def done(self) -> bool:
        """See `Request.done`."""
        return bool(self._request.Test())


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
        counts = [0 if send is None else stop - first for first, stop in pairwise(send_bounds)]
        starts = [sum(receive_counts[:rank]) for rank in range(self.size)]
        out = receive[:0] if send is None else send
        kind = self._type(receive)
        request = self._communicator.Ialltoallv(
            [out, (counts, list(send_bounds[:-1]) if send is not None else [0] * self.size), kind],
            [receive, (list(receive_counts), starts), kind],
        )
        return MpiRequest(request, out, receive)

    def gather(self, array: Array, bounds: Sequence[int]) -> MpiRequest:
        """See `Group.gather`."""
        counts = [stop - first for first, stop in pairwise(bounds)]
        place = [array, (counts, list(bounds[:-1])), self._type(array)]
        return MpiRequest(self._communicator.Iallgatherv(self._mpi.IN_PLACE, place), array)

    def share(self, numbers: Array, all_numbers: Array) -> MpiRequest:
        """See `Group.share`."""
        return MpiRequest(self._communicator.Iallgather(numbers, all_numbers), numbers, all_numbers)

    def wait(self, request: Request) -> None:
        """See `Group.wait`."""
        if request.done():
            return
        start = now = time.perf_counter()
        while not request.done():
            now = time.perf_counter()
            if now - start > SPIN:
                time.sleep(REST)
        self.waited += now - start

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
