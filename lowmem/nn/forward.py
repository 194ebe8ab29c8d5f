"""Forward only: rows travel through a network with one state at a time. Every prediction and evaluation runs this."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lowmem.network.architecture import Architecture
from lowmem.nn.layers import kernels_of
from lowmem.nn.layers.base import Context

if TYPE_CHECKING:
    from lowmem.nn.mlp import MLP

Array = NDArray[np.floating[Any]]

PREDICT_ROWS = 512
"""The most rows that are carried through a network together."""


class Runner(Protocol):
    """Anything that runs a network forward, in memory that is there from the start."""

    def into(self, x: Array, out: Array) -> None:
        """Write the outputs s^(L) for x, (any number of rows, n_0), to `out`, (as many rows, n_L)."""


_offered: list[Callable[["MLP", int], Runner]] = []


def offer(make: Callable[["MLP", int], Runner]) -> None:
    """Let `forward_for` return what `make` makes of a network and a number of rows."""
    _offered[:] = [make]


def forward_for(mlp: "MLP", rows: int) -> Runner:
    """Return what runs a network forward on up to `rows` rows at a time: a faster engine if one is offered."""
    return (_offered or [numpy_forward])[0](mlp, rows)


def numpy_forward(mlp: "MLP", rows: int) -> Runner:
    """Return what runs a network forward with NumPy, wherever its parameters live."""
    return Forward(mlp, rows) if mlp.paged is None else StreamedForward(mlp, rows)


class Forward:
    """A network run forward, in memory that is made once: nothing is dropped, and running statistics are used.

    mlp: the network; its parameters are used where they are.
    rows: how many rows are carried together.
    workspace: flat memory to work in, at least rows * `workspace_per_row` numbers; allocated here if left out.
    """

    def __init__(self, mlp: "MLP", rows: int, workspace: Array | None = None) -> None:
        architecture = mlp.architecture
        self.mlp, self.rows = mlp, rows
        self._kernels = kernels_of(architecture)
        self._state = max(layer.leaving for layer in architecture.each_layer)
        size = rows * workspace_per_row(architecture)
        self._workspace = np.empty(size, architecture.dtype) if workspace is None else workspace

    def into(self, x: Array, out: Array) -> None:
        """Write the outputs s^(L) for x, (any number of rows, n_0), to `out`, (as many rows, n_L). No array is made.

        Both are in the network's dtype.
        """
        for start in range(0, len(x), max(self.rows, 1)):
            part = slice(start, start + self.rows)
            for _ in self.states(x[part], out[part]):
                pass

    def states(self, x: Array, out: Array) -> Iterator[tuple[int, Array]]:
        """Yield (layer, its state) after each layer, for at most `rows` rows of x; the next layer overwrites it.

        The state of the last layer is `out`.
        """
        count, source = len(x), x
        for number, (kernels, arrays) in enumerate(zip(self._kernels, self.mlp.arrays, strict=True), start=1):
            layer = kernels.layer
            in_place = not (layer.is_first or layer.is_last)
            target = out if layer.is_last else self._workspace[: count * layer.leaving].reshape(count, layer.leaving)
            scratch, start = [], count * self._state
            workspace = layer.workspace()
            for width in workspace.in_place if in_place else workspace.forward:
                scratch.append(self._workspace[start : start + count * width].reshape(count, width))
                start += count * width
            context = Context(number, arrays, self._workspace[:0])
            (kernels.advance if in_place else kernels.forward)(context, [source], [target], [scratch])
            yield number, target
            source = target


class StreamedForward:
    """A network on the disk run forward, with a few layers in memory, to the bits of `Forward`.

    Several times `rows` rows, see `parts_at_once`, are carried through a layer while it is in memory.
    """

    def __init__(self, mlp: "MLP", rows: int) -> None:
        self.mlp, self.rows = mlp, max(rows, 1)
        self._parts = [Forward(mlp, self.rows) for _ in range(parts_at_once(mlp.architecture, self.rows))]

    def into(self, x: Array, out: Array) -> None:
        """Write the outputs for x to `out`; see `Forward.into`."""
        rows = self.rows
        for start in range(0, len(x), rows * len(self._parts)):
            parts = zip(self._parts, range(start, len(x), rows), strict=False)
            several = [runner.states(x[first : first + rows], out[first : first + rows]) for runner, first in parts]
            with closing(self.mlp.in_turn()) as layers:
                for _ in layers:
                    for states in several:
                        next(states)


def parts_at_once(architecture: Architecture, rows: int) -> int:
    """Return how many times `rows` rows go through a layer together where parameters come from the disk.

    So many that what they work in takes as much memory as the largest layer.
    """
    largest = max(layer.size for layer in architecture.each_layer)
    return max(largest // (max(rows, 1) * workspace_per_row(architecture)), 1)


def workspace_per_row(architecture: Architecture) -> int:
    """Return how many numbers a row takes in prediction: a state, and what the layer that needs most works in."""
    layers = architecture.each_layer
    return max(layer.leaving for layer in layers) + max(sum(layer.workspace().in_place) for layer in layers)
