"""The network: its parameters in one flat array, and prediction in bounded memory."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.random import generator
from lowmem.errors import InputError
from lowmem.network.architecture import Architecture
from lowmem.nn.forward import PREDICT_ROWS, Forward
from lowmem.nn.initialisers import initialise_network

Array = NDArray[np.floating[Any]]


class LayerViews:
    """One flat array seen layer by layer: the parameters of layer l, [w^(l), b^(l), ...], one block behind the other.

    blocks[l-1]: layer l's whole block, flat. arrays[l-1]: its parts by name, as `Layer.parameters` names and shapes
    them. weights[l-1]: (n_l, n_{l-1}). biases[l-1]: (n_l,). All are views.
    """

    def __init__(self, architecture: Architecture, flat: Array) -> None:
        self.flat = flat
        self.blocks: list[Array] = []
        self.arrays: list[dict[str, Array]] = []
        start = 0
        for layer in architecture.each_layer:
            block = self._block(start, layer.size)
            self.blocks.append(block)
            self.arrays.append(_parts(block, layer.parameters))
            start += layer.size
        self.weights = [arrays["weight"] for arrays in self.arrays]
        self.biases = [arrays["bias"] for arrays in self.arrays]

    def _block(self, start: int, size: int) -> Array:
        return self.flat[start : start + size]


class SharedViews(LayerViews):
    """The same views over one buffer that every layer uses in turn: each layer's block begins at its start."""

    def _block(self, start: int, size: int) -> Array:
        return self.flat[:size]


def _parts(block: Array, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Cut a flat block into arrays of these shapes, one behind the other."""
    parts, start = {}, 0
    for name, shape in shapes.items():
        size = prod(shape)
        parts[name] = block[start : start + size].reshape(shape)
        start += size
    return parts


class MLP:
    """A multilayer perceptron with parameters: weights[l-1] of shape (n_l, n_{l-1}), biases[l-1] of shape (n_l,).

    architecture: what to build.
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
        self, architecture: Architecture, seed: int = 0, *, initialiser: str | None = None, gain: float | None = None
    ) -> None:
        rng = generator(seed)
        self._allocate(architecture)
        initialise_network(architecture, self.arrays, rng, initialiser, gain)

    @classmethod
    def empty(cls, architecture: Architecture) -> "MLP":
        """Return a network whose parameters are still to be written."""
        mlp = cls.__new__(cls)
        mlp._allocate(architecture)
        return mlp

    def _allocate(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.learned: Array = np.empty(architecture.parameters + architecture.running, architecture.dtype)
        self.parameters: Array = self.learned[: architecture.parameters]
        self.running: Array = self.learned[architecture.parameters :]
        views = LayerViews(architecture, self.parameters)
        self.blocks, self.arrays, self.weights, self.biases = views.blocks, views.arrays, views.weights, views.biases
        start = 0
        if len(self.running):
            for layer, arrays in zip(architecture.each_layer, self.arrays, strict=True):
                arrays |= _parts(self.running[start:], layer.running)
                start += sum(map(prod, layer.running.values()))

    def predict(self, x: NDArray[Any]) -> Array:
        """Return the outputs s^(L) of the last layer (logits for the cross-entropies), shape (rows, n_L).

        x: (rows, n_0), any real dtype; it is cast a chunk at a time. Beside the result, memory for the states of
        `PREDICT_ROWS` samples is used. Raises `InputError` for a wrong shape or dtype, or NaN or infinity in x.
        """
        architecture = self.architecture
        if x.ndim != 2 or x.shape[1] != architecture.widths[0] or x.dtype.kind not in "fiub":
            raise InputError(
                f"x must be numbers of shape (rows, {architecture.widths[0]}); got {x.dtype} of shape {x.shape}."
            )
        if x.size and not (np.isfinite(x.min()) and np.isfinite(x.max())):
            raise InputError("x contains NaN or infinity; clean or impute it first.")
        chunk = min(PREDICT_ROWS, len(x))
        runner, cast = Forward(self, chunk), np.empty((chunk, x.shape[1]), architecture.dtype)
        result = np.empty((len(x), architecture.widths[-1]), architecture.dtype)
        for start in range(0, len(x), max(chunk, 1)):
            stop = min(start + chunk, len(x))
            np.copyto(cast[: stop - start], x[start:stop], casting="unsafe")
            runner.into(cast[: stop - start], result[start:stop])
        return result
