"""The network: its parameters in one flat array, and prediction in bounded memory."""

from collections.abc import Generator, Sequence
from contextlib import closing
from copy import deepcopy
from itertools import accumulate, pairwise
from math import prod
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lowmem.common.checks import check_range, finite, numeric
from lowmem.common.fixed import Fixed
from lowmem.common.random import generator
from lowmem.common.turns import Turn
from lowmem.errors import InputError, RunError
from lowmem.network.architecture import Architecture, architecture_of
from lowmem.nn.forward import PREDICT_ROWS, forward_for, parts_at_once
from lowmem.nn.initialisers import initialise_network
from lowmem.nn.views import LayerViews, PerLayer, parts
from lowmem.units import format_bytes

if TYPE_CHECKING:
    from lowmem.common.disk.paged_array import PagedArray
    from lowmem.common.disk.parts import Part

Array = NDArray[np.floating[Any]]


class MLP(Fixed):
    """A multilayer perceptron with parameters: weights[l-1] of shape (n_l, n_{l-1}), biases[l-1] of shape (n_l,).

    architecture: what to build: an `Architecture`, or widths such as (64, 256, 10).
    seed: of the initial weights; the same seed gives the same bits.
    initialiser: a scheme of `lowmem.nn.initialisers`; by default the one that matches the network.
    gain: of initialiser="orthogonal", instead of what the activation asks for. Deep tanh networks learn best near the
        edge of what holds their variance, at 1.05 to 1.15.
    disk: folder for a file in which the parameters live, None for memory. They are initialised layer by layer, with
        the same bits, and prediction, saving and loading have a few layers in memory. The file has no name and is gone
        with the network. A forked process cannot use the network; a pickle is refused, and `copy.deepcopy` makes
        another file.

    The weights and biases are views of the flat array `parameters`; write into them in place. arrays[l-1] holds all
    arrays of layer l by name: weight, bias, and where there are such gain, shift, scale, running_mean and
    running_variance, of which the last two are views of `running`. `learned` is all of both: who keeps a network aside
    copies that. `paged` is what fetches and drops parts of `learned`, None for a network in memory. `turn` lets one
    thread train the network at a time.

    >>> import numpy as np, lowmem as lm
    >>> mlp = lm.MLP(lm.Architecture(widths=(64, *[128] * 50, 10)), seed=0)
    >>> mlp.weights[0].shape, mlp.biases[0].shape
    ((128, 64), (128,))
    >>> mlp.predict(np.zeros((1000, 64))).shape  # a chunk of rows at a time
    (1000, 10)
    """

    paged: "PagedArray | None" = None
    fixed = dict.fromkeys(
        ("architecture", "learned", "parameters", "running", "blocks", "weights", "biases", "arrays"),
        "Write into its arrays in place, as in mlp.weights[0][:] = values, or make another network.",
    )

    def __init__(
        self,
        architecture: Architecture | Sequence[int],
        seed: int = 0,
        *,
        initialiser: str | None = None,
        gain: float | None = None,
        disk: str | PathLike[str] | None = None,
    ) -> None:
        rng, shape = generator(seed), architecture_of(architecture)
        self._allocate(shape, disk)
        with closing(self.in_turn(changed=True, fetched=False)) as layers:
            initialise_network(shape, (self.arrays[number - 1] for number in layers), rng, initialiser, gain)

    @classmethod
    def empty(cls, architecture: Architecture, disk: str | PathLike[str] | None = None) -> "MLP":
        """Return a network whose parameters are still to be written. disk: as in `MLP`."""
        mlp = cls.__new__(cls)
        mlp._allocate(architecture, disk)
        return mlp

    def in_turn(self, *, changed: bool = False, fetched: bool = True) -> Generator[int]:
        """Yield the numbers of the layers 1..L, each while its parameters are in memory.

        Of a network on the disk, the next layer is fetched meanwhile and the last one dropped; at most three layers
        are in memory. For a network in memory this does nothing.

        changed: whether the parameters are written to. fetched: False if what they hold is of no use.

        Raises `DiskError` if the disk fails.
        """
        if self.paged is None:
            yield from range(1, self.architecture.layers + 1)
            return
        sizes = [layer.size for layer in self.architecture.each_layer]
        ranges = [*pairwise(accumulate(sizes, initial=0))]
        if len(self.running):  # behind the parameters of all layers, and dropped with the last one
            ranges.append((len(self.parameters), len(self.learned)))
        with closing(self.paged.sweep(ranges, changed=changed, fetched=fetched)) as sweep:
            for number, _ in enumerate(sweep, start=1):
                if number <= len(sizes):
                    yield number

    def streamed(self, array: Array) -> "Array | Part":
        """Return a view of `learned` as it is saved and loaded: itself, or piece by piece if it lives on the disk."""
        if self.paged is None:
            return array
        start = (array.ctypes.data - self.learned.ctypes.data) // array.itemsize
        return self.paged.part(start, start + array.size, array.shape)

    def first_not_finite(self, *, running: bool = False) -> int | None:
        """Return the number of the first layer whose parameters hold NaN or infinity, None if there is none.

        running: look at running statistics too.
        """
        with closing(self.in_turn()) as layers:
            for number in layers:
                arrays = self.arrays[number - 1].values() if running else (self.blocks[number - 1],)
                if not all(map(finite, arrays)):
                    return number
        return None

    def _allocate(self, architecture: Architecture, disk: str | PathLike[str] | None = None) -> None:
        numbers = architecture.parameters + architecture.running
        if disk is not None:
            from lowmem.common.disk.paged_array import PagedArray  # with ctypes, for those who use it

            paged = PagedArray(disk, numbers, architecture.dtype)
            self._bind(architecture, paged.array, paged)
            return
        try:
            learned = np.empty(numbers, architecture.dtype)
        except (MemoryError, ValueError):  # ValueError: more than any machine could address
            size = format_bytes(numbers * architecture.item_bytes)
            raise RunError(f"this machine cannot give the memory of this network's parameters, {size}.") from None
        self._bind(architecture, learned)

    def _bind(self, architecture: Architecture, learned: Array, paged: "PagedArray | None" = None) -> None:
        """Make everything that is a view of `learned`. paged: what holds it, if it lives on the disk."""
        self.architecture, self.learned, self.paged = architecture, learned, paged
        self.turn = Turn("this network is trained", "Train a copy, copy.deepcopy(mlp), or one after the other.")
        self.parameters: Array = learned[: architecture.parameters]
        self.running: Array = learned[architecture.parameters :]
        views, layers, running = LayerViews(architecture, self.parameters), architecture.each_layer, self.running
        self.blocks, self.weights, self.biases, of_layers = views.blocks, views.weights, views.biases, views.arrays
        if len(running):
            starts = [*accumulate((sum(map(prod, layer.running.values())) for layer in layers), initial=0)]

            def arrays(index: int) -> dict[str, Array]:
                return views.arrays[index] | parts(running[starts[index] :], layers[index].running)

            of_layers = PerLayer(len(layers), arrays)
        self.arrays = of_layers

    def __copy__(self) -> "MLP":
        """Return the same network once more, in the same memory: who trains one of them trains the other."""
        other = type(self).__new__(type(self))
        other._bind(self.architecture, self.learned, self.paged)
        other.turn = self.turn
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> "MLP":
        """Return a network of its own. Where another thread trains this one, its step is waited for."""
        with self.turn.between():
            state = deepcopy(self.__getstate__(), memo)
        other = type(self).__new__(type(self))
        other.__setstate__(state)
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle needs: views are bound anew, or they would be arrays of their own."""
        whole = {"learned": self.learned} if self.paged is None else {"paged": self.paged}
        return {"architecture": self.architecture, **whole}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Bind a copy; the parameters are copied once more where whoever unpickles lends memory for reading alone."""
        paged = state.get("paged")
        learned = np.require(state["learned"], None, ["A", "W", "E"]) if paged is None else paged.array
        self._bind(state["architecture"], learned, paged)

    def predict(self, x: ArrayLike) -> Array:
        """Return the outputs s^(L) of the last layer (logits for the cross-entropies), shape (rows, n_L).

        x: (rows, n_0), an array or lists of any real dtype; it is cast a chunk at a time. Beside the result, memory
        for the states of `PREDICT_ROWS` samples is used; for a network on the disk, memory for about as much as five
        of its layers. Raises `InputError` for a wrong shape or dtype, or NaN or infinity in x, or numbers
        too large for the network's dtype; `DiskError` if the disk fails.
        """
        architecture, x = self.architecture, numeric(x, "x", "predict")
        if x.ndim != 2 or x.shape[1] != architecture.widths[0] or x.dtype.kind not in "fiub":
            raise InputError(
                f"x must be numbers of shape (rows, {architecture.widths[0]}); got {x.dtype} of shape {x.shape}."
            )
        if x.size and not finite(x):
            raise InputError("x contains NaN or infinity; clean or impute it first.")
        check_range(x, np.dtype(architecture.dtype), "x")
        rows = min(PREDICT_ROWS, len(x))
        runner = forward_for(self, rows)
        result = np.empty((len(x), architecture.widths[-1]), architecture.dtype)
        if x.dtype == architecture.dtype and x.flags.c_contiguous and x.flags.aligned:
            runner.into(x, result)
            return result
        chunk = min(rows * (1 if self.paged is None else parts_at_once(architecture, rows)), len(x))
        cast = np.empty((chunk, x.shape[1]), architecture.dtype)
        for start in range(0, len(x), max(chunk, 1)):
            stop = min(start + chunk, len(x))
            np.copyto(cast[: stop - start], x[start:stop], casting="unsafe")
            runner.into(cast[: stop - start], result[start:stop])
        return result
