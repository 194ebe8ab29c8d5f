"""One array in a file, read by runs of rows: .npy, a member of an .npz, or MNIST's idx.

Nothing is mapped and nothing is kept: `read` fills the caller's arrays. What cannot be read in any order (gzip,
deflate) is read on from where it stands, and from its start again for earlier rows. A header is believed only after
what it announces was compared with the size of the file.
"""

import gzip
import math
import os
from collections.abc import Callable
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import NUMBER_KINDS, TEXT_KINDS
from lowmem.common.damage import damage_errors, damage_is_input_error
from lowmem.data.formats.array_headers import Header, idx_header, npy_header, open_member
from lowmem.data.formats.rows import Watched, blocks
from lowmem.data.formats.text_lines import GZIP
from lowmem.errors import InputError, RunError

Array = NDArray[Any]

MOST_PACKED = 1040
"""Times by which unpacking (RFC 1951) can enlarge a file: a header that announces more lies."""

AT_ONCE, UNPACKED_AT_ONCE = 1 << 20, 1 << 14
"""Bytes that are read at a time; those that are unpacked pass through several buffers of Python's."""

DAMAGED = "It is truncated, damaged or something else; save or fetch it again."


class ArrayRef(NamedTuple):
    """Where an array is: its file, "npy", "npz" or "idx", and of an .npz the name of the member."""

    path: Path
    format: str
    member: str | None = None

    def __str__(self) -> str:
        """Write it for messages."""
        return f"{self.member} in {self.path}" if self.member else str(self.path)


