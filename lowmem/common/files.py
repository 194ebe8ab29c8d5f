"""Files that are written whole: a new file takes the place of the old one in one step, or the old one stays.

Each writer has a temporary file of its own beside the file that it writes, so that several writers to one path never
mix: the last one to finish wins. A writer that was killed leaves its temporary file; the next writer removes it.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from lowmem.common.passing import PassingFile
from lowmem.common.places import advice_on
from lowmem.errors import Advice, InputError

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed
    fcntl = None  # type: ignore[assignment]

LONGEST_NAME = 200
"""The most characters that the name of a temporary file takes from that of the file; names may have 255 bytes."""


MOST_LINKS = 40
"""Symbolic links that are followed one after the other, as the system does."""

NO_FILE = "it is a device, a pipe or a socket, and no file"


@contextlib.contextmanager
def replacing(*paths: Path) -> Iterator[tuple[BinaryIO, ...]]:
    """Open new files, unbuffered, that replace those at `paths` after the block, when they are on the disk.

    A new file has the permissions of the file that it replaces, and its owner and group where this process may give
    them. If anything fails, the new files are removed and the old ones are unchanged. Several files are replaced
    together: two writers of the same files do not mix them.

    Raises `OSError` if a file cannot be written.
    """
    targets = [_followed(path) for path in paths]
    with contextlib.ExitStack() as open_files:
        written = []
        for target in targets:
            _check_kind(target)
            written.append(open_files.enter_context(_beside(target)))
        yield tuple(stream for stream, _ in written)
        for (stream, _), target in zip(written, targets, strict=True):
            _keep_owner(stream, target)
            _keep_mode(stream, target)
            os.fsync(stream.fileno())
        with _folder_held(targets[0].parent if len(targets) > 1 else None):
            for (stream, temporary), target in zip(written, targets, strict=True):
                if fcntl is None:
                    stream.close()  # elsewhere it stays locked until it has its place
                os.replace(temporary, target)
    for folder in {target.parent for target in targets}:
        _sync_folder(folder)


def write_all(stream: BinaryIO, block: bytes | memoryview) -> None:
    """Write a block to an unbuffered file, however many calls the system takes for it."""
    rest = memoryview(block)
    while rest:
        rest = rest[stream.write(rest) :]


def check_place(path: Path, what: str) -> None:
    """Refuse a place where no file can be written, before any work is done for it. Raises `InputError`.

    what: what will be written there, such as "a run".

    An empty file is made beside it and removed, as nothing else tells whether that can be done.
    """
    why = _why_no_place(path)
    if why is not None:
        raise InputError(f"{what} cannot be saved to {str(path)!r}: {why}")


def check_apart(
    outputs: Mapping[str, str | Path | None], inputs: Mapping[str, Iterable[str | Path | None]] | None = None
) -> None:
    """Refuse files to write of which two are the same, or one is read: the later one would destroy it.

    outputs: by their keywords in Python, or by the names of arguments of a command, which are in capitals.
    inputs: by what they are, such as "the data". None stands for no file, in both.

    Raises `InputError`.
    """
    known: list[tuple[Advice | str, str | Path]] = []
    for name, path in outputs.items():
        if path is None:
            continue
        given = Advice(name, str(path)) if name.islower() else f"{name} {path}"
        for other, earlier in known:
            if same_file(path, earlier):
                raise InputError(other, " and ", given, " are the same file. Give each a file of its own.")
        for what, files in (inputs or {}).items():
            if any(same_file(path, file) for file in files if file is not None):
                raise InputError(given, f" would overwrite {what}. Name another file.")
        known.append((given, path))


def same_file(one: str | Path, other: str | Path) -> bool:
    """Say whether two paths are one file, there or not, whether by their names, by symbolic or by hard links."""
    try:
        by_name = os.path.normcase(os.path.realpath(one)) == os.path.normcase(os.path.realpath(other))
        return by_name or os.path.samefile(one, other)
    except (OSError, ValueError):  # one is not there, or is no path at all
        return False


def unchanged(path: str | Path) -> str:
    """Return what is true of a file after a failed attempt to replace it, as a sentence."""
    there = os.path.lexists(path)
    return "The file that was there is unchanged." if there else "No file was written."


def reason(problem: BaseException) -> str:
    """Return why a file cannot be read or written, in the words of the system where it has any."""
    return str(getattr(problem, "strerror", None) or problem).rstrip(".")


def _why_no_place(path: Path) -> str | None:
    """Return why no file can be written to a place, and what to do; None if one can."""
    try:
        target = _followed(path)
        if target.is_dir():
            return "that is a folder. Name a file in it."
        if not target.parent.is_dir():
            advice = advice_on(path) if str(path).startswith("~") else "Make it first."
            return f"there is no folder {str(path.parent)!r}. {advice}"
        _check_kind(target)
        with _beside(target):
            pass
    except (OSError, ValueError) as problem:  # ValueError: a name with a null character
        return f"{reason(problem)}. Name another file."
    return None


def _followed(path: Path) -> Path:
    """Return the file that symbolic links lead to.

    Raises `OSError` for a link among the system's own to what a process has open, such as /dev/stdout: it may lead to
    a file, and who holds that open would go on writing to the replaced one.
    """
    at = os.path.abspath(path)
    for _ in range(MOST_LINKS):
        at = os.path.join(os.path.realpath(os.path.dirname(at)), os.path.basename(at))
        if not os.path.islink(at):
            break
        if os.path.dirname(at) == "/dev" or at.startswith("/proc/"):
            raise OSError(errno.EINVAL, NO_FILE)
        at = os.path.join(os.path.dirname(at), os.readlink(at))
    return Path(os.path.realpath(path))


def _check_kind(target: Path) -> None:
    """Refuse to replace a folder, a device, a pipe or a socket by a file. Raises `OSError`."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(target).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if stat.S_ISLNK(mode):  # links were followed, as far as they lead anywhere
            raise OSError(errno.ELOOP, "it is a symbolic link that leads back to itself")
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, NO_FILE)


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a new temporary file beside `target`. If it is still there after the block, it is removed."""
    stem = target.name[:LONGEST_NAME]
    _remove_left(target.parent, stem)
    temporary = target.with_name(f"{stem}.{os.urandom(4).hex()}.part")
    try:
        with PassingFile(temporary, writing=True) as stream:
            if fcntl is not None:
                with contextlib.suppress(OSError):  # some file systems have no locks
                    fcntl.flock(stream, fcntl.LOCK_EX)
            yield stream, temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _remove_left(folder: Path, stem: str) -> None:
    """Remove temporary files that killed writers left: those that no living writer has locked."""
    if fcntl is None:
        return
    pattern = re.compile(re.escape(stem) + r"\.[0-9a-f]{8}\.part")
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if pattern.fullmatch(entry.name):
                with contextlib.suppress(OSError), open(entry.path, "rb") as left:
                    fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # A writer that has just made its file, and not locked it yet, has an empty one.
                    if os.fstat(left.fileno()).st_size:
                        os.unlink(entry.path)


NOT_GIVEN = {errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}
"""Errors of who may not give a file away: by rights, in a container without that user, on a disk without owners."""


def _keep_owner(stream: BinaryIO, target: Path) -> None:
    """Give a new file the owner and the group of the file that it will replace, as far as this process may.

    It comes before the mode, as a change of the owner takes some bits of that away.
    """
    if not hasattr(os, "fchown") or not target.exists():
        return
    before, now = os.stat(target), os.fstat(stream.fileno())
    for owner, group in ((-1, before.st_gid), (before.st_uid, -1)):
        if owner in (-1, now.st_uid) and group in (-1, now.st_gid):
            continue
        try:
            os.fchown(stream.fileno(), owner, group)
        except OSError as problem:
            if problem.errno not in NOT_GIVEN:
                raise


def _keep_mode(stream: BinaryIO, target: Path) -> None:
    """Give a new file the permissions of the file that it will replace, if there is one."""
    with contextlib.suppress(OSError, AttributeError):
        os.fchmod(stream.fileno(), stat.S_IMODE(os.stat(target).st_mode))


@contextlib.contextmanager
def _folder_held(folder: Path | None) -> Iterator[None]:
    """Hold a folder's lock meanwhile, where the system has such locks. None holds nothing."""
    if folder is None or fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Write a folder's new entries to the disk, where the system lets folders be opened (Windows does not)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
