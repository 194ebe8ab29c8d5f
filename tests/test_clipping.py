"""Clipping: by value in the pass that updates, by norm over gathered gradients or in two runs, as the plan says."""

import gc
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.measure.step_profile import profile_step
from lowmem.planning.timeline import planned_flops
from lowmem.runtime.clipping import ClippedBackprop
from tests.helpers import batch, randomised

ARCH = lm.Architecture((6, 20, 20, 4), "tanh")


def gradients_of(architecture: lm.Architecture, x: Any, y: Any, micro_batch: int | None = None) -> Any:
    """Return one flat array of all gradients, in the order of the parameters."""
    mlp = randomised(architecture)
    plan = lm.plan(architecture, len(x), micro_batch=micro_batch)
    found = lm.Backprop(mlp, plan)(x, y)[1]
    pairs = zip(found.weights, found.biases, strict=True)
    return np.concatenate([part.ravel().copy() for pair in pairs for part in pair])


@pytest.mark.parametrize("micro_batch", [None, 7])
def test_by_value_cuts_each_gradient_before_the_update(micro_batch: int | None) -> None:
    x, y = batch(ARCH, 20)
    g = gradients_of(ARCH, x, y, micro_batch)
    mlp, limit = randomised(ARCH), float(np.median(np.abs(g)))
    trainer = lm.Trainer(mlp, lm.SGD(0.5), batch_size=20, clip_value=limit, micro_batch=micro_batch)
    before = mlp.parameters.copy()
    assert trainer.plan.peak_bytes == lm.plan(ARCH, 20, optimizer="sgd", micro_batch=micro_batch).peak_bytes
    list(trainer.epochs((x, y), 1))
    shuffled_sums_differ = 1e-6
    np.testing.assert_allclose(before - mlp.parameters, 0.5 * np.clip(g, -limit, limit), atol=shuffled_sums_differ)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("micro_batch", [None, 7])
@pytest.mark.parametrize("share", [0.1, 3.0])
def test_by_norm_scales_all_gradients_together(optimizer: str, micro_batch: int | None, share: float) -> None:
    x, y = batch(ARCH, 20)
    g = gradients_of(ARCH, x, y, micro_batch)
    norm = float(np.linalg.norm(g.astype(float)))
    plan = lm.plan(ARCH, 20, optimizer=optimizer, micro_batch=micro_batch, gather=True)
    mlp, made = randomised(ARCH), lm.make_optimizer(optimizer)
    ClippedBackprop(mlp, plan, made, share * norm)(x, y)
    other, alone = randomised(ARCH).parameters, lm.make_optimizer(optimizer)
    alone.begin_step()
    states = tuple(np.zeros_like(other) for _ in range(alone.states))
    alone.update(other, (g * min(1.0, share)).astype(g.dtype), states, (np.zeros_like(other),))
    np.testing.assert_allclose(mlp.parameters, other, rtol=1e-5, atol=1e-7)
    assert made.step_count == 1


def test_a_norm_that_is_never_reached_gives_the_bits_of_no_clipping() -> None:
    x, y = batch(ARCH, 50)
    ends = []
    for clip_norm in (None, 1e9):
        trainer = lm.Trainer(lm.MLP(ARCH), lm.Adam(), batch_size=16, clip_norm=clip_norm)
        list(trainer.epochs((x, y), 3))
        ends.append(trainer.mlp.parameters)
    assert np.array_equal(ends[0], ends[1])


@pytest.mark.parametrize("strategy", ["store_all", "recompute_all", "sqrt"])
def test_the_same_bits_under_every_strategy(strategy: str) -> None:
    x, y = batch(ARCH, 50)
    ends = []
    for name in ("auto", strategy):
        trainer = lm.Trainer(lm.MLP(ARCH), lm.SGD(), batch_size=16, clip_norm=0.1, strategy=name)
        list(trainer.epochs((x, y), 2))
        ends.append(trainer.mlp.parameters)
    assert np.array_equal(ends[0], ends[1])


