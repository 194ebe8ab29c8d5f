"""A part of an array on the disk, piece by piece: this is how such arrays are copied, saved and loaded."""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from lowmem.common.disk.paged_array import PagedArray

Range = tuple[int, int]
"""The number of the first item of a part of an array, and of the one behind the last."""

PIECE = 1 << 20
"""Bytes of a piece: a multiple of every system's page."""


class Part(NamedTuple):
    """A part of an array on the disk, which is looked at piece by piece.

    start, stop: its items. shape: of the whole part.
    """

    of: "PagedArray"
    start: int
    stop: int
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of every piece."""
        return self.of.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the whole part."""
        return (self.stop - self.start) * self.dtype.itemsize

    def pieces(self, *, changed: bool = False, fetched: bool = True) -> Generator[NDArray[Any]]:
        """Yield the pieces, flat, each valid until the next one; arguments and errors are those of `sweep`."""
        for start, stop in self.of.sweep(self._ranges(), changed=changed, fetched=fetched):
            yield self.of.array[start:stop]

    def _ranges(self) -> Iterator[Range]:
        """Yield the items of each piece: they are cut at borders of pages."""
        each, start = PIECE // self.dtype.itemsize, self.start
        while start < self.stop:
            stop = min(start // each * each + each, self.stop)
            yield start, stop
            start = stop


def cut(array: "NDArray[Any] | PagedArray", *, changed: bool = False) -> Iterator[NDArray[Any]]:
    """Yield the pieces of a flat array, each in memory. changed: whether they are written to."""
    if not isinstance(array, np.ndarray):
        return array.pieces(changed=changed)
    each = PIECE // array.itemsize
    return (array[start : start + each] for start in range(0, len(array), each))


def copy(target: "NDArray[Any] | PagedArray", source: "NDArray[Any] | PagedArray") -> None:
    """Copy a flat array to another one of its size. Of one on a disk, a few pieces are in memory at a time."""
    for mine, other in zip(cut(target, changed=True), cut(source), strict=True):
        np.copyto(mine, other)
