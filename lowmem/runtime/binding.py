"""From a program to calls that only wait to be made: each op becomes (function, arguments) with ready-made views.

Nothing is decided here that the program has not decided; nothing is looked up in a step that could be bound before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import isfinite
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lowmem.errors import NonFiniteError
from lowmem.network.architecture import Architecture
from lowmem.network.layers.base import Call, Reversal, Rooms, Site, Statistics, add_up
from lowmem.network.layers.dropout import Philox
from lowmem.network.tiles import (
    aligned,
    loss_scratch_bytes,
    rooms_bytes,
    tile_bounds,
    tile_count,
    tile_rows,
    whole_bytes,
)
from lowmem.nn import losses
from lowmem.nn.mlp import MLP, LayerViews
from lowmem.nn.optimizers import Optimizer
from lowmem.planning.packing import BATCH, Program, Step
from lowmem.runtime.arena import Arena, Array, Bounds, Scratch
from lowmem.runtime.lanes import Lanes
from lowmem.runtime.places import Places
from lowmem.schedule.ops import Backward, Forward, Free, Loss, Update


@dataclass(slots=True)
class Feed:
    """What changes from step to step: the caller's batch, cut in tiles for each lane, and the loss that comes out.

    Bound calls hold the lists; a step refills them in place. losses: of this pass, by lane.
    """

    x_tiles: tuple[list[Array], ...]
    y_tiles: tuple[list[NDArray[Any]], ...]
    w_tiles: tuple[list[Array | None], ...]
    losses: list[float]
    x: list[Array] = field(default_factory=list)
    scale: float = 1.0
    loss: float = 0.0

    @classmethod
    def of(cls, lanes: int) -> "Feed":
        """Return an empty one for so many lanes."""
        return cls(
            x_tiles=tuple([] for _ in range(lanes)),
            y_tiles=tuple([] for _ in range(lanes)),
            w_tiles=tuple([] for _ in range(lanes)),
            losses=[0.0] * lanes,
        )

    def fill(self, x: Array, y: NDArray[Any], w: Array | None, bounds: Sequence[Bounds]) -> None:
        """Point at the rows of one (micro-)batch, and at their weights if they have any; bounds: of tiles, by lane."""
        self.x[:] = (x,)
        for x_tiles, y_tiles, w_tiles, own in zip(self.x_tiles, self.y_tiles, self.w_tiles, bounds, strict=True):
            x_tiles[:] = [x[start:stop] for start, stop in own]
            y_tiles[:] = [y[start:stop] for start, stop in own]
            w_tiles[:] = [None if w is None else w[start:stop] for start, stop in own]

    def clear(self) -> None:
        """Let go of the caller's arrays."""
        for tiles in ([self.x], self.x_tiles, self.y_tiles, self.w_tiles):
            for held in tiles:
                held.clear()


@dataclass(frozen=True, slots=True)
class Training:
    """The arrays a step works on besides the arena, and the lanes that carry it out.

    gradients: where each layer's gradient is written. totals: where micro-batches are summed up, None if there is
    only one. updates: by lane, for each layer the chunks (w, g, states, scratch) of its parameters.
    masks: by lane, dropout's random numbers. statistics: by layer, of the batch, where a norm needs them.
    slots: a number for each lane, of which the gradient of a learned factor is the sum.
    """

    mlp: MLP
    arena: Arena
    feed: Feed
    lanes: Lanes
    ones: Array
    starts: NDArray[np.intp]
    gradients: LayerViews
    totals: LayerViews | None
    optimizer: Optimizer | None
    updates: Sequence[Sequence[Sequence[tuple[Any, ...]]]]
    masks: Sequence[Philox]
    statistics: Sequence[Statistics | None]
    slots: Array


OF_ALL = 0
"""The shape, for `Places`, of what all lanes read: no width and no stride, so nothing else may touch it."""


