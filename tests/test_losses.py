"""The loss kernels and the refusal of bad targets."""

import re
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowmem.errors import InputError
from lowmem.network.architecture import Architecture
from lowmem.network.specs import LOSSES
from lowmem.nn import losses, reference

Array = NDArray[Any]

NAMES = sorted(LOSSES)
DTYPES = ["float32", "float64"]
RTOL = {"float32": 2e-6, "float64": 1e-13}
ATOL = {"float32": 2e-7, "float64": 1e-15}


def scratch_for(name: str, s: Array) -> losses.LossScratch:
    """Return exactly the working memory that the table declares, filled with NaN."""
    rows, outputs = s.shape
    return losses.LossScratch(
        tiles=tuple(np.full_like(s, np.nan) for _ in range(LOSSES[name].scratch)),
        rows=tuple(np.full(rows, np.nan, s.dtype) for _ in range(LOSSES[name].row_scratch)),
        index=np.empty(rows if LOSSES[name].labels else 0, np.intp),
        starts=np.arange(rows) * outputs,
    )


def fold(name: str, s: Array, y: Array) -> tuple[float, Array]:
    """Return the mean loss and δ by the kernel; s stays intact."""
    delta = s.copy()
    scale = losses.loss_scale(name, *s.shape)
    return losses.KERNELS[name].fold(delta, y, scale, scratch_for(name, s)) * scale, delta


def example(name: str, dtype: str = "float64", shape: tuple[int, int] = (12, 5), seed: int = 0) -> tuple[Array, Array]:
    """Return outputs and fitting targets."""
    rng = np.random.default_rng(seed)
    s = (3 * rng.standard_normal(shape)).astype(dtype)
    if name == "cross_entropy":
        return s, rng.integers(0, shape[1], shape[0])
    drawn: dict[str, Any] = {"bce": rng.random, "poisson": lambda shape: rng.poisson(2.0, shape)}
    return s, drawn.get(name, rng.standard_normal)(shape).astype(dtype)


def test_every_known_loss_has_a_kernel() -> None:
    assert sorted(losses.KERNELS) == NAMES
    assert all(kernel.name == name for name, kernel in losses.KERNELS.items())


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (12, 5), (300, 33)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_delta_agree_with_the_reference(name: str, dtype: str, shape: tuple[int, int]) -> None:
    s, y = example(name, dtype, shape)
    wide = y if name == "cross_entropy" else y.astype(np.float64)
    loss, delta = fold(name, s, y)
    assert isinstance(loss, float)
    assert loss == pytest.approx(reference.LOSS[name](s.astype(np.float64), wide), rel=RTOL[dtype], abs=ATOL[dtype])
    exact = reference.DELTA[name](s.astype(np.float64), wide)
    np.testing.assert_allclose(delta, exact, rtol=RTOL[dtype], atol=ATOL[dtype])
    assert delta.dtype == dtype


