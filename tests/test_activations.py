"""The activation kernels: right, stable, in place, and without an allocation."""

import functools
import math
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowmem.network.specs import ACTIVATIONS
from lowmem.nn import activations, reference
from lowmem.nn.activations import exponential, gelu

Array = NDArray[Any]

NAMES = sorted(ACTIVATIONS)
DTYPES = ["float32", "float64"]
# Of |error|/max(1, |exact|): rounding of a handful of operations.
TOLERANCE = {"float32": 2e-6, "float64": 4e-15}
finite = st.floats(-(2.0**100), 2.0**100, width=32)  # about 1.3e30


def value(name: str, s: Array, *, in_place: bool = False) -> Array:
    """Return σ(s) by the kernel; s stays intact."""
    s = np.atleast_2d(s)
    source = s.copy() if in_place else s
    out = source if in_place else np.full_like(s, np.nan)
    scratch = tuple(np.full_like(s, np.nan) for _ in range(ACTIVATIONS[name].value_scratch))
    activations.KERNELS[name].value(source, out, scratch)
    return out


def slope(name: str, s: Array, delta: Array | None = None) -> Array:
    """Return delta ⊙ σ'(s) by the kernels, s being made into the state that the activation keeps."""
    s = np.atleast_2d(s)
    state = value(name, s) if ACTIVATIONS[name].state == "x" else s.copy()
    scratch = tuple(np.full_like(s, np.nan) for _ in range(ACTIVATIONS[name].slope_scratch))
    spend(name, state, np.ones_like(s) if delta is None else delta.copy(), scratch)
    return state


def spend(name: str, state: Array, delta: Array, scratch: tuple[Array, ...]) -> Array | None:
    """Overwrite state with delta ⊙ σ' as the backward of a layer does; return σ(s) where that is made on the way."""
    kernel = activations.KERNELS[name]
    if kernel.split is None:
        assert kernel.pull_back is not None
        kernel.pull_back(state, delta, scratch)
        return None
    out = np.full_like(state, np.nan)
    kernel.split(state, out, scratch)
    np.multiply(state, delta, out=state)
    return out


def grid(dtype: str, limit: float = 12.0) -> Array:
    """Return tile-shaped points on both sides of 0, without 0 itself."""
    return np.linspace(-limit, limit, 4000).astype(dtype).reshape(40, 100)


def error(got: Array, exact: Array) -> float:
    """Return the largest |error|/max(1, |exact|)."""
    return float(np.max(np.abs(got - exact) / np.maximum(1.0, np.abs(exact))))


def test_every_known_activation_has_a_kernel() -> None:
    assert sorted(activations.KERNELS) == NAMES
    assert all(kernel.name == name for name, kernel in activations.KERNELS.items())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_value_and_slope_agree_with_the_reference(name: str, dtype: str) -> None:
    s = grid(dtype)
    exact = s.astype(np.float64)
    assert error(value(name, s), reference.VALUE[name](exact)) < TOLERANCE[dtype]
    assert error(slope(name, s), reference.SLOPE[name](exact)) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", NAMES)
def test_slope_agrees_with_central_differences_of_the_value(name: str) -> None:
    s = grid("float64", limit=4.0)
    s = s[np.abs(s) > 1e-3]  # relu and its kin have a kink at 0
    h = 1e-5
    difference = (value(name, s + h) - value(name, s - h)) / (2 * h)
    steep = np.abs(difference) > 1e-3
    np.testing.assert_allclose(slope(name, s)[steep], difference[steep], rtol=1e-6)
    np.testing.assert_allclose(slope(name, s), difference, rtol=0, atol=1e-9)


