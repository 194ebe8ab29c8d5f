"""A pass of the compiled engine op by op, for those who measure: the same bits, each op timed and counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowmem.planning.engines.outline import Phase
from lowmem.runtime.engines.calls import Call
from lowmem.runtime.engines.native import encoding, structs
from lowmem.runtime.engines.native.binding import address

if TYPE_CHECKING:
    from lowmem.runtime.engines.native.engine import NativeEngine


def profiled_calls(engine: NativeEngine) -> list[Call]:
    """Return the calls of the pass that is bound. A sweep is cut where layers run again and where they run first."""
    engine.reached = 0
    numbers, phases, records = zip(*_pieces(engine.ops), strict=True)
    ops: NDArray[Any] = np.array(list(records), structs.OP)
    between: dict[int, list[Call]] = {}  # number of an op -> what the disk has to do before it
    reached = 0
    for item in engine.stretches:
        if isinstance(item, Call):
            between.setdefault(reached, []).append(item)
        else:
            reached = item[1]
    calls: list[Call] = []
    for index, (number, phase) in enumerate(zip(numbers, phases, strict=True)):
        calls += between.pop(number, ())
        layer = 0 if phase == "loss" else int(ops[index]["first"])
        calls.append(Call(phase, layer, Piece(engine, ops, index, number + 1), ()))
        if phase == "backward" and engine.struct.accumulate:
            calls.append(Call("sum of gradients", layer, Sum(engine, layer), ()))
    return [*calls, *between.get(len(engine.ops), ())]


def _pieces(ops: NDArray[Any]) -> Iterator[tuple[int, Phase, tuple[Any, ...]]]:
    """Yield each op with its number and phase."""
    reached = 0  # layers 1..reached have run in this pass
    names: dict[int, Phase] = {encoding.LOSS: "loss", encoding.BACKWARD: "backward", encoding.UPDATE: "update"}
    for number, record in enumerate(ops):
        kind, first, last, unused, source, target, scratch = record.item()
        if kind != encoding.FORWARD:
            yield number, names[kind], record.item()
            continue
        again = min(reached, last)
        if first <= again:
            yield number, "recomputation", (kind, first, again, unused, source, target, scratch)
            first, source = again + 1, target
        if first <= last:
            yield number, "forward", (kind, first, last, unused, source, target, scratch)
        reached = max(reached, last)


class Piece:
    """One op, run alone. Its products are counted where they are computed, all else by what the layers say."""

    def __init__(self, engine: NativeEngine, ops: NDArray[Any], index: int, reached: int) -> None:
        self._engine, self._ops, self._index, self._reached = engine, ops, index, reached
        self._rows = engine.struct.rows

    def __call__(self) -> None:
        """Carry it out."""
        engine, struct = self._engine, self._engine.struct
        engine.sums[2].fill(0)
        struct.ops, struct.products = address(self._ops), address(engine.sums[2])
        engine.library.functions.lm_run(struct, self._index, self._index + 1)
        struct.ops, struct.products = address(engine.ops), None
        engine.reached = self._reached

    def flops(self) -> int:
        """Return the FLOPs of the op once it has run."""
        architecture, op = self._engine.mlp.architecture, self._ops[self._index]
        products, beside = int(self._engine.sums[2].sum()), 0
        if op["kind"] == encoding.LOSS:
            return architecture.loss_flops(self._rows)
        if op["kind"] != encoding.UPDATE:
            for number in range(op["first"], op["last"] + 1):
                layer = architecture.layer(number)
                work = layer.forward if op["kind"] == encoding.FORWARD else layer.backward
                beside += work.flops(layer.sigma) - 2 * work.products
        return products + int(self._rows) * int(beside)


class Sum:
    """The addition of a layer's gradients to those of earlier passes, which its products do on the way."""

    def __init__(self, engine: NativeEngine, layer: int) -> None:
        self._size = engine.mlp.architecture.layer(layer).size

    def __call__(self) -> None:
        """Do nothing: it is done."""

    def flops(self) -> int:
        """Return its FLOPs."""
        return self._size
