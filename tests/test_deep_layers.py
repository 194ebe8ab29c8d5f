"""Residual layers, norms, dropout and label smoothing: within the same promises as plain layers."""

import gc
import json
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import lowmem as lm
from lowmem.interchange import safetensors as tensor_file
from lowmem.measure.step_profile import profile_step
from lowmem.network.layers.dropout import padded
from lowmem.network.specs import ACTIVATIONS
from lowmem.nn import losses, reference_layers
from lowmem.nn.forward import Forward
from lowmem.nn.layers import base, norms, postactivation, preactivation
from lowmem.nn.layers.dropout import Philox
from lowmem.nn.views import LayerViews
from lowmem.planning.timeline import planned_flops
from lowmem.runtime.engines.calls import Bound, single_calls
from lowmem.runtime.engines.numpy import updates
from tests.helpers import FIXED, KINDS, Array, batch, names, stirred
from tests.test_cli import Ran

WIDTHS = (7, 12, 12, 12, 5, 16, 16, 3)


def step(
    mlp: lm.MLP, x: Array, y: Array, strategy: str = "store_all", **options: Any
) -> tuple[float, NDArray[np.uint8]]:
    """Return the loss of one step, and the bits of its gradients and of the running statistics."""
    running = mlp.running.copy()
    plan = lm.plan(mlp.architecture, len(x), None, strategy=strategy, **options)
    loss, gradients = lm.Backprop(mlp, plan)(x, y)
    flat = np.concatenate([array.ravel() for arrays in gradients.arrays for array in arrays.values()] + [mlp.running])
    mlp.running[:] = running
    return loss, flat.view(np.uint8)


# The same bits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=names)
def test_every_strategy_gives_the_same_bits(kind: dict[str, Any]) -> None:
    for activation, dtype, rows in (("relu", "float32", 1100), ("gelu", "float32", 90), ("selu", "float64", 513)):
        architecture = lm.Architecture(WIDTHS, activation, dtype=dtype, **kind)
        mlp = stirred(architecture)
        x, y = batch(architecture, rows)
        loss, bits = step(mlp, x, y)
        assert np.isfinite(loss)
        for strategy, options in FIXED[1:]:
            other_loss, other = step(mlp, x, y, strategy, **options)
            assert other_loss == loss, strategy
            assert np.array_equal(other, bits), strategy


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 20), min_size=3, max_size=10),
    st.sampled_from(sorted(ACTIVATIONS)),
    st.sampled_from([kind for kind in KINDS if kind["norm"] != "batch"]),
    st.integers(2, 1100),
    st.one_of(st.none(), st.integers(1, 400)),
)
def test_and_so_it_does_in_passes(
    widths: list[int], activation: str, kind: dict[str, Any], rows: int, micro: int | None
) -> None:
    architecture = lm.Architecture(tuple(widths), activation, **kind)
    mlp = stirred(architecture)
    x, y = batch(architecture, rows)
    shape: dict[str, Any] = {"micro_batch": None if micro is None else min(micro, rows)}
    loss, bits = step(mlp, x, y, **shape)
    for strategy, options in FIXED[1::2]:
        other_loss, other = step(mlp, x, y, strategy, **shape, **options)
        assert other_loss == loss
        assert np.array_equal(other, bits)


@pytest.mark.parametrize(("planned", "rows"), [(1540, 1539), (2053, 2052), (1540, 1026)])
@pytest.mark.parametrize("kind", [{"norm": "layer"}, {"norm": "rms", "residual": "learned", "dropout": 0.3}])
def test_a_smaller_batch_has_room_in_the_plan_of_a_larger_one(kind: dict[str, Any], planned: int, rows: int) -> None:
    architecture = lm.Architecture((6, 9, 9, 9, 2), "silu", **kind)
    mlp = stirred(architecture)
    x, y = batch(architecture, rows)
    own = lm.Backprop(mlp, lm.plan(architecture, rows, strategy="recompute_all"))(x, y)
    roomy = lm.Backprop(mlp, lm.plan(architecture, planned))
    roomy(*batch(architecture, planned))
    roomy.steps = 0  # the same masks again
    loss, gradients = roomy(x, y)
    assert loss == own[0]
    for its, others in zip(gradients.arrays, own[1].arrays, strict=True):
        assert all(np.array_equal(g, others[name]) for name, g in its.items())


