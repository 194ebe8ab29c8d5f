"""The promises of a step: the same bits under every plan, the right mathematics, and bad input refused."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import lowmem as lm
from lowmem.network.specs import ACTIVATIONS, LOSSES
from lowmem.nn import reference
from lowmem.nn.layers import base, postactivation, preactivation
from lowmem.nn.optimizers import OPTIMIZERS, Optimizer
from lowmem.runtime.engines.calls import Bound, run_calls, single_calls
from tests.helpers import FIXED, Array, architectures, batch, randomised


def flat(gradients: Any) -> Array:
    """Return copies of all gradients in one array, in the order of the parameters."""
    pairs = zip(gradients.weights, gradients.biases, strict=True)
    return np.concatenate([part.ravel() for pair in pairs for part in pair])


def run(
    mlp: lm.MLP, rows: int, x: Array, y: Array, strategy: str = "store_all", **options: Any
) -> tuple[float, NDArray[np.uint8]]:
    """Return the loss and the bits of the gradients of one step."""
    plan = lm.plan(mlp.architecture, rows, None, strategy=strategy, **options)
    loss, gradients = lm.Backprop(mlp, plan)(x, y)
    return loss, flat(gradients).view(np.uint8)


# Same bits -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=120)
@given(
    architectures(max_layers=12),
    st.one_of(st.integers(1, 40), st.sampled_from([511, 512, 513, 1024, 1100])),
    st.one_of(st.none(), st.integers(1, 600)),
    st.integers(0, 2**16),
)
@example(lm.Architecture((1, 1, 1, 1), "gelu", "mse"), 513, None, 0)
@example(lm.Architecture((3, 1), "relu", "cross_entropy"), 600, 256, 1)
@example(lm.Architecture((3, 12, 1, 12, 1, 12, 2), "silu", "bce", "float64"), 1100, 550, 2)
@example(lm.Architecture((2, 3, 5, 8, 11, 12, 12), "selu", "huber"), 1537, None, 3)
@example(lm.Architecture((12, 11, 8, 5, 3, 2), "softplus", "mse"), 1537, 700, 4)
def test_every_strategy_gives_the_same_bits(
    architecture: lm.Architecture, rows: int, micro: int | None, seed: int
) -> None:
    mlp = randomised(architecture, seed)
    x, y = batch(architecture, rows, seed)
    micro_batch = None if micro is None else min(micro, rows)
    loss, bits = run(mlp, rows, x, y, micro_batch=micro_batch)
    for strategy, options in FIXED:
        other_loss, other_bits = run(mlp, rows, x, y, strategy, micro_batch=micro_batch, **options)
        assert other_loss == loss, strategy
        assert np.array_equal(other_bits, bits), strategy


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("activation", "loss"), [*zip(sorted(ACTIVATIONS), cycle(sorted(LOSSES)), strict=False)])
def test_every_activation_loss_and_dtype_gives_the_same_bits(activation: str, loss: str, dtype: str) -> None:
    architecture = lm.Architecture((9, 30, 17, 1, 40, 33, 33, 8, 5), activation, loss, dtype)
    mlp = randomised(architecture)
    x, y = batch(architecture, 700)
    for micro_batch in (None, 350):
        first, bits = run(mlp, 700, x, y, micro_batch=micro_batch)
        assert np.isfinite(first)
        for strategy, options in FIXED[1:]:
            again, other = run(mlp, 700, x, y, strategy, micro_batch=micro_batch, **options)
            assert again == first, strategy
            assert np.array_equal(other, bits), strategy


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
@pytest.mark.parametrize("ragged", [False, True])
def test_three_hundred_layers_give_the_same_bits(activation: str, ragged: bool) -> None:
    hidden = [1 + 3 * n % 8 for n in range(299)] if ragged else [6] * 299
    architecture = lm.Architecture((5, *hidden, 3), activation)
    mlp = lm.MLP(architecture, 3, initialiser="orthogonal")
    x, y = batch(architecture, 60)
    loss, bits = run(mlp, 60, x, y)
    assert np.any(bits)
    for strategy, options in [*FIXED[1:], ("revolve", {"slots": 20}), ("segments", {"segments": 17})]:
        other_loss, other = run(mlp, 60, x, y, strategy, **options)
        assert other_loss == loss
        assert np.array_equal(other, bits)


def test_a_wide_network_gives_the_same_bits_under_budgets() -> None:
    # Wide enough that BLAS uses several threads and its large kernels.
    architecture = lm.Architecture((64, *[160] * 20, 10), "relu")
    mlp = randomised(architecture)
    x, y = batch(architecture, 600)
    stored = lm.plan(architecture, 600)
    loss, bits = run(mlp, 600, x, y)
    for share in (25, 50, 80):
        plan = lm.plan(architecture, 600, f"{share}% of activations")
        assert plan.arena_bytes < stored.arena_bytes
        other_loss, gradients = lm.Backprop(mlp, plan)(x, y)
        assert other_loss == loss
        assert np.array_equal(flat(gradients).view(np.uint8), bits)


def test_a_step_repeats_to_the_same_bits() -> None:
    architecture = lm.Architecture((9, 30, 17, 5), "elu")
    mlp = randomised(architecture)
    x, y = batch(architecture, 700)
    backprop = lm.Backprop(mlp, lm.plan(architecture, 700, strategy="sqrt"))
    first, gradients = backprop(x, y)
    bits = flat(gradients)
    backprop(*batch(architecture, 700, seed=1))
    again, gradients = backprop(x, y)
    assert again == first
    assert np.array_equal(flat(gradients), bits)


# Same mathematics ------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=80)
@given(architectures(), st.sampled_from([1, 2, 7, 40, 600]), st.sampled_from(FIXED), st.integers(0, 2**16))
def test_gradients_are_those_of_the_plain_formulas(
    architecture: lm.Architecture, rows: int, fixed: tuple[str, dict[str, Any]], seed: int
) -> None:
    architecture = replace(architecture, dtype="float64")
    mlp = randomised(architecture, seed)
    x, y = batch(architecture, rows, seed)
    loss, gradients = lm.Backprop(mlp, lm.plan(architecture, rows, strategy=fixed[0], **fixed[1]))(x, y)
    their_loss, weights, biases = reference.backprop(architecture, mlp.weights, mlp.biases, x, y)
    assert loss == pytest.approx(their_loss, rel=1e-9, abs=1e-13)
    for ours, theirs in zip((*gradients.weights, *gradients.biases), (*weights, *biases), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12 * max(1.0, float(abs(theirs).max())))


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_float32_gradients_are_those_of_the_plain_formulas_in_float64(activation: str, loss: str) -> None:
    architecture = lm.Architecture((8, 20, 11, 20, 5), activation, loss)
    mlp = randomised(architecture)
    x, y = batch(architecture, 100)
    _, gradients = lm.Backprop(mlp, lm.plan(architecture, 100, strategy="sqrt"))(x, y)
    wide = replace(architecture, dtype="float64")
    weights, biases = ([array.astype(float) for array in arrays] for arrays in (mlp.weights, mlp.biases))
    targets = y if loss == "cross_entropy" else y.astype(float)
    _, their_weights, their_biases = reference.backprop(wide, weights, biases, x.astype(float), targets)
    for ours, theirs in zip((*gradients.weights, *gradients.biases), (*their_weights, *their_biases), strict=True):
        assert np.linalg.norm(ours - theirs) <= 2e-5 * np.linalg.norm(theirs)


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_gradients_are_finite_differences_of_the_loss(activation: str, loss: str) -> None:
    architecture = lm.Architecture((4, 6, 5, 6, 3), activation, loss, "float64")
    mlp = randomised(architecture, 5)
    x, y = batch(architecture, 11)
    backprop = lm.Backprop(mlp, lm.plan(architecture, 11, strategy="revolve", slots=1))
    gradient = flat(backprop(x, y)[1])
    measured, step = np.empty_like(gradient), 1e-5
    for index, value in enumerate(mlp.parameters):
        mlp.parameters[index] = value + step
        above = backprop(x, y)[0]
        mlp.parameters[index] = value - step
        measured[index] = (above - backprop(x, y)[0]) / (2 * step)
        mlp.parameters[index] = value
    assert np.linalg.norm(measured - gradient) < 1e-6 * np.linalg.norm(gradient)


@settings(deadline=None, max_examples=60)
@given(architectures(), st.integers(2, 700), st.integers(1, 300))
def test_micro_batches_give_the_gradients_of_the_whole_batch(
    architecture: lm.Architecture, rows: int, micro: int
) -> None:
    architecture = replace(architecture, dtype="float64")
    mlp = randomised(architecture)
    x, y = batch(architecture, rows)
    loss, bits = run(mlp, rows, x, y)
    parts_loss, parts = run(mlp, rows, x, y, "sqrt", micro_batch=min(micro, rows))
    whole = bits.view(np.float64)
    assert parts_loss == pytest.approx(loss, rel=1e-11, abs=1e-13)
    np.testing.assert_allclose(parts.view(np.float64), whole, rtol=1e-8, atol=1e-11 * (1 + abs(whole).max()))


@settings(deadline=None, max_examples=60)
@given(architectures(), st.integers(1, 1100), st.integers(1, 1100), st.sampled_from(FIXED))
@example(lm.Architecture((3, 5, 7, 2)), 513, 1100, ("sqrt", {}))
def test_a_smaller_batch_gives_the_bits_of_a_plan_made_for_it(
    architecture: lm.Architecture, rows: int, more: int, fixed: tuple[str, dict[str, Any]]
) -> None:
    mlp = randomised(architecture)
    x, y = batch(architecture, rows)
    planned = max(rows, more)
    loss, bits = run(mlp, rows, x, y)
    backprop = lm.Backprop(mlp, lm.plan(architecture, planned, strategy=fixed[0], **fixed[1]))
    whole = batch(architecture, planned, seed=1)
    try:
        full = backprop(*whole)[0]
    except lm.NonFiniteError:  # exp(s) of the loss poisson, for some networks
        reject()
    for _ in range(2):
        part_loss, gradients = backprop(x, y)
        assert part_loss == loss
        assert np.array_equal(flat(gradients).view(np.uint8), bits)
        assert backprop(*whole)[0] == full


@pytest.mark.parametrize("rows", [1, 29, 30, 31, 59, 60, 61, 99])
def test_a_smaller_batch_in_micro_batches_gives_the_bits_of_a_plan_made_for_it(rows: int) -> None:
    architecture = lm.Architecture((9, 30, 17, 5), "elu")
    mlp = randomised(architecture)
    x, y = batch(architecture, rows)
    backprop = lm.Backprop(mlp, lm.plan(architecture, 100, micro_batch=30))
    backprop(*batch(architecture, 100))
    loss, gradients = backprop(x, y)
    their_loss, bits = run(mlp, rows, x, y, micro_batch=min(30, rows))
    assert loss == their_loss
    assert np.array_equal(flat(gradients).view(np.uint8), bits)


# The fused update ------------------------------------------------------------------------------------------------


def equal(plan: lm.Plan, ours: NDArray[Any], theirs: NDArray[Any]) -> bool:
    """Compare with what NumPy's rule gives: to the bit in its engine, within rounding in the compiled one."""
    return np.array_equal(ours, theirs) if plan.engine == "numpy" else np.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def make(name: str) -> Optimizer:
    """Return an optimizer with nothing at its default that could hide a mistake."""
    return lm.make_optimizer(name, lr=0.03, weight_decay=0.01)


