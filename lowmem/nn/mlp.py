"""The network: its parameters in one flat array, and prediction in bounded memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.architecture import Architecture
from lowmem.errors import InputError
from lowmem.nn import kernels
from lowmem.nn.activations import KERNELS
from lowmem.nn.initialisers import DEFAULT_SCHEMES, generator, initialise

Array = NDArray[np.floating[Any]]

PREDICT_ROWS = 512
"""Rows that `predict` carries through the network at a time."""


class LayerViews:
    """One flat array seen layer by layer: blocks [w^(l), b^(l)] one behind the other.

    blocks[l-1]: layer l's whole block, flat. weights[l-1]: (n_l, n_{l-1}). biases[l-1]: (n_l,). All are views.
    """

    def __init__(self, architecture: Architecture, flat: Array) -> None:
        self.flat = flat
        self.blocks: list[Array] = []
        self.weights: list[Array] = []
        self.biases: list[Array] = []
        start = 0
        for layer in range(1, architecture.layers + 1):
            size = architecture.layer_parameters(layer)
            self._add(architecture, layer, flat[start : start + size])
            start += size

    def _add(self, architecture: Architecture, layer: int, block: Array) -> None:
        leaving, entering = architecture.widths[layer], architecture.widths[layer - 1]
        self.blocks.append(block)
        self.weights.append(block[: leaving * entering].reshape(leaving, entering))
        self.biases.append(block[leaving * entering :])


class SharedViews(LayerViews):
    """The same views over one buffer that every layer uses in turn: layer l's block begins at its start."""

    def __init__(self, architecture: Architecture, flat: Array) -> None:
        self.flat = flat
        self.blocks, self.weights, self.biases = [], [], []
        for layer in range(1, architecture.layers + 1):
            self._add(architecture, layer, flat[: architecture.layer_parameters(layer)])


class MLP:
    """A multilayer perceptron with parameters: weights[l-1] of shape (n_l, n_{l-1}), biases[l-1] of shape (n_l,).

    architecture: what to build.
    seed: of the initial weights; the same seed gives the same bits.
    initialiser: a scheme of `lowmem.nn.initialisers`; by default the one that matches the activation.

    The weights and biases are views of the flat array `parameters`; write into them in place.
    """

    def __init__(self, architecture: Architecture, seed: int = 0, *, initialiser: str | None = None) -> None:
        rng = generator(seed)
        self._allocate(architecture)
        scheme = initialiser or DEFAULT_SCHEMES[architecture.activation]
        initialise(self.weights, self.biases, architecture.activation, rng, scheme)

    @classmethod
    def empty(cls, architecture: Architecture) -> "MLP":
        """Return a network whose parameters are still to be written."""
        mlp = cls.__new__(cls)
        mlp._allocate(architecture)
        return mlp

    def _allocate(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.parameters: Array = np.empty(architecture.parameters, architecture.dtype)
        views = LayerViews(architecture, self.parameters)
        self.blocks, self.weights, self.biases = views.blocks, views.weights, views.biases

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
        cast = np.empty((chunk, x.shape[1]), architecture.dtype)
        workspace = np.empty(chunk * self.workspace_per_row, architecture.dtype)
        result = np.empty((len(x), architecture.widths[-1]), architecture.dtype)
        for start in range(0, len(x), max(chunk, 1)):
            stop = min(start + chunk, len(x))
            np.copyto(cast[: stop - start], x[start:stop], casting="unsafe")
            self.forward_into(cast[: stop - start], result[start:stop], workspace)
        return result

    @property
    def workspace_per_row(self) -> int:
        """How many numbers of working memory `forward_into` needs for each row."""
        return max(self.architecture.widths[1:]) * (2 + self.architecture.activation_facts.value_scratch)

    def forward_into(self, x: Array, out: Array, workspace: Array) -> None:
        """Write the outputs for the rows of x to `out`, one state travelling through the layers in `workspace`.

        x: (rows, n_0). out: (rows, n_L). workspace: flat, at least rows * `workspace_per_row` numbers. All in the
        network's dtype. Allocates nothing.
        """
        for _ in self.states(x, out, workspace):
            pass

    def states(self, x: Array, out: Array, workspace: Array) -> Iterator[tuple[int, Array]]:
        """Do what `forward_into` does, yielding (layer, its state) after each layer; the next one overwrites it."""
        widths, last = self.architecture.widths, self.architecture.layers
        sigma, identity = KERNELS[self.architecture.activation], KERNELS["identity"]
        keeps_x, count = self.architecture.activation_facts.state == "x", len(x)
        room = count * max(widths[1:])

        def matrix(place: int, width: int) -> Array:
            return workspace[place * room : place * room + count * width].reshape(count, width)

        def scratch(width: int) -> tuple[Array, ...]:
            return tuple(matrix(2 + n, width) for n in range(self.architecture.activation_facts.value_scratch))

        for layer in range(1, last + 1):
            w_t, b = self.weights[layer - 1].T, self.biases[layer - 1]
            entering, leaving = widths[layer - 1], widths[layer]
            source = x if layer == 1 else matrix(0, entering)
            target = out if layer == last else matrix(0, leaving)
            if not keeps_x and layer > 1:
                tmp = (matrix(1, entering), *scratch(entering))
                kernels.forward_s([source], w_t, b, [target], sigma, [tmp])
            elif layer in (1, last):
                post = sigma if keeps_x and layer < last else identity
                kernels.forward_x([source], w_t, b, [target], post, [() if post is identity else scratch(leaving)])
            else:
                tmp = (matrix(1, leaving), *scratch(leaving))
                kernels.advance_x([source], w_t, b, [target], sigma, [tmp])
            yield layer, target
