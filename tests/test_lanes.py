"""Lanes: the same bits for a layout, whatever the plan; the promises with threads on; and threads that behave."""

import gc
import os
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

import lowmem as lm
from lowmem.measure.step_profile import profile_step
from lowmem.network.tiles import tile_bounds, tile_count
from lowmem.nn.reference import backprop as reference
from lowmem.planning import lane_count as layout
from lowmem.planning.lane_count import lanes_for
from lowmem.runtime import binding
from lowmem.runtime.lanes import Lanes, one_blas_thread
from lowmem.runtime.places import Places, Region
from tests.helpers import FIXED, Array, architectures, batch, randomised

Bits = tuple[list[float], bytes, bytes]


def trained(architecture: lm.Architecture, rows: int, threads: int, optimizer: str | None, **options: Any) -> Bits:
    """Return losses, gradients and parameters of three steps, as bits."""
    mlp, (x, y) = randomised(architecture), batch(architecture, rows)
    plan = lm.plan(architecture, rows, None, optimizer, threads=threads, **options)
    assert plan.lanes == min(threads, plan.micro_batch)
    backprop = lm.Backprop(mlp, plan, lm.make_optimizer(optimizer, lr=0.01) if optimizer else None)
    made = [backprop(x, y) for _ in range(3)]
    gradients = b"".join(g.tobytes() for g in (*made[-1][1].weights, *made[-1][1].biases))
    return [loss for loss, _ in made], gradients, mlp.parameters.tobytes()


# Bits ------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    architectures(max_layers=10, max_width=40),
    st.integers(1, 1300),
    st.integers(2, 5),
    st.sampled_from([None, "sgd", "adam"]),
    st.data(),
)
def test_every_strategy_gives_the_same_bits_in_lanes(
    architecture: lm.Architecture, rows: int, threads: int, optimizer: str | None, data: st.DataObject
) -> None:
    passes = data.draw(st.sampled_from([None, max(rows // 3, 1)]))
    stored = trained(architecture, rows, threads, optimizer, strategy="store_all", micro_batch=passes)
    strategy, options = data.draw(st.sampled_from(FIXED[1:]))
    assert trained(architecture, rows, threads, optimizer, strategy=strategy, micro_batch=passes, **options) == stored


@pytest.mark.parametrize("activation", ["relu", "gelu", "elu"])
@pytest.mark.parametrize("widths", [(30, *[64] * 30, 10), (30, *[64, 48, 96] * 8, 10)], ids=["even", "ragged"])
def test_bits_are_the_same_from_run_to_run(activation: str, widths: tuple[int, ...]) -> None:
    architecture = lm.Architecture(widths, activation)
    runs = {
        str(trained(architecture, 700, 3, "adam", strategy=strategy, **options))
        for strategy, options in FIXED
        for _ in range(3)
    }
    assert len(runs) == 1


@settings(deadline=None, max_examples=40)
@given(architectures(max_layers=6, max_width=20), st.integers(1, 700), st.integers(2, 4))
def test_gradients_in_lanes_are_those_of_plain_backpropagation(
    architecture: lm.Architecture, rows: int, threads: int
) -> None:
    mlp, (x, y) = randomised(architecture), batch(architecture, rows)
    loss, gradients = lm.Backprop(mlp, lm.plan(architecture, rows, threads=threads))(x, y)
    expected, weights, biases = reference(architecture, mlp.weights, mlp.biases, x, y)
    tolerance = 1e-9 if architecture.dtype == "float64" else 2e-4
    scale = max(1.0, *(float(abs(g).max()) for g in weights))
    assert loss == pytest.approx(expected, rel=tolerance, abs=tolerance)
    for found, wanted in zip((*gradients.weights, *gradients.biases), (*weights, *biases), strict=True):
        assert np.allclose(found, wanted, rtol=tolerance, atol=tolerance * scale)


@given(st.integers(1, 3000), st.integers(1, 9))
def test_lanes_share_a_batch_without_gap_or_overlap(rows: int, lanes: int) -> None:
    bounds = [bound for lane in range(lanes) for bound in tile_bounds(rows, lane, lanes)]
    assert [row for start, stop in bounds for row in range(start, stop)] == list(range(rows))
    assert tile_count(rows, lanes) == len(bounds)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12), st.integers(1, 3)), max_size=12))
def test_places_fit_exactly_where_no_byte_is_touched_in_two_shapes(wishes: list[tuple[int, int, int]]) -> None:
    places, touched = Places(), list[Region]()
    for start, size, shape in wishes:
        region = (start, start + size, shape)
        fits = all(region == other or other[1] <= start or region[1] <= other[0] for other in touched)
        assert places.fit([region]) == fits
        if not fits:
            places.clear()
            touched = []
        places.touch([region])
        touched.append(region)


