"""Forward only: rows through a network in the compiled engine, for prediction and evaluation."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.network.tiles import TILE_ROWS
from lowmem.nn.forward import parts_at_once
from lowmem.nn.mlp import MLP
from lowmem.planning.engines import native_memory
from lowmem.planning.engines.lane_count import lanes_for
from lowmem.runtime.engines.native import encoding
from lowmem.runtime.engines.native.binding import address, bind_network
from lowmem.runtime.engines.native.library import Library, load
from lowmem.runtime.engines.native.pool import Pool
from lowmem.runtime.engines.native.structs import EngineStruct

Array = NDArray[Any]


class NativeForward:
    """A network run forward, in memory that is made once: nothing is dropped, and running statistics are used.

    mlp: the network; its parameters are used where they are. Of a network on the disk, a few layers are in memory, and
        several tiles go through each.
    rows: how many rows come at a time, at most. They are shared out in tiles to as many lanes as the work is worth.
        Every product has the rows of a full tile, so that the outputs of a row do not depend on how many rows there
        are.
    lanes: threads, None to choose.

    Raises `UnusableError` where the library cannot be loaded.
    """

    def __init__(self, mlp: MLP, rows: int, lanes: int | None = None) -> None:
        architecture = mlp.architecture
        self._library, self.mlp = load(), mlp
        self.lanes = lanes_for("native", architecture, max(rows, 1)) if lanes is None else lanes
        self.tile = max(min(-(-rows // self.lanes), TILE_ROWS), 1)
        self._layers = encoding.layers_of(architecture, self.tile)
        self._vectors = np.zeros(native_memory.vector_numbers(architecture, self.lanes), architecture.dtype)
        self._each = native_memory.workspace_numbers(architecture, self.tile)
        self._workspace = np.zeros(self.lanes * self._each, architecture.dtype)
        self._pool = Pool(self._library, self.lanes)
        self._struct = bind_network(self._library, mlp, self._layers, self._vectors, self.lanes, self.tile)
        numbers = self.tile * parts_at_once(architecture, self.tile) * max(architecture.widths[1:])
        self._between = None if mlp.paged is None else np.zeros((2, numbers), architecture.dtype)

    def into(self, x: Array, out: Array) -> None:
        """Write the outputs s^(L) for x, (any number of rows, n_0), to `out`, (as many rows, n_L). No array is made.

        Both are C-contiguous, in the network's dtype.
        """
        library, struct, between = self._library, self._struct, self._between
        with self._pool.running() as struct.pool:
            if between is None:
                run_forward(library, struct, x, out, self._workspace, self._each)
            else:
                run_layered(
                    library,
                    struct,
                    x,
                    out,
                    self._workspace,
                    self._each,
                    layers=self._layers,
                    between=between,
                    each_layer=self.mlp.in_turn,
                )


def run_forward(
    library: Library, struct: EngineStruct, x: Array, out: Array, workspace: Array, workspace_each: int
) -> None:
    """Run bound layers forward over the rows of x, each lane in `workspace_each` numbers of the workspace."""
    library.functions.lm_forward(struct, address(x), address(out), len(x), address(workspace), workspace_each)


def run_layered(
    library: Library,
    struct: EngineStruct,
    x: Array,
    out: Array,
    workspace: Array,
    workspace_each: int,
    *,
    layers: Array,
    between: Array,
    each_layer: Callable[[], Iterator[int]],
) -> None:
    """Run the rows of x through one layer after the other, to the bits of `run_forward`.

    layers: their records. between: two states, (2, numbers), of as many rows as are carried together: whole tiles.
    each_layer: yields the number of each layer while its parameters are in memory.
    """
    whole = struct.layers, struct.layer_count
    rows = between.shape[1] // int(layers["leaving"].max()) // struct.tile * struct.tile
    try:
        for start in range(0, len(x), rows):
            source, last = x[start : start + rows], out[start : start + rows]
            # Behind the first layer tiles are full, as the place of a part of one is where other layers work. What the
            # rows beyond hold is of no use.
            count = -(-len(source) // struct.tile) * struct.tile
            for layer in each_layer():
                entering, leaving = (int(layers[layer - 1][side]) for side in ("entering", "leaving"))
                if layer > 1:
                    source = between[(layer - 1) % 2, : count * entering].reshape(count, entering)
                target = between[layer % 2, : count * leaving].reshape(count, leaving)
                struct.layers, struct.layer_count = address(layers[layer - 1 :]), 1
                run_forward(library, struct, source, target, workspace, workspace_each)
            np.copyto(last, target[: len(last)])
    finally:
        struct.layers, struct.layer_count = whole
