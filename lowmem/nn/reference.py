"""The oracle of the tests: plain backpropagation that stores everything, one line per formula, allocating freely.

Nothing here is shared with the kernels: σ, σ' and the losses are written again, as textbooks write them, and σ' is
always a function of s. `backprop` is the matrix form, `backprop_by_index` the sums over single indices.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lowmem.network.architecture import Architecture

Array: TypeAlias = NDArray[Any]
Gradients: TypeAlias = tuple[float, list[Array], list[Array]]

ALPHA, LAMBDA = 1.6732632423543772, 1.0507009873554805  # selu
KAPPA = math.sqrt(2.0 / math.pi)  # gelu_tanh

erfc = np.vectorize(math.erfc, otypes=[np.float64])


def sigmoid(s: Array) -> Array:
    """Return 1/(1 + e^(-s)) by the form that does not overflow on either side."""
    e = np.exp(-np.abs(s))
    x: Array = np.where(s >= 0, 1 / (1 + e), e / (1 + e))
    return x


def softplus(s: Array) -> Array:
    """Return ln(1 + e^s)."""
    return np.logaddexp(s, np.zeros_like(s))


def normal_cdf(s: Array) -> Array:
    """Return Φ(s), the standard normal distribution function."""
    return np.asarray(erfc(-s / math.sqrt(2.0)) / 2)


def normal_pdf(s: Array) -> Array:
    """Return φ(s), the standard normal density; beyond |s| = 40 it is 0 in float64."""
    return np.asarray(np.exp(-(np.clip(s, -40, 40) ** 2) / 2) / math.sqrt(2.0 * math.pi))


def _gelu_tanh_u(s: Array) -> Array:
    return KAPPA * (s + 0.044715 * s**3)


def _gelu_tanh_slope(s: Array) -> Array:
    s = np.clip(s, -30, 30)  # beyond, the slope is 0 or 1 and s³ could overflow
    t = np.tanh(_gelu_tanh_u(s))
    slope: Array = (1 + t) / 2 + s * (1 - t**2) * KAPPA * (1 + 3 * 0.044715 * s**2) / 2
    return slope


def _mish_slope(s: Array) -> Array:
    t = np.tanh(softplus(s))
    slope: Array = t + s * (1 - t**2) * sigmoid(s)
    return slope


VALUE: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "identity": lambda s: s.copy(),
        "relu": lambda s: np.where(s < 0, 0.0, s),
        "leaky_relu": lambda s: np.where(s < 0, 0.01 * s, s),
        "elu": lambda s: np.where(s < 0, np.expm1(np.minimum(s, 0)), s),
        "selu": lambda s: LAMBDA * np.where(s < 0, ALPHA * np.expm1(np.minimum(s, 0)), s),
        "tanh": lambda s: np.tanh(s),
        "sigmoid": sigmoid,
        "softplus": softplus,
        "gelu": lambda s: s * normal_cdf(s),
        "gelu_tanh": lambda s: s * (1 + np.tanh(_gelu_tanh_u(s))) / 2,
        "silu": lambda s: s * sigmoid(s),
        "mish": lambda s: s * np.tanh(softplus(s)),
    }
)
"""σ by name."""

SLOPE: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "identity": lambda s: np.ones_like(s),
        "relu": lambda s: np.where(s > 0, 1.0, 0.0),
        "leaky_relu": lambda s: np.where(s > 0, 1.0, 0.01),
        "elu": lambda s: np.where(s > 0, 1.0, np.exp(np.minimum(s, 0))),
        "selu": lambda s: LAMBDA * np.where(s > 0, 1.0, ALPHA * np.exp(np.minimum(s, 0))),
        "tanh": lambda s: 1 - np.tanh(s) ** 2,
        "sigmoid": lambda s: sigmoid(s) * sigmoid(-s),
        "softplus": sigmoid,
        "gelu": lambda s: normal_cdf(s) + s * normal_pdf(s),
        "gelu_tanh": _gelu_tanh_slope,
        "silu": lambda s: sigmoid(s) + s * sigmoid(s) * sigmoid(-s),
        "mish": _mish_slope,
    }
)
"""σ' by name, as a function of s."""


def softmax(s: Array) -> Array:
    """Return e^s over its sum along each row."""
    e = np.exp(s - s.max(axis=1, keepdims=True))
    p: Array = e / e.sum(axis=1, keepdims=True)
    return p


def _onehot(s: Array, y: Array) -> Array:
    rows: Array = (np.arange(s.shape[1]) == y[:, None]).astype(s.dtype)
    return rows


LOSS: Mapping[str, Callable[..., float]] = MappingProxyType(
    {
        "mse": lambda s, y: float(np.mean((s - y) ** 2)),
        "cross_entropy": lambda s, y: float(
            np.mean([np.logaddexp.reduce(row) - row[label] for row, label in zip(s, y, strict=True)])
        ),
        "bce": lambda s, y: float(np.mean(y * softplus(-s) + (1 - y) * softplus(s))),
        "huber": lambda s, y: float(np.mean(np.where(abs(s - y) <= 1, (s - y) ** 2 / 2, abs(s - y) - 0.5))),
        "mae": lambda s, y: float(np.mean(abs(s - y))),
        "quantile": lambda s, y, quantile=0.5: float(
            np.mean(np.maximum(quantile * (y - s), (quantile - 1) * (y - s)))
        ),
        "poisson": lambda s, y: float(np.mean(np.exp(s) - y * s)),
    }
)
"""Mean losses by name: over the batch for cross_entropy, over all elements for the others. q: the quantile."""

