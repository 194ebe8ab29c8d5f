"""`NativeEngine`: carries out a program in the compiled library, no Python in a step."""

from contextlib import AbstractContextManager, nullcontext
from math import isfinite, nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.network.architecture import Architecture
from lowmem.network.tiles import lane_rows, tile_rows
from lowmem.nn.layers.dropout import philox_key
from lowmem.nn.losses import check_targets, loss_scale
from lowmem.nn.mlp import MLP
from lowmem.nn.optimizers import Optimizer
from lowmem.planning.engines import native_memory
from lowmem.planning.plan import Plan
from lowmem.runtime.arena import Arena
from lowmem.runtime.buffers import Buffers
from lowmem.runtime.collectives.group import Group
from lowmem.runtime.engines.calls import Call, CarryOut
from lowmem.runtime.engines.extras import disk_of, sums_of
from lowmem.runtime.engines.native import encoding
from lowmem.runtime.engines.native.binding import address, bind_network
from lowmem.runtime.engines.native.forward import run_forward, run_layered
from lowmem.runtime.engines.native.library import load
from lowmem.runtime.engines.native.pool import Pool
from lowmem.runtime.engines.native.profiled import profiled_calls
from lowmem.runtime.engines.native.rules import check_rule, fill_rule
from lowmem.runtime.engines.native.stretches import stretches
from lowmem.runtime.nonfinite import overflowed

Array = NDArray[Any]

GATHER, APPLY, LOOK = range(3)
"""What an Update op does; see lowmem_native.h."""


