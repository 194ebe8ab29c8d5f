"""Planners of one's own: functions of a chain and schedules are planned, checked, named and drawn like lowmem's."""

import re
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import lowmem as lm
from lowmem.chain import Chain
from lowmem.errors import InputError, ScheduleError
from lowmem.schedule import PLANNERS, Backward, Forward, Free, Loss, Schedule, Update, lower, simulate, store_all
from lowmem.units import parse_bytes
from tests.helpers import batch, chains, randomised

RAGGED = lm.Architecture((20, 40, 7, 64, 31, 8, 50, 50, 12, 33, 5), "gelu", "mse")


def narrowest(chain: Chain) -> Schedule:
    """Keep the narrowest state of the first sweep, and nothing but the batch else."""
    k = min(range(1, chain.length), key=chain.state_bytes)
    ops: list[Any] = [Forward(1, k)] if k < chain.length - 1 else []
    for layer in range(chain.length, 0, -1):
        start = k if ops and layer > k else 0
        if layer == k + 1 and ops:
            ops += [Backward(layer)]
            continue
        ops += [Forward(start + 1, layer - 1)] if layer - 1 > start else []
        ops += [Forward(layer, layer), Loss()] if layer == chain.length else []
        ops += [Backward(layer)]
    return Schedule("by hand", tuple(ops))


# Lowering --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(chains())
def test_planners_emit_pure_reversal_and_lowering_puts_the_updates_in(chain: Chain) -> None:
    pure = store_all(chain)
    assert {type(op) for op in pure} <= {Forward, Loss, Backward, Free}
    lowered = lower(chain, pure)
    assert lowered == PLANNERS["store_all"](chain) == lower(chain, lowered)
    simulate(chain, lowered)
    updates = [n for n, op in enumerate(lowered) if isinstance(op, Update)]
    assert len(updates) == (chain.length if chain.updates else 0)
    assert all(lowered.ops[n - 1] == Backward(lowered.ops[n].layer) for n in updates)  # type: ignore[union-attr]
    assert tuple(op for op in lowered if not isinstance(op, Update)) == pure.ops


# Plans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [None, "sgd"])
@pytest.mark.parametrize("micro_batch", [None, 30])
def test_a_function_of_a_chain_is_a_strategy(optimizer: str | None, micro_batch: int | None) -> None:
    plan = lm.plan(RAGGED, 64, None, optimizer, narrowest, micro_batch=micro_batch)
    assert plan.strategy == "narrowest"
    assert plan.schedule.planner == "by hand"
    assert plan.forward_runs > RAGGED.layers * plan.micro_batches
    assert sum(isinstance(op, Update) for op in plan.schedule) == (RAGGED.layers if optimizer else 0)
    assert plan.arena_bytes < plan.store_all_bytes
    assert plan.to_dict()["strategy"] == "narrowest"


def test_a_plan_of_ones_own_gives_the_same_bits() -> None:
    mlp, (x, y) = randomised(RAGGED), batch(RAGGED, 64)
    loss, stored = lm.Backprop(mlp, lm.plan(RAGGED, 64))(x, y)
    bits = [array.tobytes() for array in (*stored.weights, *stored.biases)]
    other, gradients = lm.Backprop(mlp, lm.plan(RAGGED, 64, strategy=narrowest))(x, y)
    assert (other, [array.tobytes() for array in (*gradients.weights, *gradients.biases)]) == (loss, bits)


def test_a_schedule_is_a_strategy_and_one_without_a_name_is_called_by_its_planner() -> None:
    fused = lm.plan(RAGGED, 64, None, "sgd")
    assert lm.plan(RAGGED, 64, None, "sgd", fused.schedule).schedule == fused.schedule
    assert lm.plan(RAGGED, 64, None, "sgd", lm.plan(RAGGED, 64).schedule).schedule == fused.schedule
    assert lm.plan(RAGGED, 64, strategy=lambda chain: narrowest(chain)).strategy == "by hand"
    assert lm.plan(RAGGED, 64, strategy=partial(PLANNERS["revolve"], slots=2)).strategy == "revolve"


