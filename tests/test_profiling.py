"""One step under the magnifying glass: what is counted while running is what was planned, phase by phase."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowmem as lm
from lowmem.measure.calibration import product_rate
from lowmem.measure.memory import SampledPeak
from lowmem.measure.step_profile import POINTS, Progress, StepProfile, memory_over_work, profile_step, twice
from lowmem.network.specs import ACTIVATIONS, LOSSES
from lowmem.planning.timeline import PHASES, planned_flops
from tests.helpers import FIXED, architectures, batch

DEEP = lm.Architecture((6, *[8] * 9, 5, 7, 3))


def profiled(
    architecture: lm.Architecture, rows: int, optimizer: str | None = None, **options: Any
) -> tuple[lm.Plan, StepProfile]:
    """Return a plan and the profile of a step that it ran."""
    plan = lm.plan(architecture, rows, options.pop("budget", None), optimizer, **options)
    backprop = lm.Backprop(lm.MLP(architecture), plan, lm.make_optimizer(optimizer) if optimizer else None)
    return plan, profile_step(backprop, *batch(architecture, rows))


@pytest.mark.parametrize("micro_batch", [None, 13])
@pytest.mark.parametrize(("strategy", "options"), FIXED)
def test_flops_counted_are_those_planned(strategy: str, options: dict[str, Any], micro_batch: int | None) -> None:
    for activation in sorted(ACTIVATIONS):
        architecture = lm.Architecture(DEEP.widths, activation)
        plan, profile = profiled(architecture, 40, "sgd", strategy=strategy, micro_batch=micro_batch, **options)
        assert profile.flops == planned_flops(plan)
        assert profile.total_flops == plan.flops


def test_flops_counted_of_an_optimal_plan_are_those_planned() -> None:
    for activation in ("relu", "gelu"):
        architecture = lm.Architecture((16, *[32] * 20, 10), activation)
        plan, profile = profiled(architecture, 1024, "sgd", budget="30% of activations")
        assert plan.strategy == "optimal"
        assert profile.flops == planned_flops(plan)
        assert profile.flops["recomputation"] > 0


@given(architectures(), st.sampled_from(sorted(LOSSES)), st.integers(1, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_flops_counted_are_those_planned_for_any_network(
    architecture: lm.Architecture, loss: str, rows: int, data: st.DataObject
) -> None:
    architecture = lm.Architecture(architecture.widths, architecture.activation, loss, architecture.dtype)
    micro_batch = data.draw(st.integers(1, rows))
    strategy, options = data.draw(st.sampled_from(FIXED))
    optimizer = data.draw(st.sampled_from([None, "adam"]))
    plan, profile = profiled(architecture, rows, optimizer, strategy=strategy, micro_batch=micro_batch, **options)
    assert profile.flops == planned_flops(plan)
    assert sum(planned_flops(plan).values()) == plan.flops


def test_a_phase_has_time_where_it_did_something() -> None:
    _, profile = profiled(DEEP, 40, "sgd", strategy="store_all")
    ran = {phase for phase, seconds in profile.seconds.items() if seconds > 0}
    assert ran == {"forward", "loss", "backward", "update"}
    assert profile.total_seconds == pytest.approx(sum(profile.seconds.values()))
    _, profile = profiled(DEEP, 40, None, strategy="sqrt", micro_batch=10)
    assert profile.seconds["recomputation"] > 0 < profile.seconds["sum of gradients"]
    assert profile.seconds["update"] == 0


def test_a_profiled_step_gives_the_bits_of_a_plain_one() -> None:
    plan = lm.plan(DEEP, 40, strategy="sqrt")
    x, y = batch(DEEP, 40)
    plain, profiled_one = (lm.Backprop(lm.MLP(DEEP), plan) for _ in range(2))
    loss, gradients = plain(x, y)
    profile_step(profiled_one, x, y)
    assert loss == profiled_one(x, y)[0]
    for mine, its in zip(gradients.weights, profiled_one.gradients.weights, strict=True):
        assert np.array_equal(mine, its)


def test_the_median_of_profiles_is_taken_phase_by_phase() -> None:
    flops = dict.fromkeys(PHASES, 1)
    profiles = [StepProfile(flops, dict.fromkeys(PHASES, 1.0) | {"loss": loss}) for loss in (9.0, 1.0, 2.0)]
    middle = StepProfile.median(profiles)
    assert middle.seconds == dict.fromkeys(PHASES, 1.0) | {"loss": 2.0}
    assert middle.flops == flops


def test_backward_over_forward_is_left_out_where_there_was_no_forward() -> None:
    assert twice(dict.fromkeys(PHASES, 0.0)) is None
    assert twice({"forward": 2.0, "backward": 3.0}) == 1.5


# Memory along the work -------------------------------------------------------------------------------------------


def test_progress_is_that_of_one_pass_and_ends_with_all_its_flops() -> None:
    plan = lm.plan(DEEP, 40, strategy="sqrt", micro_batch=20)
    progress: Progress = []
    profile_step(lm.Backprop(lm.MLP(DEEP), plan), *batch(DEEP, 40), progress)
    times, done = zip(*progress, strict=True)
    assert list(times) == sorted(times)
    assert list(done) == sorted(done)
    sums = DEEP.parameters  # of the last pass alone
    assert (done[0], done[-1]) == (0, (plan.flops - sums) // 2 + sums)


def test_samples_are_laid_along_the_work_that_was_done() -> None:
    sampled = SampledPeak()
    sampled.series = [(0.0, 10), (1.0, 20), (3.0, 30), (4.5, 40), (9.0, 50)]
    progress = [(2.0, 0), (4.0, 100), (5.0, 200)]
    assert memory_over_work(sampled, progress) == [(0, 20), (50, 30), (150, 40), (200, 50)]


def test_of_many_samples_the_largest_of_each_group_are_kept() -> None:
    sampled = SampledPeak()
    sampled.series = [(float(n), 1 + (n == 777)) for n in range(10 * POINTS)]
    points = memory_over_work(sampled, [(0.0, 0), (10.0 * POINTS, 10 * POINTS)])
    assert len(points) == POINTS
    assert [point for point in points if point[1] == 2] == [(777, 2)]


# The machine -----------------------------------------------------------------------------------------------------


def test_the_speed_of_products_is_measured_at_the_shape_of_most_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def seconds(call: Any) -> float:
        call()
        arrays = [*call.args[0][0], call.args[1]] if isinstance(call.args[0], list) else call.args
        shapes.append([array.shape for array in arrays])
        return 1.0

    monkeypatch.setattr("lowmem.measure.calibration._seconds", seconds)
    architecture = lm.Architecture((64, *[16] * 9, 3))
    assert product_rate(architecture, 20) == 6 * 20 * 16 * 16 / 3
    assert shapes == [[(20, 16), (20, 16), (16, 16)], [(16, 20), (20, 16), (16, 16)], [(20, 16), (20, 16), (16, 16)]]
