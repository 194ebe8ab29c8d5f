"""A file that holds states for the length of a step: without a name, of fixed size, past the page cache.

Nobody sees the file, and nothing is left of it after a kill: it never has a name, or loses it at once. All its blocks
are taken at the start, so that a full disk is known before anything is computed. Pages of the page cache count in a
control group as the memory of the process that wrote them. So the file is read and written directly where the file
system can do that; elsewhere pages are written out and dropped.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Sequence

from lowmem.common.disk import PAGE
from lowmem.common.files import reason
from lowmem.errors import InputError, shown
from lowmem.units import format_bytes

FULL = (errno.ENOSPC, errno.EDQUOT)


class SpillFile:
    """A nameless file of `size` bytes in a folder.

    direct: whether transfers go past the page cache, where the file system can do that. A file that is mapped into
        memory has its pages there.

    Raises `InputError` if the folder cannot be written or has no room, with the bytes needed and free.
    """

    _fd: int | None = None

    def __init__(self, folder: str | os.PathLike[str], size: int, *, direct: bool = True) -> None:
        check_folder(folder)
        self.size = size
        try:
            self._fd = _open_nameless(folder)
            self._take_blocks(folder)
        except BaseException:
            self.close()
            raise
        self.direct = direct and _make_direct(self._fd)

    @property
    def descriptor(self) -> int:
        """The open file's number."""
        assert self._fd is not None
        return self._fd

    def write(self, pieces: Sequence[memoryview], offset: int) -> None:
        """Write pieces of memory one behind the other. Raises `OSError`."""
        self._transfer(os.pwritev, pieces, offset)

    def read(self, pieces: Sequence[memoryview], offset: int) -> None:
        """Fill pieces of memory one behind the other. Raises `OSError`, of a short read too."""
        self._transfer(os.preadv, pieces, offset)

    def close(self) -> None:
        """Give the file back; what is in it is lost."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None

    def __del__(self) -> None:
        """Give the file back."""
        self.close()

    def _take_blocks(self, folder: str | os.PathLike[str]) -> None:
        """Take all blocks of the file now."""
        assert self._fd is not None
        free = free_bytes(folder)
        if self.size > free:
            raise _full(folder, self.size, free)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._fd, 0, max(self.size, 1))
            else:
                os.ftruncate(self._fd, self.size)
        except OSError as error:
            if error.errno in FULL:
                raise _full(folder, self.size, free) from None
            if error.errno == errno.EFBIG:
                raise InputError(
                    f"a file of {format_bytes(self.size)} in {str(folder)!r} is larger than files may be there. Raise "
                    "the limit (ulimit -f), or give the folder of another file system."
                ) from None
            raise InputError(
                f"no file of {format_bytes(self.size)} can be made in {str(folder)!r}: {reason(error)}."
            ) from None

    def _transfer(
        self, move: Callable[[int, list[memoryview], int], int], pieces: Sequence[memoryview], offset: int
    ) -> None:
        """Move pieces of memory with as many calls as the system takes for it."""
        assert self._fd is not None
        rest, at = list(pieces), offset
        while rest:
            moved = move(self._fd, rest, at)
            if not moved:
                raise OSError(errno.EIO, f"only {at - offset:,} bytes were moved")
            at += moved
            while rest and moved >= len(rest[0]):
                moved -= len(rest.pop(0))
            if moved:
                rest[0] = rest[0][moved:]
        if not self.direct:
            if move is os.pwritev:
                os.fdatasync(self._fd)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self._fd, offset, at - offset, os.POSIX_FADV_DONTNEED)


def direct_twin(descriptor: int) -> int | None:
    """Open a file anew such that transfers go past the page cache. None where the file system cannot do that.

    A mapping of the file stays as good as it was: what was changed through it is written before it is read here.
    """
    try:
        twin = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # no such folder
        return None
    if _make_direct(twin):
        return twin
    os.close(twin)
    return None


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder that is none, or that cannot be written. Raises `InputError`."""
    if not hasattr(os, "pwritev"):
        raise InputError("disk needs a system with pwritev, such as Linux; leave it out here.")
    if not isinstance(folder, str | os.PathLike) or not str(folder):
        raise InputError(f'disk must be a folder, such as disk="/tmp"; got {shown(folder)}.')
    if not os.path.isdir(folder):
        what = "is no folder" if os.path.exists(folder) else "does not exist"
        raise InputError(f"disk: {str(folder)!r} {what}. Give a folder on a disk with room, which must be there.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"disk: the folder {str(folder)!r} cannot be written. Give one that you may write to.")


def free_bytes(folder: str | os.PathLike[str]) -> int:
    """Return the bytes that a user may still take on the folder's file system."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


def _full(folder: str | os.PathLike[str], size: int, free: int) -> InputError:
    """Return the error of a disk without room."""
    return InputError(
        f"the disk is too full: {format_bytes(size)} are needed in {str(folder)!r}, and {format_bytes(free)} are "
        "free. Make room, give another folder, or say with disk_limit how much may be taken."
    )


def _open_nameless(folder: str | os.PathLike[str]) -> int:
    """Open a file that has no name, or loses it at once."""
    if hasattr(os, "O_TMPFILE"):
        with contextlib.suppress(OSError):  # a file system that has none
            return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        import tempfile  # 0.7 MiB with the compressors that it brings

        fd, name = tempfile.mkstemp(prefix=".lowmem-", dir=folder)
        os.unlink(name)
    except OSError as error:
        raise InputError(f"no file can be made in {str(folder)!r}: {reason(error)}.") from None
    return fd


def _make_direct(fd: int) -> bool:
    """Let transfers go past the page cache, if the file system can do that; say whether it can."""
    direct = getattr(os, "O_DIRECT", None)
    if direct is None:
        return False
    import fcntl
    import mmap

    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | direct)
        with mmap.mmap(-1, PAGE) as page:  # aligned; a file system may take the flag and refuse the transfer
            os.pwrite(fd, page, 0)
    except OSError:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
        return False
    return True