@pytest.mark.parametrize("kind", KINDS[::3], ids=names)
def test_a_deep_network_gives_the_same_bits_under_budgets(kind: dict[str, Any]) -> None:
    architecture = lm.Architecture((9, *[16] * 80, 4), "silu", **kind)
    mlp = stirred(architecture)
    x, y = batch(architecture, 200)
    loss, bits = step(mlp, x, y)
    for share in (20, 40):
        plan = lm.plan(architecture, 200, f"{share}% of activations")
        assert plan.budget is not None
        assert plan.peak_bytes <= plan.budget
        assert plan.arena_bytes < plan.store_all_bytes
        assert plan.forward_runs > architecture.layers
        running = mlp.running.copy()
        other, gradients = lm.Backprop(mlp, plan)(x, y)
        flat = np.concatenate([a.ravel() for arrays in gradients.arrays for a in arrays.values()] + [mlp.running])
        mlp.running[:] = running
        assert other == loss
        assert np.array_equal(flat.view(np.uint8), bits)


# The right mathematics -------------------------------------------------------------------------------------------


def masks_of(architecture: lm.Architecture, seed: int = 0, number: int = 1) -> Any:
    """Return what says by which numbers dropout multiplies, drawn for the whole batch at once."""

    def mask(layer: int, entering: Array) -> Array:
        source = Philox(seed)
        source.step = number
        drawn = np.empty((len(entering), padded(entering.shape[1])), architecture.dtype)
        source.draw(layer, 0, drawn)
        rate = architecture.option(layer, "dropout")
        kept: Array = (drawn[:, : entering.shape[1]] >= rate) / (1 - rate)
        return kept

    return mask


@pytest.mark.parametrize("number", range(3 * len(KINDS)))
def test_gradients_are_those_of_the_plain_formulas(number: int) -> None:
    kind, activation = KINDS[number % len(KINDS)], sorted(ACTIVATIONS)[number % len(ACTIVATIONS)]
    architecture = lm.Architecture(WIDTHS, activation, dtype="float64", **kind)
    mlp = stirred(architecture)
    x, y = batch(architecture, 600)
    expected_loss, expected = reference_layers.backprop(architecture, mlp.arrays, x, y, masks_of(architecture))
    loss, gradients = lm.Backprop(mlp, lm.plan(architecture, 600, strategy="sqrt"))(x, y)
    assert loss == pytest.approx(expected_loss, rel=1e-11)
    for number, (its, others) in enumerate(zip(gradients.arrays, expected, strict=True), start=1):
        assert its.keys() == others.keys()
        for name, g in its.items():
            # gelu in float64 is exact to some 1e-15 relative to 1, hence the absolute part
            np.testing.assert_allclose(g, others[name], rtol=1e-9, atol=1e-13, err_msg=f"layer {number} {name}")


@pytest.mark.parametrize("micro_batch", [None, 20])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind["norm"] != "batch"], ids=names)
def test_so_they_are_in_passes(kind: dict[str, Any], micro_batch: int | None) -> None:
    widths = (6, 3, 12, 12, 1, 1, 9, 9, 2)
    architecture = lm.Architecture(widths, "tanh", dtype="float64", **kind)
    mlp = stirred(architecture)
    x, y = batch(architecture, 50)
    expected_loss, expected = reference_layers.backprop(architecture, mlp.arrays, x, y, masks_of(architecture))
    plan = lm.plan(architecture, 50, strategy="recompute_all", micro_batch=micro_batch)
    loss, gradients = lm.Backprop(mlp, plan)(x, y)
    assert loss == pytest.approx(expected_loss, rel=1e-11)
    for its, others in zip(gradients.arrays, expected, strict=True):
        for name, g in its.items():
            np.testing.assert_allclose(g, others[name], rtol=1e-9, atol=1e-13, err_msg=name)


@pytest.mark.parametrize(("kind", "activation"), [*zip(KINDS, 16 * ["tanh", "gelu"], strict=False)])
def test_gradients_are_finite_differences_of_the_loss(kind: dict[str, Any], activation: str) -> None:
    architecture = lm.Architecture((3, 4, 4, 4, 2), activation, dtype="float64", label_smoothing=0.1, **kind)
    mlp = stirred(architecture, 3)
    x, y = batch(architecture, 6)
    plan = lm.plan(architecture, 6, strategy="recompute_all")

    def loss() -> float:
        return lm.Backprop(mlp, plan)(x, y)[0]  # a new one begins at step 1, whose mask is always the same

    gradients = lm.Backprop(mlp, plan)(x, y)[1]
    rng, h = np.random.default_rng(0), 1e-6
    for _ in range(4):
        ways = [{name: rng.standard_normal(g.shape) for name, g in its.items()} for its in gradients.arrays]
        pairs = [
            (arrays[name], way) for arrays, its in zip(mlp.arrays, ways, strict=True) for name, way in its.items()
        ]
        slope = sum(
            float((g * way[name]).sum())
            for its, way in zip(gradients.arrays, ways, strict=True)
            for name, g in its.items()
        )
        values = []
        for sign in (1, -2):
            for array, way in pairs:
                array += sign * h * way
            values.append(loss())
        for array, way in pairs:
            array += h * way
        assert slope == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("loss", ["mse", "bce", "huber", "cross_entropy"])
