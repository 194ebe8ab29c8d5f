"""Large files that are written or read from front to back and leave no pages in the page cache.

In a control group those pages count as memory of the process, and what waits to be written cannot be given up at once.
So what a file is written with goes to the disk piece by piece, while the next piece is made, and leaves the memory.
Pages that are read are dropped only where they are many for the group: elsewhere the next reader is glad of them.
"""

import contextlib
import io
import os
from pathlib import Path

from lowmem.common.cores import cgroups, lines_of

PIECE = 4 << 20
"""Bytes after which pages are dropped. Smaller files are left alone."""

MANY = 0.25
"""Share of a control group's memory: pages of files beyond it are dropped."""


class PassingFile(io.FileIO):
    """An open file that drops its pages behind the place up to which it is written or read.

    writing: whether it is a new file, which is written. Else it is read, and pages are kept if there is room.
    """

    def __init__(self, path: str | os.PathLike[str], *, writing: bool = False) -> None:
        super().__init__(path, "xb" if writing else "rb")
        self._drops = hasattr(os, "posix_fadvise") and (writing or are_many(os.fstat(self.fileno()).st_size))
        if self._drops and not writing:  # what is read ahead lies in large pieces that are dropped only as a whole
            os.posix_fadvise(self.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        self._since, self._begun = 0, 0
        """Bytes since pages were last dropped, and the place up to which they have begun to go to the disk."""

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        """Write bytes, and let earlier ones go to the disk and out of memory."""
        count = super().write(data)
        self._since += count
        if self._drops and self._since >= PIECE:
            self._pass_written()
        return count

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer, and drop the pages of what was read before."""
        count = super().readinto(buffer) or 0
        self._since += count
        if self._drops and self._since >= PIECE:
            self._since = 0
            self._drop(self.tell())
        return count

    def _pass_written(self) -> None:
        """Begin to write the last piece, wait for the one before, and drop that."""
        from lowmem.common.disk import pages  # with ctypes, for those who use it

        pages.begin_to_write(self.fileno(), self._begun, self.tell())
        if self._begun:
            pages.write_out(self.fileno(), 0, self._begun)
            self._drop(self._begun)
        self._since, self._begun = 0, self.tell()

    def close(self) -> None:
        """Close the file and drop its last pages. What is not on the disk stays: whoever writes calls fsync before."""
        if not self.closed and self._drops and self.tell() >= PIECE:
            self._drop(0)
        super().close()

    def _drop(self, stop: int) -> None:
        """Drop the pages before a place, or all for 0, that are on the disk."""
        with contextlib.suppress(OSError):
            os.posix_fadvise(self.fileno(), 0, stop, os.POSIX_FADV_DONTNEED)


def are_many(size: int, root: Path = Path("/")) -> bool:
    """Say whether so many bytes in the page cache are much of what a control group of this process may hold.

    root: where the system's files are, for tests.
    """
    if size < PIECE:
        return False
    for version, folder in cgroups("memory", root):
        limit = "".join(lines_of(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"))).strip()
        if limit.isdecimal() and size > MANY * int(limit):
            return True
    return False