class ArrayFile:
    """One array in a file, its first axis read by runs of rows.

    text: the array may hold text, as labels may.
    whole: the caller reads all of it, into memory. Only then the checksum of an .npz is compared, and an array stored
        column by column can be read, which takes as much memory again.

    Raises `InputError` for a file that is damaged or holds something else.
    """

    def __init__(self, ref: ArrayRef, *, text: bool = False, whole: bool = False) -> None:
        self.ref, self._text, self._whole = ref, text, whole
        self._watched = Watched(ref.path)
        self._transposed: Array | None = None
        with damage_is_input_error(ref.path):
            self._start()
        if len(self.shape) == 0 or min(self.shape) == 0:
            self.close()
            raise InputError(f"{ref} has the shape {self.shape}; at least one sample is needed.")

    def _start(self) -> None:
        """Open the file and read the header; `seekable` says whether its rows can be read in any order."""
        self._raw = self.ref.path.open("rb")
        self._stream: BufferedIOBase = self._raw
        self.seekable, size = True, os.fstat(self._raw.fileno()).st_size
        before = 0
        try:
            if self.ref.member is not None:
                before, size = self._enter(self.ref.member)
            elif self._raw.peek(2)[:2] == GZIP:
                self._stream, self.seekable, size = cast("BufferedIOBase", gzip.GzipFile(fileobj=self._raw)), False, -1
            read: Callable[[BufferedIOBase], Header] = idx_header if self.ref.format == "idx" else npy_header
            self.shape, by_columns, self.dtype = read(self._stream)
            self._begin, self._row = self._stream.tell(), 0
            self.row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
            self._check(size - (self._begin - before))
            if by_columns and len(self.shape) > 1:
                self._read_columns()
        except BaseException:
            self.close()
            raise

    def _enter(self, member: str) -> tuple[int, int]:
        """Go to a member of an .npz. Return where its bytes begin and how many it has."""
        from zipfile import ZIP_STORED, ZipFile  # 1 MiB, for those who read archives

        with ZipFile(self.ref.path) as archive:
            info = archive.getinfo(f"{member}.npy")
        # Who reads the whole lets zipfile see that its checksum is right.
        if info.compress_type == ZIP_STORED and not info.flag_bits & 1 and not self._whole:
            self._raw.seek(info.header_offset + 26)
            lengths = self._raw.read(4)  # of the name and of the extra field behind the local header
            self._raw.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), os.SEEK_CUR)
            return self._raw.tell(), info.file_size
        self._stream, self.seekable = open_member(ZipFile(self._raw), info.filename), False
        return 0, info.file_size

    def _check(self, held: int) -> None:
        """Refuse what is no array of numbers, and headers that announce what the file does not hold.

        held: bytes behind the header, below 0 if they are not known.
        """
        if self.dtype.kind not in NUMBER_KINDS + TEXT_KINDS * self._text or not self.dtype.itemsize:
            raise InputError(f"{self.ref} holds {self.dtype} values; numbers are needed. Convert and save it again.")
        wanted = math.prod(self.shape) * self.dtype.itemsize
        possible = wanted <= MOST_PACKED * os.fstat(self._raw.fileno()).st_size
        if held < 0:  # gzip does not tell: smaller lies show when rows are read
            held = wanted if possible else self._bytes_left(wanted)
        if held != wanted or not possible:
            raise InputError(
                f"{self.ref} announces shape {self.shape}, which is {wanted:,} bytes, and holds "
                f"{'less' if held == wanted else f'{held:,}'}. {DAMAGED}"
            )

    def _bytes_left(self, limit: int) -> int:
        """Count the bytes that unpacking gives, up to `limit`."""
        count = 0
        while count < limit and (block := self._stream.read(UNPACKED_AT_ONCE)):
            count += len(block)
        return count

    def _read_columns(self) -> None:
        """Read an array that is stored column by column as a whole, as its rows do not lie together."""
        if not self._whole:
            raise InputError(
                f"{self.ref} is stored column by column and cannot be read by rows. Save it again with "
                "numpy.save(path, numpy.ascontiguousarray(x))."
            )
        columns = np.empty(self.shape[::-1], self.dtype)
        try:
            self._fill(columns, 0)
        except RunError as problem:
            raise InputError(str(problem)) from None
        self._transposed = columns.T

    def read(self, start: int, out: Array) -> None:
        """Fill `out`, C-contiguous, with the rows from `start` on.

        Raises `RunError` if the file has changed, is damaged or ends early.
        """
        self._watched.check()
        if self._transposed is not None:
            for first, stop in blocks(len(out), max(1, AT_ONCE // self.row_bytes)):
                out[first:stop] = self._transposed[start + first : start + stop].reshape(out[first:stop].shape)
            return
        self._seek(start)
        self._fill(out, start)
        self._row = start + len(out)
        at_end = self._row == self.shape[0] and not self.seekable
        if at_end and self._some(memoryview(bytearray(1)), self._row, end=True):
            raise RunError(f"{self.ref} holds more than the {self.shape[0]:,} samples that its header announces.")

    def _fill(self, out: Array, row: int) -> None:
        """Fill an array with the bytes from here on; row: the row that they begin with."""
        target, filled = out.reshape(-1).view(np.uint8).data, 0
        at_once = AT_ONCE if self.seekable else UNPACKED_AT_ONCE
        while filled < len(target):
            filled += self._some(target[filled : filled + at_once], row + filled // self.row_bytes)

    def _some(self, target: memoryview, row: int, *, end: bool = False) -> int:
        """Read some bytes and return how many; there must be some, unless this is the end."""
        try:
            count = self._stream.readinto(target)
        except Exception as problem:
            if not isinstance(problem, damage_errors()):
                raise
            raise RunError(f"{self.ref} cannot be read: {problem}, in row {row:,}. {DAMAGED}") from None
        if not count and not end:
            raise RunError(
                f"{self.ref} ends in row {row:,} of the {self.shape[0]:,} that its header announces. {DAMAGED}"
            )
        return int(count)

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
        """Return another reader of the same file. Raises `RunError` if it has changed."""
        self._watched.check()
        other = ArrayFile(self.ref, text=self._text, whole=self._whole)
        other._watched = self._watched
        return other

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        self._raw.close()