@pytest.mark.parametrize("micro_batch", [None, 30, 45])
@pytest.mark.parametrize("strategy", ["store_all", "sqrt", "recompute_all"])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_the_fused_update_is_the_optimizer_applied_by_hand(name: str, strategy: str, micro_batch: int | None) -> None:
    architecture = lm.Architecture((9, 30, 1, 17, 5), "elu")
    fused, by_hand = randomised(architecture), randomised(architecture)
    optimizer, other = make(name), make(name)
    plan = lm.plan(architecture, 90, None, optimizer, strategy, micro_batch=micro_batch)
    backprop = lm.Backprop(fused, plan, optimizer)
    gather = lm.Backprop(by_hand, lm.plan(architecture, 90, micro_batch=micro_batch))
    states = tuple(np.zeros_like(by_hand.parameters) for _ in range(other.states))
    for step in range(3):
        x, y = batch(architecture, 90, step)
        loss, nothing = backprop(x, y)
        their_loss, gradients = gather(x, y)
        assert loss == pytest.approx(their_loss, rel=0 if plan.engine == "numpy" else 1e-5)
        assert nothing.weights == nothing.biases == ()
        other.begin_step()
        other.update(by_hand.parameters, flat(gradients), states, (np.empty_like(by_hand.parameters),))
        assert equal(plan, fused.parameters, by_hand.parameters)
        assert not np.array_equal(fused.parameters, randomised(architecture).parameters)
    assert optimizer.step_count == 3
    for ours, theirs in zip(backprop.optimizer_state, states, strict=True):
        assert equal(plan, ours, theirs)


