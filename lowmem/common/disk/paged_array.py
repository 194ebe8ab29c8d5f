"""`PagedArray`: a flat array in a file, of which only the parts that somebody needs are in memory.

The array is a mapping of a nameless file: its addresses stay the same, so views and pointers into it are good whatever
is in memory, and whatever touches a page gets what the page holds. Memory is kept small by fetching ahead and dropping
behind:

    array.fetch(start, stop)             # begins to read
    array.wait(start, stop)              # until it is there
    array.array[start:stop] += 1
    array.release(start, stop, changed=True)   # begins to write, then lets go of the memory

Whole pages are dropped, from the process and from the page cache, which counts in a control group. A page that two
neighbours share stays once it has been touched.
"""

import os
import threading
import weakref
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from os import PathLike
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lowmem.common.disk import pages, parts
from lowmem.common.disk.directions import Direction, Gate, Traffic, Transfer
from lowmem.common.disk.mapped_file import MappedFile
from lowmem.common.disk.parts import Part, Range
from lowmem.common.files import reason
from lowmem.errors import DiskError, InputError
from lowmem.units import format_bytes


class _Pending(NamedTuple):
    """A transfer of the pages between two bytes."""

    start: int
    stop: int
    transfer: Transfer


class PagedArray:
    """A flat array of `count` zeros in a file of a folder, which is taken at once.

    array: (count,), of `dtype`; it may be used after this object is gone, but is not fetched or dropped then.
    traffic: bytes that `release` has written and `fetch` has read so far, in whole pages, and seconds waited.
    in_use: a lock. Who changes the array while other threads may look at it holds this meanwhile, as what looks at it
        lets go of pages, and with them of what is written to them in that moment.

    `copy.deepcopy` makes a file of its own in the same folder. A forked process may read the array, and change it for
    itself alone; it cannot fetch or release.

    Raises `InputError` if the folder cannot be written or has no room.
    """

    def __init__(self, folder: str | PathLike[str], count: int, dtype: DTypeLike) -> None:
        self.traffic = Traffic()
        item = np.dtype(dtype).itemsize
        size = max(pages.all_pages(0, count, item)[1], pages.MAPPED_PAGE)
        self._file = MappedFile(folder, size)
        self.folder = os.path.abspath(folder)  # copies go there wherever the process is by then
        self.array: NDArray[Any] = self._file.bytes.view(dtype)[:count]
        self._item, self._process = item, os.getpid()
        self.in_use = threading.RLock()
        lock = threading.RLock()
        self._ended, self._gate = threading.Condition(lock), Gate()
        self._writer = Direction(lock, self._ended, self._gate, "lowmem writes")
        self._reader = Direction(lock, self._ended, self._gate, "lowmem reads")
        self._writes: list[_Pending] = []
        self._reads: list[_Pending] = []
        weakref.finalize(self, _close, self._writer, self._reader).atexit = False

    def fetch(self, start: int, stop: int, *, to_change: bool = False) -> None:
        """Begin to bring items start..stop-1 into memory. `wait` tells when they are there, and what went wrong.

        to_change: they will be written to; writing to them is quicker then.
        """
        self._put(self._reader, self._reads, self._to_bring(start, stop, to_change), self._writes)

    def wait(self, start: int, stop: int) -> None:
        """Wait until what is being fetched of items start..stop-1 is there.

        Raises `DiskError` for any transfer that has failed since the last call of this or of `settle`.
        """
        self._check_owner()
        begin, end = pages.all_pages(start, stop, self._item)
        with self._ended:
            self._until_done([pending for pending in self._reads if pending.start < end and begin < pending.stop])
            self._tell_errors()

    def release(self, start: int, stop: int, *, changed: bool) -> None:
        """Begin to let go of the memory of items start..stop-1, which is not touched until it is fetched again.

        changed: whether they have been written to, so that they must go to the disk first. What has not changed is
        simply dropped.
        """
        pending = self._to_drop(start, stop, changed)
        if pending.start < pending.stop:
            self._put(self._writer, self._writes, pending, self._reads)

    def wait_released(self, start: int, stop: int) -> None:
        """Wait until what is being released of items start..stop-1 takes no memory any more; raise as `wait` does.

        Who promises a bound calls this before more is fetched, as the disk may be slower than what fills the memory.
        """
        self._check_owner()
        begin, end = pages.all_pages(start, stop, self._item)
        with self._ended:
            self._until_done([pending for pending in self._writes if pending.start < end and begin < pending.stop])
            self._tell_errors()

    def bring(self, start: int, stop: int, *, to_change: bool = False) -> None:
        """Bring items start..stop-1 into memory in this thread; the rest is as in `fetch`. Raises `DiskError`.

        Other threads run meanwhile. Who orders transfers with a queue of his own uses this and `drop` alone.
        """
        self._check_owner()
        self._now("reading from", self._to_bring(start, stop, to_change).transfer)

    def drop(self, start: int, stop: int, *, changed: bool = False) -> None:
        """Let go of the memory of items start..stop-1 in this thread; else as `release` does. Raises `DiskError`."""
        self._check_owner()
        self._now("writing to", self._to_drop(start, stop, changed).transfer)

    def settle(self) -> None:
        """Wait until nothing is in flight. Raises `DiskError` as `wait` does."""
        self._check_owner()
        with self._ended:
            self._until_done([*self._reads, *self._writes])
            self._tell_errors()

    def sweep(self, ranges: Iterable[Range], *, changed: bool = False, fetched: bool = True) -> Generator[Range]:
        """Yield ranges of items, each in memory: the next one is fetched meanwhile, and the last one let go.

        At most three ranges are in memory, of those that are next to each other. Other threads wait until the end.

        changed: whether they are written to. fetched: False if what they hold is of no use, as they are overwritten.

        Raises `DiskError` if the disk fails. At the end nothing is in flight.
        """
        with self.in_use:
            yield from self._swept(iter(ranges), changed=changed, fetched=fetched)

    def _swept(self, rest: Iterator[Range], *, changed: bool, fetched: bool) -> Generator[Range]:
        """Yield ranges one after the other; see `sweep`."""
        current, behind = next(rest, None), None
        held: list[Range] = []
        try:
            self._begin(current, held, to_change=changed, fetched=fetched)
            while current is not None:
                following = next(rest, None)
                self._begin(following, held, to_change=changed, fetched=fetched)
                self.wait(*current)
                yield current
                if behind is not None:
                    self.wait_released(*behind)
                self.release(*held.pop(0), changed=changed)
                behind, current = current, following
        finally:
            for part in held:
                self.release(*part, changed=changed)
            self.settle()

    def _begin(self, part: Range | None, held: list[Range], *, to_change: bool, fetched: bool) -> None:
        """Fetch the next range of a sweep, if there is one."""
        if part is not None:
            held.append(part)
            if fetched:
                self.fetch(*part, to_change=to_change)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the array."""
        return self.array.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self.array.nbytes

    @property
    def sweep_bytes(self) -> int:
        """The most bytes that are in memory while the array is looked at piece by piece."""
        return min(3 * parts.PIECE, self._file.size)

    def pieces(self, *, changed: bool = False, fetched: bool = True) -> Generator[NDArray[Any]]:
        """Yield the array piece by piece, with three of them in memory at most; the rest is as in `sweep`."""
        return self.part(0, len(self.array)).pieces(changed=changed, fetched=fetched)

    def part(self, start: int, stop: int, shape: tuple[int, ...] | None = None) -> Part:
        """Return items start..stop-1 as an array of that shape which is looked at piece by piece."""
        return Part(self, start, stop, (stop - start,) if shape is None else shape)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PagedArray":
        """Return a copy in a file of its own. Raises `InputError` if the folder has no room for it."""
        copy = PagedArray(self.folder, len(self.array), self.dtype)
        for target, source in zip(copy.pieces(changed=True, fetched=False), self.pieces(), strict=True):
            target[:] = source
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        """Refuse to be pickled: a pickle would hold the whole array in memory."""
        raise InputError(
            f"an array of {format_bytes(self.array.nbytes)} that lives on the disk cannot be pickled, as all of it "
            "would be in memory. Save the run with Trainer.save, or the network with lowmem.export_torch, and load "
            "that file where it is needed."
        )

    def _to_bring(self, start: int, stop: int, to_change: bool) -> _Pending:
        """Return the transfer that brings items into memory, and count its bytes."""
        begin, end = pages.all_pages(start, stop, self._item)
        whole = pages.whole_pages(start, stop, self._item)
        size = whole[1] - whole[0]
        self.traffic.read += size
        return _Pending(begin, end, Transfer(partial(self._file.bring, begin, end, whole, to_change=to_change), size))

    def _to_drop(self, start: int, stop: int, changed: bool) -> _Pending:
        """Return the transfer that lets go of items, and count its bytes."""
        begin, end = pages.whole_pages(start, stop, self._item)
        size = (end - begin) * changed
        self.traffic.written += size
        return _Pending(begin, end, Transfer(partial(self._file.let_go, begin, end, changed=changed), size))

    def _put(self, direction: Direction, own: list[_Pending], pending: _Pending, others: list[_Pending]) -> None:
        """Begin a transfer, after those of the other direction that touch the same pages."""
        self._check_owner()
        with self._ended:
            for other in reversed(others):  # each direction keeps its order, so the last one is the one to wait for
                if other.start < pending.stop and pending.start < other.stop and not other.transfer.done:
                    pending.transfer.after = other.transfer
                    break
            own[:] = [one for one in own if not one.transfer.done or one.transfer.error is not None]
            own.append(pending)
            direction.put(pending.transfer)

    def _until_done(self, some: list[_Pending]) -> None:
        """Wait until some transfers are done. The caller holds the lock."""
        if all(pending.transfer.done for pending in some):
            return
        began = perf_counter()
        for pending in some:
            while not pending.transfer.done:
                self._ended.wait()
        self.traffic.waited += perf_counter() - began

    def _tell_errors(self) -> None:
        """Raise the first error of transfers that are done, and forget the rest. The caller holds the lock."""
        first: tuple[str, Exception] | None = None
        for doing, some in (("writing to", self._writes), ("reading from", self._reads)):
            errors = [one.transfer.error for one in some if one.transfer.done and one.transfer.error is not None]
            first = first or next(((doing, error) for error in errors), None)
            some[:] = [one for one in some if not one.transfer.done]
        if first is not None:
            raise self._failed(*first) from first[1]

    def _now(self, doing: str, transfer: Transfer) -> None:
        """Carry out a transfer in this thread."""
        error = self._gate.pass_through(transfer)
        if error is not None:
            raise self._failed(doing, error) from error

    def _failed(self, doing: str, error: Exception) -> DiskError:
        """Return the error of a transfer that failed. doing: what, with its preposition."""
        why = reason(error) if isinstance(error, OSError) else repr(error)
        return DiskError(
            f"the disk failed at {doing} the file of {format_bytes(self._file.size)} in {self.folder!r}: {why}."
        )

    def _check_owner(self) -> None:
        """Refuse a forked process."""
        if self._process != os.getpid():
            raise InputError(
                f"an array that lives on the disk belongs to process {self._process}, which made it; process "
                f"{os.getpid()} was forked from it. Make or load the network in the process that uses it."
            )


def _close(*directions: Direction) -> None:
    """Let the threads end."""
    for direction in directions:
        direction.close()
