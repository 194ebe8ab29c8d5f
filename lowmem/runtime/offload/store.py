"""`Store`: moves states between the arena and a file while the step goes on.

One thread writes and one reads. A thread is there only while there is something to move and for a moment after.
"""

import os
import threading
import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

from lowmem.common.disk.directions import Direction, Gate, Traffic, Transfer
from lowmem.common.disk.spill_file import SpillFile
from lowmem.common.files import reason
from lowmem.errors import DiskError
from lowmem.runtime.offload.checksums import Checksum
from lowmem.units import format_bytes


class Store:
    """States in a file of a folder.

    size: bytes of the file, taken at once. checksum: what is read is compared with what was written by it; None for no
    comparison.

    Raises `InputError` if the folder cannot be written or has no room. A forked process gets a file of its own.
    """

    def __init__(self, folder: str | Path, size: int, checksum: Checksum | None = None) -> None:
        self.folder, self.size, self._checksum = folder, size, checksum
        self.traffic = Traffic()
        """Of all transfers so far."""
        self._writes: dict[int, Transfer] = {}
        self._reads: dict[int, Transfer] = {}
        self._open()

    def _open(self) -> None:
        """Make the file and the queues."""
        self._process = os.getpid()
        self.file, gate = SpillFile(self.folder, self.size), Gate()
        lock = threading.RLock()
        self._ended = threading.Condition(lock)
        self._sums: dict[int, int] = {}  # by the place in the file
        self._writer = Direction(lock, self._ended, gate, "lowmem writes")
        self._reader = Direction(lock, self._ended, gate, "lowmem reads")
        self._writes.clear()
        self._reads.clear()
        weakref.finalize(self, _close, self._writer, self._reader).atexit = False

    def begin(self) -> None:
        """Be ready for a step: in a forked process, with a file of its own."""
        if self._process != os.getpid():
            self._open()

    def write(self, layer: int, pieces: Sequence[memoryview], offset: int) -> None:
        """Begin to write the state of a layer, which stays as it is until `wait` says that it is written."""
        size = sum(map(len, pieces))
        transfer = self._writes[layer] = Transfer(partial(self._move_out, pieces, offset), size)
        self.traffic.written += size
        with self._ended:
            self._writer.put(transfer)

    def read(self, layer: int, pieces: Sequence[memoryview], offset: int) -> None:
        """Begin to read the state of a layer back."""
        size, move = sum(map(len, pieces)), partial(self._move_in, pieces, offset)
        transfer = self._reads[layer] = Transfer(move, size, self._writes.get(layer))
        self.traffic.read += size
        with self._ended:
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
        with self._ended:
            for transfer in (*self._writes.values(), *self._reads.values()):
                while not transfer.done:
                    self._ended.wait()
        self._writes.clear()
        self._reads.clear()

    def _move_out(self, pieces: Sequence[memoryview], offset: int) -> None:
        """Write pieces of memory. Raises `OSError`."""
        if self._checksum is not None:
            self._sums[offset] = self._checksum(pieces)
        self.file.write(pieces, offset)

    def _move_in(self, pieces: Sequence[memoryview], offset: int) -> None:
        """Read pieces of memory. Raises `OSError`, also where they are not what was written."""
        self.file.read(pieces, offset)
        if self._checksum is not None and self._sums.get(offset) != self._checksum(pieces):
            raise OSError("what was read is not what was written: their checksums differ")

    def _wait(self, transfers: dict[int, Transfer], layer: int, doing: str) -> None:
        transfer = transfers.pop(layer, None)
        if transfer is None:
            return
        if not transfer.done:
            began = perf_counter()
            with self._ended:
                while not transfer.done:
                    self._ended.wait()
            self.traffic.waited += perf_counter() - began
        if transfer.error is not None:
            error = transfer.error
            why = reason(error) if isinstance(error, OSError) else repr(error)
            raise DiskError(
                f"the disk failed at {doing} the file of {format_bytes(self.size)} in {str(self.folder)!r}: {why}."
            ) from error


def _close(*directions: Direction) -> None:
    """Let the threads of a store end."""
    for direction in directions:
        direction.close()