def test_losses_and_label_smoothing_are_those_of_the_plain_formulas(loss: str) -> None:
    smoothing = 0.15 if loss == "cross_entropy" else 0.0
    architecture = lm.Architecture(
        WIDTHS, "relu", loss, "float64", residual=True, norm="layer", label_smoothing=smoothing
    )
    mlp = stirred(architecture)
    x, y = batch(architecture, 90)
    expected_loss, expected = reference_layers.backprop(architecture, mlp.arrays, x, y)
    found, gradients = lm.Backprop(mlp, lm.plan(architecture, 90))(x, y)
    assert found == pytest.approx(expected_loss, rel=1e-12)
    for its, others in zip(gradients.arrays, expected, strict=True):
        for name, g in its.items():
            np.testing.assert_allclose(g, others[name], rtol=1e-9, atol=1e-14)


def test_weights_of_samples_weigh_all_of_a_smoothed_loss() -> None:
    architecture = lm.Architecture((3, 5, 4), dtype="float64", label_smoothing=0.2)
    mlp = stirred(architecture)
    x, y = batch(architecture, 6)
    backprop, weights = lm.Backprop(mlp, lm.plan(architecture, 6)), np.array([0.0, 0.5, 1, 2, 3, 5])
    own = [(loss, g.weights[0].copy()) for loss, g in (backprop(x[n : n + 1], y[n : n + 1]) for n in range(6))]
    loss, gradients = backprop(x, y, weights)
    assert loss == pytest.approx(np.mean([w * its for w, (its, _) in zip(weights, own, strict=True)]), rel=1e-12)
    expected = np.mean([w * g for w, (_, g) in zip(weights, own, strict=True)], axis=0)
    np.testing.assert_allclose(gradients.weights[0], expected, rtol=1e-9, atol=1e-15)


# Dropout ---------------------------------------------------------------------------------------------------------


def test_a_mask_depends_on_what_it_is_for_and_not_on_how_it_is_drawn() -> None:
    whole = np.empty((50, 24), "float32")
    source = Philox(5)
    source.step = 3
    source.draw(2, 0, whole)
    for start, stop in ((0, 7), (7, 50), (49, 50)):
        part = np.empty((stop - start, 24), "float32")
        source.draw(9, 1, part)  # whatever came before
        source.start = start - 1
        source.draw(2, 1, part)
        source.start = 0
        assert np.array_equal(part, whole[start:stop])
    assert len(np.unique(whole)) > 1190  # of 1200 numbers of 24 bits hardly any are equal
    others = []
    for seed, number, layer in ((5, 4, 2), (5, 3, 3), (6, 3, 2)):
        source = Philox(seed)
        source.step = number
        others.append(np.empty_like(whole))
        source.draw(layer, 0, others[-1])
    assert all(np.mean(other == whole) < 0.01 for other in others)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(dtype: str) -> None:
    architecture = lm.Architecture((4, 33, 33, 2), dtype=dtype, dropout=0.25)
    kept = masks_of(architecture)(2, np.ones((4000, 33), dtype))
    assert np.mean(kept == 0) == pytest.approx(0.25, abs=0.005)
    assert kept.mean() == pytest.approx(1, abs=0.01)


def test_bits_do_not_depend_on_passes_where_only_the_mask_could_tell() -> None:
    # With one number in every sum, products and sums are the same however rows are grouped.
    architecture = lm.Architecture((1, 1, 1, 1), "identity", "mse", dropout=0.5)
    mlp = stirred(architecture)
    x, y = batch(architecture, 64)
    losses = {}
    shapes: list[dict[str, Any]] = [{}, {"micro_batch": 1}, {"micro_batch": 7}]
    for shape in shapes:
        _, gradients = lm.Backprop(mlp, lm.plan(architecture, 64, **shape))(x, y)
        losses[str(shape)] = float(gradients.weights[0][0, 0])
    assert max(losses.values()) == pytest.approx(min(losses.values()), rel=1e-5)
    unlike = lm.Backprop(mlp, lm.plan(architecture, 64), seed=1)(x, y)[1].weights[0][0, 0]
    assert unlike != pytest.approx(losses["{}"], rel=1e-3)