def test_the_plan_counts_what_is_gathered_and_says_so() -> None:
    fused, gathered = (lm.plan(ARCH, 20, optimizer="adam", gather=gather) for gather in (False, True))
    assert gathered.gradient_bytes == ARCH.parameters * 4 > fused.gradient_bytes
    assert "gathered before the update" in str(gathered)
    assert gathered.to_dict()["gathered"] is True
    with pytest.raises(lm.BudgetError):
        lm.Trainer(lm.MLP(ARCH), batch_size=20, budget=gathered.peak_bytes - 1000, strategy="store_all", clip_norm=1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("norm", "micro_batch"), [(None, None), (None, 100), ("layer", 100), ("batch", None)])
def test_training_takes_no_more_than_promised(optimizer: str, norm: str | None, micro_batch: int | None) -> None:
    architecture = lm.Architecture((64, *[200] * 6, 10), norm=norm)
    x, y = batch(architecture, 300)
    made = lm.make_optimizer(optimizer)
    gc.collect()
    tracemalloc.start()
    try:
        mlp = lm.MLP(architecture)
        plan = lm.plan(architecture, 300, None, optimizer, micro_batch=micro_batch, gather=True)
        step = ClippedBackprop(mlp, plan, made, 0.5)
        for _ in range(2):
            step(x, y)
        assert step.account() == plan.account().arrays()
        assert 0.97 * plan.peak_bytes < tracemalloc.get_traced_memory()[1] <= plan.peak_bytes + 2**16
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("wrong", [0, -1.0, float("nan"), float("inf"), "much", [1]])
@pytest.mark.parametrize("name", ["clip_value", "clip_norm"])
def test_limits_that_make_no_sense_are_refused(name: str, wrong: Any) -> None:
    with pytest.raises(lm.InputError, match=f"{name} must be a positive number"):
        lm.Trainer(lm.MLP(ARCH), batch_size=4, **{name: wrong})


def test_a_norm_that_overflows_leaves_all_that_was_learned() -> None:
    mlp = lm.MLP(lm.Architecture((2, 2, 2, 1), "identity", "mse", overrides={2: {"norm": "batch"}}))
    x, y = batch(mlp.architecture, 8)
    y[:] = 1e18
    x *= 1e3
    mlp.weights[-1][:] *= 1e5
    before = mlp.learned.copy()
    plan = lm.plan(mlp.architecture, 8, optimizer="sgd", gather=True)
    with pytest.raises(lm.NonFiniteError, match="norm of the gradients became inf"):
        ClippedBackprop(mlp, plan, lm.SGD(), 1.0)(x, y)
    assert np.array_equal(mlp.learned, before)


def test_a_norm_that_overflows_leaves_the_parameters() -> None:
    mlp = lm.MLP(lm.Architecture((2, 2, 1), "identity", "mse"))
    x, y = np.full((4, 2), 1e19, np.float32), np.full((4, 1), 1e10, np.float32)
    mlp.weights[0][:], mlp.weights[1][:] = 1e-12, 1.0
    before = mlp.parameters.copy()
    plan = lm.plan(mlp.architecture, 4, optimizer="sgd", gather=True)
    with pytest.raises(lm.NonFiniteError, match="norm of the gradients became inf"):
        ClippedBackprop(mlp, plan, lm.SGD(), 1.0)(x, y)
    assert np.array_equal(mlp.parameters, before)


def test_a_plan_that_gathers_nothing_is_refused() -> None:
    with pytest.raises(lm.InputError, match="gather=True"):
        ClippedBackprop(lm.MLP(ARCH), lm.plan(ARCH, 4, optimizer="sgd"), lm.SGD(), 1.0)


# In two runs -----------------------------------------------------------------------------------------------------

DROPPING = lm.Architecture((6, 20, 20, 20, 4), "tanh", residual="learned", norm="batch", dropout=0.3)


