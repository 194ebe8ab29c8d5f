"""From a plan to the arrays that the compiled engine walks: a record for each layer, and one for each op."""

from collections.abc import Iterator
from math import prod
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from lowmem.network.architecture import Architecture
from lowmem.network.layers.preactivation import Preactivation
from lowmem.network.native_names import ACTIVATIONS, NORMS
from lowmem.network.tiles import aligned
from lowmem.planning.engines.native_memory import STATISTICS
from lowmem.planning.plan import Plan
from lowmem.runtime.engines.native import structs
from lowmem.schedule import AllReduce, Backward, Forward, Free, Load, Loss, Op, Record, Store, Update

FORWARD, LOSS, BACKWARD, UPDATE = range(4)
NO_SKIP, SKIP, LEARNED_SKIP = range(3)
PLACES = ("weight", "bias", "gain", "shift", "scale", "running_mean", "running_variance")
"""Arrays of a layer, in the order in which its record names where they begin."""


def layers_of(architecture: Architecture, rows: int) -> NDArray[Any]:
    """Return the records of a network's layers; rows: those of a lane, whose matrices lie beside the states."""
    records = np.zeros(architecture.layers, structs.LAYER)
    places = _places(architecture)
    statistics = 0
    for record, layer, begin in zip(records, architecture.each_layer, places, strict=True):
        record["entering"], record["leaving"] = layer.entering, layer.leaving
        record["preactivation"] = architecture.preactivation
        record["is_first"], record["is_last"] = layer.is_first, layer.is_last
        record["activation"] = ACTIVATIONS.index(layer.activation)
        for name in PLACES:
            record[name] = begin.get(name, -1)
        record["whole"] = sum(aligned(rows * width * layer.item_bytes) for width in layer.workspace("native").whole)
        record["factor"] = 1.0
        if isinstance(layer, Preactivation):
            record["norm"] = NORMS.index(None if layer.norm is None else layer.norm.name)
            record["dropout"] = layer.dropout
            if layer.branch is not None:
                record["branch"] = LEARNED_SKIP if layer.branch == "learned" else SKIP
                record["factor"] = 1.0 if layer.branch == "learned" else layer.branch
        if layer.couples:
            record["statistics"] = statistics
            statistics += STATISTICS * layer.entering
    return records


def _places(architecture: Architecture) -> Iterator[dict[str, int]]:
    """Yield for each layer where its arrays begin: parameters in one flat array, running statistics in another."""
    parameter = running = 0
    for layer in architecture.each_layer:
        begin = {}
        for name, shape in layer.parameters.items():
            begin[name] = parameter
            parameter += prod(shape)
        for name, shape in layer.running.items():
            begin[name] = running
            running += prod(shape)
        yield begin


def ops_of(plan: Plan) -> NDArray[Any]:
    """Return the records of a plan's ops, without those that end a value. Offsets are those of one lane's arena."""
    records = np.zeros(sum(1 for _ in _ops(plan)), structs.OP)
    for record, values in zip(records, _ops(plan), strict=True):
        for name, value in zip(("kind", "first", "last", "source", "target", "scratch"), values, strict=True):
            record[name] = value
    return records


def record_count(op: Op) -> int:
    """Return how many records an op has where nothing is streamed: 1 if the compiled engine does anything for it."""
    return int(isinstance(op, Forward | Loss | Backward | Update))


def _ops(plan: Plan) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Yield kind, first and last layer, and the offsets of source, target and working memory."""
    last, lanes = plan.architecture.layers, plan.lanes
    for step in plan.program.steps:
        # Every size of the arena is one lane's times the lanes, so every offset is, too; -1 is the batch.
        source, target, scratch = (at if at < 0 else at // lanes for at in (step.source, step.target, step.scratch))
        match step.op:
            case Forward(first=first, last=stop) if plan.streaming is not None:
                # One layer a record; all but the first in place.
                yield FORWARD, first, first, source, target, scratch
                for layer in range(first + 1, stop + 1):
                    yield FORWARD, layer, layer, target, target, scratch
            case Forward(first=first, last=stop):
                yield FORWARD, first, stop, source, target, scratch
            case Loss():
                yield LOSS, last, last, source, target, scratch
            case Backward(layer=layer):
                yield BACKWARD, layer, layer, source, target, scratch
            case Update(layer=layer):
                yield UPDATE, layer, layer, 0, 0, 0
            case Free() | Record() | Store() | Load() | AllReduce():  # nothing is run; networks have no tapes
                pass
            case unknown:
                assert_never(unknown)
