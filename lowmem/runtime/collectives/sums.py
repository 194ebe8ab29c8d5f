"""`ShardSums`: adds up the gradients of a batch's shards along their tree, layer by layer, as shards are reversed."""

from array import array
from collections.abc import Iterable, Iterator
from itertools import accumulate
from math import fsum, isfinite, isnan, nan, sqrt
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from lowmem.common.exact_sums import exact_sum
from lowmem.common.shards import Leaf, Node, folded
from lowmem.nn.layers.base import counts
from lowmem.planning.plan import Plan
from lowmem.runtime.buffers import Buffers
from lowmem.runtime.collectives.exchange import Exchange, own_starts
from lowmem.runtime.collectives.group import Group
from lowmem.runtime.nonfinite import overflowed
from lowmem.schedule.lowering import TRAVELLING

Array = NDArray[np.floating[Any]]
T = TypeVar("T")


class ShardPass(NamedTuple):
    """One pass of a step: its rows in the batch, and where it stands among the passes of a shard and of a step.

    start, stop: first row in the batch, and that behind the last. opens, closes: whether it is the first and the last
    pass of its shard. last: whether no pass of the step comes behind it.
    """

    leaf: Leaf
    start: int
    stop: int
    opens: bool
    closes: bool
    last: bool


class ShardSums:
    """The sums of a step.

    Every layer's gradient of a pass lies in the one buffer that layers use in turn until `take` adds it to what is on
    the stack of `lowmem.common.shards`. The stack is kept in `buffers.slots`; its top needs no slot where it is added
    to what lies below at once. So the sum for a layer is whole as soon as the last shard's backward has reached it.
    """

    def __init__(self, plan: Plan, buffers: Buffers, group: Group | None = None) -> None:
        assert buffers.of_one is not None
        self._plan, self._slots, self.shards = plan, buffers.slots, buffers.shards
        self._one, self._places = buffers.of_one, TRAVELLING if plan.ranks > 1 else 1
        self._exchange = None if group is None else Exchange(plan, self.shards, group, buffers.received)
        self._kept = buffers.kept
        self.own_starts = array("q", own_starts(plan, self.shards))
        """Where this rank's part of each layer begins among all its parts: there the optimizer's arrays have it."""
        self._starts = array("q", accumulate((layer.size for layer in plan.architecture.each_layer), initial=0))
        self._height = 0  # of the stack below the shard at hand
        self._at: ShardPass | None = None
        self._rows = plan.batch_size
        self._losses: dict[Node, float] = {}

    def begin(self, batch: int) -> None:
        """Begin a step on a batch of so many rows."""
        self._rows, self._at, self._height = batch, None, 0
        self._losses.clear()
        if self._exchange is not None:
            self._exchange.begin(batch)

    def passes(self, batch: int) -> Iterator[ShardPass]:
        """Yield the passes of a step that has begun; `take` belongs to the one that was yielded last.

        A rank has no pass where a batch has few rows. Raises `NonFiniteError` after one whose loss is not finite.
        """
        leaves, size = self.shards.leaves(batch), self._plan.micro_batch
        for leaf in leaves:
            first, end = self.shards.rows(batch, leaf.shard)
            self._losses[leaf.shard, leaf.shard + 1] = 0.0
            for start in range(first, end, size):
                stop = min(start + size, end)
                closes = stop == end
                self._at = ShardPass(leaf, start, stop, start == first, closes, closes and leaf == leaves[-1])
                yield self._at
            self._height += 1 - leaf.merges

    def along(self, bound: Iterable[T], batch: int) -> Iterator[T]:
        """Yield what was bound for each of `passes`, in their order, while that pass is at hand."""
        for one, _ in zip(bound, self.passes(batch), strict=True):
            yield one

    def add_loss(self, total: float) -> None:
        """Add the losses of a pass to those of its shard.

        Raises `NonFiniteError` if the sum is not finite. With other ranks all of them raise it, in the last pass.
        """
        shard = self._current.leaf.shard
        self._losses[shard, shard + 1] += total
        if self._exchange is None and not isfinite(self._losses[shard, shard + 1]):
            raise overflowed(self._losses[shard, shard + 1])

    @property
    def loss(self) -> float:
        """The sum of the losses of all shards."""
        losses = self._losses
        if self._exchange is not None:
            shards, everything = self.shards, self._exchange.losses()
            present = (shard for shard in range(shards.count) if shards.has_rows(self._rows, shard, shard + 1))
            losses = {(shard, shard + 1): float(everything[shard]) for shard in present}
        return folded(self.shards.count, losses, lambda one, other: one + other)

    @property
    def _current(self) -> ShardPass:
        assert self._at is not None
        return self._at

    @property
    def last(self) -> bool:
        """Whether the pass at hand is the last one, in which layers are updated; so it is where there are none."""
        return self._at is None or self._at.last

    def start(self, layer: int) -> int:
        """Return where a layer's numbers begin among those of all layers."""
        return self._starts[layer - 1]

    def written(self, layer: int) -> Array:
        """Return where the gradient of a layer is to be written, flat."""
        begin = layer % self._places * (len(self._one) // self._places)
        return self._one[begin : begin + self._starts[layer] - self._starts[layer - 1]]

    @counts(lambda own, layer: own.additions * len(own.written(layer)))
    def take(self, layer: int) -> None:
        """Add a layer's gradient, which its backward has just written, to what there is of its shard and its tree."""
        at, height, top, in_slot = self._current, self._height, self.written(layer), False
        if not (at.opens and at.closes):  # the passes of a shard are added up first
            whole, in_slot = self._slot(height, layer), True
            if at.opens:
                np.copyto(whole, top)
            else:
                np.add(whole, top, out=whole)
            top = whole
        if not at.closes:
            return
        for _ in range(at.leaf.merges):
            height -= 1
            below, in_slot = self._slot(height, layer), True
            np.add(below, top, out=below)
            top = below
        if not in_slot and height < len(self._slots):
            np.copyto(self._slot(height, layer), top)

    @property
    def additions(self) -> int:
        """How many gradients `take` adds to others in the pass at hand."""
        return (not self._current.opens) + (self._current.leaf.merges if self._current.closes else 0)

    def total(self, layer: int) -> Array:
        """Return the sum over all shards of this rank's part of a layer's gradients, flat; see `ready`."""
        if self._exchange is not None:
            return self._exchange.total(layer)
        return self._slot(0, layer) if self._slots else self.written(layer)

    def gathered(self, layer: int) -> Array:
        """Return where an update finds the sum of this rank's part of a layer's gradients once a step has run.

        Where ranks gather gradients, each keeps its own parts; see `keep`.
        """
        own = self.own_starts
        return self._kept[own[layer - 1] : own[layer]] if len(self._kept) else self.total(layer)

    # Other ranks --------------------------------------------------------------------------------------------------

    @property
    def notes(self) -> NDArray[np.float64] | None:
        """What ranks tell each other with a step; see `Exchange.notes`. None without other ranks."""
        return None if self._exchange is None else self._exchange.notes

    def send(self, layer: int) -> None:
        """Send a layer's gradients to the other ranks, in the last pass of a step."""
        exchange = self._exchange
        if exchange is None or not self.last:
            return
        if layer == self._plan.architecture.layers:
            exchange.share_losses([self._losses.get((shard, shard + 1), 0.0) for shard in self.shards.own])
        exchange.send(layer, self._stack(layer))
        exchange.move_on()

    def _stack(self, layer: int) -> list[Array]:
        """Return what lies on the stack of a layer once all shards of this rank have reversed it."""
        at = self._at
        if at is None:
            return []
        height = self._height + 1 - at.leaf.merges
        stack = [self._slot(number, layer) for number in range(min(height, len(self._slots)))]
        return stack if len(stack) == height else [*stack, self.written(layer)]

    def ready(self, layer: int) -> bool:
        """Say whether a layer is to be updated now: in the last pass of a step. Waits until `total` is there."""
        if not self.last:
            return False
        if self._exchange is not None:
            self._exchange.check_losses()
            self._exchange.receive(layer)
        return True

    def keep(self, layer: int) -> None:
        """Keep this rank's part of the sum of a layer's gradients, in the last pass of a step."""
        if self.ready(layer):
            np.copyto(self.gathered(layer), self.total(layer))

    def norm(self, squares: Iterable[float]) -> float:
        """Return the square root of the sum of squares, those of all ranks together. The sum is exact."""
        partials = exact_sum(squares)
        if self._exchange is not None:
            partials = exact_sum(self._exchange.shared(partials))
        return nan if partials and isnan(partials[0]) else sqrt(fsum(partials))

    def updated(self, layer: int, parameters: Array) -> None:
        """Give this rank's part of a layer's new parameters to all ranks. parameters: of all layers, flat."""
        if self._exchange is not None:
            self._exchange.give_back(layer, parameters[self._starts[layer - 1] : self._starts[layer]])

    def end(self) -> None:
        """Wait until a step is over on all ranks."""
        if self._exchange is not None:
            self._exchange.end()

    def _slot(self, height: int, layer: int) -> Array:
        """Return a layer's numbers in the slot at that height of the stack."""
        return self._slots[height][self._starts[layer - 1] : self._starts[layer]]
