"""The compiled engine: it computes what the NumPy engine computes, to the same bits under every plan."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import lowmem as lm
from lowmem.network import native_names
from lowmem.network.layers.dropout import padded
from lowmem.network.specs import LOSSES
from lowmem.nn.forward import Forward
from lowmem.nn.layers.dropout import Philox
from lowmem.nn.penalty import Penalised, Spans
from lowmem.planning.engines import choice as engine_choice
from lowmem.planning.timeline import chain_of, moments
from lowmem.runtime.clipping import ClippedBackprop
from lowmem.runtime.engines.native import library as native
from lowmem.runtime.engines.native.forward import NativeForward

ROOT = Path(__file__).resolve().parent.parent
Array = NDArray[Any]

pytestmark = pytest.mark.skipif(
    not engine_choice.LIBRARY.exists(), reason="the compiled engine was not built: see LOWMEM_BUILD"
)

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "skip": {"residual": True},
    "scaled": {"residual": "scaled"},
    "learned": {"residual": "learned"},
    "layer": {"residual": True, "norm": "layer"},
    "rms": {"norm": "rms"},
    "batch": {"residual": "learned", "norm": "batch"},
    "dropout": {"dropout": 0.3},
    "all": {"residual": "learned", "norm": "layer", "dropout": 0.1, "label_smoothing": 0.1},
    "batch, dropout": {"residual": "scaled", "norm": "batch", "dropout": 0.1},
    "overrides": {"overrides": {3: {"norm": "rms", "dropout": 0.5}, 2: {"residual": True}}},
}
TOLERANCE = {"float32": 2e-4, "float64": 1e-12}


def problem(arch: lm.Architecture, rows: int, seed: int = 0) -> tuple[lm.MLP, Array, Array, Array]:
    """Return a network with lively parameters, and a batch with weights."""
    rng = np.random.default_rng(seed)
    mlp = lm.MLP(arch, seed=seed)
    mlp.parameters += (0.1 * rng.standard_normal(arch.parameters)).astype(arch.dtype)
    x = rng.standard_normal((rows, arch.widths[0])).astype(arch.dtype)
    y: Array = rng.integers(0, arch.widths[-1], rows)
    if arch.loss != "cross_entropy":
        y = rng.random((rows, arch.widths[-1])).astype(arch.dtype)
    return mlp, x, y, rng.random(rows).astype(arch.dtype)


def gradients(mlp: lm.MLP, plan: lm.Plan, x: Array, y: Array, w: Array | None = None) -> tuple[float, Array]:
    """Return the loss and all gradients of a first step, flat; running statistics are put back."""
    running = mlp.running.copy()
    loss, g = lm.Backprop(mlp, plan, seed=3)(x, y, w)
    mlp.running[:] = running
    return loss, np.concatenate([array.ravel() for arrays in g.arrays for array in arrays.values()])


def far(one: Array, other: Array) -> float:
    """Return the largest difference, relative to the largest number."""
    return float(np.abs(one - other).max() / np.abs(other).max())


def test_a_plan_names_its_engine() -> None:
    arch = lm.Architecture((4, 8, 3))
    assert lm.plan(arch, 8, engine="native").engine == "native"
    assert lm.plan(arch, 8, engine="numpy").engine == "numpy"
    assert lm.plan(arch, 8, engine="numpy").lanes == 1


@pytest.mark.parametrize("kind", [{}, {"activation": "gelu"}, {"residual": True, "norm": "layer", "dropout": 0.1}])
def test_what_reports_show_as_alive_is_the_memory_of_the_plans_engine(kind: dict[str, Any]) -> None:
    plan = lm.plan(lm.Architecture((64, *[128] * 20, 10), **kind), 512, strategy="sqrt", engine="native", threads=2)
    assert max(moment.bytes for moment in moments(chain_of(plan), plan.schedule)) == plan.arena_bytes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "activation", ["relu", "leaky_relu", "elu", "selu", "tanh", "sigmoid", "softplus", "identity"]
)
def test_engines_agree_on_activations_of_their_output(activation: str, dtype: str) -> None:
    agree(lm.Architecture((20, 32, 32, 24, 40, 10), activation, dtype=dtype), 70)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", native_names.ACTIVATIONS[8:])
def test_engines_agree_on_activations_of_their_input(activation: str, dtype: str) -> None:
    agree(lm.Architecture((20, 32, 32, 24, 40, 10), activation, dtype=dtype), 70)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
@pytest.mark.parametrize("kind", KINDS)
def test_engines_agree_on_every_kind_of_layer(kind: str, activation: str, dtype: str) -> None:
    agree(lm.Architecture((20, 32, 32, 32, 24, 24, 10), activation, dtype=dtype, **KINDS[kind]), 90)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_engines_agree_on_every_loss(loss: str, dtype: str) -> None:
    agree(lm.Architecture((20, 32, 32, 10), "tanh", loss=loss, dtype=dtype), 65)


@pytest.mark.parametrize("quantile", [0.05, 0.9])
def test_engines_agree_on_quantiles(quantile: float) -> None:
    agree(lm.Architecture((20, 32, 32, 10), "tanh", loss="quantile", quantile=quantile, dtype="float64"), 65)


def agree(arch: lm.Architecture, rows: int) -> None:
    """Hold loss and gradients of both engines together, for one lane and for three, with weights and without."""
    mlp, x, y, w = problem(arch, rows)
    for weights in (None, w):
        loss, expected = gradients(mlp, lm.plan(arch, rows, engine="numpy"), x, y, weights)
        for threads in (1, 3):
            plan = lm.plan(arch, rows, engine="native", threads=threads)
            assert plan.lanes == threads
            own, found = gradients(mlp, plan, x, y, weights)
            assert own == pytest.approx(loss, rel=TOLERANCE[arch.dtype])
            assert far(found, expected) < TOLERANCE[arch.dtype]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_every_strategy_budget_and_lane_count_keeps_the_bits_of_its_lanes(data: st.DataObject) -> None:
    draw = data.draw
    kind = draw(st.sampled_from(sorted(KINDS.keys() - {"overrides"})))
    widths = tuple(draw(st.lists(st.integers(1, 70), min_size=4, max_size=9)))
    activation = draw(st.sampled_from(["relu", "tanh", "gelu"]))
    dtype = draw(st.sampled_from(["float32", "float64"]))
    arch = lm.Architecture((5, *widths, 7), activation, dtype=dtype, **KINDS[kind])
    rows, threads = draw(st.integers(2, 1200)), draw(st.integers(1, 4))
    mlp, x, y, w = problem(arch, rows)
    options: dict[str, Any] = {"engine": "native", "threads": threads}
    if arch.couples is None:
        options["micro_batch"] = draw(st.integers(1, rows))
    reference = gradients(mlp, lm.plan(arch, rows, **options), x, y, w)
    plans = [lm.plan(arch, rows, strategy=strategy, **options) for strategy in ("sqrt", "recompute_all")]
    everything = lm.plan(arch, rows, **options).peak_bytes
    plans += [lm.plan(arch, rows, budget=(plan.peak_bytes + everything) // 2, **options) for plan in plans]
    for plan in plans:
        loss, found = gradients(mlp, plan, x, y, w)
        assert loss == reference[0]
        assert found.tobytes() == reference[1].tobytes()


def test_smaller_batches_run_in_the_same_memory() -> None:
    arch = lm.Architecture((20, 32, 32, 10), "gelu")
    mlp, x, y, _ = problem(arch, 100)
    backprop = lm.Backprop(mlp, lm.plan(arch, 100, engine="native", threads=3))
    for rows in (100, 37, 2, 1):
        loss, _ = backprop(x[:rows], y[:rows])
        expected, _ = lm.Backprop(mlp, lm.plan(arch, rows, engine="numpy"))(x[:rows], y[:rows])
        assert loss == pytest.approx(expected, rel=1e-5)


CLIPPING: tuple[dict[str, Any], ...] = (
    {},
    {"clip_value": 1e-3},
    {"clip_norm": 0.1},
    {"clip_norm": 0.1, "clip_twice": True},
)
OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda: lm.SGD(0.05, weight_decay=0.01),
    "momentum": lambda: lm.SGD(0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda: lm.SGD(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: lm.Adam(lr=0.01, weight_decay=0.01),
    "adamw": lambda: lm.AdamW(lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("clip", CLIPPING)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_engines_agree_after_steps_with_every_optimizer_and_clipping(optimizer: str, clip: dict[str, Any]) -> None:
    arch = lm.Architecture((12, 24, 24, 5), "tanh", dtype="float64", residual="learned", norm="layer")
    ends = []
    for engine, threads in (("numpy", 1), ("native", 1), ("native", 3)):
        mlp, x, y, _ = problem(arch, 150)
        trainer = lm.Trainer(mlp, OPTIMIZERS[optimizer](), batch_size=40, engine=engine, threads=threads, **clip)
        losses = [epoch.loss for epoch in trainer.epochs((x, y), 3)]
        ends.append((losses, mlp.parameters))
    for losses, parameters in ends[1:]:
        assert losses == pytest.approx(ends[0][0], rel=1e-9)
        assert far(parameters, ends[0][1]) < 1e-9


def test_running_statistics_move_once_a_step_as_in_the_numpy_engine() -> None:
    arch = lm.Architecture((12, 24, 24, 24, 5), "relu", norm="batch", dtype="float64")
    ends = []
    for engine, strategy in (("numpy", "store_all"), ("native", "store_all"), ("native", "recompute_all")):
        mlp, x, y, _ = problem(arch, 60)
        lm.Backprop(mlp, lm.plan(arch, 60, strategy=strategy, engine=engine, threads=2))(x, y)
        ends.append(mlp.running)
    assert far(ends[1], ends[0]) < 1e-12
    assert (ends[1] == ends[2]).all()


def test_dropout_draws_the_numbers_of_numpys_philox() -> None:
    functions = native.load().functions
    for dtype, seed, step, start in itertools.product(("float32", "float64"), (0, 5), (1, 700), (0, 2**40)):
        masks = Philox(seed)
        masks.step, masks.start = step, start
        expected = np.empty((3, padded(21)), dtype)
        masks.draw(9, 2, expected)
        own = np.empty(21, dtype)
        key = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
        for row in range(3):
            functions.lm_uniform(own.itemsize, key, step, 9, start + 2 + row, own.ctypes.data, 21)
            assert (own == expected[row, :21]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "gelu", "silu", "softplus", "elu"])
def test_what_is_not_finite_stops_the_step_before_any_parameter_changes(activation: str, bad: float) -> None:
    for engine in ("numpy", "native"):
        arch = lm.Architecture((6, 8, 8, 3), activation, loss="mse")
        mlp, x, y, _ = problem(arch, 10)
        mlp.biases[2][1] = bad  # of the last layer, so that it reaches the loss through any activation
        before = mlp.parameters.copy()
        backprop = lm.Backprop(mlp, lm.plan(arch, 10, optimizer="sgd", engine=engine, threads=2), lm.SGD(0.1))
        with pytest.raises(lm.NonFiniteError):
            backprop(x, y)
        assert mlp.parameters.tobytes() == before.tobytes()


@pytest.mark.parametrize("activation", native_names.ACTIVATIONS)
def test_nan_passes_every_activation(activation: str) -> None:
    number = native_names.ACTIVATIONS.index(activation)
    for dtype in (np.float32, np.float64):
        s = np.array([np.nan, -np.nan, 1.0], dtype)
        value, slope = np.empty_like(s), np.empty_like(s)
        native.load().functions.lm_activation_values(
            s.itemsize, number, s.ctypes.data, value.ctypes.data, slope.ctypes.data, 3
        )
        assert np.isnan(value[:2]).all()
        assert np.isfinite(value[2])


def test_a_step_allocates_nothing() -> None:
    import tracemalloc

    arch = lm.Architecture((64, *[96] * 20, 10), "gelu")
    mlp, x, y, _ = problem(arch, 256)
    optimizer = lm.Adam()
    backprop = lm.Backprop(mlp, lm.plan(arch, 256, optimizer="adam", engine="native", threads=2), optimizer)
    backprop(x, y)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        backprop(x, y)
        assert tracemalloc.get_traced_memory()[1] - before < 8192
    finally:
        tracemalloc.stop()


def lanes_alive() -> int:
    """Return how many threads this process has."""
    return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_lanes_end_with_their_object() -> None:
    arch = lm.Architecture((20, 32, 32, 10))
    mlp, x, y, _ = problem(arch, 64)
    before = lanes_alive()
    many = [lm.Backprop(mlp, lm.plan(arch, 64, engine="native", threads=3)) for _ in range(8)]
    assert len({one(x, y)[0] for one in many}) == 1
    assert lanes_alive() == before + 16
    many.clear()
    assert lanes_alive() == before


def test_one_object_in_two_threads_is_refused_and_two_objects_run_side_by_side() -> None:
    arch = lm.Architecture((64, *[256] * 40, 10))
    mlp, x, y, _ = problem(arch, 512)
    shared = lm.Backprop(mlp, lm.plan(arch, 512, engine="native", threads=2))
    expected = shared(x, y)[0]
    own = [lm.Backprop(mlp, lm.plan(arch, 512, engine="native", threads=2)) for _ in range(2)]
    outcomes: list[Any] = []

    def work(backprop: lm.Backprop) -> None:
        for _ in range(3):
            try:
                outcomes.append(backprop(x, y)[0])
            except lm.InputError as error:
                outcomes.append(str(error))

    for group in (own, [shared, shared]):
        outcomes.clear()
        threads = [threading.Thread(target=work, args=(backprop,)) for backprop in group]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for outcome in outcomes:
            assert outcome == expected or "another thread" in str(outcome)
    assert expected in outcomes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_starts_lanes_of_its_own() -> None:
    arch = lm.Architecture((20, 32, 32, 10))
    mlp, x, y, _ = problem(arch, 64)
    backprop = lm.Backprop(mlp, lm.plan(arch, 64, engine="native", threads=3))
    loss, _ = backprop(x, y)
    child = os.fork()
    if not child:
        try:
            os._exit(0 if backprop(x, y)[0] == loss else 1)
        finally:
            os._exit(2)
    deadline = time.monotonic() + 60
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            pytest.fail("the child hangs")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(done[1]) == 0
    assert backprop(x, y)[0] == loss


RUN = """
import hashlib, numpy as np, lowmem as lm
from lowmem.runtime.engines.native.library import load
arch = lm.Architecture((20, 32, 32, 10), "gelu", norm="layer", dropout=0.1, residual=True)
mlp = lm.MLP(arch, seed=0)
rng = np.random.default_rng(0)
x, y = rng.standard_normal((90, 20), np.float32), rng.integers(0, 10, 90)
loss, g = lm.Backprop(mlp, lm.plan(arch, 90, engine="native", threads=2))(x, y)
print(load().simd, repr(loss), hashlib.sha256(g.weights[1].tobytes()).hexdigest())
"""


def in_a_process(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_set_of_instructions_computes_the_same_within_rounding_and_run_to_run_the_same_bits() -> None:
    widest = in_a_process(RUN)
    assert in_a_process(RUN) == widest
    for simd in ("baseline", "avx2"):
        told, loss, _ = in_a_process(RUN, LOWMEM_SIMD=simd).split()
        assert told in (simd, widest.split()[0], "baseline")
        assert float(loss) == pytest.approx(float(widest.split()[1]), rel=1e-5)


WITHOUT = """
import sys, numpy as np, lowmem as lm
mlp = lm.MLP(lm.Architecture((4, 8, 3)))
plan = lm.plan(mlp.architecture, 8)
lm.Backprop(mlp, plan)(np.ones((8, 4), np.float32), np.zeros(8, int))
mlp.predict(np.ones((8, 4), np.float32))
print(plan.engine, "lowmem.runtime.engines.native.library" in sys.modules)
"""


def test_with_the_numpy_engine_asked_for_nothing_native_is_loaded() -> None:
    assert in_a_process(WITHOUT, LOWMEM_ENGINE="numpy").split() == ["numpy", "False"]
    assert in_a_process(WITHOUT, LOWMEM_ENGINE="native").split() == ["native", "True"]


def test_engines_are_refused_by_name_and_for_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arch = lm.Architecture((4, 8, 3))
    with pytest.raises(lm.InputError, match="unknown engine 'nativ'. Did you mean 'native'"):
        lm.plan(arch, 8, engine="nativ")
    monkeypatch.setenv("LOWMEM_ENGINE", "fast")
    with pytest.raises(lm.InputError, match="unknown engine 'fast'"):
        lm.plan(arch, 8)
    monkeypatch.delenv("LOWMEM_ENGINE")
    monkeypatch.setattr(engine_choice, "LIBRARY", tmp_path / "none.so")
    assert lm.plan(arch, 8).engine == "numpy"
    with pytest.raises(lm.InputError, match="was not compiled when lowmem was installed"):
        lm.plan(arch, 8, engine="native")


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("kind", ["plain", "all", "batch"])
def test_prediction_agrees_and_does_not_depend_on_rows_beside(kind: str, lanes: int) -> None:
    arch = lm.Architecture((20, 32, 32, 10), "gelu", **KINDS[kind])
    mlp, x, _, _ = problem(arch, 700)
    mlp.running += 0.5
    runner, together = NativeForward(mlp, 128, lanes), np.empty((700, 10), np.float32)
    runner.into(x, together)
    for rows in (1, 128, 513):
        alone = np.empty((rows, 10), np.float32)
        runner.into(x[:rows], alone)
        assert (alone == together[:rows]).all()
    expected = np.empty_like(together)
    Forward(mlp, 512).into(x, expected)
    assert far(together, expected) < 1e-5
    assert far(mlp.predict(x), expected) < 1e-5


def test_an_optimizer_with_a_rule_of_its_own_runs_with_numpy() -> None:
    class Lazy(lm.SGD):
        def rule(self, *_: Any) -> None:
            """Do nothing."""

    architecture = lm.Architecture((4, 8, 3))
    mlp, x, y, _ = problem(architecture, 8)
    before = mlp.parameters.copy()
    trainer = lm.Trainer(mlp, Lazy(lr=0.1), batch_size=8)
    list(trainer.epochs((x, y), 1))
    assert trainer.plan.engine == "numpy"
    assert (mlp.parameters == before).all()
    with pytest.raises(lm.InputError, match="optimizer Lazy, which has a rule of its own"):
        lm.plan(architecture, 8, optimizer=Lazy(), engine="native")
    with pytest.raises(lm.InputError, match="does not know the rule of Lazy"):
        lm.Backprop(mlp, lm.plan(architecture, 8, optimizer="sgd", engine="native"), Lazy())


@pytest.mark.parametrize("gather", [False, True])
@pytest.mark.parametrize("kind", [lm.SGD, lm.Adam, lm.AdamW])
def test_engines_agree_on_a_penalty_of_the_weights(kind: type[Any], gather: bool) -> None:
    penalised = type("WithPenalty", (Penalised, kind), {})
    arch = lm.Architecture((20, 32, 32, 10), "tanh", dtype="float64", norm="layer", residual="learned")
    ends = []
    for engine, threads in (("numpy", 1), ("native", 1), ("native", 3)):
        mlp, x, y, w = problem(arch, 40)
        optimizer = penalised(0.1, weight_decay=0.01) if kind is lm.Adam else penalised(0.1)
        optimizer.penalty, optimizer.weights = 0.3, Spans(mlp.weights)
        backprop = lm.Backprop(mlp, lm.plan(arch, 40, optimizer=optimizer, engine=engine, threads=threads), optimizer)
        if gather:
            plan = lm.plan(arch, 40, optimizer=optimizer, engine=engine, threads=threads, gather=True)
            backprop = ClippedBackprop(mlp, plan, optimizer, clip_norm=0.5)
        for _ in range(5):
            backprop(x, y, w)
        ends.append(mlp.parameters)
    for parameters in ends[1:]:
        assert far(parameters, ends[0]) < 1e-9
    assert far(ends[0], problem(arch, 40)[0].parameters) > 0.05
