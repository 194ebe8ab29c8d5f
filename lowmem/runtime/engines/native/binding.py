"""What every use of the compiled engine binds: the network's arrays, and the vectors that lanes work in."""

import ctypes
from typing import Any

from numpy.typing import NDArray

from lowmem.network.native_names import LOSSES
from lowmem.nn.mlp import MLP
from lowmem.runtime.engines.native.library import Library
from lowmem.runtime.engines.native.structs import EngineStruct


def bind_network(
    library: Library, mlp: MLP, layers: NDArray[Any], vectors: NDArray[Any], lanes: int, tile: int
) -> EngineStruct:
    """Return a struct with what does not change from step to step.

    It holds addresses: the library, the network and the arrays must live as long as it is used.
    """
    architecture, struct = mlp.architecture, EngineStruct()
    struct.blas = ctypes.addressof(library.blas)
    struct.layers, struct.layer_count = address(layers), len(layers)
    struct.parameters, struct.running = address(mlp.parameters), address(mlp.running)
    struct.vectors, struct.vectors_each = address(vectors), len(vectors) // lanes
    struct.item, struct.lanes, struct.tile = architecture.item_bytes, lanes, tile
    struct.loss, struct.loss_parameter = LOSSES.index(architecture.loss), architecture.loss_parameter
    return struct


def address(array: NDArray[Any]) -> int:
    """Return where an array's numbers begin."""
    return int(array.ctypes.data)
