"""The least budget is the least, every budget from there on is planned, and more budget is never a dearer plan."""

import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowmem as lm
from lowmem.planning.accounting import plan_of
from lowmem.planning.budget import read_limit
from lowmem.planning.candidates import Candidates
from lowmem.planning.choose import request_of
from lowmem.planning.cost_model import CostModel
from lowmem.planning.engines.machine import DiskTier
from lowmem.planning.network_chain import network_chain
from lowmem.planning.packing import Effort, pack
from lowmem.planning.packing.relays import relayed
from lowmem.planning.streamed import thriftiest
from lowmem.schedule import PLANNERS, Schedule, simulate
from lowmem.schedule.disk.evenly import leanest
from lowmem.schedule.disk.transfers import DiskRates
from lowmem.schedule.least import least_memory
from lowmem.schedule.least_arena import MOST_STATES, least_arena
from lowmem.schedule.tree import reverse
from lowmem.units import apart, parse_bytes
from scripts.search_least import case, cost_model, costs_by_budget, dearer, least_of_all, network, refusals
from tests.test_cli import Ran

Case = tuple[lm.Architecture, int, dict[str, Any]]

UNEVEN = lm.Architecture((64, *[random.Random(3).randint(64, 128) for _ in range(60)], 10))


def uneven(seed: int, layers: int) -> lm.Architecture:
    """Return a network of random widths."""
    rng = random.Random(seed)
    return lm.Architecture((64, *[rng.randint(8, 300) for _ in range(layers)], 10), rng.choice(["relu", "gelu"]))


# The least budget --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_no_strategy_of_a_short_network_takes_less_than_the_least_budget(seed: int) -> None:
    architecture, batch, options = case(seed, (2, 16))
    least = lm.minimum_budget(architecture, batch, **options)
    assert least <= least_of_all(architecture, batch, options)
    assert [*refusals(architecture, batch, options, least, 0), *refusals(architecture, batch, options, least, 1)] == []


def test_the_least_budget_is_planned_where_nothing_but_relays_fits() -> None:
    rng = random.Random(37)
    widths = (64, *[rng.randint(8, 300) for _ in range(rng.randint(3, 30))], 10)
    least = lm.minimum_budget(widths, 256, "sgd", engine="native")
    plan = lm.plan(widths, 256, least, "sgd", engine="native")
    assert (plan.peak_bytes, plan.lower_bound) == (least, None)


def searched_cases() -> list[Case]:
    """Return networks for which a search finds less than plans without one do: states dropped early, fewer objects."""
    rng = random.Random(3)
    widths = (64, *[rng.randint(32, 256) for _ in range(8)], 10)
    cases: list[Case] = [(lm.Architecture(widths), 512, {"optimizer": name}) for name in (None, "adam")]
    cases += [case(seed, (2, 24)) for seed in (1, 2, 14, 44, 55)]
    return [*cases, case(27, (25, 60))]


