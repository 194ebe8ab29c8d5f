"""From a program to calls that only wait to be made: each op becomes (function, arguments) with ready-made views.

Nothing is decided here that the program has not decided; nothing is looked up in a step that could be bound before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lowmem.architecture import Architecture
from lowmem.arena import Arena, Array, tile_bounds
from lowmem.chain import aligned, tile_rows
from lowmem.errors import NonFiniteError
from lowmem.nn import kernels, losses
from lowmem.nn.activations import KERNELS
from lowmem.nn.mlp import MLP, LayerViews
from lowmem.nn.optimizers import Optimizer
from lowmem.program import BATCH, Program, Step
from lowmem.schedule.ops import Backward, Forward, Free, Loss, Update

Call = tuple[Callable[..., None], tuple[Any, ...]]


@dataclass(slots=True)
class Feed:
    """What changes from step to step: the caller's batch, cut in tiles, and the loss that comes out.

    Bound calls hold the lists; a step refills them in place.
    """

    x: list[Array] = field(default_factory=list)
    x_tiles: list[Array] = field(default_factory=list)
    y_tiles: list[NDArray[Any]] = field(default_factory=list)
    w_tiles: list[Array | None] = field(default_factory=list)
    scale: float = 1.0
    loss: float = 0.0

    def fill(self, x: Array, y: NDArray[Any], w: Array | None, bounds: list[tuple[int, int]]) -> None:
        """Point at the rows of one (micro-)batch, and at their weights if they have any."""
        self.w_tiles[:] = [None if w is None else w[start:stop] for start, stop in bounds]
        self.x[:] = (x,)
        self.x_tiles[:] = [x[start:stop] for start, stop in bounds]
        self.y_tiles[:] = [y[start:stop] for start, stop in bounds]

    def clear(self) -> None:
        """Let go of the caller's arrays."""
        self.x.clear()
        self.x_tiles.clear()
        self.y_tiles.clear()
        self.w_tiles.clear()


@dataclass(frozen=True, slots=True)
class Training:
    """The arrays a step works on besides the arena.

    gradients: where each layer's gradient is written. totals: where micro-batches are summed up, None if there is
    only one. updates: for each layer the chunks (w, g, states, scratch) of its parameters.
    """

    mlp: MLP
    arena: Arena
    feed: Feed
    ones: Array
    starts: NDArray[np.intp]
    gradients: LayerViews
    totals: LayerViews | None
    optimizer: Optimizer | None
    updates: Sequence[Sequence[tuple[Any, ...]]]


