"""Measurements: what a plan promised is what running it took, in this process and in a fresh one."""

from dataclasses import asdict
from typing import Any

import pytest

import lowmem as lm
from lowmem.measure import experiment
from lowmem.measure.experiment import Measurement, measure, measure_apart
from lowmem.planning.engines.choice import why_not_native
from lowmem.planning.timeline import planned_flops
from lowmem.runtime.arena import BLOCK
from lowmem.runtime.blas import numpy_blas
from tests.helpers import FIXED, batch

DEEP = lm.Architecture((16, *[32] * 20, 10))
REQUEST: dict[str, Any] = {
    "widths": DEEP.widths,
    "activation": "relu",
    "loss": "cross_entropy",
    "dtype": "float32",
    "batch_size": 1024,
    "optimizer": "sgd",
    "steps": 2,
}


def agrees(found: Measurement, plan: lm.Plan) -> None:
    """See that promise and measurement agree where they must."""
    assert found.planned_flops == plan.flops == sum(found.profile["flops"].values())
    assert found.profile["flops"] == planned_flops(plan)
    assert found.arena_written == pytest.approx(plan.arena_bytes, rel=0.01)
    assert found.arena_written <= plan.arena_bytes
    assert found.traced_peak <= plan.peak_bytes + 64 * 1024
    assert found.made == {name: size for name, size in plan.account().to_dict().items() if name != "bookkeeping"}


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "store_all"},
        {"strategy": "sqrt", "optimizer": None},
        {"budget": "30% of activations", "optimizer": "adam"},
        {"strategy": "revolve", "slots": 2, "micro_batch": 300, "activation": "gelu"},
    ],
    ids=str,
)
def test_a_measurement_agrees_with_its_plan(options: dict[str, Any]) -> None:
    request = REQUEST | options
    found = measure(request)
    architecture = lm.Architecture(DEEP.widths, request["activation"])
    keys = {"budget", "strategy", "micro_batch", "slots", "optimizer"}
    plan = lm.plan(architecture, 1024, **{key: request[key] for key in keys & request.keys()})
    agrees(found, plan)
    assert found.steps == 2 + 2 * 2 + 1
    assert min(found.step_seconds, found.cpu_seconds, found.product_rate, found.loss) > 0
    done = [flops for flops, _ in found.memory_over_work]
    assert done == sorted(done)
    assert done[-1] <= plan.flops


def test_products_alone_are_timed_in_as_many_threads_as_a_step_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    blas = numpy_blas()
    if blas is None or blas.threads() < 2:
        pytest.skip("needs a BLAS of several threads whose functions are known")
    seen, before, wide = [], blas.threads(), {"widths": (64, *[400] * 4, 10)}

    def rate(architecture: lm.Architecture, rows: int) -> float:
        seen.append((blas.threads(), rows))
        return 1.0

    monkeypatch.setattr(experiment, "product_rate", rate)
    rates = [
        measure(REQUEST | wide | {"engine": engine, "threads": threads}).product_rate
        for engine, threads in (("numpy", 1), ("numpy", None), ("native", 2))
        if engine == "numpy" or why_not_native() is None
    ]
    assert (
        list(zip(rates, seen, strict=True))
        == [
            (1.0, (1, 1024)),
            (1.0, (before, 1024)),
            (2.0, (1, 512)),  # two lanes, each of one thread and half the rows
        ][: len(rates)]
    )


def test_a_fresh_process_measures_the_same_and_a_report_says_it() -> None:
    found = measure_apart(REQUEST | {"budget": "30% of activations"}, {"OPENBLAS_NUM_THREADS": "1"})
    plan = lm.plan(DEEP, 1024, "30% of activations", "sgd")
    agrees(found, plan)
    report = found.report(plan)
    assert report.to_dict()["phases"][0]["flops"] == planned_flops(plan)["forward"]
    assert report.resident_peak == found.floor + found.resident_above_floor
    # A plan this small is among the pages that an interpreter touches anyway: to the percent only for large ones.
    assert report.resident_peak == pytest.approx(found.floor + plan.peak_bytes, rel=0.05)
    assert Measurement(**asdict(found)) == found


def test_a_measurement_that_fails_says_why() -> None:
    with pytest.raises(lm.LowmemError, match=r"measuring auto failed: .* is less than"):
        measure_apart(REQUEST | {"budget": 1000})


# What the arena and the step say of themselves -------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "options"), FIXED)
def test_a_step_writes_to_all_of_its_arena(strategy: str, options: dict[str, Any]) -> None:
    plan = lm.plan(DEEP, 1024, strategy=strategy, **options)
    backprop = lm.Backprop(lm.MLP(DEEP), plan)
    backprop.arena.mark()
    assert backprop.arena.written() == 0
    backprop(*batch(DEEP, 1024))
    assert 0.99 * plan.arena_bytes < backprop.arena.written() <= plan.arena_bytes


def test_what_is_written_is_counted_in_blocks() -> None:
    backprop = lm.Backprop(lm.MLP(DEEP), lm.plan(DEEP, 1024))
    arena = backprop.arena
    arena.mark()
    arena.buffer[3 * BLOCK + 5] = 0
    assert arena.written() == BLOCK
    arena.buffer[0] = arena.buffer[-1] = 1
    assert arena.written() == 2 * BLOCK + ((arena.buffer.size - 1) % BLOCK + 1)


@pytest.mark.parametrize("optimizer", [None, "sgd", "adam"])
@pytest.mark.parametrize("micro_batch", [None, 10])
def test_the_arrays_that_are_made_are_those_of_the_plan(optimizer: str | None, micro_batch: int | None) -> None:
    plan = lm.plan(DEEP, 30, optimizer=optimizer, micro_batch=micro_batch)
    backprop = lm.Backprop(lm.MLP(DEEP), plan, lm.make_optimizer(optimizer) if optimizer else None)
    assert backprop.account() == plan.account().arrays()