class NativeEngine:
    """Carries out the program of a plan in compiled code; see `lowmem.runtime.engines.engine.Engine`."""

    name = "native"

    def __init__(
        self,
        mlp: MLP,
        plan: Plan,
        buffers: Buffers,
        optimizer: Optimizer | None,
        seed: int,
        group: Group | None = None,
    ) -> None:
        if optimizer is not None:
            check_rule(optimizer)
        architecture, lanes = mlp.architecture, plan.lanes
        self.library, self.mlp, self.plan = load(), mlp, plan
        self.buffers, self._optimizer = buffers, optimizer
        self.instructions = self.library.simd
        self.arena = Arena(plan.arena_bytes, np.dtype(architecture.dtype))
        self.disk = disk_of(plan, self.arena, mlp, buffers)
        each = lane_rows(plan.micro_batch, lanes)
        self.layers, self.ops = encoding.layers_of(architecture, each), encoding.ops_of(plan)
        self._evaluation = self._evaluation_of(architecture)
        self._vectors = np.zeros(native_memory.vector_numbers(architecture, lanes), architecture.dtype)
        between = native_memory.layered_numbers(architecture, plan.micro_batch, lanes)
        self._between = np.zeros((2, between), architecture.dtype) if plan.streams[0] else None
        self._statistics = np.zeros(native_memory.statistics_numbers(architecture), architecture.dtype)
        self.reached = 0  # ops of the pass at hand that have been carried out
        self._seen = np.zeros(architecture.layers, np.uint8)
        self.sums = np.zeros((3, lanes))  # losses, squares of gradients, and FLOPs where they are counted
        self.stretches = stretches(plan, self.disk)
        self._pool = Pool(self.library, lanes)
        self.struct = bind_network(self.library, mlp, self.layers, self._vectors, lanes, tile_rows(each))
        self._bind(each, seed)
        self.shard_sums = sums_of(plan, buffers, group)
        self._sharded = None
        if self.shard_sums is not None:
            from lowmem.runtime.engines.native.sharded import ShardedSteps

            self._sharded = ShardedSteps(self, plan, self.shard_sums)

    def _bind(self, each: int, seed: int) -> None:
        """Write what training needs beside the network to the struct."""
        struct, plan, buffers = self.struct, self.plan, self.buffers
        struct.ops, struct.op_count = address(self.ops), len(self.ops)
        struct.arena, struct.lane_arena, struct.each = address(self.arena.buffer), plan.arena_bytes // plan.lanes, each
        struct.statistics, struct.seen = address(self._statistics), address(self._seen)
        struct.losses, struct.squares = address(self.sums[0]), address(self.sums[1])
        if buffers.of_all is not None:
            struct.gradients = address(buffers.of_all)
        elif buffers.of_one is not None:
            struct.lane_gradients = address(buffers.of_one)
            struct.lane_gradient = len(buffers.of_one) // plan.lanes
        for number, state in enumerate(buffers.states):
            struct.states[number] = address(state)
        struct.seed = philox_key(seed)

    def run(
        self,
        x: Array,
        y: Array,
        weights: Array | None,
        *,
        step: int,
        scale: float | None = 1.0,
        whole: int | None = None,
        carry_out: CarryOut | None = None,
    ) -> float:
        """Run all passes of a batch, and return its mean loss; see `Engine.run`."""
        struct, architecture, rows = self.struct, self.mlp.architecture, whole or len(x)
        self._seen.fill(0)
        self.sums[1].fill(0)
        struct.step, struct.scale = step, loss_scale(architecture.loss, rows, architecture.widths[-1])
        struct.update = GATHER
        if self._optimizer is not None and self.plan.update.fuses:
            struct.update = LOOK if scale is None else APPLY
            fill_rule(struct.rule, self._optimizer, 1.0 if scale is None else scale)
        if self._sharded is not None:
            struct.update = GATHER  # the library updates no layer on its own
            with self._pool.running() as struct.pool, self._transfers():
                return float(self._sharded.run(x, y, weights, rows, carry_out) * struct.scale)
        total = 0.0
        with self._pool.running() as struct.pool, self._transfers():
            for start in range(0, rows, self.plan.micro_batch):
                stop = min(start + self.plan.micro_batch, rows)
                struct.rows, struct.first_row = stop - start, start
                struct.accumulate, struct.last = start > 0, stop == rows
                if self.disk is not None:
                    self.disk.begin_pass(updates=struct.update == APPLY and stop == rows)
                self.set_batch(x[start:stop], y[start:stop], None if weights is None else weights[start:stop])
                if carry_out is None:
                    self._walk()
                else:
                    carry_out(profiled_calls(self))
                total += struct.loss_total
                if not isfinite(total):
                    raise overflowed(total)
        return float(total * struct.scale)

    def _transfers(self) -> AbstractContextManager[None]:
        """Return the context in which a step moves states to the disk, if the plan does."""
        return nullcontext() if self.disk is None else self.disk.step(self._torn)

    def _walk(self) -> None:
        """Carry out the pass that is bound: stretches of ops, and what the disk has to do between them."""
        self.reached = 0
        for item in self.stretches:
            if isinstance(item, Call):
                item.run()
            else:
                status = self.library.functions.lm_run(self.struct, *item)
                self.reached = item[1]
                if status:  # the loss is not finite, and whoever adds it up will see it
                    break

    def _torn(self) -> bool:
        """Say whether the pass at hand has updated parameters."""
        if self._sharded is not None:
            return self._sharded.updated
        updates = bool(self.struct.last) and self.struct.update == APPLY
        return updates and bool((self.ops["kind"][: self.reached] == encoding.UPDATE).any())

    def norm(self, *, carry_out: CarryOut | None = None) -> float:
        """Return the norm of all gradients; see `Engine.norm`."""
        if self._sharded is not None:
            with self._pool.running() as self.struct.pool:
                return self._sharded.norm()
        if self.plan.update.fuses:
            squares = float(self.sums[1].sum())
        else:
            with self._pool.running() as self.struct.pool:
                squares = self.library.functions.lm_squares(self.struct, self.mlp.architecture.parameters)
        return sqrt(squares) if squares >= 0 else nan

    def update(self, scale: float, *, carry_out: CarryOut | None = None) -> None:
        """Update all parameters; see `Engine.update`."""
        assert self._optimizer is not None
        fill_rule(self.struct.rule, self._optimizer, scale)
        with self._pool.running() as self.struct.pool:
            if self._sharded is not None:
                self._sharded.update_all()
                return
            self.library.functions.lm_update_all(self.struct, self.mlp.architecture.parameters)

    def forward(self, x: Array, out: Array) -> None:
        """Write the outputs for x to `out`; see `Engine.forward`."""
        struct, lanes, workspace = self.struct, self.plan.lanes, self.arena.flat
        each, tile = self._evaluation
        if not tile:  # a pass of few rows can work in less, as it does not work in place
            workspace, tile = np.empty(lanes * each, workspace.dtype), 1
        training, struct.tile = struct.tile, tile
        try:
            with self._pool.running() as struct.pool:
                if self._between is None:
                    run_forward(self.library, struct, x, out, workspace, tile * each)
                else:
                    assert self.disk is not None
                    run_layered(
                        self.library,
                        struct,
                        x,
                        out,
                        workspace,
                        tile * each,
                        layers=self.layers,
                        between=self._between,
                        each_layer=self.disk.each_layer,
                    )
        finally:
            struct.tile = training

    def _evaluation_of(self, architecture: Architecture) -> tuple[int, int]:
        """Return the numbers that a row of evaluation works in, and how many rows of it the arena has room for.

        Found once, as it makes tuples of all widths: CPython keeps up to 2,000 freed tuples of one length, and before
        3.13 never uses those of 20 elements again, so each batch of evaluation would cost 200 bytes.
        """
        lanes, each = self.plan.lanes, native_memory.workspace_numbers(architecture, 1)
        tile = native_memory.evaluation_tile(architecture, self.plan.micro_batch, lanes)
        return each, min(tile, len(self.arena.flat) // lanes // each)

    def loss(self, outputs: Array, y: Array) -> float:
        """Return the mean loss of outputs; see `Engine.loss`."""
        architecture, rows, width = self.mlp.architecture, len(outputs), self.mlp.architecture.widths[-1]
        check_targets(architecture.loss, y, rows, width, architecture.dtype)
        with self._pool.running():
            self._set_targets(y)
            total = self.library.functions.lm_loss(self.struct, address(outputs), rows)
        return float(total) * loss_scale(architecture.loss, rows, width)

    def set_batch(self, x: Array, y: Array, weights: Array | None) -> None:
        """Point at the rows of a pass."""
        self.struct.x, self.struct.w = address(x), None if weights is None else address(weights)
        self._set_targets(y)

    def _set_targets(self, y: Array) -> None:
        """Point at labels or targets."""
        labels = self.mlp.architecture.loss_facts.labels
        self.struct.y, self.struct.label_bytes = address(y), _label_bytes(y) if labels else 0

    @property
    def batch_bytes(self) -> int:
        """Bytes of the vectors that lanes work in; see `Engine.batch_bytes`."""
        return self._vectors.nbytes + (0 if self._between is None else self._between.nbytes)

    @property
    def statistics_bytes(self) -> int:
        """Bytes of norms' statistics; see `Engine.statistics_bytes`."""
        return self._statistics.nbytes and self._statistics.nbytes + self.mlp.running.nbytes


def _label_bytes(y: Array) -> int:
    """Return the bytes of a label, negative where labels have a sign."""
    return -y.itemsize if y.dtype.kind == "i" else y.itemsize
