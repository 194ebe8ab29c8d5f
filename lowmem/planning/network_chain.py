"""The chain of a network, which planners see: layers in bytes and FLOPs, or in bytes and seconds. No NumPy."""

from dataclasses import replace

from lowmem.chain import Chain, Stage
from lowmem.network.architecture import Architecture
from lowmem.network.tiles import aligned, loss_scratch_bytes, matrices_bytes, tile_count, tile_rows, whole_bytes
from lowmem.planning.cost_model import CostModel


def network_chain(architecture: Architecture, rows: int, *, updates: bool = False, lanes: int = 1) -> Chain:
    """Describe one forward and backward pass of a network on `rows` samples, costs in FLOPs.

    lanes: threads that each carry a part of the rows, with working memory of their own.
    """
    stages = tuple(_stage(architecture, layer, rows, lanes) for layer in range(1, architecture.layers + 1))
    scratch = lanes * loss_scratch_bytes(architecture, tile_rows(_lane_rows(rows, lanes)))
    return Chain(stages, loss=architecture.loss_flops(rows), loss_scratch=scratch, updates=updates)


def timed_chain(chain: Chain, architecture: Architecture, rows: int, costs: CostModel) -> Chain:
    """Return the chain of a network with costs in seconds."""
    stages = tuple(
        replace(
            stage,
            forward=costs.forward(architecture, layer, rows),
            backward=costs.backward(architecture, layer, rows),
        )
        for layer, stage in enumerate(chain.stages, start=1)
    )
    return replace(chain, stages=stages, loss=0)


def _lane_rows(rows: int, lanes: int) -> int:
    """Return how many rows of a pass a lane has; the last one may have fewer."""
    return -(-rows // lanes)


def _stage(architecture: Architecture, number: int, rows: int, lanes: int) -> Stage:
    """Cost and size of one layer."""
    layer, item, own = architecture.layer(number), architecture.item_bytes, _lane_rows(rows, lanes)
    workspace, tile = layer.workspace(), tile_rows(own)
    state = aligned(rows * layer.leaving * item)
    whole = whole_bytes(layer, workspace, rows, lanes * tile_count(own))
    return Stage(
        forward=layer.forward_flops(rows),
        backward=layer.backward_flops(rows),
        state_bytes=state,
        delta_bytes=state,
        forward_scratch=lanes * matrices_bytes(workspace.forward, tile, item),
        advance_scratch=lanes * matrices_bytes(workspace.in_place, tile, item),
        backward_scratch=whole + lanes * matrices_bytes(workspace.backward, tile, item),
        kind=layer.kind,
    )