def test_a_layer_larger_than_a_chunk_is_updated_as_one() -> None:
    architecture = lm.Architecture((300, 500, 5), "relu")  # 150,500 parameters in layer 1, in three chunks
    fused, by_hand = randomised(architecture), randomised(architecture)
    optimizer, other = make("adam"), make("adam")
    x, y = batch(architecture, 20)
    plan = lm.plan(architecture, 20, None, "adam")
    lm.Backprop(fused, plan, optimizer)(x, y)
    _, gradients = lm.Backprop(by_hand, lm.plan(architecture, 20))(x, y)
    other.begin_step()
    states = tuple(np.zeros_like(by_hand.parameters) for _ in range(2))
    other.update(by_hand.parameters, flat(gradients), states, (np.empty_like(by_hand.parameters),))
    assert equal(plan, fused.parameters, by_hand.parameters)


# What is left alone ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_x_and_y_are_only_read(activation: str, loss: str) -> None:
    architecture = lm.Architecture((9, 30, 17, 5), activation, loss)
    x, y = batch(architecture, 100)
    x_before, y_before = x.copy(), y.copy()
    x.flags.writeable = y.flags.writeable = False
    mlp = randomised(architecture)
    parameters = mlp.parameters.copy()
    for strategy, options in FIXED:
        lm.Backprop(mlp, lm.plan(architecture, 100, strategy=strategy, **options))(x, y)
    assert np.array_equal(x, x_before)
    assert np.array_equal(y, y_before)
    assert np.array_equal(mlp.parameters, parameters)