@pytest.mark.parametrize("architecture", [ARCH, DROPPING], ids=["plain", "deep"])
def test_running_a_step_twice_clips_as_gathering_does(architecture: lm.Architecture) -> None:
    x, y = batch(architecture, 40)
    ends = []
    for twice in (False, True):
        mlp = randomised(architecture)
        trainer = lm.Trainer(
            mlp,
            lm.SGD(0.5, momentum=0.9),
            batch_size=20,
            clip_norm=0.05,
            clip_twice=twice,
            clip_value=0.01,
        )
        assert len(list(trainer.epochs((x, y), 3))) == 3
        assert trainer.optimizer.step_count == 6
        ends.append((mlp.parameters, mlp.running, trainer.plan))
    np.testing.assert_allclose(ends[1][0], ends[0][0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ends[1][1], ends[0][1], rtol=1e-4, atol=1e-6)
    once, twice_plan = ends[0][2], ends[1][2]
    assert twice_plan.gradient_bytes < once.gradient_bytes
    assert twice_plan.flops == 2 * once.flops
    assert "first one takes the norm" in str(twice_plan)


@pytest.mark.parametrize("strategy", ["sqrt", "recompute_all"])
def test_bits_of_two_runs_do_not_depend_on_the_strategy(strategy: str) -> None:
    x, y = batch(DROPPING, 30)
    ends = []
    for name in ("store_all", strategy):
        mlp = randomised(DROPPING)
        trainer = lm.Trainer(mlp, lm.Adam(0.01), batch_size=30, clip_norm=0.05, clip_twice=True, strategy=name)
        assert len(list(trainer.epochs((x, y), 4))) == 4
        ends.append(mlp.learned.view(np.uint8))
    assert np.array_equal(ends[0], ends[1])


def test_two_runs_take_no_more_than_promised_and_what_they_count() -> None:
    architecture = lm.Architecture((30, *[64] * 12, 4), norm="batch")
    x, y = batch(architecture, 300)
    optimizer = lm.Adam()
    gc.collect()
    tracemalloc.start()
    mlp = lm.MLP(architecture)
    plan = lm.plan(architecture, 300, None, optimizer, "sqrt", rehearse=True)
    backprop = ClippedBackprop(mlp, plan, optimizer, 0.1)
    backprop(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= plan.peak_bytes + 64 * 1024
    assert backprop.account() == plan.account().arrays()
    assert profile_step(backprop, x, y).total_flops == plan.flops == sum(planned_flops(plan).values())
    assert plan.forward_runs == 2 * lm.plan(architecture, 300, None, optimizer, "sqrt").forward_runs


def test_gradients_that_overflow_in_the_first_run_change_nothing() -> None:
    architecture = lm.Architecture((4, 8, 8, 3), "identity", "mse", norm="batch")
    mlp, optimizer = lm.MLP(architecture), lm.Adam()
    x, y = batch(architecture, 20)
    for w in mlp.weights[1:]:
        w *= 1e12
    backprop = ClippedBackprop(mlp, lm.plan(architecture, 20, None, optimizer, rehearse=True), optimizer, 1.0)
    before = mlp.learned.copy()
    with pytest.raises(lm.NonFiniteError):
        backprop(x, y)
    assert np.array_equal(mlp.learned, before)
    assert optimizer.step_count == 0


def test_a_run_with_two_runs_a_step_resumes_to_the_same_bits(tmp_path: Path) -> None:
    x, y = batch(DROPPING, 60)

    def trainer() -> lm.Trainer:
        return lm.Trainer(randomised(DROPPING), lm.Adam(), batch_size=20, clip_norm=0.1, clip_twice=True)

    whole, half = trainer(), trainer()
    assert len(list(whole.epochs((x, y), 4))) == 4
    assert len(list(half.epochs((x, y), 2, save_to=tmp_path / "run"))) == 2
    resumed = lm.Trainer.resume(tmp_path / "run")
    assert resumed.clip_twice
    assert len(list(resumed.epochs((x, y), 2))) == 2
    assert np.array_equal(resumed.mlp.learned.view(np.uint8), whole.mlp.learned.view(np.uint8))


def test_two_runs_that_make_no_sense_are_refused() -> None:
    with pytest.raises(lm.InputError, match="clip_twice goes with clip_norm"):
        lm.Trainer(lm.MLP(ARCH), batch_size=20, clip_twice=True)
    for options in ({"gather": True, "optimizer": "sgd"}, {"optimizer": None}, {"optimizer": "sgd", "micro_batch": 5}):
        with pytest.raises(lm.InputError, match="rehearse=True goes with an optimizer"):
            lm.plan(ARCH, 20, rehearse=True, **options)
