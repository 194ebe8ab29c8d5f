"""Files of arrays, read a run of rows at a time: .npy, .npz and MNIST's idx.

Nothing is mapped and nothing is kept: `read` fills the caller's arrays. What cannot jump (gzip, deflate) is read on
from where it stands, and from the start again for earlier rows.
"""

import gzip
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast
from zlib import error

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import NUMBER_KINDS, TEXT_KINDS
from lowmem.data.class_names import ClassNames
from lowmem.data.formats.array_headers import Header, damage_is_input_error, idx_header, npy_header, open_member
from lowmem.errors import InputError, RunError

Array = NDArray[Any]
MOST_PACKED = 1040
"""Times by which unpacking (RFC 1951) can enlarge a file: a header that announces more lies."""

AT_ONCE, UNPACKED_AT_ONCE = 1 << 20, 1 << 16
"""Bytes that are read at a time; those that are unpacked pass through several buffers of Python's."""


class Rows(ABC):
    """Samples in a file: x (samples, features) and y (samples,) or (samples, columns), read by runs of rows.

    w_dtype: that of the samples' own weights (samples,), None where there are none. names: of the classes, where y is
    text in the file; y is then their numbers. Every reader has a place of its own; `again` opens another, which shares
    the names.
    """

    name: str
    samples: int
    features: int
    x_dtype: np.dtype[Any]
    y_dtype: np.dtype[Any]
    y_shape: tuple[int, ...]
    w_dtype: np.dtype[Any] | None = None
    names: ClassNames | None = None
    seekable: bool = True

    @abstractmethod
    def read(self, start: int, x: Array, y: Array, w: Array | None = None) -> None:
        """Fill x, y and, if it is given, w with the rows from `start` on.

        Raises `RunError` if the file has changed or ends early.
        """

    @abstractmethod
    def again(self) -> "Rows":
        """Return another reader of the same rows."""

    @abstractmethod
    def close(self) -> None:
        """Close the files."""