def test_the_callers_arrays_are_let_go() -> None:
    import gc
    import weakref

    architecture = lm.Architecture((9, 30, 5))
    backprop = lm.Backprop(randomised(architecture), lm.plan(architecture, 100))
    x, y = batch(architecture, 100)
    seen = weakref.ref(x)
    backprop(x, y)
    del x
    gc.collect()
    assert seen() is None


@pytest.mark.parametrize("micro_batch", [None, 40])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.parametrize("where", [0, 99])
def test_a_loss_that_overflows_changes_nothing(name: str, micro_batch: int | None, where: int) -> None:
    architecture = lm.Architecture((4, 8, 8, 3), "relu", "mse")
    mlp, optimizer = randomised(architecture), make(name)
    backprop = lm.Backprop(mlp, lm.plan(architecture, 100, None, name, "sqrt", micro_batch=micro_batch), optimizer)
    x, y = batch(architecture, 100)
    backprop(x, y)
    before = [array.copy() for array in (mlp.parameters, *backprop.optimizer_state)]
    bad = x.copy()
    bad[where] = 3e38
    with pytest.raises(lm.NonFiniteError, match="the loss became (nan|inf)") as error:
        backprop(bad, y)
    assert error.value.exit_code == 1
    assert optimizer.step_count == 1
    for now, then in zip((mlp.parameters, *backprop.optimizer_state), before, strict=True):
        assert np.array_equal(now.view(np.uint8), then.view(np.uint8))
    # And the run goes on as if the step had not been tried.
    other, fresh = randomised(architecture), make(name)
    again = lm.Backprop(other, backprop.plan, fresh)
    again(x, y)
    assert again(x, y)[0] == backprop(x, y)[0]
    assert np.array_equal(other.parameters, mlp.parameters)


def test_numpys_settings_are_as_before_a_step() -> None:
    architecture = lm.Architecture((4, 8, 3), "relu", "mse")
    backprop = lm.Backprop(randomised(architecture), lm.plan(architecture, 10))
    x, y = batch(architecture, 10)
    size, errors = np.getbufsize(), np.geterr()
    backprop(x, y)
    with pytest.raises(lm.NonFiniteError):
        backprop(np.full_like(x, 3e38), y)
    assert (np.getbufsize(), np.geterr()) == (size, errors)