@given(points=st.lists(finite, min_size=1, max_size=50), dtype=st.sampled_from(DTYPES), name=st.sampled_from(NAMES))
@settings(max_examples=300, deadline=None)
def test_any_input_up_to_1e30_gives_the_reference_value_and_slope(points: list[float], dtype: str, name: str) -> None:
    s = np.array(points, dtype)
    exact = np.atleast_2d(s.astype(np.float64))
    assert error(value(name, s), reference.VALUE[name](exact)) < TOLERANCE[dtype]
    assert error(slope(name, s), reference.SLOPE[name](exact)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_in_place_gives_the_same_bits_and_out_of_place_leaves_s_intact(name: str, dtype: str) -> None:
    s = grid(dtype)
    before = s.copy()
    out = value(name, s)
    np.testing.assert_array_equal(s, before)
    np.testing.assert_array_equal(value(name, s, in_place=True), out)
    assert out.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_pull_back_multiplies_by_delta(name: str, dtype: str) -> None:
    s = grid(dtype)
    delta = np.random.default_rng(1).standard_normal(s.shape).astype(dtype)
    np.testing.assert_allclose(slope(name, s, delta), delta * slope(name, s), rtol=1e-5, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_far_tails_reach_their_limits(name: str, dtype: str) -> None:
    left, right = value(name, np.array([-1e30, 1e30], dtype))[0]
    limit = {
        "identity": -1e30,
        "leaky_relu": -1e28,
        "elu": -1.0,
        "selu": -exponential.SELU_LAMBDA * exponential.SELU_ALPHA,
        "tanh": -1.0,
    }
    assert left == pytest.approx(limit.get(name, 0.0), rel=1e-6, abs=0.0)
    bounded = name in ("tanh", "sigmoid")
    assert right == pytest.approx(1.0 if bounded else reference.LAMBDA * 1e30 if name == "selu" else 1e30, rel=1e-6)
    slopes = slope(name, np.array([-1e30, 1e30], dtype))[0]
    np.testing.assert_allclose(slopes, reference.SLOPE[name](np.array([-1e30, 1e30])), rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_both_zeros_give_the_slope_of_the_convention(name: str, dtype: str) -> None:
    zeros = np.array([0.0, -0.0], dtype)
    np.testing.assert_allclose(value(name, zeros)[0], reference.VALUE[name](zeros.astype(np.float64)), rtol=1e-6)
    np.testing.assert_allclose(slope(name, zeros)[0], reference.SLOPE[name](zeros.astype(np.float64)), rtol=1e-6)


def test_slopes_at_zero_are_those_of_pytorch() -> None:
    at_zero = {name: float(slope(name, np.zeros(1))[0, 0]) for name in ("relu", "leaky_relu", "elu", "selu")}
    assert at_zero == pytest.approx({"relu": 0.0, "leaky_relu": 0.01, "elu": 1.0, "selu": 1.7580993408473766})


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_nan_goes_through_and_touches_nothing_else(name: str, dtype: str, in_place: bool) -> None:
    s = grid(dtype)
    s[3, 7] = np.nan
    bad = np.isnan(value(name, s, in_place=in_place))
    assert bad[3, 7]
    assert bad.sum() == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_kernels_allocate_no_array(name: str, dtype: str) -> None:
    facts, kernel = ACTIVATIONS[name], activations.KERNELS[name]
    s = np.random.default_rng(0).standard_normal((256, 256)).astype(dtype)
    out, delta = np.empty_like(s), np.ones_like(s)
    values = tuple(np.empty_like(s) for _ in range(facts.value_scratch))
    slopes = tuple(np.empty_like(s) for _ in range(facts.slope_scratch))
    state = s.copy()

    def call_all() -> None:
        kernel.value(s, out, values)
        kernel.value(out, out, values)
        if kernel.pull_back is not None:
            kernel.pull_back(state, delta, slopes)
        if kernel.split is not None:
            kernel.split(state, out, slopes)

    call_all()
    assert peak_of(call_all) < 16 * 1024


def peak_of(call: Any) -> int:
    """Return the bytes that `call` holds at its peak, each time: another thread may allocate beside one call."""
    tracemalloc.start()
    try:
        peaks = []
        for _ in range(3):
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            with np.errstate(all="ignore"):  # values grow from call to call
                call()
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
        return min(peaks)
    finally:
        tracemalloc.stop()


class Counting:
    """Stands in for NumPy and counts the passes over arrays: every call with `out`."""

    def __init__(self) -> None:
        self.passes = 0

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(np, name)
        if not callable(attribute) or isinstance(attribute, type):
            return attribute

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.passes += "out" in kwargs
            return attribute(*args, **kwargs)

        return counted


@pytest.mark.parametrize("name", NAMES)
def test_declared_flops_are_the_passes_made(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting()
    family = sys.modules[activations.KERNELS[name].value.__module__]
    monkeypatch.setattr(family, "np", counting)
    value(name, grid("float32"))
    assert counting.passes == ACTIVATIONS[name].value_flops
    facts = ACTIVATIONS[name]
    state, delta = grid("float32"), grid("float32")
    counting.passes = 0
    scratch = tuple(np.empty_like(state) for _ in range(facts.slope_scratch))
    spend(name, state, delta, scratch)
    # The product with δ after a split is one more.
    assert counting.passes + (facts.state == "s") == facts.slope_flops


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in NAMES if ACTIVATIONS[name].state == "s"])
def test_a_split_makes_the_bits_of_the_value(name: str, dtype: str) -> None:
    with np.errstate(over="ignore"):
        for s in (grid(dtype), 1e30 * grid(dtype), 1e-30 * grid(dtype)):
            scratch = tuple(np.empty_like(s) for _ in range(ACTIVATIONS[name].slope_scratch))
            made = spend(name, s.copy(), np.ones_like(s), scratch)
            assert made is not None
            assert made.tobytes() == value(name, s).tobytes()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", ["value", "slope"])
def test_declared_scratch_is_all_used(name: str, which: str) -> None:
    facts = ACTIVATIONS[name]
    count = facts.value_scratch if which == "value" else facts.slope_scratch
    s = grid("float64")
    scratch = tuple(np.full_like(s, np.nan) for _ in range(count))
    kernel: Any = activations.KERNELS[name].value if which == "value" else functools.partial(spend, name)
    kernel(s.copy(), s.copy(), scratch)
    assert not any(np.isnan(array).all() for array in scratch)


@pytest.mark.parametrize(("dtype", "of_value", "of_slope"), [("float32", 1.8e-7, 2e-7), ("float64", 5e-16, 1e-15)])
def test_gelu_is_as_exact_as_its_docstring_says(dtype: str, of_value: float, of_slope: float) -> None:
    s = np.concatenate([np.linspace(-38, 38, 20_000), np.linspace(-3, 3, 20_000)]).astype(dtype)
    exact = s.astype(np.float64)
    assert error(value("gelu", s)[0], reference.VALUE["gelu"](exact)) < of_value
    assert error(slope("gelu", s)[0], reference.SLOPE["gelu"](exact)) < of_slope


def test_gelu_in_float64_keeps_the_digits_of_its_left_tail() -> None:
    s = np.linspace(-37, -0.5, 2000)
    np.testing.assert_allclose(value("gelu", s)[0], reference.VALUE["gelu"](s), rtol=1e-12)


def test_the_polynomial_of_the_normal_tail_reproduces_math_erfc() -> None:
    z = np.linspace(0, 26, 5000)
    v = 2 * gelu._MILLS_SHIFT / (z + gelu._MILLS_SHIFT) - 1
    mills = np.polynomial.polynomial.polyval(v, gelu._MILLS)
    exact = [math.erfc(t / math.sqrt(2)) / 2 * math.exp(t * t / 2) for t in z]
    np.testing.assert_allclose(mills, exact, rtol=2e-13)  # e^(z²/2) itself is known to z²/2 ulps only


def test_the_logit_polynomial_rises_up_to_where_it_is_clipped() -> None:
    s = np.linspace(-gelu._LOGIT_CLIP, gelu._LOGIT_CLIP, 5000)
    half_logit = s * np.polynomial.polynomial.polyval(s * s, gelu._HALF_LOGIT)
    assert np.all(np.diff(half_logit) > 0)
    assert np.tanh(np.float32(half_logit[-1])) == 1
