"""Optimal schedules: equal to exhaustive searches on short chains, to theory on even ones, and inside every budget."""

import heapq
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib import import_module
from itertools import count
from math import comb, inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowmem as lm
from lowmem.chain import Chain, Stage
from lowmem.errors import BudgetError
from lowmem.planning.network_chain import network_chain
from lowmem.schedule import PLANNERS, Free, Schedule, lower, simulate
from lowmem.schedule.least import least_memory
from lowmem.schedule.optimal import table as tables
from lowmem.schedule.optimal.early_drops import LONGEST
from lowmem.schedule.optimal.planner import Optimum, Planner
from lowmem.schedule.optimal.suffix_bounds import SuffixBounds
from lowmem.schedule.optimal.table import Limits, Table
from lowmem.schedule.optimal.writing import write
from tests.helpers import batch, chains, interpret, randomised

sizing: Any = import_module("lowmem.schedule.optimal.sizing")
ENDLESS = Limits(work=1e15, bytes=1 << 32)


# Oracles ---------------------------------------------------------------------------------------------------------


def exhaustive(chain: Chain, budget: int) -> float:
    """Return the least cost of all schedules within the budget, persistent or not; infinity if there is none.

    Dijkstra's search over (states that live, next layer to be reversed, whether the loss is done), by the table of
    `lowmem.schedule.ops`: it shares nothing with the planners or the simulator.
    """
    stages, length = chain.stages, chain.length
    size = [0, *(stage.state_bytes for stage in stages)]
    delta = [0, *(stage.delta_bytes for stage in stages)]
    start = (frozenset[int](), length, False)
    best = {start: 0.0}
    number = count()
    queue = [(0.0, next(number), start)]
    while queue:
        cost, _, here = heapq.heappop(queue)
        if cost > best[here]:
            continue
        live, layer, lost = here
        if not layer:
            return cost
        held = sum(size[state] for state in live) + (delta[layer] if lost else 0)
        steps = [(live - {state}, layer, lost, 0.0, 0) for state in live]
        for source in live | {0}:
            run, place, scratch = 0.0, 0, 0
            for last in range(source + 1, layer if lost else length + 1):
                stage = stages[last - 1]
                run += stage.forward
                place = max(place, stage.state_bytes)
                scratch = max(scratch, stage.forward_scratch if last == source + 1 else stage.advance_scratch)
                taken = held + place + scratch
                if chain.in_hand_free:
                    taken = held - (size[source] if last == source + 1 else 0)
                if last not in live:
                    steps.append((live | {last}, layer, lost, run, taken))
        if not lost and length in live:
            taken = 0 if chain.in_hand_free else held + chain.loss_scratch
            steps.append((live - {length}, layer, True, chain.loss, taken))
        if lost and (layer == 1 or layer - 1 in live):
            taken = held - size[layer - 1] if chain.in_hand_free else held + stages[layer - 1].backward_scratch
            steps.append((live - {layer - 1}, layer - 1, True, stages[layer - 1].backward, taken))
        for states, following, lossed, price, taken in steps:
            there = (states, following, lossed)
            if taken <= budget and cost + price < best.get(there, inf):
                best[there] = cost + price
                heapq.heappush(queue, (cost + price, next(number), there))
    return inf


def griewank(chain: Chain, budget: int) -> float:
    """Return the persistent optimum of an abstract chain: the textbook recurrence, and the last layer's forward."""
    forward = [stage.forward for stage in chain.stages]
    backward = [stage.backward for stage in chain.stages]

    @cache
    def cost(i: int, j: int, free: int) -> float:
        if j == i + 1:
            return backward[i]
        least = sum(sum(forward[i : layer - 1]) + backward[layer - 1] for layer in range(i + 1, j + 1))
        for k in range(i + 1, j):
            left = free - chain.stages[k - 1].state_bytes
            if left >= 0:
                least = min(least, sum(forward[i:k]) + cost(k, j, left) + cost(i, k, free))
        return least

    return cost(0, chain.length, budget) + forward[-1]


