"""A nameless file that is mapped into memory, of which only the pages that somebody needs are there."""

import mmap
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from lowmem.common.disk import pages
from lowmem.common.disk.forks import keep_from_children
from lowmem.common.disk.own_pages import OwnPages
from lowmem.common.disk.spill_file import SpillFile
from lowmem.common.files import reason
from lowmem.errors import InputError
from lowmem.units import format_bytes


class MappedFile:
    """A file of `size` zeros in a folder, mapped into memory.

    bytes: (size,), what it holds; it may be used after this object is gone.

    Raises `InputError` if the folder cannot be written or has no room.
    """

    def __init__(self, folder: str | PathLike[str], size: int) -> None:
        self.size = size
        self._file = SpillFile(folder, size, direct=False)
        try:
            mapping = mmap.mmap(self._file.descriptor, size)
        except (OSError, ValueError) as error:
            raise InputError(
                f"a file of {format_bytes(size)} in {str(folder)!r} cannot be mapped into memory: {reason(error)}. "
                "Raise the limit of the address space (ulimit -v), or make the network smaller."
            ) from None
        self.bytes: NDArray[np.uint8] = np.frombuffer(mapping, np.uint8)
        self._address = self.bytes.ctypes.data
        pages.expect_no_order(self._file.descriptor, self._address, size)
        keep_from_children(mapping, self._file, self._address)
        self._own = OwnPages.of(self._file.descriptor, self._address)

    def bring(self, begin: int, end: int, whole: tuple[int, int], *, to_change: bool) -> None:
        """Bring the pages between two bytes into memory. Raises `OSError`.

        whole: those of them that nobody else uses, which are read past the page cache. to_change: all will be written
        to.
        """
        rest = [(begin, end)]
        if self._own is not None:
            self._own.fetch(*whole)
            rest = self._own.others(begin, end)
        for start, stop in rest:
            pages.read_in(self._file.descriptor, self._address, start, stop, to_change=to_change)

    def let_go(self, begin: int, end: int, *, changed: bool) -> None:
        """Let go of the pages between two bytes, `changed` ones once they are on the disk. Raises `OSError`."""
        rest = [(begin, end)]
        if self._own is not None:
            rest = self._own.others(begin, end)
            self._own.release(begin, end, changed=changed)
        for first, last in rest:
            for start in range(first, last, pages.WRITE_AT_ONCE):
                stop = min(start + pages.WRITE_AT_ONCE, last)
                if changed:
                    pages.write_out(self._file.descriptor, start, stop, self._address)
                pages.drop(self._file.descriptor, self._address, start, stop)