@pytest.mark.parametrize("seed", [-1, "x", 1.5])
def test_a_seed_that_is_none_is_refused(seed: Any) -> None:
    architecture = lm.Architecture((6, 20, 20, 3), dropout=0.5)
    with pytest.raises(lm.InputError, match="seed must be a whole number from 0"):
        lm.Backprop(lm.MLP(architecture), lm.plan(architecture, 4), seed=seed)


def test_prediction_drops_nothing_and_every_step_drops_anew() -> None:
    architecture = lm.Architecture((6, 20, 20, 3), dropout=0.5)
    mlp = stirred(architecture)
    x, y = batch(architecture, 40)
    assert np.array_equal(mlp.predict(x), mlp.predict(x))
    plain = lm.MLP.empty(replace(architecture, dropout=0.0, norm=None, overrides={2: {"residual": False}}))
    plain.parameters[:] = mlp.parameters
    assert np.array_equal(mlp.predict(x), plain.predict(x))
    backprop = lm.Backprop(mlp, lm.plan(architecture, 40))
    assert backprop(x, y)[0] != backprop(x, y)[0]


# BatchNorm -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [None, "adam"])
def test_running_statistics_move_once_however_often_a_layer_is_run(optimizer: str | None) -> None:
    architecture = lm.Architecture((5, *[8] * 12, 3), norm="batch", residual=True)
    x, y = batch(architecture, 64)
    found = []
    for strategy, options in FIXED:
        mlp = lm.MLP(architecture, 1)
        made = lm.make_optimizer(optimizer) if optimizer else None
        backprop = lm.Backprop(mlp, lm.plan(architecture, 64, None, optimizer, strategy, **options), made)
        for _ in range(3):
            backprop(x, y)
        found.append(mlp.running.copy())
    assert all(np.array_equal(other.view(np.uint8), found[0].view(np.uint8)) for other in found)
    # Of the first layer's outputs, by hand: three equal steps leave 0.9³ of the start where nothing is updated.
    if optimizer is None:
        s = x @ mlp.weights[0].T + mlp.biases[0]
        np.testing.assert_allclose(mlp.arrays[1]["running_mean"], (1 - 0.9**3) * s.mean(0), rtol=1e-4, atol=1e-6)
        variance = 0.9**3 + (1 - 0.9**3) * s.var(0, ddof=1)
        np.testing.assert_allclose(mlp.arrays[1]["running_variance"], variance, rtol=1e-4)


def test_a_batch_of_one_sample_moves_no_running_statistics() -> None:
    architecture = lm.Architecture((5, 8, 8, 3), norm="batch", residual=True)
    mlp = stirred(architecture)
    backprop = lm.Backprop(mlp, lm.plan(architecture, 64))
    before = mlp.running.copy()
    with pytest.raises(lm.InputError, match=r'norm="batch" .* learns nothing of one'):
        backprop(*batch(architecture, 1))
    assert np.array_equal(mlp.running, before)
    backprop(*batch(architecture, 2))
    assert not np.array_equal(mlp.running, before)


def test_prediction_goes_by_running_statistics() -> None:
    architecture = lm.Architecture((5, 8, 3), "identity", dtype="float64", norm="batch")
    mlp = stirred(architecture)
    its = mlp.arrays[1]
    its["running_variance"][:] = np.linspace(0, 1e-4, 8)  # so small that ε shows
    x, _ = batch(architecture, 9)
    s = x @ mlp.weights[0].T + mlp.biases[0]
    normalised = (s - its["running_mean"]) / np.sqrt(its["running_variance"] + 1e-5) * its["gain"] + its["shift"]
    np.testing.assert_allclose(mlp.predict(x), normalised @ mlp.weights[1].T + mlp.biases[1], rtol=1e-12)


def test_samples_that_are_coupled_are_not_split() -> None:
    architecture = lm.Architecture((5, 8, 8, 3), norm="batch")
    with pytest.raises(lm.InputError, match='micro_batch=32 would split .* norm="batch" looks at all samples'):
        lm.plan(architecture, 64, micro_batch=32)
    with pytest.raises(lm.BudgetError) as refused:
        lm.plan(architecture, 4096, "20KiB")
    assert "micro_batch" not in str(refused.value)


