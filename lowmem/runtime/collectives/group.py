"""What a step asks of ranks that share its shards: to exchange parts of gradients, to gather parts of parameters."""

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from lowmem.errors import InputError, shown

Array = NDArray[Any]


class Request(Protocol):
    """An operation in flight: its arrays belong to it until it is done."""

    def done(self) -> bool:
        """Say whether the operation is done, and move it on."""


class Group(Protocol):
    """The ranks of a run, of which each has one object. Every rank calls the same methods in the same order.

    rank: the number of this rank, from 0. size: how many there are.
    waited: seconds that this rank has waited for the others so far.
    """

    rank: int
    size: int
    waited: float

    def exchange(
        self,
        send: Array | None,
        send_bounds: Sequence[int],
        receive: Array,
        receive_counts: Sequence[int],
    ) -> Request:
        """Send each rank its part of an array, and receive this rank's part of every rank's array.

        send: flat, of which rank r gets the numbers from send_bounds[r] to before send_bounds[r + 1]; None to send
            nothing.
        receive: gets what the ranks send, one behind the other: receive_counts[r] numbers of rank r.
        """

    def gather(self, array: Array, bounds: Sequence[int]) -> Request:
        """Let all ranks have all of a flat array, of which rank r has the numbers from bounds[r] to bounds[r + 1]."""

    def share(self, numbers: Array, all_numbers: Array) -> Request:
        """Let all ranks have the numbers of all: those of rank r become row r of `all_numbers`."""

    def wait(self, request: Request) -> None:
        """Wait until an operation is done. Raises `RunError` if another rank has failed."""

    def saved(self, text: str) -> None:
        """Note where the run was saved last, for whoever must say so when a rank has died."""

    def agree(self, what: Any) -> list[Any]:  # noqa: ANN401 - whatever pickles
        """Return what each rank gives, by rank; for small things, before and after the steps."""


def size_of(group: Group | None) -> int:
    """Return how many ranks there are, 1 without a group. Raises `InputError` for what is no group."""
    if group is None:
        return 1
    if isinstance(group, type) or not callable(getattr(group, "exchange", None)):
        raise InputError(f"group must be what lowmem.distributed.mpi() returns, or None; got {shown(group)}.")
    return group.size
