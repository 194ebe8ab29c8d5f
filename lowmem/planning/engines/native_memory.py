"""What the compiled engine takes beside arena and parameters: vectors, gradients, and its program. No NumPy."""

from itertools import pairwise
from math import prod

from lowmem.network.architecture import Architecture
from lowmem.network.layers import Layer
from lowmem.network.layers.preactivation import Preactivation
from lowmem.network.tiles import TILE_ROWS

STATISTICS = 3
"""Vectors that a norm over the batch keeps of a step: mean, inverse deviation, variance."""

OP_BYTES, LAYER_BYTES = 40, 121
"""Bytes of the records of an op, and of a layer with its mark of statistics; see lowmem_native.h."""

PER_LANE_BYTES = 16
"""A loss and a sum of squares."""

CUT_BYTES = 80
"""Bytes of the places where the program of a pass over a shard is cut for a layer: twice three numbers, and room for
growing."""

OBJECT_BYTES = 64_000
"""Bytes of Python's objects around the engine, whatever the depth: its struct, arrays, pool and views."""

BOUND = 8
"""Bytes of a layer's place in the sequences of views, which are made when they are asked for."""


EVALUATION_ROWS = 256
"""Rows that evaluation carries through a layer whose parameters are streamed, if tiles are not larger."""

THREAD_BYTES = 3 * (128 << 10)
"""Bytes of the threads that move parameters and moments: their stacks, and what the C library keeps for each."""

DISK_CALL_BYTES, DISK_BYTES = 240, 24_000
"""Bytes of a bound call that begins a transfer or waits for one, and of the store with its threads."""


def stride(architecture: Architecture) -> int:
    """Return the numbers of a working vector: the widest layer, rounded up to whole vector registers."""
    return -(-max(architecture.widths) // 16) * 16


def vector_count(architecture: Architecture) -> int:
    """Return how many working vectors a lane has.

    One sums up δ for the bias. Two gather the gradients of a norm. Behind them lie the rows that a norm (four) or
    dropout (one) works in.
    """
    layers = [layer for layer in set(architecture.each_layer) if isinstance(layer, Preactivation)]
    if any(layer.norm is not None for layer in layers):
        return 7
    return 4 if any(layer.drops for layer in layers) else 1


def vector_numbers(architecture: Architecture, lanes: int) -> int:
    """Return the numbers in the working vectors of all lanes."""
    return lanes * vector_count(architecture) * stride(architecture)


def workspace_numbers(architecture: Architecture, tile: int) -> int:
    """Return the numbers that a lane works in for tiles of `tile` rows: a state, and beside it what a layer needs."""
    beside = max(sum(layer.workspace("native").in_place) for layer in set(architecture.each_layer))
    return tile * (stride(architecture) + max(beside, architecture.widths[0]))


def evaluation_tile(architecture: Architecture, rows: int, lanes: int) -> int:
    """Return the rows of a tile of evaluation, which works in the arena of passes of so many rows.

    They fit the least arena that any plan has, a state and the δ behind it, so that evaluation has the same bits under
    every plan. 0 where a row does not fit.
    """
    widths = architecture.widths[1:]
    least = max(*widths, *(one + other for one, other in pairwise(widths)), 0)
    return min(rows * least // (lanes * workspace_numbers(architecture, 1)), TILE_ROWS)


def lane_gradient_numbers(architecture: Architecture, lanes: int) -> int:
    """Return the numbers of a lane's buffer of gradients where updates are fused: its share of the largest layer."""
    return max(_share(layer, lanes) for layer in set(architecture.each_layer))


def _share(layer: Layer, lanes: int) -> int:
    """Return the numbers of the largest share that a lane has of a layer's gradients."""
    return sum(-(-shape[0] // lanes) * prod(shape[1:]) for shape in layer.parameters.values())


def statistics_numbers(architecture: Architecture) -> int:
    """Return how many numbers the statistics of a step take, of norms over the batch."""
    if architecture.couples is None:
        return 0
    return sum(STATISTICS * layer.entering for layer in architecture.each_layer if layer.couples)


def program_bytes(layers: int, ops: int, lanes: int, *, sharded: bool = False) -> int:
    """Return the bytes of a bound program of so many ops, with the objects around it.

    sharded: whether the program is cut behind every layer's backward.
    """
    size = OBJECT_BYTES + layers * (LAYER_BYTES + BOUND) + ops * OP_BYTES + lanes * PER_LANE_BYTES
    return size + sharded * layers * CUT_BYTES


def stream_objects_bytes(moves: int) -> int:
    """Return the bytes of Python's objects for so many moves of parameters and moments in a pass."""
    return DISK_BYTES + moves * DISK_CALL_BYTES if moves else 0


def layered_numbers(architecture: Architecture, rows: int, lanes: int) -> int:
    """Return the numbers of a state of the rows that evaluation carries together where parameters are streamed.

    It carries them through one layer after the other, in whole tiles, from one such state to another. rows: of a pass.
    """
    tile = max(evaluation_tile(architecture, rows, lanes), 1)
    return max(EVALUATION_ROWS // tile, 1) * tile * max(architecture.widths[1:])


def disk_objects_bytes(transfers: int) -> int:
    """Return the bytes of Python's objects for so many transfers a pass; each of them is waited for as well."""
    return DISK_BYTES + 2 * transfers * DISK_CALL_BYTES if transfers else 0