class Watched:
    """A file that must not change while it is in use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = self._look()

    def _look(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns

    def check(self) -> None:
        """Refuse to go on if the file is another than at the start."""
        if self._look() != self._known:
            raise RunError(f"{self.path} has changed since it was opened; what was read may not belong together.")


class ArrayFile:
    """One array in a file, its first axis read by runs of rows.

    kind: "npy" or "idx", or "npz" with the name of the member. text: it may hold text, which labels may be.
    """

    def __init__(self, path: Path, kind: str, member: str | None = None, *, text: bool = False) -> None:
        self._arguments, self._text = (path, kind, member), text
        self.path, self.what = path, f"{member} in {path}" if member else str(path)
        self._watched = Watched(path)
        with damage_is_input_error(path):
            self._start()
        if len(self.shape) == 0 or min(self.shape) == 0:
            self.close()
            raise InputError(f"{self.what} has the shape {self.shape}; at least one sample is needed.")

    def _start(self) -> None:
        """Open the file and read the header; `seekable` says whether its rows can be jumped to."""
        path, kind, member = self._arguments
        self._raw = path.open("rb")
        self._stream: BufferedIOBase = self._raw
        self.seekable, size = True, os.fstat(self._raw.fileno()).st_size
        before = 0
        try:
            if member is not None:
                before, size = self._enter(member)
            elif kind == "idx" and self._raw.peek(2)[:2] == b"\x1f\x8b":
                self._stream, self.seekable, size = cast("BufferedIOBase", gzip.GzipFile(fileobj=self._raw)), False, -1
            read: Callable[[BufferedIOBase], Header] = idx_header if kind == "idx" else npy_header
            self.shape, fortran, self.dtype = read(self._stream)
            self._begin, self._row = self._stream.tell(), 0
            self.row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
            self._check(fortran, size - (self._begin - before))
        except BaseException:
            self.close()
            raise

    def _enter(self, member: str) -> tuple[int, int]:
        """Go to a member of an .npz, return where its bytes begin and how many it has; stored plainly, it can jump."""
        from zipfile import ZIP_STORED, ZipFile  # 1 MiB, for those who read archives

        with ZipFile(self.path) as archive:
            info = archive.getinfo(f"{member}.npy")
        if info.compress_type == ZIP_STORED and not info.flag_bits & 1:
            self._raw.seek(info.header_offset + 26)
            lengths = self._raw.read(4)  # of the name and of the extra field behind the local header
            self._raw.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), os.SEEK_CUR)
            return self._raw.tell(), info.file_size
        self._stream, self.seekable = open_member(ZipFile(self._raw), info.filename), False
        return 0, info.file_size

    def _check(self, fortran: bool, held: int) -> None:
        """Refuse arrays that cannot be read by rows, and headers that announce what the file does not hold."""
        if self.dtype.kind not in NUMBER_KINDS + TEXT_KINDS * self._text or not self.dtype.itemsize:
            raise InputError(f"{self.what} holds {self.dtype} values; numbers are needed. Convert and save it again.")
        if fortran and len(self.shape) > 1:
            raise InputError(
                f"{self.what} is stored column by column and cannot be read by rows. Save it again with "
                "numpy.save(path, numpy.ascontiguousarray(x))."
            )
        wanted = math.prod(self.shape) * self.dtype.itemsize
        most = MOST_PACKED * os.fstat(self._raw.fileno()).st_size
        unknown = held < 0  # of a gzip file before its end
        if wanted > most or (held != wanted and not unknown):
            raise InputError(
                f"{self.what} announces shape {self.shape}, which is {wanted:,} bytes, and holds "
                f"{'less' if unknown else f'{held:,}'}. It is truncated or damaged; save or fetch it again."
            )

    def read(self, start: int, out: Array) -> None:
        """Fill `out`, C-contiguous, with the rows from `start` on."""
        self._watched.check()
        self._seek(start)
        target, filled = out.reshape(-1).view(np.uint8).data, 0
        at_once = AT_ONCE if self.seekable else UNPACKED_AT_ONCE
        while filled < len(target):
            filled += self._some(target[filled : filled + at_once], start + filled // self.row_bytes)
        self._row = start + len(out)
        if (
            self._row == self.shape[0]
            and not self.seekable
            and self._some(memoryview(bytearray(1)), self._row, end=True)
        ):
            raise RunError(f"{self.what} holds more than the {self.shape[0]:,} samples that its header announces.")

    def _some(self, target: memoryview, row: int, *, end: bool = False) -> int:
        """Read some bytes; it is an error if there are none, unless this is the end."""
        try:
            got = self._stream.readinto(target)
        except (OSError, EOFError, ValueError, RuntimeError, error) as problem:
            raise RunError(f"{self.what} cannot be read at row {row:,}: {problem}. It is damaged.") from None
        if not got and not end:
            raise RunError(
                f"{self.what} ends in row {row:,} of the {self.shape[0]:,} that its header announces. It is truncated "
                "or damaged; save or fetch it again."
            )
        return int(got)

    def _seek(self, start: int) -> None:
        """Go to a row."""
        if start == self._row:
            return
        if self.seekable:
            self._stream.seek(self._begin + start * self.row_bytes)
        else:
            if start < self._row:
                self.close()
                self._start()
            left, scratch = (start - self._row) * self.row_bytes, memoryview(bytearray(UNPACKED_AT_ONCE))
            while left:
                left -= self._some(scratch[:left], self._row)
        self._row = start

    def again(self) -> "ArrayFile":
        """Return another reader of the same file, which must not have changed."""
        self._watched.check()
        other = ArrayFile(*self._arguments, text=self._text)
        other._watched = self._watched
        return other

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        self._raw.close()


def blocks(samples: int, rows: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of runs of at most `rows` rows."""
    for start in range(0, samples, rows):
        yield start, min(start + rows, samples)