ABSTRACT = Chain.abstract(forward=[1] * 3, backward=[1] * 3, state_bytes=[1] * 4)


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (lambda chain: [Forward(1, 1)], "a lowmem.schedule.Schedule is needed"),
        (Schedule("mine", (Forward(2, 2),)), r"'mine' does not reverse this network of 10 layers: op 0, Forward\(2\)"),
        (Schedule("mine", ("jump",)), "'jump' is not an op"),  # type: ignore[arg-type]
        (Schedule("mine", ()), r"after 0 ops, with layers 1..10 not reversed"),
        (PLANNERS["store_all"](ABSTRACT), r"s\^\(10\) is missing"),
        (lm.plan(RAGGED, 8, None, "sgd").schedule, "this chain gathers its gradients"),
    ],
)
def test_what_does_not_reverse_the_network_is_refused(strategy: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        lm.plan(RAGGED, 64, strategy=strategy)
    assert "\n" not in str(error.value)
    if isinstance(strategy, Schedule):
        assert isinstance(error.value, ScheduleError)


@pytest.mark.parametrize("option", [{"segments": 2}, {"slots": 2}])
def test_options_of_lowmems_planners_do_not_go_with_ones_own(option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="the strategy is one of your own"):
        lm.plan(RAGGED, 64, strategy=narrowest, **option)


def test_a_trainer_whose_saved_runs_keep_names_refuses_it_before_anything_is_run() -> None:
    with pytest.raises(InputError, match=r"the name of a strategy, .* go with lowmem\.plan"):
        lm.Trainer(lm.MLP(RAGGED), batch_size=64, strategy=narrowest)  # type: ignore[arg-type]


# Budgets ---------------------------------------------------------------------------------------------------------


def changed(message: str) -> list[dict[str, Any]]:
    """Return the changes of a request that an error proposes, an optimizer aside."""
    pairs = re.findall(r'(budget|strategy|micro_batch|batch_size)=("[^"]*"|\d+)', message.partition(" Try ")[2])
    return [{name: text.strip('"') if text[0] == '"' else int(text)} for name, text in pairs]


@pytest.mark.parametrize("strategy", [narrowest, "sqrt", "store_all", "recompute_all", "revolve"])
@pytest.mark.parametrize("optimizer", [None, "adam"])
def test_with_a_budget_it_fits_or_is_refused_with_advice_that_works(strategy: Any, optimizer: str | None) -> None:
    needed = min(
        lm.plan(RAGGED, 640, None, optimizer, strategy, slots=slots).peak_bytes
        for slots in (range(9) if strategy == "revolve" else (None,))
    )
    plan = lm.plan(RAGGED, 640, needed, optimizer, strategy)
    assert (plan.peak_bytes, plan.budget) == (needed, needed)
    for budget in (needed - 1, needed * 4 // 5, "8% of activations"):
        with pytest.raises(lm.BudgetError) as error:
            lm.plan(RAGGED, 640, budget, optimizer, strategy)
        changes = changed(str(error.value))
        assert changes
        for change in changes:
            asked: dict[str, Any] = {"batch_size": 640, "budget": budget, "strategy": strategy} | change
            made = lm.plan(RAGGED, optimizer=optimizer, **asked)
            assert made.budget is not None
            assert made.peak_bytes <= made.budget
            if isinstance(change.get("budget"), str) and "%" not in change["budget"]:
                assert made.budget == parse_bytes(change["budget"])


# Numbers ---------------------------------------------------------------------------------------------------------


def test_numpys_whole_numbers_are_numbers_everywhere_in_planning() -> None:
    two, rows, budget = np.int64(2), np.int32(64), np.uint64(10**6)
    numbers: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"threads": two}, {"threads": 2}),
        ({"strategy": "segments", "segments": two}, {"strategy": "segments", "segments": 2}),
        ({"strategy": "revolve", "slots": two}, {"strategy": "revolve", "slots": 2}),
        ({"budget": budget}, {"budget": 10**6}),
        ({"micro_batch": two}, {"micro_batch": 2}),
        ({"batch_buffers": two}, {"batch_buffers": 2}),
        ({"budget": "500KiB", "table_bytes": two}, {"budget": "500KiB", "table_bytes": 2}),
    ]
    for theirs, ours in numbers:
        assert lm.plan(RAGGED, rows, **theirs) == lm.plan(RAGGED, 64, **ours)  # type: ignore[arg-type]
    many: Any = (rows, budget)
    assert lm.minimum_budget(RAGGED, many[0]) == lm.minimum_budget(RAGGED, 64)
    assert lm.largest_batch(RAGGED, many[1]) == lm.largest_batch(RAGGED, 10**6)
    assert lm.compare(RAGGED, many[0], [many[1]]) == lm.compare(RAGGED, 64, [10**6])
    chain = Chain.abstract(forward=[1] * 9, backward=[1] * 9, state_bytes=[1] * 10)
    assert PLANNERS["revolve"](chain, slots=two) == PLANNERS["revolve"](chain, slots=2)
    assert PLANNERS["segments"](chain, segments=two) == PLANNERS["segments"](chain, segments=2)


@pytest.mark.parametrize("name", ["threads", "segments", "slots", "budget", "micro_batch", "batch_buffers"])
@pytest.mark.parametrize("wrong", [True, np.True_, np.float64(2), "two", -1])
def test_what_is_no_whole_number_is_refused_by_name(name: str, wrong: Any) -> None:
    strategy = {"segments": "segments", "slots": "revolve"}.get(name, "auto")
    with pytest.raises(InputError) as error:
        lm.plan(RAGGED, 64, strategy=strategy, **{name: wrong})
    assert name in str(error.value) or name == "budget"


# The request -----------------------------------------------------------------------------------------------------


def test_the_update_mode_says_how_a_step_updates_and_which_buffers_it_has() -> None:
    modes: dict[str, tuple[dict[str, Any], tuple[bool, bool]]] = {
        "none": ({}, (True, False)),
        "fused": ({"optimizer": "sgd"}, (False, True)),
        "gathered": ({"optimizer": "sgd", "gather": True}, (True, False)),
        "two runs": ({"optimizer": "sgd", "rehearse": True}, (False, True)),
    }
    for mode, (options, buffers) in modes.items():
        plan = lm.plan(RAGGED, 64, **options)
        assert plan.update.value == mode == plan.to_dict()["update"]
        assert (plan.gradient_buffers.all_layers, plan.gradient_buffers.one_layer) == buffers
        assert (plan.gathered, plan.rehearsed) == (mode == "gathered", mode == "two runs")
    for engine, adds_up_apart in (("numpy", True), ("native", False)):
        several = lm.plan(RAGGED, 64, optimizer="sgd", micro_batch=16, engine=engine).gradient_buffers
        assert (several.all_layers, several.one_layer) == (True, adds_up_apart)