class Binder:
    """Binds programs of one network to one arena, for one lane. Equal calls are made once and shared.

    With several lanes, each carries its rows through all layers, and its share of every layer's outputs through the
    weight gradient and the update. Lanes wait for each other where one reads what others have written, and where a
    place is used anew in another shape: `Places` knows. All lanes are bound alike, so they wait at the same calls.
    """

    def __init__(self, training: Training, rows: int, lane: int) -> None:
        self.training = training
        self.rows, self.lane, self.lanes = rows, lane, training.lanes.count
        self.tile = tile_rows(rows, self.lanes)
        self.architecture: Architecture = training.mlp.architecture
        self.bounds = tile_bounds(rows, lane, self.lanes)
        self.first_tile = sum(len(tile_bounds(rows, before, self.lanes)) for before in range(lane))  # of all lanes'
        self.places = Places()
        self._wait: Call = (training.lanes.wait, ())
        self._calls: dict[tuple[Any, ...], Call] = {}
        self._ladders: dict[tuple[int, int, int], list[Call | None]] = {}
        self._scratches: dict[tuple[int, int, Rooms, int], Scratch] = {}
        self._sites: dict[tuple[int, bool], Site] = {}

    def bind(self, program: Program, *, first: bool, last: bool) -> list[Call]:
        """Return the calls of one pass; of several micro-batches, whether it is the first or the last."""
        calls: list[Call] = []
        due: list[Call] = []  # an update waits until all lanes are done with the layer's weights
        self.places.clear()
        for step in program.steps:
            match step.op:
                case Forward(start, stop):
                    calls += self._run(step, start, stop)
                case Loss():
                    stride = loss_scratch_bytes(self.architecture, self.tile)
                    calls += self._meet((step.source, self.architecture.widths[-1]), scratch=(step.scratch, stride))
                    calls.append(self._once(("loss",), partial(self._loss, step)))
                    calls += [*self._all_here(), (check_loss, (self.training.feed, self.lane))]
                case Backward(layer):
                    calls += self._backward(step, layer, first, due)
                    due = []
                case Update(layer) if last:
                    due.append((update, (self.training.optimizer, self.training.updates[self.lane][layer - 1])))
                case Update() | Free():
                    pass
        return calls + due

    # lanes --------------------------------------------------------------------------------------------------------

    def _all_here(self) -> list[Call]:
        """Return the call that waits for the other lanes, if there are any. Behind it all places are free to use."""
        self.places.clear()
        return [self._wait] if self.lanes > 1 else []

    def _meet(self, *matrices: tuple[int, int], scratch: tuple[int, int] = (0, 0)) -> list[Call]:
        """Return a wait if an op touches what has been touched in another shape since the last one.

        matrices: (offset, width) of every matrix of all rows. scratch: offset, and bytes for each lane.
        """
        if self.lanes == 1:
            return []
        item = self.architecture.item_bytes
        wanted = [(offset, offset + self.rows * width * item, width) for offset, width in matrices if offset != BATCH]
        offset, stride = scratch
        if stride:
            wanted.append((offset, offset + self.lanes * stride, -stride))  # minus: it is no width
        calls = [] if self.places.fit(wanted) else self._all_here()
        self.places.touch(wanted)
        return calls

    def _rooms_bytes(self, rooms: Rooms) -> int:
        """Return the bytes of the working matrices of a tile."""
        return rooms_bytes(rooms, self.tile, self.architecture.item_bytes)

    def _scratch(self, place: tuple[int, int], bounds: Bounds, rooms: Rooms) -> Scratch:
        """Return this lane's working matrices for every tile; place: offset, and bytes for each lane."""
        offset, stride = place
        key = (offset, stride, rooms, len(bounds))
        made = self._scratches.get(key)
        if made is None:
            made = self.training.arena.scratch(offset + self.lane * stride, bounds, self.tile, rooms)
            self._scratches[key] = made
        return made

    def _site(self, number: int, *, backwards: bool = False) -> Site:
        """Return where a layer works; backwards: its tiles are walked from the last to the first."""
        site = self._sites.get((number, backwards))
        if site is None:
            t, layer = self.training, self.architecture.layer(number)
            starts = [start for start, _ in self.bounds]
            special = bool(layer.partials or layer.drops)
            site = t.mlp.sites[number - 1]
            if special:
                site = replace(
                    site,
                    starts=starts[::-1] if backwards else starts,
                    ones=t.ones[: self.tile],
                    masks=t.masks[self.lane] if layer.drops else None,
                    statistics=t.statistics[number - 1] if t.statistics else None,
                )
            self._sites[number, backwards] = site
        return site

    # ops ----------------------------------------------------------------------------------------------------------

    def _run(self, step: Step, first: int, last: int) -> list[Call]:
        """Run layers first..last: the first into another place, the others in that place."""
        widths = self.architecture.widths
        stride = 0
        if self.lanes > 1:
            rungs = (self._forward_bytes(layer, in_place=True) for layer in range(first + 1, last + 1))
            stride = max(self._forward_bytes(first, in_place=False), *rungs, 0)
        place = (step.scratch, stride)
        calls = self._meet((step.source, widths[first - 1]), (step.target, widths[first]), scratch=place)
        calls.append(self._once(("first", step, stride), partial(self._first_layer, step, place)))
        if last == first:
            return calls
        if self.lanes > 1:
            for layer in range(first + 1, last + 1):
                if widths[layer] != widths[layer - 1]:
                    self.places.clear()  # the rung of this layer begins and ends with a wait
                    self._meet((step.target, widths[layer]), scratch=place)
        calls.append((sweep, (self._ladder(step, place, first + 1, last), first + 1, last + 1)))
        return calls

    def _once(self, key: tuple[Any, ...], make: Callable[[], Call]) -> Call:
        """Return the call of this key, made at its first use."""
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = make()
        return call

    def _first_layer(self, step: Step, place: tuple[int, int]) -> Call:
        """Run the first layer of a `Forward`: its input stays, its output goes to the travelling state's place."""
        layer = cast("Forward", step.op).first
        outs = self._tiles(step.target, self.architecture.widths[layer])
        if step.source == BATCH:
            sources: Sequence[Array] = self.training.feed.x_tiles[self.lane]
        else:
            sources = self._tiles(step.source, self.architecture.widths[layer - 1])
        return self._forward(layer, sources, outs, place, self.bounds, in_place=False)

    def _ladder(self, step: Step, place: tuple[int, int], start: int, stop: int) -> list[Call | None]:
        """Return the in-place calls by layer for one place, with those of start..stop made."""
        ladder = self._ladders.setdefault((step.target, *place), [None] * (self.architecture.layers + 1))
        for layer in range(start, stop + 1):
            if ladder[layer] is None:
                ladder[layer] = self._rung(step.target, place, layer)
        return ladder

    def _rung(self, target: int, place: tuple[int, int], layer: int) -> Call:
        """Bind one layer in the place of its input."""
        widths = self.architecture.widths
        if self.lanes == 1 or widths[layer] == widths[layer - 1]:
            sources, outs = self._tiles(target, widths[layer - 1]), self._tiles(target, widths[layer])
            return self._forward(layer, sources, outs, place, self.bounds, in_place=True)
        # Rows of another width lie where other lanes have theirs: the first lane does them all, the others wait.
        call: Call | None = None
        if self.lane == 0:
            bounds = [bound for each in range(self.lanes) for bound in tile_bounds(self.rows, each, self.lanes)]
            sources, outs = (self.training.arena.tiles(target, bounds, w) for w in widths[layer - 1 : layer + 1])
            call = self._forward(layer, sources, outs, place, bounds, in_place=True)
        return alone, (self.training.lanes.wait, call)

    def _forward_bytes(self, layer: int, *, in_place: bool) -> int:
        """Return the bytes that a layer's forward works in."""
        return self._rooms_bytes(self.architecture.layer(layer).forward_rooms(in_place=in_place))

    def _forward(
        self,
        number: int,
        sources: Sequence[Array],
        outs: Sequence[Array],
        place: tuple[int, int],
        bounds: Bounds,
        *,
        in_place: bool,
    ) -> Call:
        """Bind one layer's forward."""
        layer = self.architecture.layer(number)
        scratch = self._scratch(place, bounds, layer.forward_rooms(in_place=in_place))
        # Where rows grow, the last tile must go first, or it would be overwritten before it is read.
        backwards = in_place and layer.leaving > layer.entering
        site = self._site(number, backwards=backwards)
        if len(bounds) != len(self.bounds) and site.starts:
            starts = [start for start, _ in bounds]
            site = replace(site, starts=starts[::-1] if backwards else starts)
        if backwards:
            sources, outs, scratch = sources[::-1], outs[::-1], scratch[::-1]
        return layer.run(site, sources, outs, scratch, in_place=in_place)

    def _loss(self, step: Step) -> Call:
        """Bind the loss: the last layer's outputs become δ^(L)."""
        fold = losses.fold_of(self.architecture)
        stride = loss_scratch_bytes(self.architecture, self.tile)
        scratch = loss_scratch(self.training, step.scratch + self.lane * stride, self.bounds, self.tile)
        return fold_loss, (
            self._tiles(step.source, self.architecture.widths[-1]),
            self.training.feed,
            self.lane,
            fold,
            scratch,
        )

    def _backward(self, step: Step, number: int, first: bool, due: list[Call]) -> list[Call]:
        """Bind one layer's backward: its gradients, δ^(l-1), and the sum over micro-batches.

        due: the update of the layer above. It waits until all lanes are through with that layer's weights.
        """
        t, layer, item = self.training, self.architecture.layer(number), self.architecture.item_bytes
        delta = t.arena.matrix(step.source, self.rows, layer.leaving)
        if step.target == BATCH:
            calls = [*self._meet_for_gradients(number, due), *self._gradients(number, delta, None, first)]
            return [*calls, *self._sum_up(number, first)]
        places, offset = [], step.scratch
        for width in layer.whole_rooms:
            places.append((offset, width))
            offset += aligned(self.rows * width * item)
        begin = offset
        partials = t.arena.block(begin, (tile_count(self.rows, self.lanes), layer.partials, layer.entering))
        offset = step.scratch + whole_bytes(layer, self.rows, self.lanes)
        place = (offset, self._rooms_bytes(layer.backward_rooms))
        touched = [(step.source, layer.leaving), (step.target, layer.entering), *places]
        at = Reversal(
            deltas=self._tiles(step.source, layer.leaving),
            states=self._tiles(step.target, layer.entering),
            whole=tuple(self._tiles(where, width) for where, width in places),
            scratch=self._scratch(place, self.bounds, layer.backward_rooms),
            partials=tuple(partials[self.first_tile :][: len(self.bounds)]) if layer.partials else (),
            rows=self.rows,
        )
        site = self._site(number)
        calls = []
        prepare = layer.prepare(site, at)
        if prepare is not None:
            calls += [*self._meet(*touched[1:], scratch=place), prepare]
        x_place = places[0][0] if places else step.target
        calls += self._meet_for_gradients(number, due)
        calls += self._gradients(number, delta, t.arena.matrix(x_place, self.rows, layer.entering), first)
        calls += [*self._all_here(), layer.finish(site, at)]
        if layer.partials:
            calls += self._all_here()
            share = slice(*lane_share(layer.entering, self.lane, self.lanes))
            calls += layer.gather(site, at, partials, self._into(first).arrays[number - 1], share)
        calls += self._sum_up(number, first)
        # Noted for what comes next; all were here just now, so nobody waits.
        self._meet(*touched, scratch=place)
        if layer.partials and self.lanes > 1:
            self.places.touch([(begin, offset, OF_ALL)])
        return calls

    def _meet_for_gradients(self, number: int, due: list[Call]) -> list[Call]:
        """Wait until δ^(l) and all it comes from is there, and carry out the update that is due.

        Gradients of the layer above may lie in the same buffer. If in the same shape, each lane overwrites what it
        has just used itself; else it waits for the others to have used theirs.
        """
        calls = [*self._all_here(), *due]
        layers = self.architecture.layers
        if due and number < layers and self.training.totals is None:
            shapes, above = (self.architecture.layer(n).parameters for n in (number, number + 1))
            if shapes != above:
                calls += self._all_here()
        return calls

    def _into(self, first: bool) -> LayerViews:
        """Return where gradients are written: those of the first of several micro-batches to the totals at once."""
        t = self.training
        return t.totals if t.totals is not None and first else t.gradients

    def _gradients(self, number: int, delta: Array, x: Array | None, first: bool) -> list[Call]:
        """Bind this lane's share of the gradients of weights and biases: some outputs, over the whole batch.

        x: None for the caller's batch.
        """
        t, layer = self.training, self.architecture.layer(number)
        into, w = self._into(first).arrays[number - 1], t.mlp.weights[number - 1]
        share = slice(*lane_share(layer.leaving, self.lane, self.lanes))
        own = t.slots[self.lane : self.lane + 1] if self.lanes > 1 or "scale" not in into else into["scale"]
        if share.start == share.stop:
            return [(own.fill, (0.0,))]
        outputs = into["weight"], into["bias"]
        if self.lanes > 1:
            delta, outputs, w = delta[:, share], (outputs[0][share], outputs[1][share]), w[share]
        ones = t.ones[: self.rows]
        if x is None:
            calls: list[Call] = [(gradients_of_batch, (delta, t.feed.x, ones, *outputs))]
        else:
            calls = [(gradients, (delta, x, ones, *outputs))]
        return calls + layer.scale_gradients(t.mlp.sites[number - 1], outputs[0], w, own)

    def _sum_up(self, number: int, first: bool) -> list[Call]:
        """Finish this lane's share of the gradients: join the lanes' parts, and add up micro-batches."""
        t, calls = self.training, list[Call]()
        into = self._into(first).arrays[number - 1]
        if "scale" in into and self.lanes > 1 and self.lane == 0:
            calls.append((add_up, ([(t.slots[:, None], into["scale"])],)))
        if t.totals is not None and not first:
            pairs = zip(self._shares(t.totals, number), self._shares(t.gradients, number), strict=True)
            calls += [(np.add, (total, gradient, total)) for total, gradient in pairs]
        return calls

    def _shares(self, views: LayerViews, number: int) -> list[Array]:
        """Return this lane's shares of a layer's parameters: all in one where there is one lane."""
        if self.lanes == 1:
            return [views.blocks[number - 1]]
        return shares(views.arrays[number - 1], self.lane, self.lanes)

    def _tiles(self, offset: int, width: int) -> tuple[Array, ...]:
        """Return this lane's row tiles of the matrix of that width at `offset`, made once."""
        key = ("tiles", offset, width)
        tiles = self._calls.get(key)
        if tiles is None:
            tiles = self._calls[key] = cast("Call", self.training.arena.tiles(offset, self.bounds, width))
        return cast("tuple[Array, ...]", tiles)


