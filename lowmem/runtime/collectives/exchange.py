"""`Exchange`: a layer's gradients travel between ranks while the layers below are reversed, and its parameters return.

Every rank sends every other one the part of its sums that the other one updates, and adds up what it receives along
the tree of the shards. So the order of additions is that of one process, whatever the number of ranks, and a rank has
the optimizer's arrays of its own parts alone, as in ZeRO's first stage: S. Rajbhandari, J. Rasley, O. Ruwase, Y. He,
"ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", SC20 (2020). After the update all ranks gather
the parts of the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.exact_sums import PARTIALS
from lowmem.common.shards import Node, Shards, folded
from lowmem.planning.plan import Plan
from lowmem.runtime.collectives.group import Group, Request
from lowmem.runtime.nonfinite import overflowed
from lowmem.schedule.lowering import TRAVELLING

Array = NDArray[np.floating[Any]]


NOTES = 2
"""Numbers that ranks tell each other with the losses of a step."""


@dataclass(slots=True)
class Batch:
    """What ranks exchange for batches of one size: the nodes that each rank has the sums of."""

    pieces: list[list[Node]]

    @property
    def rounds(self) -> int:
        """The most nodes of a rank, each of which is sent on its own."""
        return max(map(len, self.pieces))


class Exchange:
    """The exchanges of a step. shards: as this rank sees them. received: memory for what arrives, flat."""

    def __init__(self, plan: Plan, shards: Shards, group: Group, received: Array) -> None:
        self._plan, self._shards, self.group = plan, shards, group
        self._received, self._each = received, len(received) // TRAVELLING
        self._ranks = [shards.of_rank(rank) for rank in range(group.size)]
        self._bounds = {
            size: shards.part_bounds(size) for size in {layer.size for layer in plan.architecture.each_layer}
        }
        self._batches: dict[int, Batch] = {}
        self._batch = self._of(plan.batch_size)
        each = shards.count // shards.ranks
        self._losses, self._all_losses = np.zeros(each + NOTES), np.zeros((group.size, each + NOTES))
        self.notes = np.zeros(NOTES)
        """Before a step what this rank tells the others, and after it the largest of what all have told."""
        self._sharing: Request | None = None
        gathers = plan.gathered
        self._partials, self._all_partials = np.zeros(PARTIALS * gathers), np.zeros((group.size, PARTIALS * gathers))
        self._travelling: dict[int, list[Request]] = {}  # of a layer's gradients
        self._returning: list[Request] = []

    def _of(self, rows: int) -> Batch:
        if rows not in self._batches:
            if len(self._batches) > 1:  # those of the plan's size stay
                self._batches.popitem()
            self._batches[rows] = Batch([shards.pieces(rows) for shards in self._ranks])
        return self._batches[rows]

    def begin(self, rows: int) -> None:
        """Begin a step on a batch of so many rows."""
        self._batch = self._of(rows)

    def share_losses(self, losses: Sequence[float]) -> None:
        """Begin to tell all ranks the losses of this rank's shards, 0 where a shard has no rows, and its notes."""
        self._losses[:-NOTES] = losses
        self._losses[-NOTES:] = self.notes
        self._sharing = self.group.share(self._losses, self._all_losses)

    def losses(self) -> Array:
        """Return the losses of all shards, once they are there."""
        if self._sharing is not None:
            self.group.wait(self._sharing)
            self._sharing = None
            self.notes[:] = self._all_losses[:, -NOTES:].max(axis=0)
        return self._all_losses[:, :-NOTES].reshape(-1)

    def check_losses(self) -> None:
        """Wait for the losses of all ranks. Raises `NonFiniteError`, on every rank, if one is not finite.

        What travels has arrived then, so that a run may go on.
        """
        if self._sharing is None:
            return
        losses = self.losses()
        if not np.isfinite(losses).all():
            shard = next(number for number, loss in enumerate(losses) if not isfinite(loss))
            for layer in [*self._travelling]:
                self._arrived(layer)
            rank = shard // (self._shards.count // self._shards.ranks)
            raise overflowed(float(losses[shard]), f" on rank {rank}")

    def shared(self, partials: Sequence[float]) -> list[float]:
        """Return the numbers of an exact sum of every rank, of which this rank has `partials`."""
        self._partials.fill(0)
        self._partials[: len(partials)] = partials
        self.group.wait(self.group.share(self._partials, self._all_partials))
        return [float(number) for number in self._all_partials.flat]

    def send(self, layer: int, sums: Sequence[Array]) -> None:
        """Send the sums that this rank has of a layer's gradients, and begin to receive this rank's part of all."""
        bounds = self._bounds[self._plan.architecture.layer(layer).size]
        begin = layer % TRAVELLING * self._each
        requests = []
        for number in range(self._batch.rounds):
            counts = [self._part(bounds) * (len(pieces) > number) for pieces in self._batch.pieces]
            receive = self._received[begin : begin + sum(counts)]
            send = sums[number] if number < len(sums) else None
            requests.append(self.group.exchange(send, bounds, receive, counts))
            begin += sum(counts)
        self._travelling[layer] = requests

    def total(self, layer: int) -> Array:
        """Return where the sum of this rank's part of a layer's gradients will lie, flat."""
        bounds = self._bounds[self._plan.architecture.layer(layer).size]
        begin = layer % TRAVELLING * self._each
        return self._received[begin : begin + self._part(bounds)]

    def receive(self, layer: int) -> None:
        """Wait for a layer's gradients, and add them up along the tree: `total` is made."""
        self._arrived(layer)
        bounds = self._bounds[self._plan.architecture.layer(layer).size]
        begin, size = layer % TRAVELLING * self._each, self._part(bounds)
        sums: dict[Node, Array] = {}
        for number in range(self._batch.rounds):
            for pieces in self._batch.pieces:
                if len(pieces) > number:
                    sums[pieces[number]] = self._received[begin : begin + size]
                    begin += size
        folded(self._shards.count, sums, lambda one, other: np.add(one, other, out=one))

    def give_back(self, layer: int, parameters: Array) -> None:
        """Begin to gather a layer's parameters, flat, of which this rank has updated its part."""
        self._returning.append(self.group.gather(parameters, self._bounds[len(parameters)]))
        self.move_on()

    def move_on(self) -> None:
        """Let what is in flight go on: many libraries do so only when they are called."""
        for requests in self._travelling.values():
            for request in requests:
                request.done()
        self._returning = [request for request in self._returning if not request.done()]

    def end(self) -> None:
        """Wait until all parameters are there."""
        for request in self._returning:
            self.group.wait(request)
        self._returning.clear()

    def _arrived(self, layer: int) -> None:
        for request in self._travelling.pop(layer):
            self.group.wait(request)

    def _part(self, bounds: Sequence[int]) -> int:
        """Return the numbers of this rank's part."""
        rank = self.group.rank
        return bounds[rank + 1] - bounds[rank]


def own_starts(plan: Plan, shards: Shards) -> list[int]:
    """Return where this rank's part of each layer begins among all its parts, and where the last one ends."""
    starts = [0]
    for layer in plan.architecture.each_layer:
        first, stop = shards.part(layer.size)
        starts.append(starts[-1] + stop - first)
    return starts
