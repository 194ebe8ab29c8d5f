"""Which arrays shaped like the parameters a plan calls for: gradients and the optimizer's. Decided here alone."""

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lowmem.nn.optimizers import OPTIMIZERS
from lowmem.nn.views import LayerViews, SharedViews
from lowmem.planning.plan import Plan
from lowmem.schedule.lowering import TRAVELLING

if TYPE_CHECKING:
    from lowmem.common.disk.paged_array import PagedArray

Array = NDArray[np.floating]


class Buffers:
    """The gradient buffers of a plan, and the arrays of its optimizer.

    | a plan with                           | gradients of       | and                                  |
    |---------------------------------------|--------------------|--------------------------------------|
    | no optimizer, or gathered; one pass   | all layers         |                                      |
    | an update fused into the backward     | one layer at a time|                                      |
    | several passes, NumPy engine          | one layer at a time| their sums over the passes, of all   |
    | several passes, compiled engine       | all layers         |                                      |
    | shards                                | one layer at a time| sums of some nodes of the tree       |

    of_all: gradients of all layers, flat, or None. of_one: a buffer that layers use in turn, flat, or None.
    slots: with shards, sums of all layers on the way to the whole, of which the first is `of_all`.
    states: the optimizer's arrays, those of a rank's parts. scratch: the numbers that an update works in.
    paged_states: the optimizer's arrays where they lie on a disk; `states` are then views of them.
    received: what other ranks send. kept: a rank's parts of all sums, where they wait for their norm; else empty.
    shards: of a batch, as this rank sees them.

    rank: the number of this process among those that share a batch.
    """

    def __init__(self, plan: Plan, rank: int = 0) -> None:
        self.shards = plan.sharing.of_rank(rank)
        architecture, dtype = plan.architecture, plan.architecture.dtype
        self._plan, wanted = plan, plan.gradient_buffers
        whole = architecture.parameters if wanted.all_layers else 0
        more = max(plan.shard_slots - 1, 0) * whole
        received = TRAVELLING * plan.received
        sizes = [layer.size for layer in architecture.each_layer]
        kept = plan.sharing.most_parts(sizes) if plan.gathered and plan.ranks > 1 else 0
        rest = plan.gradient_bytes // architecture.item_bytes - whole - more - received - kept
        self.received: Array = np.zeros(received, dtype)
        self.kept: Array = np.zeros(kept, dtype)
        self.of_all: Array | None = np.zeros(whole, dtype) if wanted.all_layers else None
        self.slots: tuple[Array, ...] = () if self.of_all is None or plan.shards == 1 else (self.of_all,)
        self.slots += tuple(np.zeros(whole, dtype) for _ in range(plan.shard_slots - 1))
        self.of_one: Array | None = np.zeros(rest, dtype) if wanted.one_layer else None
        states = 0 if plan.optimizer is None else OPTIMIZERS[plan.optimizer].states
        own = sum(stop - first for first, stop in map(self.shards.part, sizes))
        self.paged_states: tuple[PagedArray, ...] = ()
        if plan.streams[1]:
            from lowmem.common.disk import paged_array  # with ctypes, for those who use it

            assert plan.disk is not None
            self.paged_states = tuple(paged_array.PagedArray(plan.disk, own, dtype) for _ in range(states))
        arrays = (paged.array for paged in self.paged_states)
        self.states: tuple[Array, ...] = tuple(arrays) or tuple(np.zeros(own, dtype) for _ in range(states))
        self.scratch: Array = np.zeros(plan.optimizer_scratch, dtype)

    @cached_property
    def written(self) -> LayerViews:
        """Where the NumPy engine writes the gradients of a layer."""
        if self.of_one is None:
            return self.gradients
        return SharedViews(self._plan.architecture, self.of_one, TRAVELLING if self._plan.ranks > 1 else 1)

    @cached_property
    def totals(self) -> LayerViews | None:
        """Where the NumPy engine sums up the gradients of several passes; None if there is one pass."""
        return self.gradients if self._plan.micro_batches > 1 and self._plan.shards == 1 else None

    @cached_property
    def gradients(self) -> LayerViews:
        """What the optimizer or the caller reads: the sums where there are several passes."""
        if self.of_all is None:
            return self.written
        return LayerViews(self._plan.architecture, self.of_all)

    def into(self, *, first: bool) -> LayerViews:
        """Return where a pass writes its gradients: the first of several writes the sums at once."""
        return self.totals if self.totals is not None and first else self.written

    @property
    def gradient_bytes(self) -> int:
        """Bytes of the gradients' arrays."""
        arrays = self.of_all, *self.slots[1:], self.of_one, self.received, self.kept
        return sum(array.nbytes for array in arrays if array is not None)

    @property
    def optimizer_bytes(self) -> int:
        """Bytes of the optimizer's arrays that are in memory, and of what an update works in."""
        in_memory = () if self.paged_states else self.states
        return sum(array.nbytes for array in (*in_memory, self.scratch))