# Promises --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [None, "adam"])
@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize(
    "architecture",
    [
        lm.Architecture((64, *[32] * 20, 10), "relu"),
        lm.Architecture((64, *[64] * 60, 10), "gelu", "cross_entropy", "float64"),
        lm.Architecture((10, *[5, 40, 1, 33, 64, 2] * 3, 7), "elu", "huber"),
        lm.Architecture((300, *[300] * 4, 100), "tanh", "mse"),
    ],
    ids=["even", "deep", "ragged", "wide"],
)
def test_training_in_lanes_takes_no_more_than_promised_and_a_step_allocates_nothing(
    architecture: lm.Architecture, threads: int, optimizer: str | None
) -> None:
    x, y = batch(architecture, 900)
    made = lm.make_optimizer(optimizer) if optimizer else None
    for strategy, micro_batch in (("store_all", None), ("sqrt", 300), ("recompute_all", None)):
        gc.collect()
        tracemalloc.start()
        mlp = lm.MLP(architecture)
        plan = lm.plan(architecture, 900, None, optimizer, strategy, micro_batch=micro_batch, threads=threads)
        backprop = lm.Backprop(mlp, plan, made)
        backprop(x, y)
        gc.collect()
        peak, held = tracemalloc.get_traced_memory()[1], tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        backprop(x, y)
        extra = tracemalloc.get_traced_memory()[1] - held
        tracemalloc.stop()
        assert peak <= plan.peak_bytes + 64 * 1024
        assert peak >= 0.75 * plan.peak_bytes - 64 * 1024
        assert extra < 64 * 1024
        assert backprop.arena.buffer.nbytes == plan.arena_bytes


def test_flops_counted_in_lanes_are_those_of_the_plan() -> None:
    architecture = lm.Architecture((20, *[40] * 5, 60, *[40] * 3, 10), "gelu")
    x, y = batch(architecture, 333)
    for strategy, options in FIXED:
        for micro_batch in (None, 100):
            plan = lm.plan(architecture, 333, None, "sgd", strategy, micro_batch=micro_batch, threads=3, **options)
            profile = profile_step(lm.Backprop(lm.MLP(architecture), plan, lm.SGD()), x, y)
            assert profile.total_flops == plan.flops
            assert profile.seconds["waiting"] > 0


def test_a_smaller_batch_runs_in_lanes_too() -> None:
    architecture = lm.Architecture((8, *[16] * 4, 3))
    backprop = lm.Backprop(lm.MLP(architecture), lm.plan(architecture, 64, threads=4))
    for rows in (64, 5, 1, 3, 64):
        x, y = batch(architecture, rows)
        loss, gradients = backprop(x, y)
        expected, weights, _ = reference(architecture, backprop.mlp.weights, backprop.mlp.biases, x, y)
        assert loss == pytest.approx(expected, rel=1e-5)
        assert np.allclose(gradients.weights[0], weights[0], atol=1e-5)


# Threads that behave ---------------------------------------------------------------------------------------------


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def ours() -> int:
    return sum(thread.name.startswith("lowmem-") for thread in threading.enumerate())


def deep() -> tuple[lm.Backprop, Array, Array]:
    architecture = lm.Architecture((8, *[16] * 6, 3), "tanh")
    plan = lm.plan(architecture, 64, None, "sgd", threads=3)
    return lm.Backprop(lm.MLP(architecture), plan, lm.SGD(0.1)), *batch(architecture, 64)


