"""Plans: every byte accounted for, budgets kept or refused with advice that works, questions answered exactly."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowmem as lm
from lowmem.nn.optimizers import OPTIMIZERS
from lowmem.planning.choose import STRATEGIES
from lowmem.planning.network_chain import network_chain
from lowmem.planning.plan import Plan
from lowmem.schedule import simulate
from lowmem.units import parse_bytes
from tests.helpers import FIXED, architectures
from tests.test_cli import Ran

DEEP = lm.Architecture((64, *[48] * 30, 10))
RAGGED = lm.Architecture((20, 40, 7, 64, 31, 8, 50, 50, 12, 33, 5), "gelu", "mse", "float64")
NARROW = lm.Architecture((4, *[6] * 12, 3), "tanh")


def peak_of(architecture: lm.Architecture, rows: int, strategy: str, **options: Any) -> int:
    return lm.plan(architecture, rows, None, strategy=strategy, **options).peak_bytes


# The account -----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=80)
@given(
    architectures(),
    st.integers(1, 1200),
    st.sampled_from(FIXED),
    st.sampled_from([None, *OPTIMIZERS]),
    st.integers(1, 1200),
)
def test_a_plan_accounts_for_every_byte(
    architecture: lm.Architecture, rows: int, fixed: tuple[str, dict[str, Any]], optimizer: str | None, micro: int
) -> None:
    options: dict[str, Any] = {"micro_batch": min(micro, rows), "engine": "numpy", **fixed[1]}
    plan = lm.plan(architecture, rows, None, optimizer, fixed[0], **options)
    item, parameters = architecture.item_bytes, architecture.parameters
    assert plan.peak_bytes == plan.account().total == sum(size for _, size in plan.account().items())
    assert plan.peak_bytes == plan.fixed_bytes + plan.arena_bytes
    assert plan.arena_bytes == plan.program.arena_bytes
    assert plan.parameter_bytes == parameters * item
    states = OPTIMIZERS[optimizer].states if optimizer else 0
    assert plan.optimizer_bytes == (states * parameters + plan.optimizer_scratch) * item
    largest = max(architecture.layer_parameters(layer) for layer in range(1, architecture.layers + 1))
    several = plan.micro_batches > 1
    assert plan.gradient_bytes == item * (
        (parameters if optimizer is None or several else 0) + (largest if optimizer or several else 0)
    )
    assert all(size >= 0 for _, size in plan.account().items())


@settings(deadline=None, max_examples=80)
@given(architectures(), st.integers(1, 1200), st.sampled_from(FIXED))
def test_runs_and_flops_of_a_plan_are_those_of_its_schedule(
    architecture: lm.Architecture, rows: int, fixed: tuple[str, dict[str, Any]]
) -> None:
    plan = lm.plan(architecture, rows, None, strategy=fixed[0], **fixed[1])
    trace = simulate(network_chain(architecture, rows), plan.schedule)
    assert (plan.forward_runs, plan.flops) == (trace.forward_runs, trace.flops)
    assert plan.strategy == fixed[0]
    assert plan.micro_batch == plan.batch_size == rows
    assert plan.flop_factor >= 1
    stored = lm.plan(architecture, rows, None, strategy="store_all")
    assert plan.store_all_bytes == stored.store_all_bytes == stored.arena_bytes
    assert plan.flop_factor == plan.flops / stored.flops


@pytest.mark.parametrize("micro", [1, 7, 32, 50, 99, 100])
def test_flops_are_linear_over_micro_batches(micro: int) -> None:
    whole = lm.plan(DEEP, 100, None, strategy="sqrt")
    plan = lm.plan(DEEP, 100, None, strategy="sqrt", micro_batch=micro)
    passes = -(-100 // micro)
    # Summing up gradients costs one addition per parameter for each pass but the first.
    assert plan.flops == whole.flops + (passes - 1) * DEEP.parameters
    assert plan.forward_runs == passes * whole.forward_runs
    assert plan.store_all_flops == whole.store_all_flops


def test_micro_batches_take_less_arena_and_more_gradients() -> None:
    whole, plan = (lm.plan(DEEP, 1024, None, "adam", micro_batch=micro) for micro in (1024, 64))
    assert plan.arena_bytes < whole.arena_bytes / 8
    assert plan.gradient_bytes > whole.gradient_bytes


def test_storing_everything_is_the_choice_where_there_is_no_budget() -> None:
    assert lm.plan(DEEP, 100).strategy == "store_all"


# Budgets ---------------------------------------------------------------------------------------------------------


def test_a_budget_is_bytes_or_text_or_a_share() -> None:
    stored = lm.plan(DEEP, 256)
    everything = stored.peak_bytes
    assert lm.plan(DEEP, 256, everything).budget == everything
    assert lm.plan(DEEP, 256, "24MiB").budget == 24 * 2**20
    assert lm.plan(DEEP, 256, "24MB").budget == 24 * 10**6
    assert lm.plan(DEEP, 256, " 90% ").budget == int(everything * 0.9)
    activations = stored.arena_bytes
    plan = lm.plan(DEEP, 256, "25% of activations")
    assert plan.budget == everything - activations + int(activations * 0.25)
    assert plan.peak_bytes <= plan.budget
    assert plan.arena_bytes < activations * 0.3
    assert lm.plan(DEEP, 256, "100%").strategy == "store_all"


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("architecture", [DEEP, RAGGED], ids=["even", "ragged"])
def test_what_is_planned_for_a_budget_fits_it(architecture: lm.Architecture, strategy: str) -> None:
    stored = peak_of(architecture, 300, "store_all")
    least = peak_of(architecture, 300, "recompute_all")
    planned = 0
    for share in range(21):
        budget = least + (stored - least) * share // 20
        try:
            plan = lm.plan(architecture, 300, budget, strategy=strategy)
        except lm.BudgetError:
            continue
        planned += 1
        assert plan.peak_bytes <= budget
        assert plan.budget == budget
    assert planned > (15 if strategy in ("auto", "revolve") else 0)


@settings(deadline=None, max_examples=60)
@given(
    architectures(max_layers=12, max_width=40),
    st.integers(1, 700),
    st.floats(0, 1.1),
    st.sampled_from([None, "sgd", "adam"]),
)
def test_auto_fits_and_no_fixed_strategy_that_fits_is_cheaper(
    architecture: lm.Architecture, rows: int, share: float, optimizer: str | None
) -> None:
    least = lm.minimum_budget(architecture, rows, optimizer)
    stored = lm.plan(architecture, rows, None, optimizer).peak_bytes
    budget = least + int((stored - least) * share)
    plan = lm.plan(architecture, rows, budget, optimizer)
    assert plan.peak_bytes <= budget
    layers = architecture.layers
    others: list[tuple[str, dict[str, Any]]] = [("store_all", {}), ("sqrt", {}), ("recompute_all", {})]
    others += [("segments", {"segments": every}) for every in range(1, layers + 1)]
    others += [("revolve", {"slots": slots}) for slots in range(layers)]
    for strategy, options in others:
        other = lm.plan(architecture, rows, None, optimizer, strategy, **options)
        if other.peak_bytes <= budget:
            assert plan.flops <= other.flops, (strategy, options)


@settings(deadline=None, max_examples=60)
@given(architectures(max_layers=12, max_width=40), st.integers(1, 700), st.floats(0, 1.1))
def test_revolve_and_segments_find_options_for_a_budget(
    architecture: lm.Architecture, rows: int, share: float
) -> None:
    for strategy in ("revolve", "segments"):
        least = peak_of(architecture, rows, "recompute_all")
        stored = peak_of(architecture, rows, "store_all")
        budget = least + int((stored - least) * share)
        try:
            plan = lm.plan(architecture, rows, budget, strategy=strategy)
        except lm.BudgetError as error:
            assert error.minimum > budget
            continue
        assert plan.peak_bytes <= budget


# Refusals --------------------------------------------------------------------------------------------------------

REQUESTS: list[dict[str, Any]] = [
    {"architecture": DEEP, "batch_size": 512},
    {"architecture": DEEP, "batch_size": 512, "optimizer": "adam"},
    {"architecture": DEEP, "batch_size": 512, "optimizer": "sgd", "micro_batch": 100},
    {"architecture": DEEP, "batch_size": 512, "strategy": "sqrt", "optimizer": "sgd"},
    {"architecture": DEEP, "batch_size": 512, "strategy": "store_all", "optimizer": "sgd"},
    {"architecture": RAGGED, "batch_size": 777, "optimizer": "momentum"},
    {"architecture": RAGGED, "batch_size": 777, "strategy": "revolve", "slots": 4, "optimizer": "adam"},
    {"architecture": RAGGED, "batch_size": 777, "strategy": "segments", "segments": 2},
    {"architecture": RAGGED, "batch_size": 777, "strategy": "revolve"},
    {"architecture": NARROW, "batch_size": 1, "strategy": "recompute_all"},
]


def advice(message: str) -> list[dict[str, Any]]:
    """Return the changes of the request that an error proposes, read off its text."""
    tried = message.partition(" Try ")[2]
    assert tried.endswith(".")
    changes: list[dict[str, Any]] = []
    for name, value in re.findall(r'(\w+)=("[^"]*"|\d+)', tried):
        changes.append({name: value.strip('"') if value.startswith('"') else int(value)})
    return changes


@pytest.mark.parametrize("request_", REQUESTS, ids=range(len(REQUESTS)))
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
def test_a_refusal_says_what_is_needed_and_its_advice_works(request_: dict[str, Any], share: float) -> None:
    with pytest.raises(lm.BudgetError) as error:
        lm.plan(**request_, budget=1)
    budget = int(error.value.minimum * share)
    with pytest.raises(lm.BudgetError) as error:
        lm.plan(**request_, budget=budget)
    refused = error.value
    assert refused.budget == budget < refused.minimum
    assert "\n" not in str(refused)
    assert f"({refused.minimum:,} bytes)" in str(refused)
    # The least budget that works, to the byte. (What is found with it may happen to need a few bytes less.)
    assert lm.plan(**request_, budget=refused.minimum).peak_bytes <= refused.minimum
    with pytest.raises(lm.BudgetError):
        lm.plan(**request_, budget=refused.minimum - 1)
    changes = advice(str(refused))
    assert {name for change in changes for name in change} >= {"budget"}
    for change in changes:
        if not change.keys() & {"budget", "batch_size", "micro_batch"}:
            continue
        if "batch_size" in change and request_.get("micro_batch", 0) > change["batch_size"]:
            change = {**change, "micro_batch": None}
        made = lm.plan(**{**request_, "budget": budget, **change})
        assert made.peak_bytes <= (parse_bytes(change["budget"]) if "budget" in change else budget)


@pytest.mark.parametrize("request_", REQUESTS, ids=range(len(REQUESTS)))
def test_another_strategy_or_optimizer_is_proposed_only_where_it_lowers_the_need(request_: dict[str, Any]) -> None:
    with pytest.raises(lm.BudgetError) as error:
        lm.plan(**request_, budget=1)
    for change in advice(str(error.value)):
        if change.keys() & {"strategy", "optimizer"}:
            # A strategy takes its own options with it.
            options = {"segments": None, "slots": None} if "strategy" in change else {}
            with pytest.raises(lm.BudgetError) as other:
                lm.plan(**{**request_, "budget": 1, **options, **change})
            assert other.value.minimum < error.value.minimum


def test_a_smaller_batch_is_named_for_data_whose_last_batch_is_smaller_still() -> None:
    with pytest.raises(lm.BudgetError) as error:
        lm.plan(DEEP, 512, 1, "sgd", odd_batches=True)
    named = 0
    for share in range(40, 100, 2):
        budget = error.value.minimum * share // 100
        with pytest.raises(lm.BudgetError) as refused:
            lm.plan(DEEP, 512, budget, "sgd", odd_batches=True)
        for change in advice(str(refused.value)):
            if "batch_size" in change:
                lm.plan(DEEP, change["batch_size"], budget, "sgd", odd_batches=True)
                named += 1
    assert named > 10


def test_where_the_batch_is_what_is_too_large_a_smaller_one_is_named() -> None:
    fixed = lm.plan(DEEP, 4096, None, "sgd").fixed_bytes
    with pytest.raises(lm.BudgetError, match=r"batch_size=\d+"):
        lm.plan(DEEP, 4096, fixed + 200_000, "sgd")


# Questions -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    architectures(max_layers=12, max_width=40),
    st.integers(1, 700),
    st.sampled_from([None, "sgd", "adam"]),
    st.integers(1, 700),
)
def test_the_minimum_budget_works_and_a_byte_less_does_not(
    architecture: lm.Architecture, rows: int, optimizer: str | None, micro: int
) -> None:
    micro_batch = min(micro, rows)
    minimum = lm.minimum_budget(architecture, rows, optimizer, micro_batch=micro_batch)
    assert lm.plan(architecture, rows, minimum, optimizer, micro_batch=micro_batch).peak_bytes <= minimum
    with pytest.raises(lm.BudgetError) as error:
        lm.plan(architecture, rows, minimum - 1, optimizer, micro_batch=micro_batch)
    assert error.value.minimum == minimum
    for strategy, options in FIXED:
        assert (
            peak_of(architecture, rows, strategy, optimizer=optimizer, micro_batch=micro_batch, **options) >= minimum
        )


@settings(deadline=None, max_examples=25)
@given(architectures(max_layers=8, max_width=40), st.integers(1, 1500), st.sampled_from([None, "adam"]))
def test_the_largest_batch_fits_and_one_sample_more_does_not(
    architecture: lm.Architecture, rows: int, optimizer: str | None
) -> None:
    budget = lm.minimum_budget(architecture, rows, optimizer)
    largest = lm.largest_batch(architecture, budget, optimizer)
    assert largest >= rows
    assert lm.plan(architecture, largest, budget, optimizer).peak_bytes <= budget
    for more in (1, 2, 5, 64, 512):
        with pytest.raises(lm.BudgetError):
            lm.plan(architecture, largest + more, budget, optimizer)


@pytest.mark.parametrize("engine", ["numpy", "native"])
@pytest.mark.parametrize("optimizer", [None, "adam"])
def test_the_largest_batch_in_passes_is_what_trying_finds(
    capsys: pytest.CaptureFixture[str], engine: str, optimizer: str | None
) -> None:
    architecture, rows = lm.Architecture((16, *[24] * 4, 3)), 3
    options: dict[str, Any] = {"engine": engine}

    def least(batch: int) -> int:
        return lm.minimum_budget(architecture, batch, optimizer, micro_batch=min(rows, batch), **options)

    sizes = {batch: least(batch) for batch in (*range(1, 4 * rows + 2), 1000 * rows, 1000 * rows + 1)}
    for budget in sorted(set(sizes.values())):
        fitting = [batch for batch, size in sizes.items() if size <= budget]
        ask = partial(lm.largest_batch, architecture, budget, optimizer, micro_batch=rows, **options)
        if max(fitting) < 1000:
            assert ask() == max(fitting)
        else:
            sizes_that_fit = "size" if max(fitting) % rows else "multiple of 3 samples"
            with pytest.raises(lm.InputError, match=f"^batches of any {sizes_that_fit} fit in {budget}"):
                ask()
            flags = ["plan", "--widths", "16,24,24,24,24,3", "--largest-batch", "--micro-batch", "3", "--no-calibrate"]
            flags += ["--budget", str(budget), "--engine", engine, *(["--optimizer", "adam"] if optimizer else [])]
            ran = Ran(capsys, *flags)
            assert (ran.code, f"batches of any {sizes_that_fit} fit" in ran.err) == (2, True)


@pytest.mark.parametrize("rows", [None, 3])
def test_the_largest_batch_in_shards_is_what_trying_finds(rows: int | None) -> None:
    architecture = lm.Architecture((16, *[24] * 4, 3))
    options: dict[str, Any] = {"engine": "numpy", "shards": 3}

    def least(batch: int) -> int:
        micro_batch = None if rows is None else min(rows, -(-batch // 3))
        return lm.minimum_budget(architecture, batch, "adam", micro_batch=micro_batch, **options)

    sizes = {batch: least(batch) for batch in range(3, 30)}
    for budget in sorted(set(sizes.values())):
        fitting = max(batch for batch, size in sizes.items() if size <= budget)
        if fitting < 26:
            assert lm.largest_batch(architecture, budget, "adam", micro_batch=rows, **options) == fitting


def test_the_largest_batch_needs_bytes_and_room_for_one_sample() -> None:
    assert lm.largest_batch(DEEP, "24MiB") == lm.largest_batch(DEEP, 24 * 2**20)
    with pytest.raises(lm.InputError, match="in bytes"):
        lm.largest_batch(DEEP, "50%")
    with pytest.raises(lm.BudgetError) as error:
        lm.largest_batch(DEEP, "10KiB")
    assert error.value.minimum == lm.minimum_budget(DEEP, 1)


def test_a_comparison_has_a_row_for_each_strategy_and_budget() -> None:
    compared = lm.compare(DEEP, 512, ["50%", 1000, "25% of activations"], "sgd")
    rows = compared.to_dict()
    asked = ["store_all", "sqrt", "recompute_all", "budget 50%", "budget 1,000 B", "budget 25% of activations"]
    assert [row["asked"] for row in rows] == asked
    assert [row["fits"] for row in rows] == [True, True, True, True, False, True]
    assert rows[4]["minimum_budget"] == lm.minimum_budget(DEEP, 512, "sgd")
    assert "plan" not in rows[4]
    assert rows[3]["plan"]["peak_bytes"] <= 0.5 * rows[0]["plan"]["peak_bytes"]
    assert "does not fit" in str(compared)


# Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ({"strategy": "sqrrt"}, "sqrt"),
        ({"strategy": "store-all"}, "store_all"),
        ({"strategy": "revolv", "slots": 2}, "revolve"),
        ({"optimizer": "adaam"}, "adam"),
        ({"optimizer": "SGD"}, None),
        ({"strategy": None}, None),
        ({"strategy": ["sqrt"]}, None),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(wrong: dict[str, Any], near: str | None) -> None:
    with pytest.raises(lm.InputError, match="unknown") as error:
        lm.plan(DEEP, 8, **wrong)
    if near:
        assert f"Did you mean {near!r}?" in str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"batch_size": -3},
        {"batch_size": 2.0},
        {"batch_size": "8"},
        {"batch_size": True},
        {"batch_size": None},
        {"micro_batch": 0},
        {"micro_batch": 9},
        {"micro_batch": 1.5},
        {"budget": 0},
        {"budget": -5},
        {"budget": 1e9},
        {"budget": True},
        {"budget": "much"},
        {"budget": ""},
        {"budget": "0%"},
        {"budget": "-5%"},
        {"budget": "nan%"},
        {"budget": "inf%"},
        {"budget": "%"},
        {"budget": "50% of memory"},
        {"budget": "5 parsecs"},
        {"strategy": "segments"},
        {"strategy": "revolve"},
        {"strategy": "segments", "segments": 0},
        {"strategy": "segments", "segments": 2.5},
        {"strategy": "revolve", "slots": -1},
        {"strategy": "revolve", "slots": "3"},
        {"strategy": "sqrt", "slots": 3},
        {"segments": 3},
        {"strategy": "revolve", "slots": 3, "segments": 3},
    ],
    ids=str,
)
def test_numbers_that_make_no_sense_are_refused_in_one_line(wrong: dict[str, Any]) -> None:
    with pytest.raises(lm.InputError) as error:
        lm.plan(**{"architecture": DEEP, "batch_size": 8, **wrong})
    assert not isinstance(error.value, lm.BudgetError)
    assert "\n" not in str(error.value)


def test_numbers_of_numpy_are_numbers() -> None:
    import numpy as np

    rows: Any = np.int64(8)
    assert lm.plan(DEEP, rows) == lm.plan(DEEP, 8)
    assert type(lm.plan(DEEP, rows).batch_size) is int


# The rest --------------------------------------------------------------------------------------------------------


def test_planning_a_network_of_one_width_runs_without_numpy() -> None:
    code = (
        "import sys, lowmem as lm\n"
        "arch = lm.Architecture((64, *[48] * 450, 10))\n"
        "made = lm.plan(arch, 512, '30%')\n"
        "lm.plan(arch, 512, '25% of activations', 'adam', micro_batch=64).to_dict()\n"
        "lm.minimum_budget(arch, 512), lm.largest_batch(arch, '24MiB'), lm.compare(arch, 512, ['50%']).to_dict()\n"
        "print('numpy' in sys.modules, made.strategy)\n"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    assert done.stdout.split()[0] == "False"


def test_a_plan_prints_where_every_byte_goes_and_what_it_costs() -> None:
    plan = lm.plan(DEEP, 256, "60%", "adam")
    lines = str(plan).splitlines()
    assert lines[0].startswith("31 layers (64, 48 x 30, 10), relu, cross_entropy, float32, 71,")
    for name in [*dict(plan.account().items()), "peak, promised"]:
        assert sum(line.startswith(f" {name} ") for line in lines) == 1
    assert lines[-1] == (
        f"strategy {plan.strategy}: {plan.forward_runs} layer forwards a step (31 without recomputation), "
        f"{lines[-1].split(', ')[1]}, {plan.flop_factor:.3f} times those of storing everything, "
        + ("proven optimal" if not plan.gap else f"at most {plan.gap:.2%} above the optimum")
    )


def test_a_plan_in_json_has_its_numbers() -> None:
    import json

    plan: Plan = lm.plan(RAGGED, 100, "1MiB", "momentum", micro_batch=30)
    numbers = json.loads(json.dumps(plan.to_dict()))
    for name in ("peak_bytes", "arena_bytes", "store_all_bytes", "forward_runs", "flops", "flop_factor", "budget"):
        assert numbers[name] == getattr(plan, name)
    assert sum(numbers["bytes"].values()) == numbers["peak_bytes"]
    assert (
        lm.Architecture(tuple(numbers["widths"]), numbers["activation"], numbers["loss"], numbers["dtype"]) == RAGGED
    )