# What is promised is what is run ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(architectures(), st.sampled_from([1, 30, 513]), st.sampled_from(FIXED), st.sampled_from([None, 13]))
def test_products_run_are_those_that_the_plan_counts(
    architecture: lm.Architecture, rows: int, fixed: tuple[str, dict[str, Any]], micro: int | None
) -> None:
    micro_batch = None if micro is None else min(micro, rows)
    options: dict[str, Any] = {"micro_batch": micro_batch, "engine": "numpy", **fixed[1]}
    plan = lm.plan(architecture, rows, None, strategy=fixed[0], **options)
    forwards = flops = 0

    class Counting:
        """NumPy, with the products counted."""

        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

        @staticmethod
        def matmul(a: Array, b: Array, out: Array) -> None:
            nonlocal flops
            flops += 2 * out.size * a.shape[-1]
            np.matmul(a, b, out)

    def counting(bound: Sequence[Bound]) -> None:
        nonlocal forwards
        forwards += sum(call.phase in ("forward", "recomputation") for call in single_calls(bound))
        run_calls(bound)

    with pytest.MonkeyPatch.context() as patch:
        for module in (base, postactivation, preactivation):
            patch.setattr(module, "np", Counting())
        lm.Backprop(randomised(architecture), plan).step(*batch(architecture, rows), carry_out=counting)
    assert forwards == plan.forward_runs
    # The products alone: of the elementwise part plans count a few FLOPs per element.
    widths, layers = architecture.widths, architecture.layers
    backward = sum(rows * 2 * n * m * (2 if layer else 1) for layer, (n, m) in enumerate(pairwise(widths)))
    biases = sum(2 * rows * n for n in widths[1:])
    assert flops - backward - biases == products_of(plan, rows)
    assert layers * plan.micro_batches <= forwards
    assert flops <= plan.flops


def products_of(plan: lm.Plan, rows: int) -> int:
    """Return the FLOPs of the products of all forwards in a plan, by its ops."""
    from lowmem.schedule import Forward

    widths = plan.architecture.widths
    return rows * sum(
        2 * widths[layer - 1] * widths[layer]
        for op in plan.schedule
        if isinstance(op, Forward)
        for layer in range(op.first, op.last + 1)
    )


# Bad input -------------------------------------------------------------------------------------------------------

ARCH = lm.Architecture((4, 8, 3))
X, Y = batch(ARCH, 10)


def spoilt(array: Array, value: float, at: tuple[int, ...]) -> Array:
    copy = array.copy()
    copy[at] = value
    return copy