def lane_share(width: int, lane: int, lanes: int) -> tuple[int, int]:
    """Return the first of a layer's outputs whose weights are a lane's share, and the one behind the last."""
    return width * lane // lanes, width * (lane + 1) // lanes


def shares(arrays: Mapping[str, Array], lane: int, lanes: int) -> list[Array]:
    """Return a lane's share of each of a layer's parameters, flat; of a learned factor the first lane's is all."""
    made = []
    for name, array in arrays.items():
        start, stop = (0, int(lane == 0)) if name == "scale" else lane_share(len(array), lane, lanes)
        made.append(array[start:stop].reshape(-1))
    return made


def loss_scratch(training: Training, offset: int, bounds: Bounds, tile: int) -> list[losses.LossScratch]:
    """Return the working memory of the loss for each row tile, of at most `tile` rows, at byte `offset`."""
    architecture, arena = training.mlp.architecture, training.arena
    facts, width = architecture.loss_facts, architecture.widths[-1]
    item = arena.item.itemsize
    matrices = arena.scratch(offset, bounds, tile, (width,) * facts.scratch)
    vector = aligned(tile * item)
    vectors = offset + facts.scratch * aligned(tile * width * item)
    index = vectors + facts.row_scratch * vector
    made = []
    for (start, stop), tiles in zip(bounds, matrices, strict=True):
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


