"""How a batch is cut in row tiles, and the bytes that arrays of a tile take. No NumPy."""

from lowmem.network.architecture import Architecture
from lowmem.network.layers import Layer
from lowmem.network.layers.base import Rooms

ALIGNMENT = 64
"""Bytes; every array of the arena begins at a multiple of this (a cache line, and the widest vector register)."""

TILE_ROWS = 512
"""Kernels walk a batch in row tiles of this size, so that elementwise passes find the tile in cache and a layer
can overwrite its own input. Fixed, whatever the budget: a product's bits depend on the shape it is computed in."""

INDEX_BYTES = 8
"""Bytes of an index into an array (intp)."""


def aligned(size: int) -> int:
    """Round `size` bytes up to the arena's alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def lane_rows(rows: int, lanes: int) -> int:
    """Return how many rows of a batch a lane has; the last ones may have fewer."""
    return -(-rows // lanes)


def tile_rows(rows: int, lanes: int = 1) -> int:
    """Return how many rows a tile of a batch of `rows` samples has; the last tile of a lane may be shorter.

    Every lane works on a tile at a time. Never falls as the batch grows, so the working memory of a batch is enough
    for every smaller one.
    """
    return min(lane_rows(rows, lanes), TILE_ROWS)


def tile_bounds(rows: int, lane: int = 0, lanes: int = 1) -> list[tuple[int, int]]:
    """Return (start, stop) of the row tiles of one lane of a batch of `rows` samples."""
    tile, each = tile_rows(rows, lanes), lane_rows(rows, lanes)
    end = min((lane + 1) * each, rows)
    return [(start, min(start + tile, end)) for start in range(lane * each, end, tile)]


def loss_scratch_bytes(architecture: Architecture, tile: int) -> int:
    """Return the working bytes of the loss for tiles of so many rows."""
    facts, item = architecture.loss_facts, architecture.item_bytes
    index = aligned(tile * INDEX_BYTES) if facts.labels else 0
    matrices, vectors = aligned(tile * architecture.widths[-1] * item), aligned(tile * item)
    return facts.scratch * matrices + facts.row_scratch * vectors + index


def rooms_bytes(rooms: Rooms, rows: int, item_bytes: int) -> int:
    """Return the bytes of working matrices of so many rows, one behind the other."""
    return sum(aligned(rows * width * item_bytes) for width in rooms)


def tile_count(rows: int, lanes: int = 1) -> int:
    """Return how many tiles all lanes have together."""
    each, tile = lane_rows(rows, lanes), tile_rows(rows, lanes)
    return sum(-(-min(each, max(rows - lane * each, 0)) // tile) for lane in range(lanes))


def whole_bytes(layer: Layer, rows: int, lanes: int) -> int:
    """Return the bytes of what all lanes share to reverse a layer: whole matrices, and sums over tiles.

    For the sums as if all lanes had as many tiles as the first one: the tiles of a smaller batch can be more in number
    (of 1540 rows three lanes make 5, of 1539 rows 6), but not more than that.
    """
    tiles = lanes * -(-lane_rows(rows, lanes) // tile_rows(rows, lanes))
    partials = aligned(tiles * layer.partials * layer.entering * layer.item_bytes)
    return rooms_bytes(layer.whole_rooms, rows, layer.item_bytes) + partials
