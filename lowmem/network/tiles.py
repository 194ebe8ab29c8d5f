"""How a batch is cut in row tiles, and the bytes that the arrays of a tile take. No NumPy."""

from lowmem.network.architecture import Architecture
from lowmem.network.layers import Layer
from lowmem.network.layers.base import Widths, Workspace

ALIGNMENT = 64
"""Bytes; every array of the arena begins at a multiple of this (a cache line, and the widest vector register)."""

TILE_ROWS = 512
"""Kernels walk a batch in row tiles of this size, so that elementwise passes find the tile in cache and a layer
can overwrite its own input. Fixed, whatever the budget: a product's bits depend on the shape it is computed in."""

INDEX_BYTES = 8
"""Bytes of an index into an array (intp)."""


def aligned(size: int, to: int = ALIGNMENT) -> int:
    """Round `size` bytes up to a multiple of `to`, the arena's alignment."""
    return -(-size // to) * to


def lane_rows(rows: int, lanes: int) -> int:
    """Return how many rows of a pass a lane has; the last one may have fewer."""
    return -(-rows // lanes)


def tile_rows(rows: int) -> int:
    """Return how many rows a tile of a batch of `rows` samples has; the last tile may be shorter.

    Never falls as the batch grows, so the working memory of a batch is enough for every smaller one.
    """
    return min(rows, TILE_ROWS)


def tile_count(rows: int) -> int:
    """Return how many tiles a batch of `rows` samples has."""
    return -(-rows // TILE_ROWS)


def tile_bounds(rows: int) -> list[tuple[int, int]]:
    """Return (start, stop) of the row tiles of a batch of `rows` samples."""
    return [(start, min(start + TILE_ROWS, rows)) for start in range(0, rows, TILE_ROWS)]


def loss_scratch_bytes(architecture: Architecture, tile: int) -> int:
    """Return the working bytes of the loss for tiles of so many rows."""
    facts, item = architecture.loss_facts, architecture.item_bytes
    index = aligned(tile * INDEX_BYTES) if facts.labels else 0
    matrices, vectors = aligned(tile * architecture.widths[-1] * item), aligned(tile * item)
    return facts.scratch * matrices + facts.row_scratch * vectors + index


def matrices_bytes(widths: Widths, rows: int, item_bytes: int) -> int:
    """Return the bytes of matrices of so many rows, one behind the other."""
    return sum(aligned(rows * width * item_bytes) for width in widths)


def whole_bytes(layer: Layer, workspace: Workspace, rows: int, tiles: int) -> int:
    """Return the bytes of what all tiles share to reverse a layer: whole matrices, and sums over each tile."""
    sums = aligned(tiles * workspace.partial_sums * layer.entering * layer.item_bytes)
    return matrices_bytes(workspace.whole, rows, layer.item_bytes) + sums
