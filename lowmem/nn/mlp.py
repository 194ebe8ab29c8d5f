"""The network: its parameters in one flat array, and prediction in bounded memory."""

from collections.abc import Sequence
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lowmem.common.checks import numeric
from lowmem.common.random import generator
from lowmem.errors import InputError, RunError
from lowmem.network.architecture import Architecture, architecture_of
from lowmem.nn.forward import PREDICT_ROWS, forward_for
from lowmem.nn.initialisers import initialise_network
from lowmem.nn.views import LayerViews, PerLayer, parts
from lowmem.units import format_bytes

Array = NDArray[np.floating[Any]]


class MLP:
    """A multilayer perceptron with parameters: weights[l-1] of shape (n_l, n_{l-1}), biases[l-1] of shape (n_l,).

    architecture: what to build: an `Architecture`, or widths such as (64, 256, 10).
    seed: of the initial weights; the same seed gives the same bits.
    initialiser: a scheme of `lowmem.nn.initialisers`; by default the one that matches the network.
    gain: of initialiser="orthogonal", instead of what the activation asks for. Deep tanh networks learn best near the
        edge of what holds their variance, at 1.05 to 1.15.

    The weights and biases are views of the flat array `parameters`; write into them in place. arrays[l-1] holds all
    arrays of layer l by name: weight, bias, and where there are such gain, shift, scale, running_mean and
    running_variance, of which the last two are views of `running`. `learned` is all of both: who keeps a network aside
    copies that.

    >>> import numpy as np, lowmem as lm
    >>> mlp = lm.MLP(lm.Architecture(widths=(64, *[128] * 50, 10)), seed=0)
    >>> mlp.weights[0].shape, mlp.biases[0].shape
    ((128, 64), (128,))
    >>> mlp.predict(np.zeros((1000, 64))).shape  # a chunk of rows at a time
    (1000, 10)
    """

    def __init__(
        self,
        architecture: Architecture | Sequence[int],
        seed: int = 0,
        *,
        initialiser: str | None = None,
        gain: float | None = None,
    ) -> None:
        rng, shape = generator(seed), architecture_of(architecture)
        self._allocate(shape)
        initialise_network(shape, self.arrays, rng, initialiser, gain)

    @classmethod
    def empty(cls, architecture: Architecture) -> "MLP":
        """Return a network whose parameters are still to be written."""
        mlp = cls.__new__(cls)
        mlp._allocate(architecture)
        return mlp

    def _allocate(self, architecture: Architecture) -> None:
        numbers = architecture.parameters + architecture.running
        try:
            learned = np.empty(numbers, architecture.dtype)
        except (MemoryError, ValueError):  # ValueError: more than any machine could address
            size = format_bytes(numbers * architecture.item_bytes)
            raise RunError(f"this machine cannot give the memory of this network's parameters, {size}.") from None
        self._bind(architecture, learned)

    def _bind(self, architecture: Architecture, learned: Array) -> None:
        """Make everything that is a view of `learned`."""
        self.architecture, self.learned = architecture, learned
        self.parameters: Array = learned[: architecture.parameters]
        self.running: Array = learned[architecture.parameters :]
        views, layers, running = LayerViews(architecture, self.parameters), architecture.each_layer, self.running
        self.blocks, self.weights, self.biases, self.arrays = views.blocks, views.weights, views.biases, views.arrays
        if len(running):
            starts = [*accumulate((sum(map(prod, layer.running.values())) for layer in layers), initial=0)]

            def arrays(index: int) -> dict[str, Array]:
                return views.arrays[index] | parts(running[starts[index] :], layers[index].running)

            self.arrays = PerLayer(len(layers), arrays)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle needs: views are bound anew, or they would be arrays of their own."""
        return {"architecture": self.architecture, "learned": self.learned}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Bind a copy."""
        self._bind(state["architecture"], state["learned"])

    def predict(self, x: ArrayLike) -> Array:
        """Return the outputs s^(L) of the last layer (logits for the cross-entropies), shape (rows, n_L).

        x: (rows, n_0), an array or lists of any real dtype; it is cast a chunk at a time. Beside the result, memory
        for the states of `PREDICT_ROWS` samples is used. Raises `InputError` for a wrong shape or dtype, or NaN or
        infinity in x.
        """
        architecture, x = self.architecture, numeric(x, "x", "predict")
        if x.ndim != 2 or x.shape[1] != architecture.widths[0] or x.dtype.kind not in "fiub":
            raise InputError(
                f"x must be numbers of shape (rows, {architecture.widths[0]}); got {x.dtype} of shape {x.shape}."
            )
        if x.size and not (np.isfinite(x.min()) and np.isfinite(x.max())):
            raise InputError("x contains NaN or infinity; clean or impute it first.")
        chunk = min(PREDICT_ROWS, len(x))
        runner = forward_for(self, chunk)
        result = np.empty((len(x), architecture.widths[-1]), architecture.dtype)
        if x.dtype == architecture.dtype and x.flags.c_contiguous and x.flags.aligned:
            runner.into(x, result)
            return result
        cast = np.empty((chunk, x.shape[1]), architecture.dtype)
        for start in range(0, len(x), max(chunk, 1)):
            stop = min(start + chunk, len(x))
            np.copyto(cast[: stop - start], x[start:stop], casting="unsafe")
            runner.into(cast[: stop - start], result[start:stop])
        return result