class Binder:
    """Binds programs of one network to one arena. Equal calls are made once and shared."""

    def __init__(self, training: Training, rows: int) -> None:
        self.training = training
        self.rows = rows
        self.architecture: Architecture = training.mlp.architecture
        self.keeps_x = self.architecture.activation_facts.state == "x"
        self.sigma = KERNELS[self.architecture.activation]
        self._calls: dict[tuple[Any, ...], Call] = {}
        self._ladders: dict[tuple[int, int], list[Call | None]] = {}

    def bind(self, program: Program, *, first: bool, last: bool) -> list[Call]:
        """Return the calls of one pass; of several micro-batches, whether it is the first or the last."""
        calls: list[Call] = []
        for step in program.steps:
            match step.op:
                case Forward(start, stop):
                    calls.append(self._once(("first", step), partial(self._first_layer, step)))
                    if stop > start:
                        calls.append((sweep, (self._ladder(step, start + 1, stop), start + 1, stop + 1)))
                case Loss():
                    calls.append(self._once(("loss",), partial(self._loss, step)))
                case Backward(layer):
                    calls += self._backward(step, layer, first)
                case Update(layer) if last:
                    calls.append((_update, (self.training.optimizer, self.training.updates[layer - 1])))
                case Update() | Free():
                    pass
        return calls

    def _once(self, key: tuple[Any, ...], make: Callable[[], Call]) -> Call:
        """Return the call of this key, made at its first use."""
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = make()
        return call

    def _first_layer(self, step: Step) -> Call:
        """Run the first layer of a `Forward`: its input stays, its output goes to the travelling state's place."""
        op = cast("Forward", step.op)
        layer = op.first
        outs = self._tiles(step.target, layer)
        if step.source == BATCH:
            sources: Sequence[Array] = self.training.feed.x_tiles
        else:
            sources = self._tiles(step.source, layer - 1)
        return self._forward(layer, sources, outs, step.scratch, in_place=False)

    def _ladder(self, step: Step, start: int, stop: int) -> list[Call | None]:
        """Return the in-place calls by layer for one place, with those of start..stop made."""
        ladder = self._ladders.setdefault((step.target, step.scratch), [None] * (self.architecture.layers + 1))
        for layer in range(start, stop + 1):
            if ladder[layer] is None:
                sources, outs = self._tiles(step.target, layer - 1), self._tiles(step.target, layer)
                ladder[layer] = self._forward(layer, sources, outs, step.scratch, in_place=True)
        return ladder

    def _forward(
        self, layer: int, sources: Sequence[Array], outs: Sequence[Array], offset: int, *, in_place: bool
    ) -> Call:
        """Bind one layer's forward."""
        architecture, mlp = self.architecture, self.training.mlp
        facts, is_last = architecture.activation_facts, layer == architecture.layers
        w_t, b = mlp.weights[layer - 1].T, mlp.biases[layer - 1]
        if not self.keeps_x and layer > 1:
            kernel: Callable[..., None] = kernels.forward_s
            sigma = self.sigma
            count, width = 1 + facts.value_scratch, architecture.widths[layer - 1]
        else:
            kernel = kernels.advance_x if in_place else kernels.forward_x
            sigma = self.sigma if self.keeps_x and not is_last else KERNELS["identity"]
            count, width = (
                int(in_place) + (0 if is_last or not self.keeps_x else facts.value_scratch),
                outs[0].shape[1],
            )
        scratch = self.training.arena.scratch(offset, self.rows, width, count)
        if in_place and architecture.widths[layer] > architecture.widths[layer - 1]:
            # Where rows grow, the last tile must go first, or it would be overwritten before it is read.
            sources, outs, scratch = sources[::-1], outs[::-1], scratch[::-1]
        return kernel, (sources, w_t, b, outs, sigma, scratch)

    def _loss(self, step: Step) -> Call:
        """Bind the loss: the last layer's outputs become δ^(L)."""
        fold = losses.KERNELS[self.architecture.loss].fold
        scratch = loss_scratch(self.training, step.scratch, self.rows)
        return fold_loss, (self._tiles(step.source, self.architecture.layers), self.training.feed, fold, scratch)

    def _backward(self, step: Step, layer: int, first: bool) -> list[Call]:
        """Bind one layer's backward: its gradients, δ^(l-1), and the sum over micro-batches."""
        t, arena, widths = self.training, self.training.arena, self.architecture.widths
        facts, w = self.architecture.activation_facts, t.mlp.weights[layer - 1]
        delta = arena.matrix(step.source, self.rows, widths[layer])
        into = t.totals if t.totals is not None and first else t.gradients
        outputs = (into.weights[layer - 1], into.biases[layer - 1])
        ones = t.ones[: self.rows]
        calls: list[Call] = []
        if step.target == BATCH:
            calls.append((gradients_of_batch, (delta, t.feed.x, ones, *outputs)))
        else:
            deltas = self._tiles(step.source, layer)
            states = self._tiles(step.target, layer - 1)
            if self.keeps_x:
                x = arena.matrix(step.target, self.rows, widths[layer - 1])
                scratch = arena.scratch(step.scratch, self.rows, widths[layer - 1], 1 + facts.slope_scratch)
                calls.append((kernels.gradients, (delta, x, ones, *outputs)))
                calls.append((kernels.backward_x, (deltas, w, states, self.sigma, scratch)))
            else:
                x = arena.matrix(step.scratch, self.rows, widths[layer - 1])
                xs = self._tiles(step.scratch, layer - 1)
                behind = step.scratch + aligned(x.nbytes)
                scratch = arena.scratch(behind, self.rows, widths[layer - 1], facts.value_scratch)
                calls.append((kernels.values, (states, xs, self.sigma, scratch)))
                calls.append((kernels.gradients, (delta, x, ones, *outputs)))
                scratch = arena.scratch(behind, self.rows, widths[layer - 1], facts.slope_scratch)
                calls.append((kernels.backward_s, (deltas, w, states, xs, self.sigma, scratch)))
        if t.totals is not None and not first:
            total = t.totals.blocks[layer - 1]
            calls.append((np.add, (total, t.gradients.blocks[layer - 1], total)))
        return calls

    def _tiles(self, offset: int, layer: int) -> tuple[Array, ...]:
        """Return the row tiles of the state (or δ) of `layer` at `offset`, made once."""
        key = ("tiles", offset, self.architecture.widths[layer])
        tiles = self._calls.get(key)
        if tiles is None:
            made = self.training.arena.tiles(offset, self.rows, self.architecture.widths[layer])
            tiles = self._calls[key] = cast("Call", made)
        return cast("tuple[Array, ...]", tiles)


