"""Pages of a mapped file: which of them a range of numbers covers, and calls that bring them into memory and let go.

Python has no function for some of these calls, so they are made with ctypes, which lets other threads run meanwhile.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import sys
from functools import cache
from typing import Any

MAPPED_PAGE = mmap.PAGESIZE
"""Bytes of a page of the system's memory."""

READ_AT_ONCE = 1 << 20
"""Bytes that are asked of the disk in one call."""

WRITE_AT_ONCE = 8 << 20
"""Bytes that are written and dropped together."""

SCRATCH = 16 << 10
"""Bytes of the memory that what is read goes through: it matters only that the page cache has it then."""

POPULATE_READ, POPULATE_WRITE = 22, 23
"""Linux: maps pages that are in the page cache, to be read or to be written."""

BEGIN_RANGE = 2
"""Linux: begins to write what has changed in a range."""

SYNC_RANGE = 1 | 2 | 4
"""Linux: waits for what is being written, writes the rest, waits for it. Unlike msync, it writes no journal of the
file system and lets the disk keep its cache: what a nameless file holds need not outlive the process."""


def whole_pages(start: int, stop: int, item_bytes: int) -> tuple[int, int]:
    """Return the first byte of the pages that lie wholly in a range of numbers, and the byte behind the last.

    Both are equal if there is no such page. Pages that two neighbours share belong to neither.
    """
    first = -(-start * item_bytes // MAPPED_PAGE) * MAPPED_PAGE
    return first, max(first, stop * item_bytes // MAPPED_PAGE * MAPPED_PAGE)


def all_pages(start: int, stop: int, item_bytes: int) -> tuple[int, int]:
    """Return the first byte of the pages that a range of numbers touches, and the byte behind the last."""
    first = start * item_bytes // MAPPED_PAGE * MAPPED_PAGE
    return first, max(first, -(-stop * item_bytes // MAPPED_PAGE) * MAPPED_PAGE)


def expect_no_order(descriptor: int, address: int, size: int) -> None:
    """Tell the system to read exactly what is asked for.

    What it reads ahead on its own lies in large pieces of memory that are dropped only as a whole, so that up to
    megabytes at each border of a range would stay.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    if hasattr(mmap, "MADV_RANDOM"):
        _libc().madvise(address, size, mmap.MADV_RANDOM)


def read_in(descriptor: int, address: int, start: int, stop: int, *, to_change: bool) -> None:
    """Bring the pages between two bytes of a mapped file into memory. Raises `OSError` for what cannot be read.

    to_change: they will be written to. What is not mapped here is mapped when it is first touched.

    They are read from the file and not touched: an error of the disk has a name then, and would be a fatal signal
    otherwise.
    """
    scratch = memoryview(bytearray(SCRATCH))
    for at in range(start, stop, READ_AT_ONCE):
        end = min(at + READ_AT_ONCE, stop)
        place = at
        while place < end:
            whole, part = divmod(end - place, SCRATCH)
            pieces = [scratch] * whole + [scratch[:part]] * bool(part)
            read = os.preadv(descriptor, pieces, place)
            if not read:
                raise OSError(errno.EIO, f"only {place - start:,} of {stop - start:,} bytes could be read")
            place += read
        _libc().madvise(address + at, end - at, POPULATE_WRITE if to_change else POPULATE_READ)


def begin_to_write(descriptor: int, start: int, stop: int) -> None:
    """Begin to write the pages between two bytes of a file, where the system can do that; errors are told later."""
    _sync_range(descriptor, start, stop, BEGIN_RANGE)


def write_out(descriptor: int, start: int, stop: int, address: int | None = None) -> None:
    """Write the pages between two bytes of a file to the disk. Raises `OSError`.

    address: where the file is mapped, None if it is not.
    """
    if _sync_range(descriptor, start, stop, SYNC_RANGE):
        return
    if address is None:
        os.fsync(descriptor)
    elif _libc().msync(address + start, stop - start, _MS_SYNC):
        raise _last_error()


def _sync_range(descriptor: int, start: int, stop: int, flags: int) -> bool:
    """Call the system's function of that name. Returns False where there is none; raises `OSError` if it fails."""
    libc = _libc()
    if not hasattr(libc, "sync_file_range"):
        return False
    if not libc.sync_file_range(descriptor, start, stop - start, flags):
        return True
    if ctypes.get_errno() not in (errno.ENOSYS, errno.EINVAL, errno.ESPIPE, errno.EOPNOTSUPP):
        raise _last_error()
    return False


def drop(descriptor: int, address: int, start: int, stop: int) -> None:
    """Let go of the pages between two bytes of a mapped file that are on the disk as they are in memory."""
    if hasattr(mmap, "MADV_DONTNEED"):
        _libc().madvise(address + start, stop - start, mmap.MADV_DONTNEED)
    forget(descriptor, start, stop)


def forget(descriptor: int, start: int, stop: int) -> None:
    """Let go of the pages between two bytes of a file in the page cache, which nobody has mapped."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, start, stop - start, os.POSIX_FADV_DONTNEED)


def can_move() -> bool:
    """Say whether the system can move memory to other addresses."""
    return hasattr(_libc(), "mremap")


def take_memory(size: int, place: int, large: int) -> int:
    """Return the address of fresh memory, which is to be moved to `place`. Raises `OSError` if there is none.

    It is asked for in pages of `large` bytes where it has room for some. So it lies at the same distance from such a
    page's border as `place`: a large page is moved as one.
    """
    libc, spare = _libc(), large if size >= large else 0
    first = libc.mmap(None, size + spare, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANON, -1, 0)
    if first == _MAP_FAILED:
        raise _last_error()
    start = int(first)
    if spare:
        start += (place - start) % large
        give_memory(first, start - first)
        give_memory(start + size, first + spare - start)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            libc.madvise(start, size, mmap.MADV_HUGEPAGE)
    return start


def give_memory(address: int, size: int) -> None:
    """Give fresh memory back."""
    if size:
        _libc().munmap(address, size)


def move_memory(address: int, size: int, place: int) -> None:
    """Move memory to another address, in place of what is mapped there. Raises `OSError`."""
    if _libc().mremap(address, size, size, _MREMAP_MAYMOVE | _MREMAP_FIXED, place) != place:
        raise _last_error()


def map_again(descriptor: int, address: int, start: int, stop: int) -> None:
    """Map a file between two bytes in place of what is there. address: where it is mapped. Raises `OSError`."""
    flags, rights = mmap.MAP_SHARED | _MAP_FIXED, mmap.PROT_READ | mmap.PROT_WRITE
    if _libc().mmap(address + start, stop - start, rights, flags, descriptor, start) != address + start:
        raise _last_error()
    if hasattr(mmap, "MADV_RANDOM"):
        _libc().madvise(address + start, stop - start, mmap.MADV_RANDOM)


def move_bytes(descriptor: int, address: int, size: int, offset: int, *, written: bool) -> int:
    """Write bytes of memory to a file, or read them from it. Returns how many; raises `OSError`."""
    libc = _libc()
    while True:
        moved = int((libc.pwrite if written else libc.pread)(descriptor, address, size, offset))
        if moved >= 0:
            return moved
        error = _last_error()
        if error.errno != errno.EINTR:
            raise error


def make_private(descriptor: int, address: int, size: int) -> None:
    """Map a file at the same place again such that what is written there stays in this process. Raises `OSError`."""
    flags = mmap.MAP_PRIVATE | _MAP_FIXED
    if _libc().mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, descriptor, 0) != address:
        raise _last_error()


_MS_SYNC = 4 if sys.platform == "linux" else 16
_MAP_FIXED = 16
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2
_MAP_FAILED = ctypes.c_void_p(-1).value
"""Constants of the system's header files that Python does not tell."""


def _last_error() -> OSError:
    """Return the error of the last call."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


@cache
def _libc() -> Any:  # noqa: ANN401
    """Return the system's own functions."""
    libc = ctypes.CDLL(None, use_errno=True)
    pointer, size, whole = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
    libc.madvise.argtypes = libc.msync.argtypes = [pointer, size, ctypes.c_int]
    libc.mmap.argtypes = [pointer, size, ctypes.c_int, ctypes.c_int, ctypes.c_int, whole]
    libc.mmap.restype = pointer
    libc.munmap.argtypes = [pointer, size]
    libc.pread.argtypes = libc.pwrite.argtypes = [ctypes.c_int, pointer, size, whole]
    libc.pread.restype = libc.pwrite.restype = ctypes.c_ssize_t
    if hasattr(libc, "mremap"):
        libc.mremap.argtypes, libc.mremap.restype = [pointer, size, size, ctypes.c_int, pointer], pointer
    if hasattr(libc, "sync_file_range"):
        libc.sync_file_range.argtypes = [ctypes.c_int, whole, whole, ctypes.c_uint]
    return libc
