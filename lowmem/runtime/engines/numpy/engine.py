"""`NumpyEngine`: carries out a program call by call."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.network.architecture import Architecture
from lowmem.network.layers.base import STATISTICS
from lowmem.network.tiles import tile_bounds
from lowmem.nn.forward import PREDICT_ROWS, Forward, workspace_per_row
from lowmem.nn.layers import kernels_of
from lowmem.nn.layers.base import Context, Statistics
from lowmem.nn.layers.dropout import Philox
from lowmem.nn.losses import loss_scale
from lowmem.nn.mlp import MLP
from lowmem.nn.optimizers import Optimizer
from lowmem.planning.plan import Plan
from lowmem.runtime.arena import Arena, Array, Bounds
from lowmem.runtime.blas_threads import threads_of
from lowmem.runtime.buffers import Buffers
from lowmem.runtime.collectives.group import Group
from lowmem.runtime.engines.calls import Bound, Call, CarryOut, run_calls
from lowmem.runtime.engines.extras import disk_of, sums_of
from lowmem.runtime.engines.numpy.binding import Binder, Parts
from lowmem.runtime.engines.numpy.feed import Feed
from lowmem.runtime.engines.numpy.loss import LossKernel
from lowmem.runtime.engines.numpy.updates import Updater

BROADCAST_BUFFER = 2048
"""Numbers in the buffer through which NumPy broadcasts a bias. The usual 8192 take 66 KiB in float64, which would be
more than a promise leaves room for; at 2048 the passes are as fast."""


SHARD_SIZES = 8
"""Numbers of rows of a shard's passes for which calls stay bound."""


@dataclass(frozen=True, slots=True)
class Pass:
    """The bound calls of one pass, and the bounds of its tiles."""

    calls: Sequence[Bound]
    bounds: Bounds


@dataclass(frozen=True, slots=True)
class Passes:
    """The passes of a batch: the first one, all of those between, which are alike, and the last one."""

    first: Pass
    middle: Pass
    last: Pass


