"""`Store`: moves states between the arena and a file while the step goes on.

One thread writes and one reads. A thread is there only while there is something to move and for a moment after.
"""

import os
import threading
import weakref
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import perf_counter, sleep

from lowmem.common.files import reason
from lowmem.errors import DiskError
from lowmem.runtime.offload.conditions import Conditions, conditions
from lowmem.runtime.offload.spill_file import SpillFile
from lowmem.units import format_bytes

IDLE = 0.5
"""Seconds after which a thread without work ends."""

CHECKSUM = "LOWMEM_DISK_CHECKSUM"
"""Of the environment: "1" to compare what is read with what was written. It takes a core one second for a few GB."""


@dataclass(slots=True, eq=False)
class Transfer:
    """One state on its way.

    after: the transfer that must end first, if any. error: what went wrong, once it is done.
    """

    pieces: Sequence[memoryview]
    offset: int
    after: "Transfer | None" = None
    done: bool = False
    error: Exception | None = None


@dataclass(slots=True)
class Traffic:
    """Bytes that were moved, and the seconds that ops waited for it."""

    written: int = 0
    read: int = 0
    waited: float = 0.0


class _Direction:
    """A queue of transfers, and the thread that carries them out while there are any."""

    def __init__(self, changed: threading.Condition, move: "_Move", name: str) -> None:
        self._changed, self._move, self._name = changed, move, name
        self._queue: deque[Transfer] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, transfer: Transfer) -> None:
        """Begin a transfer. The caller holds the lock."""
        self._queue.append(transfer)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def close(self) -> None:
        """Let the thread end at once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        """Carry out transfers until none has come for a moment."""
        while True:
            with self._changed:
                if not self._queue and not self._closed:
                    self._changed.wait_for(lambda: self._queue or self._closed, IDLE)
                if not self._queue:
                    self._thread = None
                    return
                transfer = self._queue[0]
                while transfer.after is not None and not transfer.after.done:
                    self._changed.wait()
            error = self._move(transfer)
            with self._changed:
                transfer.error, transfer.done = error, True
                transfer.pieces, transfer.after = (), None
                self._queue.popleft()
                self._changed.notify_all()


@dataclass(slots=True)
class _Move:
    """Moves one transfer, as the conditions say.

    writes: to the file, else from it. sums: checksums by offset. numbers: of the transfers, to tell which shall fail.
    """

    file: SpillFile
    writes: bool
    conditions: Conditions
    sums: dict[int, int] | None
    numbers: Iterator[int]

    def __call__(self, transfer: Transfer) -> Exception | None:
        """Return the error that came up, None if it went well."""
        began = perf_counter()
        try:
            if next(self.numbers) == self.conditions.fail:
                raise OSError(5, os.strerror(5))
            if self.writes:
                self._remember(transfer)
                self.file.write(transfer.pieces, transfer.offset)
            else:
                self.file.read(transfer.pieces, transfer.offset)
                self._compare(transfer)
        except Exception as error:  # whatever it is, the step must hear of it: nobody else does
            return error
        if self.conditions.throttle is not None:
            size = sum(map(len, transfer.pieces))
            sleep(max(began + size / self.conditions.throttle - perf_counter(), 0))
        return None

    def _remember(self, transfer: Transfer) -> None:
        if self.sums is not None:
            self.sums[transfer.offset] = _checksum(transfer)

    def _compare(self, transfer: Transfer) -> None:
        if self.sums is not None and self.sums[transfer.offset] != _checksum(transfer):
            raise OSError("what was read is not what was written: their checksums differ")


class Store:
    """States in a file of a folder.

    size: bytes of the file, taken at once.

    Raises `InputError` if the folder cannot be written or has no room. A forked process gets a file of its own.
    """

    def __init__(self, folder: str | Path, size: int) -> None:
        self.folder, self.size = folder, size
        self.traffic = Traffic()
        """Of all transfers so far."""
        self._writes: dict[int, Transfer] = {}
        self._reads: dict[int, Transfer] = {}
        self._open()

    def _open(self) -> None:
        """Make the file and the queues."""
        self._process = os.getpid()
        self.file, wishes = SpillFile(self.folder, self.size), conditions()
        self._changed = threading.Condition()
        sums: dict[int, int] | None = {} if os.environ.get(CHECKSUM) == "1" else None
        numbers = count(1)
        write, read = (_Move(self.file, writes, wishes, sums, numbers) for writes in (True, False))
        self._writer = _Direction(self._changed, write, "lowmem writes")
        self._reader = _Direction(self._changed, read, "lowmem reads")
        self._writes.clear()
        self._reads.clear()
        weakref.finalize(self, _close, self._writer, self._reader).atexit = False

    def begin(self) -> None:
        """Be ready for a step: in a forked process, with a file of its own."""
        if self._process != os.getpid():
            self._open()

    def write(self, layer: int, pieces: Sequence[memoryview], offset: int) -> None:
        """Begin to write the state of a layer, which stays as it is until `wait` says that it is written."""
        transfer = self._writes[layer] = Transfer(pieces, offset)
        self.traffic.written += sum(map(len, pieces))
        with self._changed:
            self._writer.put(transfer)

    def read(self, layer: int, pieces: Sequence[memoryview], offset: int) -> None:
        """Begin to read the state of a layer back."""
        transfer = self._reads[layer] = Transfer(pieces, offset, self._writes.get(layer))
        self.traffic.read += sum(map(len, pieces))
        with self._changed:
            self._reader.put(transfer)

    def wait(self, layer: int, written: bool) -> None:
        """Wait until the state of a layer is read, and written too, if a transfer of it is in flight.

        Raises `DiskError` if the transfer failed.
        """
        if written:
            self._wait(self._writes, layer, f"writing state {layer} to")
        self._wait(self._reads, layer, f"reading state {layer} from")

    def finish(self) -> None:
        """Wait until nothing is in flight. Errors are let go: whoever needed a state has heard of them."""
        with self._changed:
            for transfer in (*self._writes.values(), *self._reads.values()):
                while not transfer.done:
                    self._changed.wait()
        self._writes.clear()
        self._reads.clear()

    def _wait(self, transfers: dict[int, Transfer], layer: int, doing: str) -> None:
        transfer = transfers.pop(layer, None)
        if transfer is None:
            return
        if not transfer.done:
            began = perf_counter()
            with self._changed:
                while not transfer.done:
                    self._changed.wait()
            self.traffic.waited += perf_counter() - began
        if transfer.error is not None:
            error = transfer.error
            why = reason(error) if isinstance(error, OSError) else repr(error)
            raise DiskError(
                f"the disk failed at {doing} the file of {format_bytes(self.size)} in {str(self.folder)!r}: {why}."
            ) from error


def _close(*directions: _Direction) -> None:
    """Let the threads of a store end."""
    for direction in directions:
        direction.close()


def _checksum(transfer: Transfer) -> int:
    """Return the checksum of what a transfer moves."""
    total = 0
    for piece in transfer.pieces:
        total = zlib.crc32(piece, total)
    return total
