"""`ShardSums`: adds up the gradients of a batch's shards along their tree, layer by layer, as shards are reversed."""

from array import array
from collections.abc import Iterable, Iterator
from itertools import accumulate
from math import isfinite
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from lowmem.common.shards import Leaf, Node, folded
from lowmem.nn.layers.base import counts
from lowmem.planning.plan import Plan
from lowmem.runtime.buffers import Buffers
from lowmem.runtime.nonfinite import overflowed

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

    def __init__(self, plan: Plan, buffers: Buffers) -> None:
        assert buffers.of_one is not None
        self._plan, self._slots, self._one = plan, buffers.slots, buffers.of_one
        self.shards = plan.sharing
        self._starts = array("q", accumulate((layer.size for layer in plan.architecture.each_layer), initial=0))
        self._height = 0  # of the stack below the shard at hand
        self._at: ShardPass | None = None
        self._losses: dict[Node, float] = {}

    def passes(self, batch: int) -> Iterator[ShardPass]:
        """Yield the passes of a step on a batch of so many rows; `take` belongs to the one that was yielded last.

        Raises `NonFiniteError` after a pass whose loss is not finite.
        """
        self._height, size = 0, self._plan.micro_batch
        self._losses.clear()
        leaves = self.shards.leaves(batch)
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
        """Add the losses of a pass to those of its shard. Raises `NonFiniteError` if the sum is not finite."""
        shard = self._current.leaf.shard
        self._losses[shard, shard + 1] += total
        if not isfinite(self._losses[shard, shard + 1]):
            raise overflowed(self._losses[shard, shard + 1])

    @property
    def loss(self) -> float:
        """The sum of the losses of all shards."""
        return folded(self.shards.count, self._losses, lambda one, other: one + other)

    @property
    def _current(self) -> ShardPass:
        assert self._at is not None
        return self._at

    @property
    def last(self) -> bool:
        """Whether the pass at hand is the last one, after which layers are updated."""
        return self._current.last

    def start(self, layer: int) -> int:
        """Return where a layer's numbers begin among those of all layers."""
        return self._starts[layer - 1]

    def written(self, layer: int) -> Array:
        """Return where the gradient of a layer is to be written, flat."""
        return self._one[: self._starts[layer] - self._starts[layer - 1]]

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
        """Return the sum of a layer's gradients over the shards, flat; the last pass has reversed the layer."""
        return self._slot(0, layer) if self._slots else self.written(layer)

    def _slot(self, height: int, layer: int) -> Array:
        """Return a layer's numbers in the slot at that height of the stack."""
        return self._slots[height][self._starts[layer - 1] : self._starts[layer]]
