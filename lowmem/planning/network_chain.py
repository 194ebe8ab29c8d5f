"""The chain of a network, which planners see: layers in bytes and FLOPs, or in bytes and seconds. No NumPy."""

from dataclasses import replace

from lowmem.chain import Chain, Stage
from lowmem.network.architecture import Architecture
from lowmem.network.tiles import (
    ALIGNMENT,
    aligned,
    lane_rows,
    loss_scratch_bytes,
    matrices_bytes,
    tile_count,
    tile_rows,
    whole_bytes,
)
from lowmem.planning.cost_model import CostModel


def network_chain(
    architecture: Architecture,
    rows: int,
    *,
    updates: bool = False,
    shared: bool = False,
    lanes: int = 1,
    engine: str = "numpy",
    alignment: int = ALIGNMENT,
) -> Chain:
    """Describe one forward and backward pass of a network on `rows` samples, costs in FLOPs.

    updates, shared: whether layers are updated right after their backward, and with what several ranks have.
    lanes: threads that each carry a part of the rows, in an arena of their own: every size is a multiple of their
        number.
    engine: whose working memory is counted.
    alignment: every size is rounded up to a multiple of it, in each lane; `PAGE` where states go to a disk.
    """
    stages = tuple(
        _stage(architecture, layer, rows, lanes, engine, alignment) for layer in range(1, architecture.layers + 1)
    )
    scratch = loss_scratch_bytes(architecture, tile_rows(rows)) if engine == "numpy" else 0
    scratch = aligned(scratch, alignment)
    return Chain(stages, loss=architecture.loss_flops(rows), loss_scratch=scratch, updates=updates, shared=shared)


def timed_chain(chain: Chain, architecture: Architecture, rows: int, costs: CostModel) -> Chain:
    """Return the chain of a network with costs in seconds."""
    keeping = rows * costs.keeping(architecture, rows)
    stages = tuple(
        replace(
            stage,
            forward=costs.forward(architecture, layer, rows),
            backward=costs.backward(architecture, layer, rows) + keeping * architecture.widths[layer],
        )
        for layer, stage in enumerate(chain.stages, start=1)
    )
    return replace(chain, stages=stages, loss=0)


def _stage(architecture: Architecture, number: int, rows: int, lanes: int, engine: str, alignment: int) -> Stage:
    """Cost and size of one layer."""

    def in_lanes(size: int) -> int:
        return lanes * aligned(size, alignment)

    layer, item, own = architecture.layer(number), architecture.item_bytes, lane_rows(rows, lanes)
    workspace, tile = layer.workspace(engine), tile_rows(own)
    state = in_lanes(own * layer.leaving * item)
    whole = whole_bytes(layer, workspace, own, tile_count(own))
    return Stage(
        forward=layer.forward_flops(rows),
        backward=layer.backward_flops(rows),
        state_bytes=state,
        delta_bytes=state,
        forward_scratch=in_lanes(matrices_bytes(workspace.forward, tile, item)),
        advance_scratch=in_lanes(matrices_bytes(workspace.in_place, tile, item)),
        backward_scratch=in_lanes(whole + matrices_bytes(workspace.backward, tile, item)),
        kind=layer.kind,
    )
