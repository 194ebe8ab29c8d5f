"""A flat array seen layer by layer. Views are made when they are asked for, as a deep network has thousands."""

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from math import prod
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from lowmem.network.architecture import Architecture

Array = NDArray[np.floating[Any]]
T = TypeVar("T")


class PerLayer(Sequence[T], Generic[T]):
    """A sequence with an item for each layer, made anew whenever it is asked for.

    Views of the same numbers are equal, but not one object. Items cannot be replaced: write into the arrays in place.
    """

    def __init__(self, length: int, make: Callable[[int], T]) -> None:
        self._length, self._make = length, make

    def __len__(self) -> int:
        """Return the number of layers."""
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        """Return the item of layer index + 1, or those of a slice."""
        if isinstance(index, slice):
            return [self._make(number) for number in range(*index.indices(self._length))]
        return self._make(range(self._length)[index])

    def __iter__(self) -> Iterator[T]:
        """Yield the items of layers 1..L."""
        return map(self._make, range(self._length))

    def __reduce__(self) -> tuple[Any, ...]:
        """Be copied and pickled as a list of the items, which are arrays of their own then."""
        return list, ([*self],)


class LayerViews:
    """One flat array seen layer by layer: the parameters of layer l, [w^(l), b^(l), ...], one block behind the other.

    blocks[l-1]: the whole block of layer l, flat.
    arrays[l-1]: its parts by name, as `Layer.parameters` names and shapes them.
    weights[l-1]: (n_l, n_{l-1}). biases[l-1]: (n_l,).

    All are views.
    """

    def __init__(self, architecture: Architecture, flat: Array) -> None:
        self.flat = flat
        layers = architecture.each_layer
        starts = self._starts([layer.size for layer in layers])

        def block(index: int) -> Array:
            return flat[starts[index] : starts[index] + layers[index].size]

        def arrays(index: int) -> dict[str, Array]:
            return parts(block(index), layers[index].parameters)

        count = len(layers)
        self.blocks = PerLayer(count, block)
        self.arrays = PerLayer(count, arrays)
        self.weights = PerLayer(count, lambda index: arrays(index)["weight"])
        self.biases = PerLayer(count, lambda index: arrays(index)["bias"])

    def _starts(self, sizes: Sequence[int]) -> Sequence[int]:
        return array("q", accumulate(sizes, initial=0))


class SharedViews(LayerViews):
    """Views of one buffer that every layer uses in turn: the block of each layer begins at its start.

    places: how many such buffers lie one behind the other in `flat`; layers take turns.
    """

    def __init__(self, architecture: Architecture, flat: Array, places: int = 1) -> None:
        self._places, self._each = places, len(flat) // places
        super().__init__(architecture, flat)

    def _starts(self, sizes: Sequence[int]) -> Sequence[int]:
        return [layer % self._places * self._each for layer in range(1, len(sizes) + 1)]


def parts(block: Array, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Cut a flat block into arrays of these shapes, one behind the other."""
    cut, start = {}, 0
    for name, shape in shapes.items():
        size = prod(shape)
        cut[name] = block[start : start + size].reshape(shape)
        start += size
    return cut