def persistent(chain: Chain, budget: int) -> float:
    """Return the least cost of schedules whose checkpoints stay, byte by byte and op by op; infinity if none fits."""
    stages, length = chain.stages, chain.length

    @cache
    def cost(i: int, j: int, free: int) -> float:
        held = 0 if j == length else stages[j - 1].delta_bytes
        if j == i + 1:
            stage = stages[i]
            needs = [stage.delta_bytes + stage.backward_scratch]
            if j == length:
                needs += [stage.state_bytes + stage.forward_scratch, stage.state_bytes + chain.loss_scratch]
            return 0 if max(needs) <= free else inf
        least, run, place, scratch = inf, 0.0, 0, 0
        for k in range(i + 1, j):
            stage = stages[k - 1]
            run += stage.forward
            place = max(place, stage.state_bytes)
            scratch = max(scratch, stage.forward_scratch if k == i + 1 else stage.advance_scratch)
            if held + place + scratch <= free:
                least = min(least, run + cost(k, j, free - stage.state_bytes) + cost(i, k, free))
        return least

    fixed = sum(stage.backward for stage in stages) + stages[-1].forward + chain.loss
    return fixed + cost(0, length, budget)


def optimum(chain: Chain, budget: int) -> Optimum:
    """Plan, and check what holds for every plan: it is valid, it fits, and it costs what it says."""
    found = Planner(chain, budget).best(budget)
    schedule = lower(chain, found.schedule)
    trace = simulate(chain, schedule)
    assert trace.peak_bytes <= budget
    assert trace.cost == found.cost
    assert (trace.peak_bytes, trace.forward_runs, trace.cost) == interpret(chain, schedule.ops)
    return found


# Chains ----------------------------------------------------------------------------------------------------------


def abstract(rng: random.Random, length: int) -> Chain:
    """Return an abstract chain of whole numbers."""
    return Chain.abstract(
        forward=[rng.randint(1, 9) for _ in range(length)],
        backward=[rng.randint(1, 9) for _ in range(length)],
        state_bytes=[rng.randint(0, 9) for _ in range(length + 1)],
    )


