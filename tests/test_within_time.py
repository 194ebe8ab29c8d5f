"""Prices with answers: what fits within a time is what trying every number finds, and each answer says its price."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowmem as lm
from lowmem.cli.within_time import (
    Priced,
    TimeLimit,
    deepest_within,
    largest_batch_within,
    least_memory_within,
    priced,
)
from tests.helpers import model
from tests.test_cli import Ran

ARCH = lm.Architecture((8, *[32] * 30, 4))
SMALL = lm.Architecture((8, *[16] * 9, 4))
Capture = pytest.CaptureFixture[str]
PLAN = ["plan", "--widths", "8,32x30,4", "--batch", "64", "--optimizer", "sgd", "--no-calibrate"]


def fits(budget: int, limit: TimeLimit, batch: int, architecture: lm.Architecture = ARCH, **options: Any) -> bool:
    try:
        return priced(architecture, batch, budget, optimizer="sgd", micro_batch=batch, **options).keeps(limit)
    except lm.BudgetError:
        return False


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 12), st.sampled_from([1.0, 1.2, 1.5, 3.0]), st.booleans())
def test_the_largest_batch_within_a_price_is_what_trying_finds(room: int, factor: float, timed: bool) -> None:
    options: dict[str, Any] = {"costs": model()} if timed else {}
    budget, limit = lm.minimum_budget(SMALL, 1, "sgd") + room * 2000, TimeLimit(factor)
    batches = range(1, lm.largest_batch(SMALL, budget, "sgd") + 1)
    tried = [batch for batch in batches if fits(budget, limit, batch, SMALL, **options)]
    if not tried:
        with pytest.raises(lm.InputError, match="longer than"):
            largest_batch_within(SMALL, budget, limit, "sgd", **options)
        return
    found = largest_batch_within(SMALL, budget, limit, "sgd", **options)
    assert found.keeps(limit)
    assert found.plan.peak_bytes <= budget
    assert found.plan.batch_size in tried
    assert not fits(budget, limit, found.plan.batch_size + 1, SMALL, **options)


@pytest.mark.parametrize("options", [{"micro_batch": 8}, {}])
def test_batches_in_shards_are_asked_for_in_passes_that_shards_have(options: dict[str, int]) -> None:
    budget = lm.minimum_budget(SMALL, 8, "sgd", shards=4)
    found = largest_batch_within(SMALL, budget, TimeLimit(100), "sgd", shards=4, **options)
    assert found.plan.batch_size >= 8
    with pytest.raises(lm.InputError, match="even with 4 samples"):
        largest_batch_within(SMALL, budget, TimeLimit(0.5), "sgd", shards=4, **options)


def test_the_deepest_within_a_price_is_what_trying_finds() -> None:
    budget, limit = 400_000, TimeLimit(1.3)
    found = deepest_within(ARCH, 64, budget, limit, "sgd")
    depths = range(1, lm.deepest(ARCH, 64, budget, "sgd") + 1)
    tried = [n for n in depths if fits(budget, limit, 64, replace(ARCH, widths=(8, *[32] * n, 4)))]
    assert found.plan.architecture.layers - 1 == max(tried) < max(depths)
    assert found.factor <= 1.3


def test_without_a_limit_the_answers_are_those_of_the_queries() -> None:
    found = largest_batch_within(ARCH, 400_000, None, "sgd")
    assert abs(found.plan.batch_size - lm.largest_batch(ARCH, 400_000, "sgd")) <= 1
    assert found.factor == found.plan.flop_factor > 1
    found = deepest_within(ARCH, 64, 400_000, None, "sgd")
    assert abs(found.plan.architecture.layers - 1 - lm.deepest(ARCH, 64, 400_000, "sgd")) <= 1


@pytest.mark.parametrize("limit", [TimeLimit(1.0), TimeLimit(1.25), TimeLimit(seconds=1.0)], ids=str)
def test_the_least_memory_within_a_price_is_enough_and_hardly_less_would_be(limit: TimeLimit) -> None:
    found = least_memory_within(ARCH, 64, limit, "sgd", costs=model(), micro_batch=64)
    assert found.keeps(limit)
    less = int(found.plan.peak_bytes * (1 - 2 / 256))
    if less >= lm.minimum_budget(ARCH, 64, "sgd"):
        assert not fits(less, limit, 64, costs=model())


def test_a_time_that_nothing_keeps_is_refused_with_what_it_would_take() -> None:
    with pytest.raises(lm.InputError, match="even if everything is stored: .* a step"):
        least_memory_within(ARCH, 64, TimeLimit(seconds=1e-9), "sgd", costs=model())
    with pytest.raises(lm.InputError, match="needs a cost model"):
        least_memory_within(ARCH, 64, TimeLimit(seconds=1.0), "sgd")


def test_limits_are_read() -> None:
    assert TimeLimit.read("1.5x") == TimeLimit.read(" 1.5 X") == TimeLimit(1.5)
    assert TimeLimit.read("250ms") == TimeLimit(seconds=0.25)
    assert str(TimeLimit(1.5)) == "1.5x"
    for text in ("", "1.5", "0.5x", "x", "soon", "0s", "-1x"):
        with pytest.raises(lm.InputError):
            TimeLimit.read(text)


# The command -----------------------------------------------------------------------------------------------------


def test_answers_come_with_their_price_and_their_plan(capsys: Capture) -> None:
    flags = [*PLAN, "--largest-batch", "--budget", "400kB"]
    told = json.loads(Ran(capsys, *flags, "--json").out)
    assert told["plan"]["batch_size"] == told["largest_batch"]
    assert told["time_factor"] == told["plan"]["flop_factor"] > 2
    text = Ran(capsys, *flags).out
    assert f"batches of up to {told['largest_batch']:,} samples fit in 400kB: {told['time_factor']:.3g} times" in text
    assert "peak, promised" in text
    assert "--at-most 1.5x" in text
    less = json.loads(Ran(capsys, *flags, "--at-most", "1.3x", "--json").out)
    assert less["largest_batch"] < told["largest_batch"]
    assert less["time_factor"] <= 1.3
    deep = json.loads(Ran(capsys, *PLAN, "--deepest", "--budget", "400kB", "--at-most", "1.3x", "--json").out)
    assert deep["plan"]["widths"] == [8, *[32] * deep["deepest"], 4]


def test_a_plan_takes_a_limit_of_time(capsys: Capture) -> None:
    ran = Ran(capsys, *PLAN, "--time-limit", "1.2x")
    assert "The least memory with which a step takes at most 1.2x: " in ran.out
    least = json.loads(Ran(capsys, *PLAN, "--at-most", "1.2x", "--json").out)["plan"]
    assert least["flop_factor"] <= 1.2
    assert least["peak_bytes"] < json.loads(Ran(capsys, *PLAN, "--json").out)["plan"]["peak_bytes"]
    assert Ran(capsys, *PLAN, "--at-most", "1.2x", "--budget", str(least["peak_bytes"] + 1000)).code == 0


def test_a_budget_that_makes_steps_too_slow_is_refused_with_one_that_does_not(capsys: Capture) -> None:
    ran = Ran(capsys, *PLAN, "--budget", "226kB", "--at-most", "1.2x")
    assert (ran.code, ran.out) == (2, "")
    assert "times the FLOPs of storing everything, which is more than 1.2x" in ran.err
    advised = ran.err.split("--budget ")[1].strip(". \n")
    assert Ran(capsys, *PLAN, "--budget", advised, "--at-most", "1.2x").code == 0
    assert Ran(capsys, *PLAN, "--at-most", "1.2x", "--strategy", "sqrt").code == 2


def test_prices_are_said_in_human_units() -> None:
    plan = lm.plan(ARCH, 64, None, "sgd")
    assert str(Priced(plan, 1.0)) == "1 times the FLOPs of storing everything"
    slow = Priced(replace(plan, seconds=90_360.0), 86.3)
    assert str(slow) == "25.1 h a step, 86.3 times the time of storing everything"
