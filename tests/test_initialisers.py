"""First weights: variances, orthogonality, repeatability."""

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import lowmem as lm
from lowmem.errors import UnknownNameError
from lowmem.network.specs import ACTIVATIONS
from lowmem.nn.initialisers import SCHEMES, initialise

Array = NDArray[Any]

VARIANCE = {
    "he": lambda n_in, n_out: 2 / n_in,
    "glorot": lambda n_in, n_out: 2 / (n_in + n_out),
    "lecun": lambda n_in, n_out: 1 / n_in,
}


def draw(
    shape: tuple[int, int], scheme: str | None, activation: str = "relu", dtype: str = "float64", seed: int = 0
) -> Array:
    """Return one weight matrix."""
    w, b = np.full(shape, np.nan, dtype), np.full(shape[0], np.nan, dtype)
    initialise([w], [b], activation, np.random.default_rng(seed), scheme)
    assert not b.any()
    return w


def test_every_activation_has_a_default_scheme() -> None:
    assert all(spec.gain > 0 for spec in ACTIVATIONS.values())
    assert {spec.initialiser for spec in ACTIVATIONS.values()} <= set(SCHEMES)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"orthogonal"}))
def test_variance_is_that_of_the_paper(scheme: str, dtype: str) -> None:
    n_out, n_in = 300, 500
    w = draw((n_out, n_in), scheme, dtype=dtype)
    variance = VARIANCE[scheme.split("_")[0]](n_in, n_out)
    assert w.dtype == dtype
    assert w.var() == pytest.approx(variance, rel=0.02)  # 150,000 draws: standard error below 0.4 %
    assert abs(w.mean()) < 5 * math.sqrt(variance / w.size)
    if scheme.endswith("uniform"):
        bound = math.sqrt(3 * variance)
        assert np.abs(w).max() == pytest.approx(bound, rel=1e-3)
        assert np.abs(w).max() <= bound * (1 + 1e-6)
    else:
        assert np.abs(w).max() > 4 * math.sqrt(variance)


@pytest.mark.parametrize("shape", [(40, 40), (60, 25), (25, 60), (1, 9), (9, 1)])
@pytest.mark.parametrize(("activation", "gain"), [("tanh", 1.0), ("relu", math.sqrt(2)), ("selu", 1.0)])
def test_orthogonal_has_orthonormal_short_side_times_the_gain(
    shape: tuple[int, int], activation: str, gain: float
) -> None:
    w = draw(shape, "orthogonal", activation)
    gram = w.T @ w if shape[0] >= shape[1] else w @ w.T
    np.testing.assert_allclose(gram, gain**2 * np.eye(min(shape)), atol=1e-13)


def test_orthogonal_prefers_no_direction() -> None:
    traces = [np.trace(draw((3, 3), "orthogonal", "tanh", seed=seed)) for seed in range(2000)]
    assert abs(np.mean(traces)) < 0.1  # Haar: mean 0 and variance 1; without the sign correction the mean is not 0
    assert np.var(traces) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_the_seed_decides_every_bit(scheme: str) -> None:
    np.testing.assert_array_equal(draw((7, 5), scheme, seed=3), draw((7, 5), scheme, seed=3))
    assert not np.array_equal(draw((7, 5), scheme, seed=3), draw((7, 5), scheme, seed=4))


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_no_scheme_means_the_default_of_the_activation(activation: str) -> None:
    default = draw((6, 4), ACTIVATIONS[activation].initialiser, activation)
    np.testing.assert_array_equal(draw((6, 4), None, activation), default)


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"orthogonal"}))
def test_drawing_allocates_no_array(scheme: str) -> None:
    w, b, rng = np.empty((256, 256), np.float32), np.empty(256, np.float32), np.random.default_rng(0)
    initialise([w], [b], "relu", rng, scheme)
    tracemalloc.start()
    try:
        initialise([w], [b], "relu", rng, scheme)
        assert tracemalloc.get_traced_memory()[1] < 16 * 1024
    finally:
        tracemalloc.stop()


def test_weights_may_be_views_of_one_flat_array() -> None:
    flat = np.full(4 * 3 + 4 + 2 * 4 + 2, np.nan, np.float32)
    weights, biases = [flat[:12].reshape(4, 3), flat[16:24].reshape(2, 4)], [flat[12:16], flat[24:]]
    initialise(weights, biases, "gelu", np.random.default_rng(0))
    assert np.isfinite(flat).all()


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_unknown_names_are_refused(activation: str) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'he_normal'"):
        draw((2, 2), "he_norml", activation)
    with pytest.raises(UnknownNameError, match="unknown activation"):
        draw((2, 2), None, activation + "!")


def test_orthogonal_takes_a_gain_of_its_own() -> None:
    architecture = lm.Architecture((12, 12, 12), "relu", dtype="float64")
    for w in lm.MLP(architecture, initialiser="orthogonal", gain=1.1).weights:
        np.testing.assert_allclose(w @ w.T, 1.1**2 * np.eye(12), atol=1e-12)
    for wrong in ({"gain": 1.1}, {"initialiser": "he_normal", "gain": 2.0}):
        with pytest.raises(lm.InputError, match='gain goes with initialiser="orthogonal"'):
            lm.MLP(architecture, **wrong)
    for gain in (0.0, "much", float("nan")):
        with pytest.raises(lm.InputError, match="gain must be a positive number"):
            lm.MLP(architecture, initialiser="orthogonal", gain=gain)  # type: ignore[arg-type]
