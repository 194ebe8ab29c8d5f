"""What is done with gradients: an update of the parameters, a look at their norm, a sum over passes."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, isfinite, sqrt
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lowmem.network.specs import CHUNK
from lowmem.nn.layers.base import counts
from lowmem.nn.mlp import MLP
from lowmem.nn.optimizers import OPTIMIZERS, Optimizer
from lowmem.runtime.buffers import Buffers

if TYPE_CHECKING:
    from lowmem.runtime.collectives.sums import ShardSums

Array = NDArray[np.floating[Any]]
Chunk: TypeAlias = tuple[Array, Array, tuple[Array, ...], tuple[Array, ...]]
"""w, g, the optimizer's states and its working memory: flat, of one size."""


class Updater:
    """Carries out an optimizer, or only adds up the squares of gradients.

    chunks[l-1]: the parameters of layer l, cut so that the passes of an update find a chunk in cache.
    scale: what gradients are multiplied by first, if it is below 1; None to look at them alone.
    updated: whether the run at hand has updated anything.
    """

    def __init__(self, mlp: MLP, buffers: Buffers, optimizer: Optimizer, sums: ShardSums | None = None) -> None:
        self.optimizer, self._sums = optimizer, sums
        self.scale: float | None = 1.0
        self.updated = False
        self._parameters = mlp.parameters
        self.chunks = _chunks(mlp, buffers, sums, OPTIMIZERS[optimizer.name].scratch)
        self._squares: list[float] = []

    def begin(self, scale: float | None) -> None:
        """Begin a run."""
        self.scale, self.updated = scale, False
        self._squares.clear()

    def update(self, chunks: Sequence[Chunk]) -> None:
        """Update one layer's parameters, or look at its gradients."""
        for w, g, states, scratch in chunks:
            if self.scale is None:
                self._squares.append(float(np.dot(g, g)))
                continue
            self.updated = True
            if self.scale < 1:
                np.multiply(g, self.scale, out=g)
            self.optimizer.update(w, g, states, scratch)

    def update_in_last(self, layer: int, chunks: Sequence[Chunk]) -> None:
        """Update one layer's parameters if the pass at hand is the last one of a step's shards."""
        assert self._sums is not None
        if self._sums.ready(layer):
            self.update(chunks)
            self._sums.updated(layer, self._parameters)

    def update_kept(self, layer: int, chunks: Sequence[Chunk]) -> None:
        """Update one layer's parameters, of which other ranks update the rest, and give them to those."""
        assert self._sums is not None
        self.update(chunks)
        if self.scale is not None:
            self._sums.updated(layer, self._parameters)

    def look(self, gradients: Array) -> None:
        """Look at the gradients of all layers, which are one flat array."""
        self._squares.clear()
        for start in range(0, len(gradients), CHUNK):
            g = gradients[start : start + CHUNK]
            self._squares.append(float(np.dot(g, g)))

    def norm_in_order(self) -> float:
        """Return the norm of what was looked at, summed in its order."""
        total = 0.0
        for square in self._squares:
            total += square
        return sqrt(total) if total >= 0 else total

    def exact_norm(self) -> float:
        """Return the norm of what was looked at; the sum is exact, so that the order of the layers does not matter."""
        if self._sums is not None:
            return self._sums.norm(self._squares)
        return sqrt(fsum(self._squares)) if all(map(isfinite, self._squares)) else float("nan")


def _chunks(mlp: MLP, buffers: Buffers, sums: ShardSums | None, scratches: int) -> list[list[Chunk]]:
    """Return the chunks of every layer; scratches: working arrays that an update needs.

    The parts of a layer are cut in chunks one by one, so that chunks do not depend on who has which part.
    """
    size = len(buffers.scratch) // scratches if scratches else CHUNK
    chunks: list[list[Chunk]] = []
    begin = own_begin = 0
    for number, block in enumerate(mlp.blocks, start=1):
        gradients = buffers.gradients.blocks[number - 1] if sums is None else sums.gathered(number)
        first, end = buffers.shards.part(len(block))
        of_layer: list[Chunk] = []
        for part_start, part_stop in buffers.shards.parts(len(block)):
            for start in range(part_start, part_stop, size):
                stop = min(start + size, part_stop)
                own = slice(own_begin + start - first, own_begin + stop - first)
                states = tuple(state[own] for state in buffers.states)
                scratch = tuple(buffers.scratch[n * size : n * size + stop - start] for n in range(scratches))
                w, g = mlp.parameters[begin + start : begin + stop], gradients[start - first : stop - first]
                of_layer.append((w, g, states, scratch))
        chunks.append(of_layer)
        begin, own_begin = begin + len(block), own_begin + end - first
    return chunks


@counts(lambda total, gradient: total.size)
def add_gradient(total: Array, gradient: Array) -> None:
    """Add one layer's gradient to those of earlier passes."""
    np.add(total, gradient, total)
