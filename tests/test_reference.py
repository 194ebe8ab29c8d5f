"""The oracle itself: against sums over single indices, and against finite differences of its own loss."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lowmem.network.architecture import Architecture
from lowmem.network.specs import ACTIVATIONS, LOSSES
from lowmem.nn import reference

Array = NDArray[Any]


def network(
    activation: str, loss: str, widths: tuple[int, ...] = (3, 4, 5, 2), seed: int = 0
) -> tuple[Architecture, list[Array], list[Array], Array, Array]:
    """Return a tiny float64 network with a batch of three."""
    rng = np.random.default_rng(seed)
    arch = Architecture(widths, activation, loss, "float64")
    weights = [rng.standard_normal((n_out, n_in)) for n_in, n_out in pairwise(widths)]
    biases = [rng.standard_normal(n) for n in widths[1:]]
    x = rng.standard_normal((3, widths[0]))
    y = rng.integers(0, widths[-1], 3) if LOSSES[loss].labels else rng.random((3, widths[-1]))
    return arch, weights, biases, x, y


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_the_matrix_form_equals_the_sums_over_indices(activation: str, loss: str) -> None:
    case = network(activation, loss)
    value, weight_gradients, bias_gradients = reference.backprop(*case)
    other, other_weights, other_biases = reference.backprop_by_index(*case)
    assert value == pytest.approx(other, rel=1e-12)
    for got, expected in zip(weight_gradients + bias_gradients, other_weights + other_biases, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_gradients_are_the_central_differences_of_the_loss(activation: str, loss: str) -> None:
    arch, weights, biases, x, y = network(activation, loss, seed=1)
    _, weight_gradients, bias_gradients = reference.backprop(arch, weights, biases, x, y)
    h = 1e-6
    for parameters, gradients in ((weights, weight_gradients), (biases, bias_gradients)):
        for p, g in zip(parameters, gradients, strict=True):
            difference = np.empty_like(p)
            for position in np.ndindex(p.shape):
                kept = p[position]
                p[position] = kept + h
                above = reference.backprop(arch, weights, biases, x, y)[0]
                p[position] = kept - h
                below = reference.backprop(arch, weights, biases, x, y)[0]
                p[position] = kept
                difference[position] = (above - below) / (2 * h)
            assert np.linalg.norm(g - difference) <= 1e-6 * max(1e-3, float(np.linalg.norm(difference)))


def test_one_layer_is_linear_regression() -> None:
    arch, weights, biases, x, y = network("relu", "mse", (3, 2))
    loss, (g_w,), (g_b,) = reference.backprop(arch, weights, biases, x, y)
    residual = x @ weights[0].T + biases[0] - y
    assert loss == pytest.approx(np.mean(residual**2))
    np.testing.assert_allclose(g_w, 2 * residual.T @ x / residual.size)
    np.testing.assert_allclose(g_b, 2 * residual.sum(axis=0) / residual.size)


def test_a_float32_network_has_float32_gradients() -> None:
    _, weights, biases, x, y = network("gelu", "cross_entropy")
    arch = Architecture((3, 4, 5, 2), "gelu", "cross_entropy", "float32")
    weights, biases = [w.astype(np.float32) for w in weights], [b.astype(np.float32) for b in biases]
    _, weight_gradients, bias_gradients = reference.backprop(arch, weights, biases, x.astype(np.float32), y)
    assert {g.dtype for g in weight_gradients + bias_gradients} == {np.dtype(np.float32)}