def test_a_loss_that_overflows_moves_no_running_statistics() -> None:
    architecture = lm.Architecture((5, 8, 8, 3), norm="batch")
    mlp = lm.MLP(architecture)
    mlp.weights[-1][:] = 3e38
    x, y = batch(architecture, 64)
    before = mlp.running.copy()
    with pytest.raises(lm.NonFiniteError):
        lm.Backprop(mlp, lm.plan(architecture, 64))(x, y)
    assert np.array_equal(mlp.running, before)


# Told before, measured after -------------------------------------------------------------------------------------


class Counting:
    """NumPy, with operations on whole matrices of so many rows counted: a formula's pass is one for each number."""

    def __init__(self, rows: int) -> None:
        self.rows, self.flops = rows, 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        return _CountingUfunc(found, self) if isinstance(found, np.ufunc) else found

    def seen(self, array: Array) -> None:
        """Count one operation for each number, if this is such a matrix."""
        if array.ndim == 2 and len(array) == self.rows and array.shape[1] > 1:
            self.flops += array.size

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        """Multiply."""
        self.flops += 2 * out.size * a.shape[-1]
        np.matmul(a, b, out)


class _CountingUfunc:
    def __init__(self, ufunc: np.ufunc, counts: Counting) -> None:
        self.ufunc, self.counts, self.add = ufunc, counts, counts.seen

    def __call__(self, *arguments: Any, **options: Any) -> None:
        self.ufunc(*arguments, **options)
        self.counts.seen(options.get("out", arguments[-1]))

    def reduce(self, array: Array, **options: Any) -> Any:
        found = self.ufunc.reduce(array, **options)
        self.counts.seen(array)
        return found