DELTA: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "mse": lambda s, y: 2 * (s - y) / s.size,
        "cross_entropy": lambda s, y: (softmax(s) - _onehot(s, y)) / len(s),
        "bce": lambda s, y: (sigmoid(s) - y) / s.size,
        "huber": lambda s, y: np.where(abs(s - y) <= 1, s - y, np.sign(s - y)) / s.size,
        "mae": lambda s, y: np.sign(s - y) / s.size,
        "quantile": lambda s, y, q=0.5: np.where(s > y, 1 - q, -q) / s.size,
        "poisson": lambda s, y: (np.exp(s) - y) / s.size,
    }
)
"""δ^(L) = ∂ℓ/∂s^(L) by name."""


def backprop(arch: Architecture, weights: Sequence[Array], biases: Sequence[Array], x: Array, y: Array) -> Gradients:
    """Return the mean loss and its gradients, with every x^(l) and s^(l) stored.

    Arguments:
        arch: the network.
        weights: w^(1)..w^(L), each (n_l, n_{l-1}).
        biases: b^(1)..b^(L), each (n_l,).
        x: the batch, (B, n_0).
        y: labels (B,) for cross_entropy, else targets (B, n_L).

    Returns:
        loss, ∂ℓ/∂w^(1)..^(L), ∂ℓ/∂b^(1)..^(L).
    """
    sigma, slope = VALUE[arch.activation], SLOPE[arch.activation]
    states, sums = [x], []
    for w, b in zip(weights, biases, strict=True):
        sums.append(states[-1] @ w.T + b)  # s^(l) = w^(l) x^(l-1) + b^(l)
        states.append(sigma(sums[-1]).astype(x.dtype))  # x^(l) = σ(s^(l)); the last one is not used
    loss = LOSS[arch.loss](sums[-1], y)

    weight_gradients, bias_gradients = [], []
    delta = DELTA[arch.loss](sums[-1], y)  # δ^(L) = ∂ℓ/∂s^(L)
    for layer in range(arch.layers, 0, -1):
        weight_gradients.append(delta.T @ states[layer - 1])  # ∂ℓ/∂w^(l) = δ^(l) (x^(l-1))ᵀ
        bias_gradients.append(delta.sum(axis=0))  # ∂ℓ/∂b^(l) = δ^(l), summed over the batch
        if layer > 1:  # δ^(l-1) = ((w^(l))ᵀ δ^(l)) ⊙ σ'(s^(l-1))
            delta = (delta @ weights[layer - 1]) * slope(sums[layer - 2]).astype(x.dtype)
    return loss, weight_gradients[::-1], bias_gradients[::-1]


def backprop_by_index(
    arch: Architecture, weights: Sequence[Array], biases: Sequence[Array], x: Array, y: Array
) -> Gradients:
    """Return what `backprop` returns, by sums over single indices, sample by sample: for tiny networks only."""
    weight_gradients = [np.zeros_like(w) for w in weights]
    bias_gradients = [np.zeros_like(b) for b in biases]
    loss = 0.0
    for sample in range(len(x)):
        states, sums = _forward_by_index(arch, weights, biases, x[sample])
        last, target = np.array([sums[-1]]), y[sample : sample + 1]
        loss += LOSS[arch.loss](last, target) / len(x)
        delta = [float(d) / len(x) for d in DELTA[arch.loss](last, target)[0]]
        for layer in range(arch.layers, 0, -1):
            n_out, n_in = weights[layer - 1].shape
            for j in range(n_out):
                bias_gradients[layer - 1][j] += delta[j]
                for i in range(n_in):
                    weight_gradients[layer - 1][j, i] += delta[j] * states[layer - 1][i]  # δ_j x_i
            if layer > 1:  # δ_i = σ'(s_i) Σ_j w_ji δ_j
                slopes = SLOPE[arch.activation](np.array(sums[layer - 2]))
                sums_j = [sum(weights[layer - 1][j, i] * delta[j] for j in range(n_out)) for i in range(n_in)]
                delta = [float(slopes[i] * sums_j[i]) for i in range(n_in)]
    return loss, weight_gradients, bias_gradients


def _forward_by_index(
    arch: Architecture, weights: Sequence[Array], biases: Sequence[Array], sample: Array
) -> tuple[list[list[float]], list[list[float]]]:
    """Return x^(0)..x^(L) and s^(1)..s^(L) of one sample: s_j = Σ_i w_ji x_i + b_j, x_j = σ(s_j)."""
    states, sums = [[float(value) for value in sample]], []
    for w, b in zip(weights, biases, strict=True):
        n_out, n_in = w.shape
        x = states[-1]
        sums.append([sum(float(w[j, i]) * x[i] for i in range(n_in)) + float(b[j]) for j in range(n_out)])
        states.append([float(value) for value in VALUE[arch.activation](np.array(sums[-1]))])
    return states, sums