def alone(wait: Callable[[], None], call: Call | None) -> None:
    """Do something in one lane while the others wait; `call` is theirs if None."""
    wait()
    if call is not None:
        function, arguments = call
        function(*arguments)
    wait()


def fold_loss(
    tiles: Sequence[Array], feed: Feed, lane: int, fold: Callable[..., float], scratch: Sequence[Any]
) -> None:
    """Fold the loss over a lane's tiles."""
    total = 0.0
    for s, y, w, tmp in zip(tiles, feed.y_tiles[lane], feed.w_tiles[lane], scratch, strict=True):
        total += fold(s, y, feed.scale, tmp, w)
    feed.losses[lane] = total


def check_loss(feed: Feed, lane: int) -> None:
    """Stop in every lane, before any parameter changes, if the loss of all is not finite; else add it up."""
    total = sum(feed.losses)
    if not isfinite(total):
        raise NonFiniteError(
            f"the loss became {total}: the outputs of the network overflowed. The parameters are those before this "
            "step. Try a smaller learning rate, scaled inputs or another initialiser."
        )
    if lane == 0:
        feed.loss += total


def gradients(delta: Array, x: Array, ones: Array, g_w: Array, g_b: Array) -> None:
    """∂ℓ/∂w = δᵀ x and ∂ℓ/∂b = the sum of δ over the batch, as a product with ones."""
    np.matmul(delta.T, x, g_w)
    np.matmul(ones, delta, g_b)


def gradients_of_batch(delta: Array, x: list[Array], ones: Array, g_w: Array, g_b: Array) -> None:
    """Compute the gradients of layer 1, whose input is the caller's batch."""
    gradients(delta, x[0], ones, g_w, g_b)


def update(optimizer: Optimizer, chunks: Sequence[tuple[Any, ...]]) -> None:
    """Update one layer's parameters."""
    for chunk in chunks:
        optimizer.update(*chunk)