@pytest.mark.parametrize("network", searched_cases(), ids=lambda drawn: str(drawn[0].layers))
def test_no_plan_for_the_least_budget_promises_less(network: Case) -> None:
    architecture, batch, options = network
    least = lm.minimum_budget(architecture, batch, **options)
    assert least == lm.plan(architecture, batch, least, **options).peak_bytes
    with pytest.raises(lm.BudgetError) as error:
        lm.plan(architecture, batch, least - 1, **options)
    assert error.value.minimum == least
    for more in (1, least // 1000, least // 100, least // 20):
        assert lm.plan(architecture, batch, least + more, **options).peak_bytes <= least + more


def test_no_larger_budget_leads_to_less_than_the_least_where_objects_outweigh_states() -> None:
    """With NumPy and one row, computing one state more again takes fewer bytes here, as fewer places are bound."""
    rng = random.Random("b1 0")
    architecture = network(rng, rng.randint(50, 56))
    least = lm.minimum_budget(architecture, 1, "sgd", engine="numpy")
    for more in (1.03, 1.12):
        assert lm.plan(architecture, 1, int(more * least), "sgd", engine="numpy").peak_bytes >= least


def test_only_what_may_take_the_least_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a disk, moments and parameters may stay in memory or not, and nothing go there: five variants, one wins."""
    options: dict[str, Any] = {"disk": tmp_path, "costs": cost_model(random.Random(0)), "micro_batch": 64}
    architecture = uneven(1, 6)
    request = request_of(architecture, 64, None, "adam", **options)
    each = [Candidates(variant, None) for variant in thriftiest(request)]
    assert len(each) == 5
    bounds = [one.at_least for one in each]
    searched, search = [], Candidates.searched

    def noted(candidates: Candidates) -> Iterator[lm.Plan]:
        searched.append(candidates.request)
        return search(candidates)

    monkeypatch.setattr(Candidates, "searched", noted)
    least = lm.minimum_budget(architecture, 64, "adam", **options)
    assert {request.streaming for request in searched} == {each[bounds.index(min(bounds))].request.streaming}
    assert sum(bound > least for bound in bounds) == 4


def test_with_a_disk_no_stride_of_states_sent_there_takes_less_than_the_least_budget(tmp_path: Path) -> None:
    rng = random.Random(3)
    architecture = lm.Architecture((64, *[rng.randint(64, 128) for _ in range(40)], 10))
    options: dict[str, Any] = {"optimizer": "sgd", "engine": "native", "costs": cost_model(random.Random(3))}
    options |= {"micro_batch": 512, "disk": DiskTier(str(tmp_path), DiskRates((1,), (1e9,), (1e9,)))}
    least = lm.minimum_budget(architecture, 512, **options)
    for variant in thriftiest(request_of(architecture, 512, None, **options)):
        for schedule in islice(leanest(variant.chain.reversal, None), 4):
            assert least <= plan_of(variant, schedule, relays=True).peak_bytes
    assert lm.plan(architecture, 512, least, **options).peak_bytes == least
    with pytest.raises(lm.BudgetError) as error:
        lm.plan(architecture, 512, least - 1, **options)
    assert error.value.minimum == least


def test_the_least_share_of_activations_is_planned_and_no_less() -> None:
    widths = [random.Random(seed).randint(32, 256) for seed in range(8)]
    architecture = lm.Architecture((64, *widths, 10))
    with pytest.raises(lm.BudgetError) as error:
        lm.plan(architecture, 512, "5% of activations")
    assert error.value.minimum == lm.minimum_budget(architecture, 512)


@pytest.mark.parametrize("engine", ["native", "numpy"])
def test_the_least_budget_of_a_long_network_is_within_two_percent_of_the_best_strategy(engine: str) -> None:
    options: dict[str, Any] = {"optimizer": "sgd", "engine": engine}
    least = lm.minimum_budget(UNEVEN, 512, **options)
    assert least <= 1.02 * least_of_all(UNEVEN, 512, options)
    assert lm.plan(UNEVEN, 512, least, **options).peak_bytes == least
    with pytest.raises(lm.BudgetError):
        lm.plan(UNEVEN, 512, least - 1, **options)


def test_a_thousand_narrow_layers_need_far_less_than_storing_everything() -> None:
    rng = random.Random(3)
    widths = [rng.randint(17, 32) for _ in range(1000)]
    for engine, layers, segments in (("native", 1000, 32), ("numpy", 300, 17)):  # the search is slower for NumPy's
        architecture = lm.Architecture((64, *widths[:layers], 10))
        stored = lm.plan(architecture, 64, None, "sgd", "segments", segments=segments, engine=engine).peak_bytes
        assert lm.minimum_budget(architecture, 64, "sgd", engine=engine) < stored


OPTIONS: list[dict[str, Any]] = [
    {"engine": "numpy"},
    {"engine": "native", "threads": 3},
    {"micro_batch": 10},
    {"optimizer": "adam", "gather": True},
    {"optimizer": "adam", "rehearse": True},
    {"batch_buffers": 12345, "odd_batches": True},
    {"strategy": "revolve", "slots": 2},
    {"strategy": "segments"},
    {"strategy": "optimal", "table_bytes": 0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_questions_take_every_option_of_plan(options: dict[str, Any]) -> None:
    architecture = uneven(1, 8)
    with pytest.raises(lm.BudgetError) as error:
        lm.plan(architecture, 64, 1, **options)
    least = lm.minimum_budget(architecture, 64, **options)
    assert least == error.value.minimum
    assert lm.plan(architecture, 64, least, **options).peak_bytes <= least
    if "micro_batch" in options:
        with pytest.raises(lm.InputError, match="any size fit"):
            lm.largest_batch(architecture, 10 * least, **options)
    else:
        assert lm.largest_batch(architecture, least, **options) >= 64
    even = lm.Architecture((64, *[32] * 8, 10))
    assert lm.deepest(even, 64, lm.minimum_budget(even, 64, **options), **options) >= 8


def test_costs_weigh_passes_in_the_least_budget_too() -> None:
    costs = cost_model(random.Random(0))
    architecture = uneven(2, 12)
    least = lm.minimum_budget(architecture, 512, costs=costs)
    assert least < lm.minimum_budget(architecture, 512)
    assert lm.plan(architecture, 512, least, costs=costs).peak_bytes <= least


@pytest.mark.parametrize(("engine", "budgets"), [("native", ("1MB", "2MB")), ("numpy", ("200KB",))])
def test_millions_of_layers_are_counted_by_a_division(engine: str, budgets: tuple[str, ...]) -> None:
    one = lm.Architecture((8, 8, 3))
    layers = lm.deepest(one, 64, "2GiB", "sgd", engine=engine)
    assert layers > 100_000
    for budget in budgets:
        fit = lm.deepest(one, 64, budget, "sgd", engine=engine)
        deep, deeper = (lm.Architecture((8, *[8] * n, 3)) for n in (fit, fit + 1))
        assert lm.plan(deep, 64, budget, "sgd", engine=engine).peak_bytes <= parse_bytes(budget)
        with pytest.raises(lm.BudgetError):
            lm.plan(deeper, 64, budget, "sgd", engine=engine)


def test_a_batch_with_batchnorm_has_two_samples_at_least() -> None:
    architecture = lm.Architecture((8, 16, 16, 3), norm="batch")
    least = lm.minimum_budget(architecture, 2)
    assert lm.largest_batch(architecture, least) >= 2
    with pytest.raises(lm.BudgetError):
        lm.largest_batch(architecture, 1000)


def planned(network: lm.Architecture, budget: int) -> Any:
    return lm.plan(network, 2, budget, "adam")


def trained(network: lm.Architecture, budget: int) -> Any:
    return lm.Trainer(lm.MLP(network), "adam", batch_size=2, budget=budget)


def largest(network: lm.Architecture, budget: int) -> Any:
    return lm.largest_batch(network, budget, "adam")


def deepest(network: lm.Architecture, budget: int) -> Any:
    return lm.deepest(network, 2, budget, "adam")


@pytest.mark.parametrize("ask", [planned, trained, largest, deepest])
@pytest.mark.parametrize("norm", [{"norm": "batch"}, {"overrides": {2: {"norm": "batch"}}}], ids=["all", "one"])
def test_no_budget_makes_a_batch_of_one_where_samples_are_compared(
    norm: dict[str, Any], ask: Callable[[lm.Architecture, int], Any]
) -> None:
    network = lm.Architecture((64, *[128] * (1 if ask is deepest else 10), 10), **norm)
    smallest = lm.plan(network, 2, None, "adam", "recompute_all")
    for budget in (lm.minimum_budget(network, 2, "adam") - 1, smallest.fixed_bytes + 1):
        with pytest.raises(lm.BudgetError) as error:
            ask(network, budget)
        assert "batch_size" not in str(error.value)
        ask(network, error.value.minimum)
    answers = lm.compare(network, 2, [smallest.fixed_bytes + 1], "adam").answers
    assert answers[-1].plan is None
    with pytest.raises(lm.BudgetError, match="Try .*batch_size=3"):
        lm.plan(network, 12, lm.minimum_budget(network, 4, "adam") - 1, "adam")


@pytest.mark.parametrize("share", ["0.01%", "0.01% of activations", " 0.01% of  activations "])
def test_where_the_least_is_more_than_storing_everything_takes_bytes_are_advised(
    capsys: pytest.CaptureFixture[str], share: str
) -> None:
    flags = ["plan", "--widths", "1,1,4,1", "--batch", "2", "--loss", "mse", "--strategy", "sqrt"]
    flags += ["--optimizer", "adam", "--engine", "numpy", "--no-calibrate", "--budget"]
    ran = Ran(capsys, *flags, share)
    assert ran.code == 2
    advised = ran.err.partition("--budget ")[2].split()[0].removesuffix(".")
    assert "%" not in advised
    assert Ran(capsys, *flags, advised).code == 0


def test_a_share_is_exact() -> None:
    architecture = lm.Architecture((25,) * 6)
    stored = lm.plan(architecture, 16).store_all_bytes
    for percent in range(1, 101):  # floats would lose a byte of 41, 57, 69 and 82 %
        limit = read_limit(request_of(architecture, 16, f"{percent}% of activations", None))
        assert limit is not None
        assert limit.arena_bytes == stored * percent // 100
    assert stored % 100 == 0


@pytest.mark.parametrize("share", ["60%", "31.7%", "20% of activations", "3% of activations"])
def test_advice_in_shares_works_at_the_first_try(share: str) -> None:
    for seed in range(4):
        architecture = uneven(seed, 20)
        for engine in ("native", "numpy"):
            try:
                lm.plan(architecture, 32, share, "adam", engine=engine)
            except lm.BudgetError as error:
                advised = str(error).partition('budget="')[2].partition('"')[0]
                assert advised.endswith(share.partition("%")[2] or "%")
                assert lm.plan(architecture, 32, advised, "adam", engine=engine).peak_bytes
                assert apart(error.budget, error.minimum)[0] != apart(error.budget, error.minimum)[1]


# More budget -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_more_budget_is_never_a_dearer_plan(seed: int) -> None:
    architecture, batch, options = case(seed, (2, 9) if seed % 2 else (25, 40), costs=seed % 2 == 1)
    plans = costs_by_budget(architecture, batch, options, 8)
    assert dearer(plans) == []


@pytest.mark.parametrize(("seed", "parts"), [(9, (2, 3)), (10, (0, 1)), (13, (3, 8))])
def test_with_a_disk_more_budget_is_hardly_ever_a_dearer_plan(
    tmp_path: Path, seed: int, parts: tuple[int, int]
) -> None:
    """These were up to 1.4 times as dear: with parameters on the disk, fetched farther ahead, and with states there.

    parts: of 24, between the least budget and what storing everything takes.
    """
    rng = random.Random(f"disk {seed}")
    architecture = network(rng, rng.randint(5, 40))
    batch = rng.choice([64, 256, 512, 1000])
    write, read = (10 ** rng.uniform(6, 10) for _ in range(2))
    options: dict[str, Any] = {"optimizer": rng.choice(["sgd", "adam"]), "engine": rng.choice(["native", "numpy"])}
    options |= {"costs": cost_model(rng), "micro_batch": batch}
    options["disk"] = DiskTier(str(tmp_path), DiskRates((1,), (write,), (read,), rng.choice([0.5, 0.7, 1.0])))
    least, most = lm.minimum_budget(architecture, batch, **options), lm.plan(architecture, batch, **options).peak_bytes
    plans = [lm.plan(architecture, batch, least + (most - least) * part // 24, **options) for part in parts]
    assert plans[1].cost <= plans[0].cost


def test_passes_beyond_a_size_that_cannot_win_are_weighed() -> None:
    # Products of 64 rows are slow on this machine, those of 16 and 256 rows are quick.
    slow = {16: 1e-12, 64: 1e-8, 256: 1e-11, 512: 1e-11, 2048: 1e-11}
    rates = tuple(tuple(rate for _ in range(6)) for rate in slow.values())
    costs = CostModel("uneven", "float32", rates, rates, {"relu": 0}, {"relu": 0}, 0, 0)
    architecture = lm.Architecture((64, 200, 90, 250, 120, 10))
    plan = lm.plan(architecture, 256, "90%", "sgd", costs=costs)
    assert plan.micro_batch == 16


# Arenas ------------------------------------------------------------------------------------------------------------


def random_tree(chain: Any, rng: random.Random) -> Schedule:
    """Return a schedule whose splits are drawn."""
    return reverse(chain, "random", lambda i, j, _: rng.randint(i + 1, j - 1))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_relays_run_the_same_layers_in_no_more_bytes(seed: int) -> None:
    rng = random.Random(seed)
    chain = network_chain(network(rng, rng.randint(3, 40)), rng.choice([16, 256]), lanes=rng.choice([1, 2]))
    schedule = random_tree(chain, rng)
    trace = simulate(chain, schedule)
    parted = relayed(chain, schedule, trace.peak_bytes)
    other = simulate(chain, parted)
    assert (other.cost, other.forward_runs) == (trace.cost, trace.forward_runs)
    assert other.peak_bytes <= trace.peak_bytes
    arenas = [pack(chain, one, effort=Effort.STACKS).arena_bytes for one in (schedule, parted)]
    assert arenas[1] <= arenas[0]


def test_stacks_and_relays_lose_few_bytes_in_uneven_chains() -> None:
    rng = random.Random(0)
    ratios = []
    for _ in range(60):
        chain = network_chain(uneven(rng.randint(0, 10**6), rng.randint(20, 80)), 256)
        schedule = random_tree(chain, rng)
        peak = simulate(chain, schedule).peak_bytes
        ratios.append(pack(chain, relayed(chain, schedule, peak), effort=Effort.STACKS).arena_bytes / peak)
    assert sum(ratio <= 1 for ratio in ratios) >= 40
    assert max(ratios) < 1.12


@pytest.mark.parametrize("layers", [1, 2, 3, 8, 40, 120, 410, 600])
def test_the_least_arena_is_mostly_the_least_of_live_bytes(layers: int) -> None:
    ratios = []
    for seed in range(3):
        chain = network_chain(uneven(seed, layers), 256)
        schedule = least_arena(chain)
        arena = pack(chain, schedule, effort=Effort.STACKS).arena_bytes
        for name in ("recompute_all", "sqrt"):
            assert arena <= 1.02 * pack(chain, PLANNERS[name](chain)).arena_bytes
        ratios.append(arena / simulate(chain, least_memory(chain)).peak_bytes)
    assert min(ratios) <= (1 if layers <= MOST_STATES else 1.02)
    assert max(ratios) < 1.15
