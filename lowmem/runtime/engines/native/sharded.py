"""A step over shards in the compiled engine: runs of compiled ops, and the sums of gradients between them.

The ops of a pass are cut behind the loss and behind each backward. There Python adds the gradient that was written to
those of other shards, and in the last pass it lets the compiled code update the layer, part by part.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from lowmem.planning.engines.outline import DiskCalls
from lowmem.planning.plan import Plan
from lowmem.runtime.collectives.sums import ShardSums
from lowmem.runtime.engines.calls import Call, CarryOut
from lowmem.runtime.engines.native.binding import address
from lowmem.runtime.engines.native.encoding import record_count
from lowmem.runtime.engines.native.profiled import profiled_calls
from lowmem.runtime.engines.native.structs import EngineStruct
from lowmem.schedule import AllReduce, Backward, Loss, Update

if TYPE_CHECKING:
    from lowmem.runtime.engines.native.engine import NativeEngine

Array = NDArray[Any]


class ShardedSteps:
    """Runs the passes of a step over shards. sums: adds up their gradients."""

    def __init__(self, engine: NativeEngine, plan: Plan, sums: ShardSums) -> None:
        self._engine, self.sums = engine, sums
        self._item, self._states = plan.architecture.item_bytes, engine.buffers.states
        self._part = EngineStruct()  # the engine as a part of a layer's parameters sees it
        self._disk = [item for item in engine.stretches if isinstance(item, Call)]
        self._cuts = array("q", (number for cut in _cuts(plan) for number in cut))
        self.updated = False
        """Whether the step at hand has updated parameters."""

    def run(self, x: Array, y: Array, weights: Array | None, rows: int, carry_out: CarryOut | None) -> float:
        """Run all passes, and return the sum of the losses. rows: of the whole batch, of which x has this rank's.

        Raises `NonFiniteError` if a loss is not finite, before any parameter has changed.
        """
        struct, before, idle = self._engine.struct, self.sums.shards.own_rows(rows)[0], True
        struct.accumulate, struct.last = 0, 1
        self.updated = False
        self.sums.begin(rows)
        for one in self.sums.passes(rows):
            own = slice(one.start - before, one.stop - before)
            struct.rows, struct.first_row = one.stop - one.start, one.start
            self._engine.set_batch(x[own], y[own], None if weights is None else weights[own])
            if carry_out is None:
                self._pass()
            else:
                carry_out(list(self._calls()))
            idle = False
        if idle:  # other ranks have all the rows of this batch
            self._pass(idle=True)
        self.sums.end()
        return self.sums.loss

    def _pass(self, *, idle: bool = False) -> None:
        """Carry out a pass, cut by cut. idle: of a rank without rows, which only takes part in exchanges."""
        engine, cuts, sums = self._engine, self._cuts, self.sums
        run = engine.library.functions.lm_run
        for at in range(0, len(cuts), 4):
            kind, layer, first, stop = cuts[at : at + 4]
            if kind == UPDATE:
                self._update(layer)
            elif kind == SEND:
                sums.send(layer)
            elif idle:
                continue
            elif kind == DISK:
                run(engine.struct, first, stop)
                self._disk[layer].run()
            elif kind == REVERSED:
                self._aim(layer)
                run(engine.struct, first, stop)
                sums.take(layer)
            else:
                run(engine.struct, first, stop)
                sums.add_loss(engine.struct.loss_total)

    def _calls(self) -> Iterator[Call]:
        """Yield the calls of a pass op by op, for those who measure."""
        for call in profiled_calls(self._engine):
            if call.phase == "update":
                yield Call("update", call.layer, self._update, (call.layer,))
            elif call.phase == "backward":
                yield Call("backward", call.layer, self._aim, (call.layer,))
                yield call
                yield Call("sum of gradients", call.layer, self.sums.take, (call.layer,))
                yield Call("sum of gradients", call.layer, self.sums.send, (call.layer,))
            else:
                yield call
            if call.phase == "loss":
                yield Call("loss", 0, self._take_loss, ())

    def _take_loss(self) -> None:
        self.sums.add_loss(self._engine.struct.loss_total)

    def _aim(self, layer: int) -> None:
        """Let the next backward write the gradient of its layer to the buffer that layers use in turn.

        The library finds a layer's gradient by where its parameters begin, so the address is that of layer 1.
        """
        begin = self.sums.start(layer) * self._item
        self._engine.struct.gradients = address(self.sums.written(layer)) - begin

    def _update(self, layer: int) -> None:
        """Update a layer in the last pass of a step, or keep its gradients where their norm is to be cut."""
        if self._engine.plan.gathered:
            self.sums.keep(layer)
        elif self.sums.ready(layer):
            for first, stop in self._parts(layer):
                self._engine.library.functions.lm_update_part(self._part, stop - first)
            self.updated = True
            self.sums.updated(layer, self._engine.mlp.parameters)

    def update_all(self) -> None:
        """Update all layers with the sums of their gradients, which are kept."""
        for layer in range(self._engine.plan.architecture.layers, 0, -1):
            for first, stop in self._parts(layer):
                self._engine.library.functions.lm_update_part(self._part, stop - first)
            self.sums.updated(layer, self._engine.mlp.parameters)
        self.sums.end()

    def norm(self) -> float:
        """Return the norm of the sums of all layers' gradients. The sum is exact: its order does not matter."""
        functions = self._engine.library.functions
        return self.sums.norm(
            functions.lm_squares(self._part, stop - first)
            for layer in range(self._engine.plan.architecture.layers, 0, -1)
            for first, stop in self._parts(layer)
        )

    def _parts(self, layer: int) -> Iterator[tuple[int, int]]:
        """Yield this rank's parts of a layer, while `_part` is the engine as the part sees it."""
        engine, part, item = self._engine, self._part, self._item
        shards, size = self.sums.shards, self._engine.mlp.architecture.layer(layer).size
        own, begin = shards.part(size)[0], self.sums.start(layer)
        gradients, parameters = address(self.sums.gathered(layer)), address(engine.mlp.parameters)
        kept = self.sums.own_starts[layer - 1]
        part.blas, part.pool, part.rule = engine.struct.blas, engine.struct.pool, engine.struct.rule
        part.item, part.lanes, part.squares = engine.struct.item, engine.struct.lanes, engine.struct.squares
        for first, stop in shards.parts(size):
            part.gradients = gradients + (first - own) * item
            part.parameters = parameters + (begin + first) * item
            for number, state in enumerate(self._states):
                part.states[number] = address(state) + (kept + first - own) * item
            yield first, stop


LOST, REVERSED, SEND, UPDATE, DISK = range(5)
"""What comes behind a cut: the loss is there, a gradient is there, gradients are sent, a layer is updated, or a call
of the disk."""


def _cuts(plan: Plan) -> Iterator[tuple[int, int, int, int]]:
    """Yield where the compiled ops are cut: what comes then, its layer, the first op before it and the op behind.

    For the disk the number of its call stands in place of the layer.
    """
    first = at = calls = 0
    disk = DiskCalls()
    for step in plan.program.steps:
        for _ in disk.of(step) if plan.program.disk_bytes else ():
            yield DISK, calls, first, at
            first, calls = at, calls + 1
        at += record_count(step.op)
        match step.op:
            case Loss():
                yield LOST, 0, first, at
                first = at
            case Backward(layer=layer):
                yield REVERSED, layer, first, at
                first = at
            case AllReduce(layer=layer):
                yield SEND, layer, at, at
            case Update(layer=layer):
                yield UPDATE, layer, at, at
                first = at
            case _:
                pass