def real(rng: random.Random, length: int, largest: int = 9) -> Chain:
    """Return a chain with working memory; δ's have the size of their states, as in a network."""
    stages = []
    for _ in range(length):
        size, beside = rng.randint(1, largest), rng.randint(0, largest // 9)
        in_place = beside + rng.randint(0, largest // 3)
        stages.append(Stage(rng.randint(1, 9), rng.randint(1, 9), size, size, beside, in_place, in_place))
    return Chain(tuple(stages), loss=1, loss_scratch=rng.randint(0, largest // 3))


def ragged(rng: random.Random, length: int) -> Chain:
    """Return the chain of a network of random widths."""
    widths = tuple(rng.randint(1, 16) for _ in range(length + 1))
    return network_chain(lm.Architecture(widths, rng.choice(["relu", "tanh", "gelu"])), 512)


def even(rng: random.Random, length: int) -> Chain:
    """Return the chain of a network of one width."""
    width = rng.randint(1, 16)
    return network_chain(lm.Architecture((width,) * (length + 1), rng.choice(["relu", "gelu"])), 512)


def least_bytes(chain: Chain) -> int:
    return simulate(chain.reversal, least_memory(chain)).peak_bytes


def most_bytes(chain: Chain) -> int:
    return simulate(chain, PLANNERS["store_all"](chain)).peak_bytes


def some_budget(rng: random.Random, chain: Chain) -> int:
    """Return a budget between the least and what storing everything takes."""
    least = least_bytes(chain)
    return rng.randint(least, max(least, most_bytes(chain)))


# Short chains: exhaustive searches -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_abstract_chains_are_planned_as_the_recurrence_says_and_early_drops_are_found(seed: int) -> None:
    rng = random.Random(seed)
    possible = found = 0
    for _ in range(600):
        chain = abstract(rng, rng.randint(1, 8))
        budget = rng.randint(0, 25)
        best, recurrence, true = optimum(chain, budget), griewank(chain, budget), exhaustive(chain, budget)
        assert best.lower_bound == recurrence
        assert best.gap == 0
        assert true <= best.cost <= recurrence
        possible += true < recurrence
        found += best.cost < recurrence
    # In this model every gain that dropping a checkpoint early can bring is found.
    assert found == possible


def test_a_checkpoint_dropped_early_beats_every_persistent_schedule() -> None:
    chain = Chain.abstract(forward=[1, 7, 8, 5, 2, 5], backward=[6, 7, 6, 1, 2, 3], state_bytes=[0, 2, 4, 7, 1, 1, 8])
    best = optimum(chain, 4)
    assert best.cost == exhaustive(chain, 4) == 69
    assert best.lower_bound == griewank(chain, 4) == 70
    assert any(isinstance(op, Free) for op in best.schedule)


@pytest.mark.parametrize(("make", "cases", "share"), [(real, 700, 0.4), (ragged, 400, 0.6), (even, 150, 0)])
def test_op_by_op_the_plan_is_the_persistent_optimum_or_better(make: Any, cases: int, share: float) -> None:
    rng = random.Random(5)
    possible = found = 0
    for _ in range(cases):
        chain = make(rng, rng.randint(2, 8))
        budget = some_budget(rng, chain)
        best, recurrence, true = optimum(chain, budget), persistent(chain, budget), exhaustive(chain, budget)
        assert best.lower_bound == recurrence < inf
        assert best.gap == 0
        assert true <= best.cost <= recurrence
        possible += true < recurrence
        found += best.cost < recurrence
    # Not all gains of non-persistent schedules are found: they are counted, and shall not become fewer.
    assert possible >= found >= share * possible
    assert found > 0 or make is even


@settings(deadline=None, max_examples=150)
@given(chains(max_length=7), st.floats(0, 1.1))
def test_chains_of_any_sizes_are_planned_between_the_two_optima(chain: Chain, share: float) -> None:
    least = least_bytes(chain)
    budget = least + int(share * (max(most_bytes(chain), least) - least))
    best = optimum(chain, budget)
    recurrence = griewank(chain, budget) if chain.in_hand_free else persistent(chain, budget)
    assert best.lower_bound == recurrence
    assert exhaustive(chain, budget) <= best.cost <= recurrence


# Windows and rounding --------------------------------------------------------------------------------------------


def full_table(chain: Chain, budget: int) -> Table:
    """Return the table of all segments in exact bytes, a level each."""
    table = Table(chain, budget, 1, down=False, limits=ENDLESS, exact=True)
    while table.widen():
        pass
    assert table.window == chain.length
    assert (table.upper_costs == table.lower_costs).all()
    return table


def full_optimum(chain: Chain, budget: int) -> float:
    table = full_table(chain, budget)
    return table.upper(table.top)


def long_chains() -> Iterator[tuple[Chain, int]]:
    rng = random.Random(11)
    for number in range(12):
        length = rng.randint(40, 80)
        chain = (abstract if number % 2 else real)(rng, length)
        least = least_bytes(chain)
        yield chain, least + int(rng.choice([0.02, 0.1, 0.3, 0.6]) * (most_bytes(chain) - least))


def test_the_whole_table_is_the_recurrence() -> None:
    for chain, budget in long_chains():
        if chain.length <= 45:
            recurrence = griewank(chain, budget) if chain.in_hand_free else persistent(chain, budget)
            assert full_optimum(chain, budget) + Planner(chain, budget).fixed_cost == recurrence


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tables begin with a few layers, and never do a whole chain at once."""
    monkeypatch.setattr(tables, "FIRST_WINDOW", 5)
    monkeypatch.setattr(tables, "AT_ONCE", 0)


@pytest.mark.usefixtures("narrow")
def test_a_window_bounds_every_suffix_from_both_sides() -> None:
    loose = met = deeper = 0
    for chain, budget in long_chains():
        whole = full_table(chain, budget)
        table = Table(chain, budget, 1, down=False, limits=ENDLESS, exact=True)
        before = inf
        while table.widen():
            assert (table.lower_costs <= whole.lower_costs).all()
            assert (table.upper_costs >= whole.upper_costs).all()
            if table.window < chain.length:
                deep = SuffixBounds(table.segments, table.upper_costs, deep=True).costs
                assert (deep <= whole.lower_costs).all()
                deeper += deep[0, table.top] > table.lower_costs[0, table.top]
            upper = table.upper(table.top)
            assert upper <= before
            before = upper
            if upper < inf:
                cost = simulate(chain, write(table, table.top)).cost - Planner(chain, budget).fixed_cost
                assert cost <= upper
            loose += table.lower(table.top) < upper
            met += table.window < chain.length and table.lower(table.top) == upper
        assert table.window == chain.length
    assert loose > 5  # the windows were too short for some,
    assert met > 5  # and long enough for others
    assert deeper > 5


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("work", [2e6, 1e7])
def test_where_work_is_limited_the_stated_bound_is_true(monkeypatch: pytest.MonkeyPatch, work: float) -> None:
    gaps = 0
    cases = [(chain, budget, full_optimum(chain, budget)) for chain, budget in long_chains()]
    monkeypatch.setattr(sizing, "LEAST_WORK", work / 2)
    monkeypatch.setattr(sizing, "MOST_WORK", work / 2)
    for chain, budget, full in cases:
        planner = Planner(chain, budget)
        best = optimum(chain, budget)
        assert best.lower_bound <= full + planner.fixed_cost
        gaps += best.gap > 0
        if chain.length > LONGEST and not any(isinstance(op, Free) for op in best.schedule):
            assert best.cost >= full + planner.fixed_cost
    assert gaps or work > 2e6


def test_rounded_sizes_still_give_schedules_that_fit_and_true_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "EXACT_LEVELS_PER_STATE", 0)
    monkeypatch.setattr(sizing, "EXACT_LEVELS", 0)
    rng = random.Random(3)
    worst = 0.0
    for _ in range(150):
        chain = real(rng, rng.randint(2, 8), largest=5000)
        budget = some_budget(rng, chain)
        best, recurrence = optimum(chain, budget), persistent(chain, budget)
        assert best.lower_bound <= recurrence
        assert best.cost >= exhaustive(chain, budget)
        assert best.gap <= 0.3
        worst = max(worst, best.cost / recurrence)
    assert worst < 1.2


def test_rounded_sizes_of_long_chains_bound_the_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [(chain, budget, full_optimum(chain, budget)) for chain, budget in long_chains()]
    monkeypatch.setattr(sizing, "EXACT_LEVELS_PER_STATE", 0)
    monkeypatch.setattr(sizing, "EXACT_LEVELS", 0)
    for chain, budget, full in cases:
        # In units of 1000 bytes, a few more for some: quanta are no divisors of the sizes then.
        stages = tuple(scaled(stage, 1000) for stage in chain.stages)
        larger = Chain(stages, chain.loss, 1000 * chain.loss_scratch, in_hand_free=chain.in_hand_free)
        best = optimum(larger, 1000 * budget)
        fixed = Planner(larger, 1000 * budget).fixed_cost
        assert best.lower_bound <= full + fixed
        if not any(isinstance(op, Free) for op in best.schedule):
            assert best.cost >= full + fixed
        assert best.gap < 0.2


def scaled(stage: Stage, factor: int) -> Stage:
    """Return the stage with all its bytes multiplied."""
    names = ("state_bytes", "delta_bytes", "forward_scratch", "advance_scratch", "backward_scratch")
    return replace(stage, **{name: factor * getattr(stage, name) for name in names})


# Even chains: the closed form ------------------------------------------------------------------------------------


def closed_form(length: int, s: int) -> int:
    """Return t(l, s) = r l - beta(s+1, r-1) of Griewank and Walther: forwards, the one at the loss left out."""
    r = 0
    while comb(s + r, s) < length:
        r += 1
    return r * length - (comb(s + r, s + 1) if r else 0)


@pytest.mark.parametrize("length", [*range(1, 20), 33, 64, 100, 257, 500, 1000])
def test_even_chains_cost_what_the_closed_form_says(length: int) -> None:
    chain = Chain.abstract(forward=[3] * length, backward=[5] * length, state_bytes=[7] * (length + 1))
    for slots in {0, 1, 2, 3, 4, 5, 8, 13, 30, 100, max(length - 2, 0), length + 5}:
        budget = 7 * slots + 6  # not a whole number of states
        best = Planner(chain, budget).best(budget)
        trace = simulate(chain, best.schedule)
        assert best.cost == trace.cost == 3 * closed_form(length, slots + 1) + 3 + 5 * length
        assert best.lower_bound == best.cost
        assert trace.peak_bytes <= budget


def test_the_closed_form_of_the_test_is_the_recurrence() -> None:
    for length in range(1, 16):
        chain = Chain.abstract(forward=[1] * length, backward=[0] * length, state_bytes=[1] * (length + 1))
        for slots in range(6):
            assert closed_form(length, slots + 1) + 1 == griewank(chain, slots)


@pytest.mark.parametrize("length", [129, 400, 1000])
@pytest.mark.parametrize("share", [0.6, 0.2, 0.05])
def test_networks_of_one_width_come_close_to_their_bound(length: int, share: float) -> None:
    chain = network_chain(lm.Architecture((64, *[48] * (length - 1), 10)), 512)
    best = optimum(chain, least_bytes(chain) + int(share * (most_bytes(chain) - least_bytes(chain))))
    assert 0 <= best.gap < 0.01


# Least memory ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [real, ragged, even])
def test_least_memory_is_the_least_of_all_persistent_schedules(make: Any) -> None:
    rng = random.Random(7)
    for _ in range(120):
        chain = make(rng, rng.randint(1, 8))
        least = least_bytes(chain)
        assert least <= simulate(chain, PLANNERS["recompute_all"](chain)).peak_bytes
        assert persistent(chain, least) < inf == persistent(chain, least - 1)


def planned_or_refused(chain: Chain, budget: int, least: int) -> Schedule | None:
    """Return the schedule for a budget below the least of persistent ones, None if it is refused with that least."""
    try:
        return PLANNERS["optimal"](chain, budget=budget)
    except BudgetError as error:
        if (error.budget, error.minimum) != (budget, least):
            raise
        return None


@settings(deadline=None, max_examples=80)
@given(chains(max_length=14))
def test_below_the_least_the_refusal_names_a_budget_that_works(chain: Chain) -> None:
    least = least_bytes(chain)
    assert simulate(chain, PLANNERS["recompute_all"](chain)).peak_bytes >= least
    assert simulate(chain, PLANNERS["optimal"](chain, budget=least)).peak_bytes <= least
    for budget in {least - 1, least // 2} - {least}:
        if (made := planned_or_refused(chain, budget, least)) is not None:
            # Dropping a checkpoint early needs less than any schedule whose checkpoints stay.
            assert any(isinstance(op, Free) for op in made)
            assert simulate(chain, made).peak_bytes <= budget


# Every planner, every budget -------------------------------------------------------------------------------------


def rivals(chain: Chain) -> Iterator[Schedule]:
    """Yield what all other planners make of a chain."""
    for name in ("store_all", "sqrt", "recompute_all"):
        yield PLANNERS[name](chain)
    for number in range(chain.length + 1):
        yield PLANNERS["segments"](chain, segments=number + 1)
        yield PLANNERS["revolve"](chain, slots=number)


@settings(deadline=None, max_examples=50)
@given(chains(max_length=12))
def test_no_other_planner_is_cheaper_in_the_same_bytes(chain: Chain) -> None:
    seen: dict[int, float] = {}
    for schedule in rivals(chain):
        trace = simulate(chain, schedule)
        seen[trace.peak_bytes] = min(trace.cost, seen.get(trace.peak_bytes, inf))
    for peak, cost in seen.items():
        assert optimum(chain, peak).cost <= cost


@settings(deadline=None, max_examples=50)
@given(chains(max_length=12))
def test_more_bytes_never_make_a_chain_dearer(chain: Chain) -> None:
    least = least_bytes(chain)
    most = max(most_bytes(chain), least)
    budgets = sorted({least + (most - least) * step // 12 for step in range(14)})
    planner = Planner(chain, budgets[-1])
    shared = [planner.best(budget).cost for budget in budgets]
    own = [Planner(chain, budget).best(budget).cost for budget in budgets]
    assert shared == sorted(shared, reverse=True)
    assert own == sorted(own, reverse=True)


@pytest.mark.parametrize("rows", [70, 600])
def test_more_bytes_never_make_a_networks_plan_dearer(rows: int) -> None:
    rng = random.Random(rows)
    for _ in range(12):
        architecture = ragged_network(rng, rng.randint(3, 10), 60)
        optimizer = rng.choice([None, "sgd", "adam"])
        least, most = budgets_of(architecture, rows, optimizer)
        costs = [lm.plan(architecture, rows, least + (most - least) * n // 10, optimizer).flops for n in range(11)]
        assert costs == sorted(costs, reverse=True), architecture


# Networks --------------------------------------------------------------------------------------------------------


def ragged_network(rng: random.Random, layers: int, widest: int) -> lm.Architecture:
    widths = tuple(rng.randint(2, widest) for _ in range(layers + 1))
    return lm.Architecture(widths, rng.choice(["relu", "tanh", "gelu", "silu"]), rng.choice(["mse", "bce"]))


def budgets_of(architecture: lm.Architecture, rows: int, optimizer: str | None) -> tuple[int, int]:
    """Return the least budget and what storing everything takes."""
    stored = lm.plan(architecture, rows, None, optimizer).peak_bytes
    return lm.minimum_budget(architecture, rows, optimizer, micro_batch=rows), stored


@pytest.mark.parametrize("seed", range(20))
def test_plans_of_ragged_networks_fit_and_state_a_true_bound(seed: int) -> None:
    rng = random.Random(seed)
    architecture, optimizer = ragged_network(rng, rng.randint(3, 20), 64), rng.choice([None, "sgd"])
    least, most = budgets_of(architecture, 600, optimizer)
    stored = lm.plan(architecture, 600, None, optimizer)
    for step in range(6):
        budget = least + (most - least) * step // 5
        for strategy in ("auto", "optimal"):
            plan = lm.plan(architecture, 600, budget, optimizer, strategy)
            assert plan.peak_bytes <= budget
            assert plan.cost == plan.flops >= stored.flops
            if plan.strategy not in ("optimal", "store_all"):
                continue
            assert plan.lower_bound is not None
            assert stored.flops <= plan.lower_bound <= plan.cost
            assert plan.gap == 1 - plan.lower_bound / plan.cost
    assert (plan.cost, plan.gap) == (stored.flops, 0)


@pytest.mark.parametrize("seed", range(20))
def test_gradients_of_ragged_networks_have_the_same_bits_at_every_budget(seed: int) -> None:
    rng = random.Random(seed)
    architecture = ragged_network(rng, rng.randint(3, 20), 24)
    mlp, (x, y) = randomised(architecture, seed), batch(architecture, 33, seed)
    expected, wanted = lm.Backprop(mlp, lm.plan(architecture, 33))(x, y)
    bits = [array.tobytes() for array in (*wanted.weights, *wanted.biases)]
    least, most = budgets_of(architecture, 33, None)
    for step in range(5):
        plan = lm.plan(architecture, 33, least + (most - least) * step // 4)
        loss, gradients = lm.Backprop(mlp, plan)(x, y)
        assert loss == expected
        assert [array.tobytes() for array in (*gradients.weights, *gradients.biases)] == bits


def test_where_storing_everything_fits_optimal_does_not_refuse() -> None:
    # In a network this small Python's objects outweigh the activations, and storing everything needs the fewest.
    architecture = lm.Architecture((12, 7, 9, 5, 8, 3), "tanh", "mse")
    least = lm.minimum_budget(architecture, 8)
    assert lm.plan(architecture, 8, least, strategy="optimal").peak_bytes <= least


def test_abstract_chains_are_planned_without_an_mlp() -> None:
    code = (
        "import sys\n"
        "from lowmem.chain import Chain\n"
        "from lowmem.schedule import PLANNERS, simulate\n"
        "chain = Chain.abstract(forward=[1, 2, 3, 4], backward=[2] * 4, state_bytes=[9, 1, 5, 2, 9])\n"
        "trace = simulate(chain, PLANNERS['optimal'](chain, budget=3))\n"
        "print(trace.cost, trace.peak_bytes, trace.forward_runs)\n"
        "print(any(name.startswith('lowmem.nn') for name in sys.modules))\n"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    numbers, networks = done.stdout.splitlines()
    chain = Chain.abstract(forward=[1, 2, 3, 4], backward=[2] * 4, state_bytes=[9, 1, 5, 2, 9])
    cost, peak, runs = numbers.split()
    assert float(cost) == griewank(chain, 3)
    assert int(peak) <= 3
    assert int(runs) >= 4
    assert networks == "False"


def test_a_budget_below_nothing_is_refused() -> None:
    chain = Chain.abstract(forward=[1, 2], backward=[1, 1], state_bytes=[1, 1, 1])
    with pytest.raises(BudgetError):
        PLANNERS["optimal"](chain, budget=-1)
