"""One buffer for everything that a step makes, and typed views into it."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.disk import PAGE
from lowmem.network.tiles import aligned

Array = NDArray[np.floating[Any]]
Bounds = Sequence[tuple[int, int]]
Scratch = tuple[tuple[Array, ...], ...]

BLOCK, MARK = 4096, 0xA5
"""Bytes of the blocks in which `Arena.written` counts, and what unwritten ones are filled with."""


class Arena:
    """A block of memory that begins at a multiple of `PAGE` bytes, and matrices that lie in it.

    size: bytes. item: the dtype of the matrices. The memory is touched at once, so that a machine that cannot give it
    says so here and not in the middle of a run. Equal views are made once.
    """

    def __init__(self, size: int, item: np.dtype[Any]) -> None:
        try:
            raw = np.empty(size + PAGE, np.uint8)
        except ValueError:  # NumPy's word for more bytes than an address can count
            raise MemoryError(f"an arena of {size:,} bytes") from None
        start = -raw.ctypes.data % PAGE
        self.buffer = raw[start : start + size]
        self.buffer.fill(0)
        self.item = item
        self._views: dict[tuple[int, int, int], Array] = {}

    @property
    def flat(self) -> Array:
        """The whole arena as one flat array."""
        count = self.buffer.size // self.item.itemsize
        return self.buffer[: count * self.item.itemsize].view(self.item)

    def mark(self) -> None:
        """Fill the arena so that `written` can tell what is written from now on."""
        self.buffer.fill(MARK)

    def written(self) -> int:
        """Return the bytes of all blocks in which anything has been written since `mark`."""
        starts = range(0, self.buffer.size, BLOCK)
        blocks = (self.buffer[start : start + BLOCK] for start in starts)
        return sum(block.size for block in blocks if (block != MARK).any())

    def matrix(self, offset: int, rows: int, width: int) -> Array:
        """Return the (rows, width) matrix at byte `offset`."""
        key = (offset, rows, width)
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = np.ndarray((rows, width), self.item, self.buffer, offset)
        return view

    def tiles(self, offset: int, bounds: Bounds, width: int) -> tuple[Array, ...]:
        """Return row tiles of a matrix of that width at byte `offset`."""
        bytes_per_row = width * self.item.itemsize
        return tuple(self.matrix(offset + start * bytes_per_row, stop - start, width) for start, stop in bounds)

    def block(self, offset: int, shape: tuple[int, ...]) -> Array:
        """Return an array of that shape at byte `offset`."""
        return np.ndarray(shape, self.item, self.buffer, offset)

    def scratch(self, offset: int, bounds: Bounds, rows: int, widths: Sequence[int]) -> Scratch:
        """Return, for each row tile, working matrices of these widths; all tiles use the same memory.

        rows: of the largest tile.
        """
        offsets = [*accumulate((aligned(rows * width * self.item.itemsize) for width in widths), initial=offset)]
        return tuple(
            tuple(self.matrix(at, stop - start, width) for at, width in zip(offsets, widths, strict=False))
            for start, stop in bounds
        )

    def forget_views(self) -> None:
        """Drop the table of views made so far; those in use live on."""
        self._views.clear()
