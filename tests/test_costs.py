"""The cost model: predictions are positive, grow with the work, and a damaged cache is measured anew."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import lowmem as lm
from lowmem.common.cores import VARIABLES, cache_bytes, cores
from lowmem.measure import calibration, step_calibration
from lowmem.network.specs import ACTIVATIONS
from lowmem.planning.cost_model import ROWS, WIDTHS, CostModel
from lowmem.planning.engines.choice import why_not_native
from tests.helpers import model


def test_a_machine_of_one_speed_takes_time_by_flops() -> None:
    architecture = lm.Architecture((30, 50, 70, 10))
    costs = model()
    products = 2 * 100 * 50 * 70
    assert costs.forward(architecture, 2, 100) == pytest.approx(products * 1e-11 + 100 * 70 * (1e-10 + 1e-9))
    assert costs.backward(architecture, 2, 100) == pytest.approx(2 * products * 1e-11 + 100 * 50 * 1e-9)
    assert costs.backward(architecture, 1, 100) == pytest.approx(2 * 100 * 30 * 50 * 1e-11)


def test_an_s_type_activation_is_made_again_in_every_forward_and_backward() -> None:
    architecture = lm.Architecture((30, 50, 70, 10), "gelu")
    costs = model()
    products = 2 * 100 * 50 * 70 * 1e-11
    assert costs.forward(architecture, 2, 100) == pytest.approx(products + 100 * 70 * 1e-10 + 100 * 50 * 1e-9)
    assert costs.backward(architecture, 2, 100) == pytest.approx(2 * products + 100 * 50 * 1e-9)


def test_rates_are_interpolated_between_the_grid_and_constant_beyond_it() -> None:
    rates = tuple(tuple(1e-11 / (row + 1) for _ in WIDTHS) for row, _ in enumerate(ROWS))
    costs = CostModel(
        "test", "float32", rates, rates, dict.fromkeys(ACTIVATIONS, 0.0), dict.fromkeys(ACTIVATIONS, 0.0), 0, 0
    )
    architecture = lm.Architecture((64, 64, 64))

    def rate(rows: int) -> float:
        return costs.forward(architecture, 1, rows) / (2 * rows * 64 * 64)

    assert rate(ROWS[0]) == pytest.approx(1e-11)
    assert rate(1) == pytest.approx(1e-11)
    assert rate(10 * ROWS[-1]) == pytest.approx(1e-11 / len(ROWS))
    assert rate(ROWS[1]) < rate(32) < rate(ROWS[0])


def test_between_two_sizes_a_rate_falls_by_the_same_share_with_each_doubling() -> None:
    """Where a call takes as long as its product, seconds per FLOP halve with each doubling; so they do in between."""
    rates = tuple(tuple(1 / (2 * rows * width**2) for width in WIDTHS) for rows in ROWS)  # a product takes a second
    costs = replace(model(), products=rates, value=dict.fromkeys(ACTIVATIONS, 0.0), bias=0.0)
    for rows, width in ((100, 64), (256, 45), (33, 99)):
        assert costs.forward(lm.Architecture((width, width, width)), 1, rows) == pytest.approx(1)


def test_states_that_leave_the_cache_take_longer_once_in_a_pass() -> None:
    architecture = lm.Architecture((30, *[50] * 20, 10))
    whole = 100 * (20 * 50 + 10) * 4
    free, costs = model(), replace(model(), kept=1e-8, cache=whole // 4)
    assert replace(costs, cache=whole).keeping(architecture, 100) == 0
    assert replace(costs, cache=0).keeping(architecture, 100) == pytest.approx(4e-8)
    for strategy in ("store_all", "sqrt", "recompute_all"):
        less, more = (lm.plan(architecture, 100, strategy=strategy, costs=one).seconds for one in (free, costs))
        assert less is not None
        assert more is not None
        assert more - less == pytest.approx(whole * 3 / 4 * 1e-8)


@pytest.mark.parametrize("engine", ["native", "numpy"])
def test_small_products_and_kept_states_are_those_of_steps(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a machine that is known give its rates back, whatever a step takes beside its layers."""
    sizes = [[2 * rows * width**2 for width in WIDTHS] for rows in ROWS]
    right = tuple(tuple(3e-11 + 1e-3 / flops for flops in row) for row in sizes)
    alone = tuple(tuple(7e-11 if flops < 2e6 else 3e-11 + 1e-3 / flops for flops in row) for row in sizes)
    truth = replace(model(), products=right, gradients=right, engine=engine)

    def step(architecture: lm.Architecture, rows: int, strategy: str, engine: str) -> tuple[float, int]:
        assert engine == truth.engine
        layers, width = architecture.layers, architecture.widths[0]
        again = {"store_all": 0, "recompute_all": layers * (layers - 1) // 2}[strategy]
        one = lm.Architecture((width,) * 4, loss="mse")
        forward, backward = truth.forward(one, 2, rows), truth.backward(one, 2, rows)
        return 1e-3 + layers * (forward + backward) + again * forward, again

    monkeypatch.setattr(step_calibration, "_step", step)
    found = step_calibration.in_steps(replace(truth, products=alone, gradients=alone))
    for got in (found.products, found.gradients):
        for row, expected in zip(got, right, strict=True):
            assert row == pytest.approx(expected)
    assert found.cache == cache_bytes() * cores()
    assert found.kept > 0


def test_steps_are_timed_on_both_engines() -> None:
    for engine in ("numpy",) if why_not_native() else ("numpy", "native"):
        alone = replace(model(), engine=engine)
        found = step_calibration.in_steps(alone)
        assert found.products[1][1] != alone.products[1][1]  # 64 rows of 64 numbers
        assert all(rate > 0 for grid in (found.products, found.gradients) for row in grid for rate in row)
        assert 0 < found.kept < 1e-7


def test_the_second_cache_of_a_core_is_what_the_system_says(tmp_path: Path) -> None:
    assert cache_bytes(tmp_path) == 1 << 20
    for index, level, size in ((0, 1, "48K"), (1, 2, "2048K"), (2, 3, "491520K")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        folder.mkdir(parents=True)
        (folder / "level").write_text(f"{level}\n")
        (folder / "size").write_text(f"{size}\n")
    assert cache_bytes(tmp_path) == 2 << 20
    (tmp_path / "sys/devices/system/cpu/cpu0/cache/index1/size").write_text("none")
    assert cache_bytes(tmp_path) == 1 << 20


def test_with_a_cost_model_passes_are_weighed_against_recomputation() -> None:
    architecture = lm.Architecture((16, *[64] * 60, 4))
    budget = lm.minimum_budget(architecture, 256) * 102 // 100  # so that the objects of many passes fit as well
    slow_sums, quick_sums = model(accumulate=1e-3), model(accumulate=1e-12)
    assert lm.plan(architecture, 256, budget, costs=slow_sums).micro_batch == 256
    quick = lm.plan(architecture, 256, budget, costs=quick_sums)
    assert quick.micro_batch < 256
    assert quick.peak_bytes <= budget
    assert quick.seconds is not None
    assert quick.cost == quick.seconds
    one_pass = lm.plan(architecture, 256, budget, costs=quick_sums, micro_batch=256)
    assert one_pass.seconds is not None
    assert quick.seconds < one_pass.seconds


def test_with_a_cost_model_more_budget_is_never_predicted_slower() -> None:
    architecture = lm.Architecture((16, *[40, 64, 24] * 12, 4), "gelu")
    least = lm.minimum_budget(architecture, 128)
    budgets = [least + step * least // 20 for step in range(12)]
    for costs in (model(), replace(model(), kept=1e-8, cache=50_000)):
        seconds = [lm.plan(architecture, 128, budget, costs=costs).cost for budget in budgets]
        assert seconds == sorted(seconds, reverse=True)


def test_a_cost_model_of_another_dtype_is_refused() -> None:
    with pytest.raises(lm.InputError, match="cost model is for float64, the network is float32"):
        lm.plan(lm.Architecture((4, 4)), 8, "1MiB", costs=model(dtype="float64"))


@pytest.mark.parametrize("name", VARIABLES)
def test_a_cost_model_is_for_the_limits_of_threads_it_was_measured_under(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in VARIABLES:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv("LOWMEM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(
        calibration, "measure", lambda dtype: CostModel(**asdict(model()) | {"machine": calibration.machine()})
    )
    free = calibration.calibrated()
    monkeypatch.setenv(name, "1")
    assert cores() == 1
    assert calibration.age("float32") is None
    assert calibration.calibrated().machine == f"{free.machine}, {name}=1"


def test_calibration_is_measured_once_and_a_damaged_cache_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOWMEM_CACHE_DIR", str(tmp_path / "new" / "folder"))
    calls: list[str] = []

    def measured(dtype: str) -> CostModel:
        calls.append(dtype)
        return CostModel(**{**asdict(model(dtype=dtype)), "machine": calibration.machine()})

    monkeypatch.setattr(calibration, "measure", measured)
    monkeypatch.setattr(step_calibration, "in_steps", lambda alone: alone)
    first = calibration.calibrated(engine="numpy")
    assert calibration.calibrated(engine="numpy") == first
    assert calls == ["float32"]
    path = calibration.cache_path("float32", "numpy")
    kept = json.loads(path.read_text())
    for damage in (
        "",
        "[]",
        "{}",
        json.dumps({**kept, "machine": "another"}),
        json.dumps({**kept, "products": [[0]]}),
    ):
        path.write_text(damage)
        calls.clear()
        assert calibration.calibrated(engine="numpy") == first
        assert calls == ["float32"]
    calibration.calibrated(again=True, engine="numpy")
    assert calls == ["float32", "float32"]
    with pytest.raises(lm.InputError, match="unknown dtype"):
        calibration.calibrated("float16")


def test_measuring_gives_a_positive_time_for_everything() -> None:
    measured = calibration.measure()
    assert all(rate > 0 for grid in (measured.products, measured.gradients) for row in grid for rate in row)
    assert set(measured.value) == set(measured.slope) == set(ACTIVATIONS)
    assert all(seconds > 0 for seconds in (*measured.value.values(), *measured.slope.values()))
    assert measured.accumulate > 0


@pytest.mark.skipif(why_not_native() is not None, reason="the compiled engine is not here")
def test_the_compiled_engine_has_a_cost_model_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWMEM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(calibration, "measure", lambda dtype: model(dtype=dtype))
    monkeypatch.setattr(step_calibration, "in_steps", lambda alone: alone)
    native, numpy = (calibration.calibrated(engine=engine) for engine in ("native", "numpy"))
    assert (native.engine, numpy.engine) == ("native", "numpy")
    assert native.products == numpy.products
    assert native.value["gelu"] > native.value["relu"] > 0  # an exponential more
    assert set(native.value) == set(native.slope) == set(ACTIVATIONS)