@pytest.mark.parametrize("activation", ["identity", "silu"])
@pytest.mark.parametrize("kind", KINDS, ids=names)
def test_operations_run_are_those_that_the_plan_counts(
    kind: dict[str, Any], activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = lm.Architecture((8, 16, 16, 24, 24, 8), activation, "mse", **kind)
    rows = 37
    plan = lm.plan(architecture, rows, strategy="recompute_all", engine="numpy")
    backprop = lm.Backprop(stirred(architecture), plan)
    x, y = batch(architecture, rows)
    counts = Counting(rows)
    for module in (base, norms, postactivation, preactivation, updates):
        monkeypatch.setattr(module, "np", counts)
    backprop(x, y)
    monkeypatch.undo()
    # σ and the loss are counted by formula, not by pass; here they are not counted at all.
    facts, layers = ACTIVATIONS[activation], architecture.each_layer
    sweeps = np.zeros(len(layers), int)
    for op in plan.schedule:
        if isinstance(op, lm.schedule.Forward):
            sweeps[op.first - 1 : op.last] += 1
    sigma = sum(
        rows * (times * _sigma(layer.forward, facts) + _sigma(layer.backward, facts))
        for layer, times in zip(layers, sweeps, strict=True)
    )
    assert counts.flops == plan.flops - sigma - architecture.loss_flops(rows)


def test_what_smoothing_adds_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = {}
    for smoothing in (0.0, 0.1):
        architecture = lm.Architecture((3, 5, 7), label_smoothing=smoothing)
        backprop = lm.Backprop(lm.MLP(architecture), lm.plan(architecture, 6, engine="numpy"))
        counts = Counting(6)
        monkeypatch.setattr(losses, "np", counts)
        backprop(*batch(architecture, 6))
        counted[smoothing] = counts.flops, architecture.loss_flops(6)
    assert counted[0.1][0] - counted[0.0][0] == counted[0.1][1] - counted[0.0][1] > 0


def _sigma(work: Any, facts: Any) -> int:
    """Return the FLOPs of σ for each row; where s is kept, the product with σ' is the layer's own pass."""
    return int(work.values * facts.value_flops + work.slopes * (facts.slope_flops - (facts.state == "s")))


@pytest.mark.parametrize("kind", KINDS, ids=names)
def test_flops_counted_while_running_are_those_of_the_plan(kind: dict[str, Any]) -> None:
    architecture = lm.Architecture(WIDTHS, "gelu", label_smoothing=0.1, **kind)
    micro = None if kind["norm"] == "batch" else 64
    plan = lm.plan(architecture, 200, strategy="sqrt", micro_batch=micro)
    x, y = batch(architecture, 200)
    profile = profile_step(lm.Backprop(stirred(architecture), plan), x, y)
    assert profile.flops == planned_flops(plan)
    assert profile.total_flops == plan.flops


@pytest.mark.parametrize(("kind", "optimizer"), [*zip(KINDS, 16 * [None, "adam"], strict=False)])
def test_training_takes_no_more_than_promised_and_a_step_allocates_nothing(
    kind: dict[str, Any], optimizer: str | None
) -> None:
    architecture = lm.Architecture((20, *[32] * 8, 10), "relu", **kind)
    x, y = batch(architecture, 700)
    for strategy in ("store_all", "recompute_all", "sqrt"):
        made = lm.make_optimizer(optimizer) if optimizer else None
        gc.collect()
        tracemalloc.start()
        mlp = lm.MLP(architecture)
        plan = lm.plan(architecture, 700, None, optimizer, strategy)
        backprop = lm.Backprop(mlp, plan, made)
        backprop(x, y)
        gc.collect()
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        backprop(x, y)
        extra = tracemalloc.get_traced_memory()[1] - held
        tracemalloc.stop()
        assert peak <= plan.peak_bytes + 64 * 1024
        assert extra < 64 * 1024
        assert backprop.account() == plan.account().arrays()


def test_the_arena_is_written_to_its_end_and_not_beyond() -> None:
    for kind in KINDS:
        architecture = lm.Architecture(WIDTHS, "gelu", **kind)
        plan = lm.plan(architecture, 300, strategy="recompute_all", engine="numpy")
        backprop = lm.Backprop(stirred(architecture), plan)
        buffer = backprop.arena.buffer
        assert buffer.nbytes == plan.arena_bytes
        bound: list[Bound] = []
        backprop.step(*batch(architecture, 300), carry_out=bound.extend)
        views = [
            array
            for call in single_calls(bound)
            for array in _arrays(call.arguments)
            if np.may_share_memory(array, buffer)
        ]
        begin = buffer.__array_interface__["data"][0]
        ends = [np.lib.array_utils.byte_bounds(array)[1] - begin for array in views]
        assert max(ends) <= plan.arena_bytes


def _arrays(value: Any) -> list[Array]:
    """Return all arrays in nested sequences and in what holds them."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, list | tuple):
        return [array for item in value for array in _arrays(item)]
    if hasattr(value, "__dataclass_fields__") and hasattr(value, "deltas"):
        return [array for name in value.__dataclass_fields__ for array in _arrays(getattr(value, name))]
    return []


# Architectures ---------------------------------------------------------------------------------------------------


def test_a_network_says_what_its_layers_have() -> None:
    architecture = lm.Architecture(
        (64, *[256] * 9, 10), residual=True, norm="layer", dropout=0.1, overrides={5: {"dropout": 0.3, "norm": None}}
    )
    assert str(architecture) == (
        "10 layers (64, 256 x 9, 10), residual, layer norm, dropout 0.1, relu, cross_entropy, float32, "
        "layer 5: no norm and dropout 0.3, 549,642 parameters"
    )
    assert architecture.layer(5).parameters.keys() == {"weight", "bias"}
    assert architecture.layer(6).parameters.keys() == {"weight", "bias", "gain", "shift"}
    assert [architecture.has_skip(layer) for layer in range(1, 11)] == [False, *[True] * 8, False]
    even = lm.Architecture((8, 8, 8, 8), residual=True)
    assert [even.has_skip(layer) for layer in (1, 2, 3)] == [False, True, False]
    assert lm.Architecture.from_dict(architecture.to_dict()) == architecture
    assert hash(lm.Architecture.from_dict(architecture.to_dict())) == hash(architecture)


def test_numbers_of_numpy_are_numbers() -> None:
    given: dict[str, Any] = {"dropout": np.float32(0.25), "overrides": {np.int64(2): {"dropout": 0}}}
    architecture = lm.Architecture((4, 8, 8, 2), **given)
    assert architecture == lm.Architecture((4, 8, 8, 2), dropout=0.25, overrides={2: {"dropout": 0.0}})
    assert lm.Architecture.from_dict(json.loads(json.dumps(architecture.to_dict()))) == architecture


def test_of_many_layers_that_differ_only_the_first_are_described() -> None:
    architecture = lm.Architecture((4, *[8] * 40, 2), overrides={layer: {"norm": "rms"} for layer in range(3, 40)})
    assert "layer 11: rms norm, 28 more layers that differ" in str(architecture)
    assert [architecture.option(layer, "norm") for layer in (1, 2, 3, 39, 40, 41)] == [
        None,
        None,
        "rms",
        "rms",
        None,
        None,
    ]


def test_layers_that_differ_are_run_as_they_are() -> None:
    overrides: dict[int, dict[str, Any]] = {
        2: {"dropout": 0.5},
        4: {"norm": "rms"},
        5: {"residual": "learned", "norm": "layer"},
    }
    architecture = lm.Architecture((6, *[10] * 5, 3), "silu", dtype="float64", overrides=overrides)
    mlp = stirred(architecture)
    x, y = batch(architecture, 50)
    expected = reference_layers.backprop(architecture, mlp.arrays, x, y, masks_of(architecture))
    loss, gradients = lm.Backprop(mlp, lm.plan(architecture, 50, strategy="sqrt"))(x, y)
    assert loss == pytest.approx(expected[0], rel=1e-12)
    for its, others in zip(gradients.arrays, expected[1], strict=True):
        for name, g in its.items():
            np.testing.assert_allclose(g, others[name], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "layr"}, 'unknown norm "layr".*"layer"'),
        ({"residual": "scald"}, 'unknown kind of residual "scald".*"scaled"'),
        ({"dropout": 1.0}, "dropout must be a number of at least 0 and below 1"),
        ({"dropout": "much"}, "dropout must be a number"),
        ({"label_smoothing": -0.1}, "label_smoothing must be a number"),
        ({"label_smoothing": 0.1, "loss": "mse"}, 'label_smoothing goes with loss="cross_entropy"'),
        ({"overrides": {1: {"dropout": 0.1}}}, "layers 2..3 .* got the layer 1"),
        ({"overrides": {2: {"dropuot": 0.1}}}, 'unknown option of a layer "dropuot".*"dropout"'),
        ({"overrides": [1]}, "overrides need the numbers of layers"),
        ({"overrides": {3: {"residual": True}}}, "layer 3 a skip, which is the last"),
        ({"widths": (4, 8, 9, 9, 2), "overrides": {2: {"residual": "scaled"}}}, "leads from 8 to 9 numbers"),
        ({"residual": None}, 'residual must be True, False, "scaled" or "learned"; got None'),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(lm.LowmemError) as refused:
        lm.Architecture(**{"widths": (4, 8, 8, 2)} | options)
    assert re.search(words, str(refused.value).replace("'", '"')), str(refused.value)


# First values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [{"residual": True}, {"residual": "scaled"}, {"residual": "learned"}])
def test_what_passes_a_thousand_skips_stays_of_one_size(kind: dict[str, Any]) -> None:
    architecture = lm.Architecture((16, *[32] * 1000, 4), "relu", **kind)
    mlp = lm.MLP(architecture)
    x, _ = batch(architecture, 64)
    states = Forward(mlp, 64).states(x, np.empty((64, 4), "float32"))
    sizes = [float(np.sqrt(np.mean(state**2))) for layer, state in states if layer < 1001]
    assert max(sizes) < 5 * min(sizes)


def test_norms_and_factors_begin_without_effect_and_branches_small() -> None:
    architecture = lm.Architecture(
        (16, *[32] * 9, 4), residual=True, norm="batch", overrides={5: {"residual": "learned"}}
    )
    drawn, asked = lm.MLP(architecture), lm.MLP(architecture, initialiser="he_normal")
    for number, its in enumerate(drawn.arrays[1:], start=2):
        starts = {name: set(array.tolist()) for name, array in its.items() if name not in ("weight", "bias")}
        expected = {"gain": {1.0}, "shift": {0.0}, "running_mean": {0.0}, "running_variance": {1.0}}
        assert starts == expected | ({"scale": {0.0}} if number == 5 else {})
        factor = 8**-0.5 if architecture.has_skip(number) and number != 5 else 1.0
        np.testing.assert_allclose(its["weight"], asked.arrays[number - 1]["weight"] * factor, rtol=1e-6)


def test_fixup_begins_as_the_first_layer_alone() -> None:
    architecture = lm.Architecture((16, *[32] * 5, 4), "relu", residual=True)
    mlp = lm.MLP(architecture, initialiser="fixup")
    assert [bool(w.any()) for w in mlp.weights] == [True, False, False, False, False, False]
    learned = lm.MLP(lm.Architecture((16, *[32] * 5, 4), residual="learned"), initialiser="fixup")
    assert [bool(w.any()) for w in learned.weights] == [True] * 5 + [False]  # zero times zero would never learn
    with pytest.raises(lm.LowmemError, match="fixup"):
        lm.MLP(architecture, initialiser="fixp")


def test_parts_of_a_layer_fill_its_block() -> None:
    architecture = lm.Architecture(WIDTHS, norm="layer", residual="learned")
    flat = np.arange(architecture.parameters, dtype="float32")
    views = LayerViews(architecture, flat)
    for layer, block, arrays in zip(architecture.each_layer, views.blocks, views.arrays, strict=True):
        assert {name: array.shape for name, array in arrays.items()} == layer.parameters
        assert np.array_equal(np.concatenate([array.ravel() for array in arrays.values()]), block)
    assert np.array_equal(np.concatenate(views.blocks), flat)


# Training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("kind", [{"dropout": 0.2, "residual": "learned"}, {"norm": "batch", "dropout": 0.1}])
def test_a_run_resumes_to_the_same_bits(tmp_path: Path, kind: dict[str, Any], clip_norm: float | None) -> None:
    architecture = lm.Architecture((64, *[16] * 6, 10), overrides={3: {"norm": "rms"}}, label_smoothing=0.1, **kind)
    data = lm.open_data("digits")

    def trainer() -> lm.Trainer:
        return lm.Trainer(lm.MLP(architecture), lm.Adam(), batch_size=100, seed=4, clip_norm=clip_norm)

    whole = trainer()
    assert len(list(whole.epochs(data, 4))) == 4
    half = trainer()
    assert len(list(half.epochs(data, 2, save_to=tmp_path / "run"))) == 2
    resumed = lm.Trainer.resume(tmp_path / "run")
    assert resumed.mlp.architecture == architecture
    assert len(list(resumed.epochs(data, 2))) == 2
    assert np.array_equal(resumed.mlp.parameters.view(np.uint8), whole.mlp.parameters.view(np.uint8))
    assert np.array_equal(resumed.mlp.running.view(np.uint8), whole.mlp.running.view(np.uint8))
    assert resumed.evaluate(data) == whole.evaluate(data)


def test_a_run_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    trainer = lm.Trainer(lm.MLP(lm.Architecture((64, 8, 10))), batch_size=64)
    assert len(list(trainer.epochs(lm.open_data("digits"), 1, save_to=tmp_path / "run"))) == 1
    content = (tmp_path / "run").read_bytes()
    later = rb", \"residual\": false, \"norm\": null, \"dropout\": 0.0, \"label_smoothing\": 0.0"
    later += rb", \"quantile\": 0.5, \"overrides\": {}"
    assert content.count(later) == 1
    settings = re.search(rb'"settings":"(.*?[^\\])"', content)
    assert settings is not None
    text = json.loads(b'"' + settings[1].replace(later, b"") + b'"')
    named = [(f"layers.{n}.{name}", a) for n, its in enumerate(trainer.mlp.arrays, 1) for name, a in its.items()]
    assert trainer._stepper is not None
    named += [(f"optimizer.{n}", a) for n, a in enumerate(trainer._stepper.backprop.optimizer_state, 1)]
    code = tensor_file.checksum(lambda: named, crc32(text.encode()))
    metadata = {"format": "lowmem run 1", "settings": text, "crc32": f"{code:08x}"}
    tensor_file.write(tmp_path / "earlier", lambda: named, metadata)
    resumed = lm.Trainer.resume(tmp_path / "earlier")
    assert np.array_equal(resumed.mlp.parameters, trainer.mlp.parameters)


def test_the_command_line_trains_such_networks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    network = ["--layers", "8", "--width", "16", "--residual", "learned", "--norm", "layer", "--dropout", "0.1"]
    network += ["--label-smoothing", "0.1"]
    planned = Ran(capsys, "plan", *network, "--batch", "64")
    assert planned.code == 0
    assert "residual with learned factors, layer norm, dropout 0.1, relu, cross_entropy with 0.1" in planned.out
    trained = Ran(capsys, "train", *network, "--epochs", "2", "--save", str(tmp_path / "run"))
    assert trained.code == 0, trained.err
    resumed = Ran(capsys, "resume", str(tmp_path / "run"), "--epochs", "3")
    assert resumed.code == 0, resumed.err
    bare = Ran(capsys, "plan", "--layers", "8", "--residual", "--batch", "64")
    assert "10), residual, relu" in bare.out
    wrong = Ran(capsys, "plan", "--norm", "lyer")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    split = Ran(capsys, "plan", "--norm", "batch", "--batch", "64", "--micro-batch", "8")
    assert split.code == 2
    assert "looks at all samples of a batch together" in split.err
