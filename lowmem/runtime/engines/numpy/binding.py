"""From a program to calls that only wait to be made: every item of its outline gets a function and ready-made views.

Nothing is decided here that the program has not decided; nothing is looked up in a step that could be bound before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

import numpy as np

from lowmem.network.layers.base import Widths
from lowmem.network.tiles import tile_bounds, tile_count, tile_rows
from lowmem.nn.layers.base import Arrays, Context, LayerKernels, Reversal
from lowmem.nn.mlp import MLP
from lowmem.planning.engines.outline import Item, Phase, Place, outline, reversal_places
from lowmem.planning.packing import BATCH, Program, Step
from lowmem.runtime.arena import Arena, Array, Scratch
from lowmem.runtime.buffers import Buffers
from lowmem.runtime.engines.calls import Bound, Call, Sweep
from lowmem.runtime.engines.numpy.feed import Feed
from lowmem.runtime.engines.numpy.loss import LossKernel
from lowmem.runtime.engines.numpy.updates import Updater, add_gradient
from lowmem.schedule.streaming import Streaming

if TYPE_CHECKING:
    from lowmem.runtime.collectives.sums import ShardSums
    from lowmem.runtime.offload.binding import DiskBinding

NO_SUMS: Array = np.empty((0, 0, 0))
"""For layers that sum up nothing."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What calls are bound to. kernels, contexts: by layer. updater, disk, sums of shards, streaming: None without.

    gathers: whether an update waits until the gradients of all layers are there.
    """

    mlp: MLP
    arena: Arena
    buffers: Buffers
    feed: Feed
    loss: LossKernel
    updater: Updater | None
    kernels: Sequence[LayerKernels]
    contexts: Sequence[Context]
    sums: ShardSums | None = None
    disk: DiskBinding | None = None
    streaming: Streaming | None = None
    gathers: bool = False


class Binder:
    """Binds the passes of one number of rows. Forward calls that are equal are made once and shared."""

    def __init__(self, parts: Parts, rows: int) -> None:
        self.parts, self.rows = parts, rows
        self.architecture = parts.mlp.architecture
        self.bounds, self.tile = tile_bounds(rows), tile_rows(rows)
        self._forwards: dict[tuple[Phase, Step], Call] = {}
        self._in_place: dict[tuple[int, int], list[Call | None]] = {}
        self._tiles: dict[Place, tuple[Array, ...]] = {}
        self._scratches: dict[tuple[int, Widths], Scratch] = {}
        self._reversal: tuple[Step, Reversal] | None = None

    def bind(self, program: Program, *, first: bool, last: bool) -> list[Bound]:
        """Return the calls of one pass; of several passes, whether it is the first or the last."""
        items = outline(self.architecture, program, first=first, last=last, streaming=self.parts.streaming)
        return [self._bind(item, first=first) for item in items]

    def _bind(self, item: Item, *, first: bool) -> Bound:
        """Bind one item of the outline."""
        match item.kind:
            case "forward":
                return self._forward(item)
            case "sweep":
                return Sweep(item.phase, self._calls_in_place(item), item.layer, item.last)
            case "loss":
                scratch = self.parts.loss.scratch(item.step.scratch, self.bounds, self.tile)
                outputs = self._tiles_at(item.step.source, self.architecture.widths[-1])
                return Call(item.phase, item.layer, self.parts.loss.run, (outputs, self.parts.feed, scratch))
            case "sum" if self.parts.sums is not None:
                return Call(item.phase, item.layer, self.parts.sums.take, (item.layer,))
            case "sum":
                totals, written = self.parts.buffers.totals, self.parts.buffers.written
                assert totals is not None
                blocks = totals.blocks[item.layer - 1], written.blocks[item.layer - 1]
                return Call(item.phase, item.layer, add_gradient, blocks)
            case "exchange":
                assert self.parts.sums is not None
                return Call(item.phase, item.layer, self.parts.sums.send, (item.layer,))
            case "update":
                updater = self.parts.updater
                assert updater is not None
                chunks = updater.chunks[item.layer - 1]
                if self.parts.sums is not None and self.parts.gathers:
                    return Call(item.phase, item.layer, self.parts.sums.keep, (item.layer,))
                if self.parts.sums is not None:
                    return Call(item.phase, item.layer, updater.update_in_last, (item.layer, chunks))
                return Call(item.phase, item.layer, updater.update, (chunks,))
            case "store" | "load" | "wait" | "move":
                assert self.parts.disk is not None
                return self.parts.disk.bind(item)
            case _:
                return self._backward(item, self.parts.buffers.into(first=first).arrays[item.layer - 1])

    # Forward -------------------------------------------------------------------------------------------------------

    def _forward(self, item: Item) -> Call:
        """Bind a layer whose input stays, and whose output goes to another place."""
        call = self._forwards.get((item.phase, item.step))
        if call is None:
            step, layer, kernels = item.step, self.architecture.layer(item.layer), self.parts.kernels[item.layer - 1]
            batch = step.source == BATCH
            sources = self.parts.feed.x_tiles if batch else self._tiles_at(step.source, layer.entering)
            outs = self._tiles_at(step.target, layer.leaving)
            scratch = self._scratch(step.scratch, layer.workspace().forward)
            arguments = self.parts.contexts[item.layer - 1], sources, outs, scratch
            call = self._forwards[item.phase, step] = Call(item.phase, item.layer, kernels.forward, arguments)
        return call

    def _calls_in_place(self, item: Item) -> list[Call | None]:
        """Return the in-place calls by layer for the place of a sweep, those of its own layers bound."""
        step = item.step
        calls = self._in_place.setdefault((step.target, step.scratch), [None] * (self.architecture.layers + 1))
        for number in range(item.layer, item.last + 1):
            if calls[number] is None:
                layer, kernels = self.architecture.layer(number), self.parts.kernels[number - 1]
                sources, outs = (self._tiles_at(step.target, width) for width in (layer.entering, layer.leaving))
                scratch = self._scratch(step.scratch, layer.workspace().in_place)
                arguments = self.parts.contexts[number - 1], sources, outs, scratch
                calls[number] = Call(item.phase, number, kernels.advance, arguments)
        return calls

    # Backward ------------------------------------------------------------------------------------------------------

    def _backward(self, item: Item, into: Arrays) -> Call:
        """Bind one call of a layer's backward; into: where its gradients are written."""
        context, kernels = self.parts.contexts[item.layer - 1], self.parts.kernels[item.layer - 1]
        match item.kind:
            case "prepare":
                return Call(item.phase, item.layer, kernels.prepare, (context, self._reversal_of(item)))
            case "gradients":
                delta = self._whole_at(item.step.source, self.architecture.layer(item.layer).leaving)
                return Call(item.phase, item.layer, kernels.gradients, (context, delta, self._entering(item), into))
            case "scale_gradients":
                return Call(item.phase, item.layer, kernels.scale_gradients, (context, into))
            case "finish":
                return Call(item.phase, item.layer, kernels.finish, (context, self._reversal_of(item)))
            case "gather":
                return Call(item.phase, item.layer, kernels.gather, (context, self._reversal_of(item), into))
            case "forward" | "sweep" | "loss" | "sum" | "exchange" | "update" | "store" | "load" | "wait" | "move":
                raise ValueError(f"{item.kind} is no call of a layer's backward")
            case unknown:
                assert_never(unknown)

    def _entering(self, item: Item) -> Sequence[Array]:
        """Return the one matrix that enters a layer's product: the batch, a matrix of its own, or the state."""
        if item.step.target == BATCH:
            return self.parts.feed.x
        places = reversal_places(self.architecture.layer(item.layer), item.step, self.rows)
        return (self._whole_at(*(places.whole[0] if places.whole else places.state)),)

    def _reversal_of(self, item: Item) -> Reversal:
        """Return the places in which a layer is reversed, made once for all calls of a step."""
        if self._reversal is None or self._reversal[0] is not item.step:
            layer = self.architecture.layer(item.layer)
            places = reversal_places(layer, item.step, self.rows)
            sums, per_tile = NO_SUMS, layer.workspace().partial_sums
            if per_tile:
                shape = tile_count(self.rows), per_tile, layer.entering
                sums = self.parts.arena.block(places.partial_sums, shape)
            self._reversal = (
                item.step,
                Reversal(
                    deltas=self._tiles_at(*places.delta),
                    states=self._tiles_at(*places.state),
                    whole=tuple(self._tiles_at(*place) for place in places.whole),
                    scratch=self._scratch(*places.scratch),
                    partial_sums=sums,
                ),
            )
        return self._reversal[1]

    # Views ---------------------------------------------------------------------------------------------------------

    def _whole_at(self, offset: int, width: int) -> Array:
        """Return the matrix of all rows at a byte of the arena."""
        return self.parts.arena.matrix(offset, self.rows, width)

    def _tiles_at(self, offset: int, width: int) -> tuple[Array, ...]:
        """Return the row tiles of the matrix at a byte of the arena, made once."""
        tiles = self._tiles.get((offset, width))
        if tiles is None:
            tiles = self._tiles[offset, width] = self.parts.arena.tiles(offset, self.bounds, width)
        return tiles

    def _scratch(self, offset: int, widths: Widths) -> Scratch:
        """Return the working matrices of every tile at a byte of the arena, made once."""
        scratch = self._scratches.get((offset, widths))
        if scratch is None:
            scratch = self.parts.arena.scratch(offset, self.bounds, self.tile, widths)
            self._scratches[offset, widths] = scratch
        return scratch