def test_the_threads_end_with_their_object() -> None:
    before = set(threading.enumerate())
    backprop, x, y = deep()
    assert set(threading.enumerate()) <= before  # none before the first step
    backprop(x, y)
    new = set(threading.enumerate()) - before
    assert len(new) == 2
    del backprop
    gc.collect()
    for thread in new:
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_in_a_lane_surfaces_once_and_leaves_all_as_it_was(
    monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    backprop, x, y = deep()
    original = backprop(x, y)[0]
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        plain = binding.gradients

        def gradients(*arguments: Any) -> None:
            name = threading.current_thread().name
            if name == f"lowmem-{failing}" or (failing == 0 and not name.startswith("lowmem-")):
                raise RuntimeError("here")
            plain(*arguments)

        monkeypatch.setattr(binding, "gradients", gradients)
        failing_one, _, _ = deep()
        with pytest.raises(RuntimeError, match="here"):
            failing_one(x, y)
        assert blas_threads() == before
        monkeypatch.undo()
        again, _, _ = deep()
        assert again(x, y)[0] == original
        assert isinstance(failing_one(x[:5], y[:5])[0], float)  # bound anew, and the pool is as good as new
        assert blas_threads() == before


def test_a_loss_that_overflows_stops_all_lanes_before_any_update() -> None:
    backprop, x, y = deep()
    backprop.mlp.weights[-1][:] = np.inf
    parameters = backprop.mlp.parameters.copy()
    with pytest.raises(lm.NonFiniteError):
        backprop(x, y)
    assert np.array_equal(parameters, backprop.mlp.parameters)


def test_lanes_within_other_pools_give_the_same_bits() -> None:
    before = blas_threads()

    def run(_: int) -> list[float]:
        backprop, x, y = deep()
        return [backprop(x, y)[0] for _ in range(4)]

    alone = run(0)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(8))) == [alone] * 8
    assert blas_threads() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_lanes_of_its_own() -> None:
    backprop, x, y = deep()
    backprop(x, y)
    child = os.fork()
    if child == 0:
        loss = backprop(x, y)[0]
        os._exit(0 if np.isfinite(loss) and ours() >= 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    backprop(x, y)


def test_blas_has_its_threads_back_only_when_nobody_holds_it() -> None:
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with one_blas_thread():
            with one_blas_thread():
                assert set(blas_threads()) == {1}
            assert set(blas_threads()) == {1}
        assert blas_threads() == before


def test_an_interrupt_while_other_lanes_finish_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = Lanes(3)
    lanes.run(lambda _: None)

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lanes, "_done", SimpleNamespace(get=interrupted))
    with pytest.raises(KeyboardInterrupt):
        lanes.run(lambda _: None)
    done = list[int]()
    lanes.run(done.append)
    assert sorted(done) == [0, 1, 2]


def test_a_task_that_fails_in_every_lane_raises_one_error() -> None:
    lanes = Lanes(3)

    def task(lane: int) -> None:
        lanes.wait()
        raise ValueError(lane)

    for _ in range(2):
        with pytest.raises(ValueError, match="^[012]$"):
            lanes.run(task)


# How many lanes --------------------------------------------------------------------------------------------------


def test_lanes_follow_the_machine_where_layers_are_large_and_even(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "cores", lambda: 4)
    assert lanes_for(lm.Architecture((64, *[256] * 20, 10)), 2048) == 4
    assert lanes_for(lm.Architecture((64, *[64] * 20, 10)), 64) == 1
    assert lanes_for(lm.Architecture((64, *[256, 240] * 10, 10)), 2048) == 1
    assert lanes_for(lm.Architecture((64, *[256] * 10, *[128] * 10, 10)), 2048) == 4
    assert lanes_for(lm.Architecture((64, *[64] * 20, 10)), 64, 3) == 3
    assert lanes_for(lm.Architecture((4, 3)), 2, 3) == 2


@pytest.mark.parametrize(("width", "held"), [(32, True), (300, False)])
def test_blas_keeps_to_one_thread_where_products_are_small(
    width: int, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = lm.Architecture((8, *[width] * 3, 3))
    x, y = batch(architecture, 64)
    seen = set[int]()
    plain = binding.gradients

    def gradients(*arguments: Any) -> None:
        seen.update(blas_threads())
        plain(*arguments)

    monkeypatch.setattr(binding, "gradients", gradients)
    backprop = lm.Backprop(lm.MLP(architecture), lm.plan(architecture, 64, threads=1))
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        backprop(x, y)
        assert blas_threads() == before
    assert seen == ({1} if held else set(before))


def test_cores_are_those_that_blas_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in layout.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert layout.cores() == 6
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert layout.cores() == 2
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "many")
    assert layout.cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert layout.cores() == 1


@pytest.mark.parametrize("threads", [0, -1, 2.5, "two", True])
def test_threads_that_make_no_sense_are_refused(threads: Any) -> None:
    with pytest.raises(lm.InputError, match=r"threads must be a positive whole number.*got"):
        lm.plan(lm.Architecture((4, 3)), 8, threads=threads)


def test_one_lane_never_waits() -> None:
    architecture = lm.Architecture((4, *[5] * 3, 3), "gelu")
    backprop = lm.Backprop(lm.MLP(architecture), lm.plan(architecture, 8, threads=1))
    calls = [call for by_lane, *_ in backprop._passes[8] for call in by_lane[0]]
    assert not any(function is binding.alone or arguments == () for function, arguments in calls)
