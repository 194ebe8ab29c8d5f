"""The optimizer's arrays where ranks share them: gathered layer by layer, so that one rank can write them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.interchange.safetensors import Tensor
from lowmem.planning.plan import Plan
from lowmem.runtime.backprop import Backprop
from lowmem.runtime.buffers import Buffers
from lowmem.runtime.collectives.exchange import own_starts
from lowmem.runtime.collectives.group import Group

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class SharedState:
    """One of the optimizer's arrays as a file holds it: of all parameters, piece by piece.

    number: which of the optimizer's arrays, from 0.
    """

    states: "SharedStates"
    number: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return self.shape[0] * self.dtype.itemsize

    def pieces(self) -> Iterator[Array]:
        """Yield the array layer by layer, each valid until the next one is asked for."""
        for layer in range(1, self.states.layers + 1):
            yield self.states.ask(self.number, layer)


class SharedStates:
    """The optimizer's arrays of all ranks.

    Rank 0 asks for layers of `arrays`, as often as it wants, and calls `close`; the other ranks `serve` meanwhile.
    A layer is gathered in the buffer of one layer's gradients, which no step uses meanwhile.
    """

    def __init__(self, plan: Plan, buffers: Buffers, group: Group) -> None:
        assert buffers.of_one is not None
        self._group, self._shards, self._buffer, self._own = group, buffers.shards, buffers.of_one, buffers.states
        self._sizes = [layer.size for layer in plan.architecture.each_layer]
        self._own_starts = own_starts(plan, buffers.shards)
        self.layers = len(self._sizes)
        numbers = sum(self._sizes)
        self.arrays = tuple(
            SharedState(self, number, (numbers,), state.dtype) for number, state in enumerate(buffers.states)
        )

    def ask(self, number: int, layer: int) -> Array:
        """Return one layer of one of the arrays, flat; on rank 0."""
        self._group.agree((number, layer))
        return self._gathered(number, layer)

    def close(self) -> None:
        """Let the other ranks go on; on rank 0."""
        self._group.agree(None)

    def serve(self) -> None:
        """Give rank 0 what it asks for until it has all; on the other ranks."""
        while (asked := self._group.agree(None)[0]) is not None:
            self._gathered(*asked)

    def _gathered(self, number: int, layer: int) -> Array:
        size, own = self._sizes[layer - 1], slice(self._own_starts[layer - 1], self._own_starts[layer])
        block = self._buffer[:size]
        block[slice(*self._shards.part(size))] = self._own[number][own]
        self._group.wait(self._group.gather(block, self._shards.part_bounds(size)))
        return block


def state_layout(plan: Plan, buffers: Buffers) -> Iterator[tuple[int, int, int]]:
    """Yield where the parts that this process keeps of the optimizer's arrays lie.

    That is: the place among all parameters, the place in the arrays kept here, and how many numbers.
    """
    sizes = [layer.size for layer in plan.architecture.each_layer]
    own = own_starts(plan, buffers.shards)
    if plan.ranks == 1:
        yield 0, 0, sum(sizes)
        return
    for size, begin, place in zip(sizes, accumulate(sizes, initial=0), own, strict=False):
        first, stop = buffers.shards.part(size)
        if first < stop:
            yield begin + first, place, stop - first


@contextmanager
def saving_states(backprop: Backprop) -> Iterator[Sequence[Tensor] | None]:
    """Give what a saved run holds of the optimizer; None on a rank that does not write it, and gives its parts.

    If the rank that writes fails, all ranks raise its error.
    """
    if backprop.group is None:
        yield backprop.buffers.paged_states or backprop.optimizer_state
        return
    group, problem = backprop.group, None
    states = SharedStates(backprop.plan, backprop.buffers, group)
    if group.rank:
        states.serve()
        yield None
    else:
        try:
            yield states.arrays
        except Exception as failed:  # whatever it is: the others wait
            problem = failed
        states.close()
    problem = group.agree(problem)[0]
    if problem is not None:
        raise problem
