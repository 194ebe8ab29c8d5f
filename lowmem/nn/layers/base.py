"""What every layer's NumPy kernels offer: forward, forward in place, and the calls of a backward.

Kernels allocate no array. They walk a batch in row tiles, so that the elementwise passes behind a product find the
tile in the CPU's cache.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from lowmem.network.layers import Layer
from lowmem.nn.activations import Activation
from lowmem.nn.layers.dropout import Philox

Array: TypeAlias = NDArray[np.floating[Any]]
Arrays: TypeAlias = Mapping[str, Array]
Tiles: TypeAlias = Sequence[Array]
Scratch: TypeAlias = Sequence[Sequence[Array]]
"""The working matrices of every tile."""

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def counts(flops: Callable[..., int]) -> Callable[[Kernel], Kernel]:
    """Attach to a kernel what counts its FLOPs: `flops` is called with the kernel's arguments, arrays and all.

    So a profile counts what was really multiplied, and a test compares that with the plan.
    """

    def attach(kernel: Kernel) -> Kernel:
        kernel.flops = flops  # type: ignore[attr-defined]
        return kernel

    return attach


def numbers(tiles: Tiles) -> int:
    """Return how many numbers some tiles hold."""
    return sum(tile.size for tile in tiles)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a normalisation over the batch keeps of a step, for one layer.

    vectors: (4, n): the mean, the inverse deviation, the variance, and working memory.
    ready: numbers of the layers whose vectors are those of this step; all layers share it, and it is emptied when a
        step begins.
    """

    vectors: Array
    ready: set[int]


@dataclass(frozen=True, slots=True)
class Context:
    """What the kernels of one layer work with, whatever the batch.

    layer: its number, 1..L.
    arrays: its parameters and running statistics by name.
    ones: as many as a pass has rows; empty in prediction.
    masks: dropout's random numbers; None where nothing is dropped, as in prediction.
    statistics: of this step's batch; None in prediction, and where no norm needs them.
    """

    layer: int
    arrays: Arrays
    ones: Array
    masks: Philox | None = None
    statistics: Statistics | None = None


@dataclass(frozen=True, slots=True)
class Reversal:
    """The places in which a layer is reversed.

    deltas: tiles of δ^(l).
    states: tiles of state l-1, which become those of δ^(l-1).
    whole: tiles of the matrices that last from `prepare` to `gather`, see `Workspace.whole`.
    scratch: working matrices of every tile.
    partial_sums: (tiles, k, n), where `finish` leaves k sums over the rows of each tile.
    """

    deltas: Tiles
    states: Tiles
    whole: Sequence[Tiles]
    scratch: Scratch
    partial_sums: Array


class LayerKernels(ABC):
    """The kernels of one kind of layer, for a layer of certain sizes. Equal layers can share them.

    layer: the sizes. sigma: the kernels of σ.
    """

    def __init__(self, layer: Layer, sigma: Activation) -> None:
        self.layer, self.sigma = layer, sigma

    @abstractmethod
    def forward(self, context: Context, sources: Tiles, outs: Tiles, scratch: Scratch) -> None:
        """Make state l of state l-1, which stays."""

    @abstractmethod
    def advance(self, context: Context, sources: Tiles, outs: Tiles, scratch: Scratch) -> None:
        """Make state l in the place of state l-1: `outs` lie where `sources` do, see `in_safe_order`."""

    def prepare(self, context: Context, at: Reversal) -> None:
        """Make x^(l-1), the input of the product, for the weights' gradient."""
        raise NotImplementedError

    @counts(lambda _, context, delta, x, into: 2 * len(delta) * into["weight"].size + 2 * delta.size)
    def gradients(self, context: Context, delta: Array, x: Sequence[Array], into: Arrays) -> None:
        """∂ℓ/∂w = δᵀ x and ∂ℓ/∂b = the sum of δ over the batch, as a product with ones.

        delta: δ^(l) of the whole pass. x: one matrix, the input of the product. into: the gradients by name.
        """
        np.matmul(delta.T, x[0], into["weight"])
        np.matmul(context.ones[: len(delta)], delta, into["bias"])

    def scale_gradients(self, context: Context, into: Arrays) -> None:
        """Make ∂ℓ/∂w of δᵀ x, where the layer multiplies its product by a factor."""
        raise NotImplementedError

    def finish(self, context: Context, at: Reversal) -> None:
        """Turn state l-1 into δ^(l-1), in its place."""
        raise NotImplementedError

    def gather(self, context: Context, at: Reversal, into: Arrays) -> None:
        """Write the gradients of all but weights and biases, once every tile has left its partial sums."""
        raise NotImplementedError

    def in_safe_order(
        self, sources: Tiles, outs: Tiles, scratch: Scratch
    ) -> Iterator[tuple[int, Array, Array, Sequence[Array]]]:
        """Yield (number, source, out, scratch) of each tile so that no tile is overwritten before it is read.

        Where rows grow in place, the last tile must go first.
        """
        order = range(len(sources))
        for n in reversed(order) if self.layer.leaving > self.layer.entering else order:
            yield n, sources[n], outs[n], scratch[n]