UNALIGNED = np.zeros(10 * 4 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(10, 4)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (X.tolist(), Y, "x and y must be NumPy arrays; got list"),
        (X, Y.tolist(), "x and y must be NumPy arrays"),
        (X[0], Y[:1], r"shape \(rows, 4\); got shape \(4,\)"),
        (X[:, :3].copy(), Y, r"got shape \(10, 3\)"),
        (X[None], Y, r"got shape \(1, 10, 4\)"),
        (X.astype(np.float64), Y, r"got float64. Convert it once with x.astype\(np.float32\)"),
        (X.astype(">f4"), Y, "got >f4"),
        (X.astype(int), Y, "got int64"),
        (np.asfortranarray(X), Y, r"strided. Copy it once with np.ascontiguousarray\(x\)"),
        (np.repeat(X, 2, axis=0)[::2], Y, "strided"),
        (UNALIGNED, Y, "aligned"),
        (X[:0], Y[:0], "1 to 10 samples at a time; got 0"),
        (np.repeat(X, 2, axis=0), np.repeat(Y, 2), "1 to 10 samples at a time; got 20"),
        (spoilt(X, np.nan, (3, 2)), Y, "x contains NaN or infinity"),
        (spoilt(X, np.inf, (9, 3)), Y, "x contains NaN or infinity"),
        (spoilt(X, -np.inf, (0, 0)), Y, "x contains NaN or infinity"),
        (X, Y[:9], "one row of y for each of the 10 rows"),
        (X, Y.astype(float), "integer labels"),
        (X, Y[:, None], r"y\[:, 0\]"),
        (X, np.eye(3)[Y], "argmax"),
        (X, spoilt(Y, 3, (4,)), r"each from 0 to 2; y\[4\] is 3"),
        (X, spoilt(Y, -1, (7,)), r"y\[7\] is -1"),
        (X, np.repeat(Y, 2)[::2], r"strided. Copy it once with np.ascontiguousarray\(y\)"),
        (X, Y.astype(Y.dtype.newbyteorder()), r"y has the byte order of another machine"),
        (X, np.frombuffer(b" " + Y.tobytes(), np.uint8)[1:].view(Y.dtype), r"y is not aligned"),
        (np.ma.array(X, mask=X.mean() < X), Y, "x has .* masked values?, and masks are not read"),
        (X, np.ma.array(Y, mask=Y == 1), "y has .* masked values?, and masks are not read"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_in_one_line(x: Any, y: Any, words: str) -> None:
    mlp, optimizer = randomised(ARCH), make("adam")
    before = mlp.parameters.copy()
    backprop = lm.Backprop(mlp, lm.plan(ARCH, 10, None, "adam"), optimizer)
    with pytest.raises(lm.InputError) as error:
        backprop(x, y)
    assert re.search(words, str(error.value))
    assert "\n" not in str(error.value)
    assert np.array_equal(mlp.parameters, before)
    assert optimizer.step_count == 0


@pytest.mark.parametrize("engine", ["native", "numpy"])
@pytest.mark.parametrize(
    ("x", "out", "words"),
    [
        (X.tolist(), np.zeros((10, 3), np.float32), "x must be a C-contiguous float32 array .* got a list"),
        (X.astype(np.float64), np.zeros((10, 3), np.float32), "got float64"),
        (X, np.zeros((2, 3), np.float32), "out must have a row for each of the 10 rows of x; got 2"),
        (X, np.zeros((10, 4), np.float32), r"out must be .* of shape \(rows, 3\); got shape \(10, 4\)"),
        (X, np.zeros((10, 3)), "out must be .* got float64"),
        (X, np.zeros((10, 6), np.float32)[:, ::2], "out must be C-contiguous; this array is strided"),
        (X, np.frombuffer(bytes(120), np.float32).reshape(10, 3), "out is in memory that must not be written"),
        (spoilt(X, np.nan, (3, 2)), np.zeros((10, 3), np.float32), "x contains NaN or infinity"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_forward(engine: str, x: Any, out: Any, words: str) -> None:
    backprop = lm.Backprop(randomised(ARCH), lm.plan(ARCH, 10, engine=engine))
    before = out.copy()
    with pytest.raises(lm.InputError, match=words):
        backprop.forward(x, out)
    assert np.array_equal(out, before)


@pytest.mark.parametrize("engine", ["native", "numpy"])
def test_arrays_that_do_not_fit_are_refused_by_loss(engine: str) -> None:
    backprop = lm.Backprop(randomised(ARCH), lm.plan(ARCH, 10, engine=engine))
    outputs = np.zeros((10, 3), np.float32)
    refused: list[tuple[Any, Any, str]] = [
        (outputs.tolist(), Y, "outputs must be a C-contiguous float32 array"),
        (outputs[:, :1].copy(), Y, r"outputs must be .* of shape \(rows, 3\)"),
        (np.repeat(outputs, 2, axis=0), np.repeat(Y, 2), "the loss is taken of 1 to 10 samples at a time"),
        (outputs, Y[:9], "one row of y for each of the 10 rows"),
    ]
    for wrong, y, words in refused:
        with pytest.raises(lm.InputError, match=words):
            backprop.loss(wrong, y)
    assert backprop.loss(outputs, Y) == pytest.approx(np.log(3))


@pytest.mark.parametrize("engine", ["native", "numpy"])
def test_forward_takes_any_number_of_rows(engine: str) -> None:
    mlp = randomised(ARCH)
    backprop, x = lm.Backprop(mlp, lm.plan(ARCH, 10, engine=engine)), batch(ARCH, 1300)[0]
    out = np.empty((1300, 3), np.float32)
    backprop.forward(x, out)
    np.testing.assert_allclose(out, mlp.predict(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "plan", "optimizer", "engine", "buffers", "gradients"])
def test_what_its_memory_is_bound_to_cannot_be_assigned(name: str) -> None:
    backprop = lm.Backprop(lm.MLP(ARCH), lm.plan(ARCH, 10))
    with pytest.raises(lm.InputError, match=rf"Backprop\.{name} cannot be assigned to.*make another Backprop"):
        setattr(backprop, name, object())


def test_a_network_is_written_in_place() -> None:
    mlp = lm.MLP(ARCH)
    before = mlp.predict(X)
    for name in ("parameters", "learned", "weights", "biases", "arrays", "blocks", "running", "architecture"):
        with pytest.raises(lm.InputError, match=rf"MLP\.{name} cannot be assigned to. Write into its arrays in place"):
            setattr(mlp, name, np.zeros(3, np.float32))
    assert np.array_equal(mlp.predict(X), before)
    mlp.parameters *= 0
    assert not mlp.predict(X).any()


@pytest.mark.parametrize("loss", ["mse", "bce", "huber"])
def test_targets_that_do_not_fit_are_refused(loss: str) -> None:
    architecture = lm.Architecture((4, 8, 3), loss=loss)
    x, y = batch(architecture, 10)
    backprop = lm.Backprop(randomised(architecture), lm.plan(architecture, 10))
    wrong = [y[:9], y[:, :2], y[:, 0], y.astype(float), Y, spoilt(y, np.nan, (2, 1)), spoilt(y, np.inf, (2, 1))]
    if loss == "bce":
        wrong += [spoilt(y, 1.5, (2, 1)), spoilt(y, -0.5, (2, 1))]
    for targets in wrong:
        with pytest.raises(lm.InputError, match=f"^{loss} needs float32 targets"):
            backprop(x, targets)
    backprop(x, y)


def test_a_network_plan_and_optimizer_must_belong_together() -> None:
    mlp = lm.MLP(ARCH)
    with pytest.raises(lm.InputError, match="another network"):
        lm.Backprop(mlp, lm.plan(lm.Architecture((4, 9, 3)), 10))
    with pytest.raises(lm.InputError, match=r"counts optimizer='adam'; got None.*make_optimizer\('adam'\)"):
        lm.Backprop(mlp, lm.plan(ARCH, 10, None, "adam"))
    with pytest.raises(lm.InputError, match="counts optimizer=None; got 'sgd'"):
        lm.Backprop(mlp, lm.plan(ARCH, 10), lm.SGD())
    with pytest.raises(lm.InputError, match="counts optimizer='sgd'; got 'momentum'"):
        lm.Backprop(mlp, lm.plan(ARCH, 10, None, "sgd"), lm.SGD(momentum=0.9))
    with pytest.raises(lm.InputError, match="not an optimizer"):
        lm.Backprop(mlp, lm.plan(ARCH, 10, None, "adam"), "adam")  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 1.5, "1", True])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(lm.InputError, match="seed"):
        lm.MLP(ARCH, seed)


# Prediction ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_predict_gives_the_last_layers_outputs(activation: str) -> None:
    architecture = lm.Architecture((4, 9, 2, 12, 3), activation, "mse", "float64")
    mlp = randomised(architecture)
    x, _ = batch(architecture, 1100)
    state = x
    for layer, (w, b) in enumerate(zip(mlp.weights, mlp.biases, strict=True), 1):
        state = state @ w.T + b
        if layer < architecture.layers:
            state = reference.VALUE[activation](state)
    np.testing.assert_allclose(mlp.predict(x), state, rtol=1e-9, atol=1e-12)
    assert mlp.predict(x[:0]).shape == (0, 3)
    np.testing.assert_allclose(mlp.predict(x.astype(np.float32)), state, rtol=1e-4, atol=1e-5)


def test_predict_refuses_what_is_too_large_for_the_network() -> None:
    large = spoilt(X.astype(np.float64), 1e300, (1, 1))
    with pytest.raises(lm.InputError, match=r"x has values up to 1e\+300, too large for float32"):
        lm.MLP(replace(ARCH, dtype="float32")).predict(large)
    assert lm.MLP(replace(ARCH, dtype="float64")).predict(large).shape


@pytest.mark.parametrize("x", [X[0], X[:, :2], X.astype("U4"), spoilt(X, np.nan, (1, 1)), spoilt(X, np.inf, (1, 1))])
def test_predict_refuses_what_is_no_batch(x: Array) -> None:
    with pytest.raises(lm.InputError, match="^(predict: )?x "):
        lm.MLP(ARCH).predict(x)


def test_a_seed_may_be_a_number_of_numpys() -> None:
    architecture = lm.Architecture((3, 5, 5, 2), dropout=0.5)
    x, y = np.ones((8, 3), np.float32), np.zeros(8, int)
    seeds: list[Any] = [8, np.int64(8), np.array(8)]
    for engine in ("numpy", None):
        plan = lm.plan(architecture, 8, engine=engine)
        assert len({lm.Backprop(lm.MLP(architecture), plan, seed=seed)(x, y)[0] for seed in seeds}) == 1