class NumpyEngine:
    """Carries out the program of a plan with NumPy; see `lowmem.runtime.engines.engine.Engine`."""

    name = "numpy"
    instructions = "NumPy's"

    def __init__(
        self,
        mlp: MLP,
        plan: Plan,
        buffers: Buffers,
        optimizer: Optimizer | None,
        seed: int,
        group: Group | None = None,
    ) -> None:
        architecture, rows = mlp.architecture, plan.micro_batch
        self.mlp, self.plan, self.buffers = mlp, plan, buffers
        self.arena = Arena(plan.arena_bytes, np.dtype(architecture.dtype))
        self.disk = disk_of(plan, self.arena, mlp, buffers)
        self._ones = np.ones(rows, architecture.dtype)
        self._masks = Philox(seed) if any(layer.drops for layer in architecture.each_layer) else None
        self._statistics = _statistics(architecture)
        self.shard_sums = sums_of(plan, buffers, group)
        self._parts = Parts(
            mlp=mlp,
            arena=self.arena,
            buffers=buffers,
            feed=Feed(),
            loss=LossKernel(architecture, self.arena, rows, self.shard_sums),
            updater=None if optimizer is None else Updater(mlp, buffers, optimizer, self.shard_sums),
            kernels=kernels_of(architecture),
            contexts=self._contexts(),
            sums=self.shard_sums,
            disk=self.disk,
            streaming=plan.streaming,
            gathers=plan.gathered,
        )
        self._passes: dict[int, Passes] = {}
        self._of_shards: dict[int, Pass] = {}
        if self.shard_sums is None:
            self._bind(plan.batch_size)
        else:
            for one in self.shard_sums.passes(plan.batch_size):
                self._of_shard(one.stop - one.start)

    def run(
        self,
        x: Array,
        y: NDArray[Any],
        weights: Array | None,
        *,
        step: int,
        scale: float | None = 1.0,
        whole: int | None = None,
        carry_out: CarryOut | None = None,
    ) -> float:
        """Run all passes of a batch, and return its mean loss; see `Engine.run`."""
        architecture, feed, rows = self.mlp.architecture, self._parts.feed, whole or len(x)
        feed.scale, feed.loss = loss_scale(architecture.loss, rows, architecture.widths[-1]), 0.0
        if self._parts.updater is not None:
            self._parts.updater.begin(scale)
        for statistics in self._statistics.values():
            statistics.ready.clear()
        before, sums = 0, self.shard_sums
        if sums is not None:
            before = sums.shards.own_rows(rows)[0]
            sums.begin(rows)
        try:
            with self._settings(), self.disk.step(self._torn) if self.disk is not None else nullcontext():
                for one, start, stop in self._each_pass(rows):
                    if self.disk is not None:
                        self.disk.begin_pass(updates=self.plan.update.fuses and scale is not None and stop == rows)
                    own = slice(start - before, stop - before)
                    feed.fill(x[own], y[own], None if weights is None else weights[own], one.bounds)
                    if self._masks is not None:
                        self._masks.step, self._masks.start = step, start
                    (carry_out or run_calls)(one.calls)
                if sums is not None:
                    if not len(x):  # other ranks have all the rows of this batch
                        (carry_out or run_calls)(self._exchanges)
                    sums.end()
        finally:
            feed.clear()
        return (feed.loss if sums is None else sums.loss) * feed.scale

    def _each_pass(self, rows: int) -> Iterator[tuple[Pass, int, int]]:
        """Yield the passes of a batch of so many rows, with their first row in it and that behind the last."""
        if self.shard_sums is not None:
            for one in self.shard_sums.passes(rows):
                yield self._of_shard(one.stop - one.start), one.start, one.stop
            return
        passes = self._passes.get(rows) or self._bind(rows)
        for start in range(0, rows, self.plan.micro_batch):
            stop = min(start + self.plan.micro_batch, rows)
            yield passes.last if stop == rows else passes.middle if start else passes.first, start, stop

    def _of_shard(self, rows: int) -> Pass:
        """Return the pass of so many rows of a shard: all are alike, as sums decide what becomes of a gradient."""
        if rows not in self._of_shards:
            if len(self._of_shards) >= SHARD_SIZES:
                self._of_shards.clear()
            binder = Binder(self._parts, rows)
            self._of_shards[rows] = Pass(binder.bind(self.plan.program, first=False, last=True), binder.bounds)
            self.arena.forget_views()
        return self._of_shards[rows]

    def _torn(self) -> bool:
        """Say whether the step at hand has updated parameters."""
        return self._parts.updater is not None and self._parts.updater.updated

    def norm(self, *, carry_out: CarryOut | None = None) -> float:
        """Return the norm of all gradients; see `Engine.norm`."""
        updater = self._parts.updater
        assert updater is not None
        if self.shard_sums is not None:
            updater.begin(None)
            self._update_layers(updater, carry_out)
        if not self.plan.gathered or self.shard_sums is not None:
            return updater.exact_norm()
        with self._settings():
            (carry_out or run_calls)([Call("update", 0, updater.look, (self.buffers.gradients.flat,))])
        return updater.norm_in_order()

    def update(self, scale: float, *, carry_out: CarryOut | None = None) -> None:
        """Update all parameters; see `Engine.update`."""
        updater = self._parts.updater
        assert updater is not None
        updater.begin(scale)
        self._update_layers(updater, carry_out)

    def _update_layers(self, updater: Updater, carry_out: CarryOut | None) -> None:
        """Update the parameters of all layers, or look at their gradients."""
        with self._settings():
            layers, sums = enumerate(updater.chunks, start=1), self.shard_sums
            if sums is None:
                (carry_out or run_calls)(
                    [Call("update", layer, updater.update, (chunks,)) for layer, chunks in layers]
                )
                return
            (carry_out or run_calls)([Call("update", item[0], updater.update_kept, item) for item in layers])
            sums.end()

    def forward(self, x: Array, out: Array) -> None:
        """Write the outputs for x to `out`; see `Engine.forward`."""
        workspace, each = self.arena.flat, workspace_per_row(self.mlp.architecture)
        if len(workspace) < each:  # a pass of one row can work in less, as it does not work in place
            workspace = np.empty(each, self.mlp.parameters.dtype)
        with _small_buffers(), threads_of(self.plan):
            runner = Forward(self.mlp, min(len(workspace) // each, PREDICT_ROWS), workspace)
            if self.disk is None or not self.plan.streams[0]:
                runner.into(x, out)
                return
            for start in range(0, len(x), runner.rows):
                part = slice(start, start + runner.rows)
                for _ in zip(self.disk.each_layer(), runner.states(x[part], out[part]), strict=True):
                    pass

    def loss(self, outputs: Array, y: NDArray[Any]) -> float:
        """Return the mean loss of outputs; see `Engine.loss`."""
        with _small_buffers():
            return self._parts.loss.mean(outputs, y, tile_bounds(len(outputs)))

    @property
    def batch_bytes(self) -> int:
        """Bytes of the constants for the rows of a batch; see `Engine.batch_bytes`."""
        return self._ones.nbytes + self._parts.loss.starts.nbytes

    @property
    def statistics_bytes(self) -> int:
        """Bytes of norms' statistics; see `Engine.statistics_bytes`."""
        of_step = sum(statistics.vectors.nbytes for statistics in self._statistics.values())
        return of_step and of_step + self.mlp.running.nbytes

    def _contexts(self) -> list[Context]:
        """Return what the kernels of each layer work with."""
        return [
            Context(number, arrays, self._ones, self._masks if layer.drops else None, self._statistics.get(number))
            for number, (layer, arrays) in enumerate(
                zip(self.mlp.architecture.each_layer, self.mlp.arrays, strict=True), start=1
            )
        ]

    def _bind(self, batch: int) -> Passes:
        """Bind the passes of a batch of that many rows; of other sizes than the plan's only the last is kept."""
        self._passes = {rows: passes for rows, passes in self._passes.items() if rows == self.plan.batch_size}
        size = self.plan.micro_batch
        binders: dict[int, Binder] = {}

        def bound(start: int) -> Pass:
            rows = min(size, batch - start)
            binder = binders.get(rows) or binders.setdefault(rows, Binder(self._parts, rows))
            return Pass(binder.bind(self.plan.program, first=start == 0, last=start + rows == batch), binder.bounds)

        starts = range(0, batch, size)
        first = bound(0)
        middle = bound(size) if len(starts) > 2 else first
        passes = Passes(first, middle, bound(starts[-1]) if len(starts) > 1 else first)
        self.arena.forget_views()
        self._passes[batch] = passes
        return passes

    @cached_property
    def _exchanges(self) -> list[Bound]:
        """The calls of a pass that concern other ranks."""
        binder, sums = Binder(self._parts, self.plan.micro_batch), self.shard_sums
        assert sums is not None
        calls = binder.bind(self.plan.program, first=False, last=True)
        return [
            call for call in calls if isinstance(call, Call) and (call.phase == "update" or call.function == sums.send)
        ]

    @contextmanager
    def _settings(self) -> Iterator[None]:
        """Hold NumPy and BLAS to how they shall work in a step."""
        # What overflows shows in the loss, and is one clear error there instead of a warning on the way.
        with _small_buffers(), threads_of(self.plan), np.errstate(over="ignore", invalid="ignore"):
            yield


@contextmanager
def _small_buffers() -> Iterator[None]:
    """Hold NumPy to a small buffer where it broadcasts."""
    buffer = np.setbufsize(BROADCAST_BUFFER)
    try:
        yield
    finally:
        np.setbufsize(buffer)


def _statistics(architecture: Architecture) -> dict[int, Statistics]:
    """Return by number of the layer where the statistics of a batch are kept, for layers whose norm needs them."""
    ready: set[int] = set()
    return {
        number: Statistics(np.zeros((STATISTICS, layer.entering), architecture.dtype), ready)
        for number, layer in enumerate(architecture.each_layer, start=1)
        if layer.couples
    }
