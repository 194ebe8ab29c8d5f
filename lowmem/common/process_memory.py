"""Memory of this process as the system sees it: what it holds resident, and what it gives back.

On Linux, /proc tells the resident memory; elsewhere psutil does.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

STATM = Path("/proc/self/statm")
"""File in which Linux tells the memory of this process, in pages."""

M_MMAP_THRESHOLD, OWN_PAGES = -3, 128 << 10
"""The setting of glibc's `mallopt`, and bytes from which on a block gets pages of its own: glibc's own first value."""

M_ARENA_MAX = -8
"""The setting of glibc's `mallopt` for how many heaps threads allocate from."""


def resident() -> int:
    """Return the bytes that the process holds resident now."""
    read, close = open_resident()
    try:
        return read()
    finally:
        close()


def open_resident() -> tuple[Callable[[], int], Callable[[], None]]:
    """Return a function that reads the resident memory in bytes, and a function that closes what the first uses."""
    try:
        file = os.open(STATM, os.O_RDONLY)
    except OSError:
        import psutil  # takes 2.3 MiB, which Linux does not need

        process = psutil.Process()
        return lambda: int(process.memory_info().rss), lambda: None
    page = os.sysconf("SC_PAGE_SIZE")
    return lambda: int(os.pread(file, 128, 0).split()[1]) * page, lambda: os.close(file)


def give_back() -> None:
    """Return freed memory to the system; glibc would keep it."""
    import ctypes  # NumPy has loaded it already

    with suppress(AttributeError, OSError, TypeError):  # the C library is not glibc
        ctypes.CDLL(None).malloc_trim(0)


def return_large_blocks() -> None:
    """Let glibc return large blocks to the system as soon as they are freed, from now on; elsewhere do nothing.

    Left to itself, glibc raises the size from which on blocks get pages of their own to that of the largest one that
    was freed, up to 32 MiB. Blocks below it, such as the pages of a Parquet file, then leave pieces that others do not
    fit into: the process holds several MB more from one pass over a file to the next. The price: every large array
    that NumPy makes for a moment gets fresh pages from the system.
    """
    _set_malloc(M_MMAP_THRESHOLD, OWN_PAGES)


def share_one_heap() -> None:
    """Let threads that begin from now on allocate from the heap of the others; elsewhere than on glibc do nothing.

    Left to itself, glibc reserves 64 MiB of addresses for the heap of each thread, which count where a process may
    have few addresses (`ulimit -v`), used or not. The price: threads that allocate at once wait for each other.
    """
    _set_malloc(M_ARENA_MAX, 1)


def _set_malloc(setting: int, value: int) -> None:
    """Change how the C library allocates, if it is glibc."""
    import ctypes

    with suppress(AttributeError, OSError, TypeError):  # it is another
        ctypes.CDLL(None).mallopt(setting, value)