@pytest.mark.parametrize("name", NAMES)
def test_delta_agrees_with_central_differences_of_the_loss(name: str) -> None:
    s, y = example(name, shape=(4, 3))
    delta, h = fold(name, s, y)[1], 1e-5
    for position in np.ndindex(s.shape):
        step = np.zeros_like(s)
        step[position] = h
        difference = (fold(name, s + step, y)[0] - fold(name, s - step, y)[0]) / (2 * h)
        assert delta[position] == pytest.approx(difference, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_tiles_add_up_to_the_batch(name: str) -> None:
    s, y = example(name, shape=(10, 4))
    whole, delta = fold(name, s, y)
    scale, total, parts = losses.loss_scale(name, 10, 4), 0.0, s.copy()
    for start, stop in ((0, 3), (3, 10)):
        tile = parts[start:stop]
        total += losses.KERNELS[name].fold(tile, y[start:stop], scale, scratch_for(name, tile))
    assert total * scale == pytest.approx(whole, rel=1e-14)
    np.testing.assert_allclose(parts, delta, rtol=1e-14)


def test_the_scale_makes_means_over_the_batch_or_over_all_elements() -> None:
    assert losses.loss_scale("cross_entropy", 8, 5) == 1 / 8
    assert [losses.loss_scale(name, 8, 5) for name in set(NAMES) - {"cross_entropy"}] == [1 / 40] * 6


@given(
    rows=st.lists(st.lists(st.floats(-(2.0**50), 2.0**50, width=32), min_size=3, max_size=3), min_size=1, max_size=20),
    name=st.sampled_from([name for name in NAMES if name != "poisson"]),
    dtype=st.sampled_from(DTYPES),
)
@settings(max_examples=200, deadline=None)
def test_extreme_outputs_give_finite_losses_and_bounded_deltas(rows: list[list[float]], name: str, dtype: str) -> None:
    s = np.array(rows, dtype)
    y = np.arange(len(s)) % 3 if name == "cross_entropy" else np.full_like(s, 0.25)
    loss, delta = fold(name, s, y)
    assert 0 <= loss < np.inf
    assert np.isfinite(delta).all()
    if name != "mse":
        assert np.abs(delta).max() <= losses.loss_scale(name, *s.shape) * (1 + 1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["cross_entropy", "bce", "huber", "mae", "quantile"])
def test_outputs_of_1e30_neither_overflow_nor_warn(name: str, dtype: str) -> None:
    s = np.array([[1e30, -1e30], [-1e30, 1e30], [0.0, -0.0]], dtype)
    y = np.array([0, 0, 1]) if name == "cross_entropy" else np.array([[1, 0], [1, 0], [0, 1]], dtype)
    loss, delta = fold(name, s, y)
    assert np.isfinite(loss)
    assert np.isfinite(delta).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_output_makes_the_loss_nan(name: str) -> None:
    s, y = example(name)
    s[2, 3] = np.nan
    assert np.isnan(fold(name, s, y)[0])


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_the_minimum_of_the_quantile_loss_is_the_quantile(quantile: float) -> None:
    y = np.random.default_rng(1).gamma(2.0, size=(1001, 1))
    kernel = losses.fold_of(Architecture((1, 1), loss="quantile", quantile=quantile, dtype="float64"))

    def loss(at: float) -> float:
        s = np.full_like(y, at)
        return kernel(s, y, 1.0, scratch_for("quantile", s))

    exact = float(np.quantile(y, quantile))
    assert min(np.unique(y), key=loss) == pytest.approx(exact, rel=1e-12)
    s = np.full_like(y, 1.5)
    kernel(s, y, 1.0, scratch_for("quantile", s))
    np.testing.assert_allclose(s, np.where(y < 1.5, 1 - quantile, -quantile))


def test_a_rate_that_overflows_is_infinite() -> None:
    with np.errstate(over="ignore"):
        s, y = np.array([[800.0]]), np.array([[3.0]])
        assert fold("poisson", s, y)[0] == np.inf


@pytest.mark.parametrize("integer", ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"])
def test_labels_of_any_integer_dtype_give_the_same_bits(integer: str) -> None:
    s, y = example("cross_entropy")
    loss, delta = fold("cross_entropy", s, y)
    other, other_delta = fold("cross_entropy", s, y.astype(integer))
    assert loss == other
    np.testing.assert_array_equal(delta, other_delta)


@pytest.mark.parametrize("shape", [(256, 256), (30_000, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_folding_allocates_no_array(name: str, dtype: str, shape: tuple[int, int]) -> None:
    s, y = example(name, dtype, shape)
    s, scratch, run = s.copy(), scratch_for(name, s), losses.KERNELS[name].fold
    run(s, y, 1e-3, scratch)
    s *= 0  # the outputs are spent
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        run(s, y, 1e-3, scratch)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    broadcast_buffer = 8192 * s.itemsize if name == "cross_entropy" else 0
    assert peak < 8 * 1024 + broadcast_buffer


@pytest.mark.parametrize("name", NAMES)
def test_good_targets_pass_and_cost_no_array(name: str) -> None:
    y = example(name, "float32", (512, 64))[1]
    losses.check_targets(name, y, 512, 64, "float32")
    tracemalloc.start()
    try:
        losses.check_targets(name, y, 512, 64, "float32")
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024
    finally:
        tracemalloc.stop()


FLOATS = np.full((4, 3), 0.5, np.float32)
LABELS = np.array([0, 1, 2, 0])


def with_value(array: Array, position: Any, value: float) -> Array:
    """Return a copy with one value changed."""
    changed = array.copy()
    changed[position] = value
    return changed


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        ("cross_entropy", [0, 1, 2, 0], "y is a list. Pass np.asarray(y)."),
        (
            "cross_entropy",
            LABELS[:3],
            "integer labels of shape (4,); y has shape (3,). Pass one row of y for each",
        ),
        ("cross_entropy", LABELS[:, None], "y has shape (4, 1). Pass y[:, 0]."),
        ("cross_entropy", np.eye(4, 3, dtype=int), "If these are one-hot rows, pass y.argmax(axis=1)."),
        (
            "cross_entropy",
            LABELS.astype(np.float32),
            "y has dtype float32. If these are class numbers, pass y.astype",
        ),
        ("cross_entropy", LABELS > 0, "y has dtype bool."),
        ("cross_entropy", with_value(LABELS, 2, 3), "each from 0 to 2; y[2] is 3. Number the classes from 0"),
        ("cross_entropy", with_value(LABELS, 1, -1), "each from 0 to 2; y[1] is -1."),
        ("cross_entropy", np.array([0, 1, 255, 0], np.uint8), "y[2] is 255."),
        ("mse", FLOATS[:, :2], "float32 targets of shape (4, 3); y has shape (4, 2). Give y that shape"),
        ("mse", FLOATS[:2], "y has shape (2, 3). Pass one row of y for each of the 4 rows of x."),
        ("mse", FLOATS.astype(np.float64), "y has dtype float64. Pass y.astype(np.float32)."),
        ("huber", np.ones((4, 3), int), "y has dtype int64. Pass y.astype(np.float32)."),
        ("mse", with_value(FLOATS, (1, 2), np.nan), "all finite; y[1, 2] is nan."),
        ("huber", with_value(FLOATS, (3, 0), -np.inf), "all finite; y[3, 0] is -inf."),
        ("bce", with_value(FLOATS, (2, 1), np.inf), "all finite; y[2, 1] is inf."),
        ("bce", with_value(FLOATS, (2, 1), 1.5), "each from 0 to 1; y[2, 1] is 1.5. Scale the targets to [0, 1]"),
        ("bce", with_value(FLOATS, (0, 0), -0.5), "each from 0 to 1; y[0, 0] is -0.5."),
    ],
)
def test_bad_targets_are_refused_with_what_to_do(loss: str, y: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        losses.check_targets(loss, y, 4, 3, "float32")


def test_a_single_output_given_as_a_vector_is_refused_with_the_cure() -> None:
    with pytest.raises(InputError, match=re.escape("Pass y[:, None].")):
        losses.check_targets("mse", np.zeros(4, np.float32), 4, 1, "float32")


def test_empty_targets_of_the_right_shape_pass() -> None:
    losses.check_targets("cross_entropy", np.zeros(0, int), 0, 3, "float32")
    losses.check_targets("bce", np.zeros((0, 3), np.float32), 0, 3, "float32")