def loss_scratch(training: Training, offset: int, rows: int) -> list[losses.LossScratch]:
    """Return the working memory of the loss for each row tile, at byte `offset` of the arena."""
    architecture, arena = training.mlp.architecture, training.arena
    facts, width = architecture.loss_facts, architecture.widths[-1]
    tile, item = tile_rows(rows), arena.item.itemsize
    matrices = arena.scratch(offset, rows, width, facts.scratch)
    vector = aligned(tile * item)
    vectors = offset + facts.scratch * aligned(tile * width * item)
    index = vectors + facts.row_scratch * vector
    made = []
    for (start, stop), tiles in zip(tile_bounds(rows), matrices, strict=True):
        count = stop - start
        numbers = tuple(arena.matrix(vectors + n * vector, 1, count)[0] for n in range(facts.row_scratch))
        labels = np.ndarray(count if facts.labels else 0, np.intp, arena.buffer, index if facts.labels else 0)
        made.append(losses.LossScratch(tiles, numbers, labels, training.starts[:count]))
    return made


def run_calls(calls: Sequence[Call]) -> None:
    """Carry out bound calls one after the other."""
    for function, arguments in calls:
        function(*arguments)


def sweep(ladder: list[Call], first: int, stop: int) -> None:
    """Carry a state through layers first..stop-1."""
    run_calls(ladder[first:stop])


def fold_loss(tiles: Sequence[Array], feed: Feed, fold: Callable[..., float], scratch: Sequence[Any]) -> None:
    """Fold the loss over the tiles; stop before any parameter changes if it is not finite."""
    total = 0.0
    for s, y, w, tmp in zip(tiles, feed.y_tiles, feed.w_tiles, scratch, strict=True):
        total += fold(s, y, feed.scale, tmp, w)
    if not isfinite(total):
        raise NonFiniteError(
            f"the loss became {total}: the outputs of the network overflowed. The parameters are those before this "
            "step. Try a smaller learning rate, scaled inputs or another initialiser."
        )
    feed.loss += total


def gradients_of_batch(delta: Array, x: list[Array], ones: Array, g_w: Array, g_b: Array) -> None:
    """Compute the gradients of layer 1, whose input is the caller's batch."""
    kernels.gradients(delta, x[0], ones, g_w, g_b)


def _update(optimizer: Optimizer, chunks: Sequence[tuple[Any, ...]]) -> None:
    """Update one layer's parameters."""
    for chunk in chunks:
        optimizer.update(*chunk)
