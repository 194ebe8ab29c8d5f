"""Plans of chains with tapes: as cheap as exhaustive searches and rotor find, inside every budget, and in time."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import count
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowmem as lm
from lowmem.chain import Chain, Stage, Tape
from lowmem.errors import BudgetError, InputError, ScheduleError
from lowmem.planning.timeline import moments
from lowmem.schedule import PLANNERS, Backward, Forward, Loss, Op, Record, Schedule, simulate
from lowmem.schedule.tapes import planner
from lowmem.schedule.tapes.least import least_memory
from lowmem.schedule.tapes.needs import Needs
from lowmem.schedule.tapes.planner import best_schedule
from lowmem.schedule.tapes.table import Levels, Table

store_all, sqrt, segments, optimal = (PLANNERS[name] for name in ("store_all", "sqrt", "segments", "optimal"))

# Chains ----------------------------------------------------------------------------------------------------------


def chain_of(length: int, seed: int, unit: int = 1) -> Chain:
    """Return a random chain as a measurement gives them; every size is a multiple of `unit`."""
    random_ = random.Random(seed)

    def size(low: int, high: int) -> int:
        return unit * random_.randint(low, high)

    stages, before, held = [], 0, 0
    for _ in range(length):
        output, own, extra, gradient = size(1, 6), size(0, 8), size(0, 3), size(0, 2)
        stays = before if random_.random() < 0.7 else held * before
        forward = random_.randint(1, 9)
        tape = Tape(
            own + stays,
            record_bytes=output + own + extra,
            gradient_bytes=gradient,
            alone_cost=random_.choice((None, 0, random_.randint(0, forward))),
        )
        stages.append(
            Stage(
                forward=forward,
                backward=random_.randint(1, 9),
                state_bytes=output,
                delta_bytes=output,
                forward_scratch=extra,
                backward_scratch=before + gradient + extra,
                tape=tape,
            )
        )
        before, held = output, random_.random() < 0.3
    return Chain(
        tuple(stages), source_bytes=size(0, 2), loss_scratch=size(1, 6), caller_bytes=random_.choice((0, before))
    )


def abstract(length: int, seed: int) -> Chain:
    """Return a random abstract chain, of tapes that may be smaller than outputs."""
    random_ = random.Random(seed)

    def numbers(low: int, high: int, size: int = length) -> list[int]:
        return [random_.randint(low, high) for _ in range(size)]

    return Chain.abstract(
        forward=numbers(1, 9), backward=numbers(1, 9), state_bytes=numbers(0, 6, length + 1), tape_bytes=numbers(1, 9)
    )


def budgets(chain: Chain, number: int = 12) -> Iterator[int]:
    """Yield budgets from the least that works to what storing everything takes."""
    least, most = (simulate(chain, schedule(chain)).peak_bytes for schedule in (least_memory, store_all))
    yield from sorted({least + (most - least) * n // number for n in range(number + 1)})


# Oracles ---------------------------------------------------------------------------------------------------------


def trees(i: int, j: int, length: int) -> Iterator[tuple[Op, ...]]:
    """Yield every schedule that reverses stages i+1..j and whose checkpoints stay: large Schröder numbers of them."""
    if j == i + 1:
        yield (Record(j), Loss(), Backward(j)) if j == length else (Record(j, output=False), Backward(j))
        return
    for inner in trees(i + 1, j, length):
        yield (Record(i + 1), *inner, Backward(i + 1))
    for k in range(i + 1, j):
        for right in trees(k, j, length):
            for left in trees(i, k, length):
                yield (Forward(i + 1, k), *right, *left)


def took(chain: Chain, ops: tuple[Op, ...]) -> tuple[int, float]:
    """Return peak and cost of a schedule that runs, by names of what lives; shares nothing with the simulator."""
    stages, free = chain.stages, chain.in_hand_free
    live: dict[object, int] = {"source": chain.source_bytes}
    size = [0, *(stage.state_bytes for stage in stages)]
    peak, cost = 0, 0.0
    for op in ops:
        in_hand, more = 0, 0
        after = dict(live)
        match op:
            case Forward(first, last):
                in_hand = size[first - 1] if first == last else 0
                for layer in range(first, last + 1):
                    more = max(
                        more, size[layer] + stages[layer - 1].forward_scratch + size[layer - 1] * (layer > first)
                    )
                    cost += stages[layer - 1].forward
                after["state", last] = size[last]
            case Record(layer, output):
                stage, in_hand = stages[layer - 1], size[layer - 1]
                assert stage.tape is not None
                alone = stage.tape.alone_cost
                more, cost = stage.tape.record_bytes, cost + (stage.forward if output or alone is None else alone)
                after.pop(("state", layer - 1), None)
                after["tape", layer] = stage.tape.kept_bytes
                if output:
                    after["state", layer] = size[layer]
            case Loss():
                more = chain.loss_scratch
                del after["state", chain.length]
                after["delta"] = stages[-1].delta_bytes
                after["kept"] = chain.caller_bytes
                in_hand = 10**9
            case Backward(layer):
                stage = stages[layer - 1]
                assert stage.tape is not None
                tape, _ = after.pop(("tape", layer)), after.pop("delta")
                more, in_hand, cost = stage.backward_scratch, tape, cost + stage.backward
                after["gradient", layer] = stage.tape.gradient_bytes
                after["delta"] = stages[layer - 2].delta_bytes if layer > 1 else 0
        peak = max(peak, sum(live.values()) + (-in_hand if free else more))
        live = after
    return peak, cost


def exhaustive(chain: Chain) -> Callable[[int], float]:
    """Return the least cost within a budget of all schedules whose checkpoints stay; infinity if there is none."""
    every = [took(chain, ops) for ops in trees(0, chain.length, chain.length)]
    return lambda budget: min((cost for peak, cost in every if peak <= budget), default=inf)


def rotor(sizes: dict[str, list[int]], costs: dict[str, list[int]]) -> Callable[[int], float]:
    """Return C(1, L, m) of rotor (arXiv:1911.13214, theorem 1), as a function of m.

    a, tape, delta, forward, backward: sizes of outputs, tapes (outputs included), gradients, and overheads of the two
    passes, for stages from 1 on; index 0 of a and delta is the input.
    """
    a, tape, delta, over_f, over_b = (sizes[name] for name in ("a", "tape", "delta", "forward", "backward"))
    f, b = costs["f"], costs["b"]

    @cache
    def cost(s: int, t: int, m: int) -> float:
        all_ = max(delta[t] + tape[s] + over_f[s], delta[s] + tape[s] + over_b[s])
        if s == t:
            return f[s] + b[s] if m >= all_ else inf
        best = f[s] + cost(s + 1, t, m - tape[s]) + b[s] if m >= all_ else inf
        none = delta[t] + a[s] + over_f[s]
        for k in range(s + 1, t + 1):
            if k > s + 1:
                none = max(none, delta[t] + a[k - 2] + a[k - 1] + over_f[k - 1])
            if m >= none:
                best = min(best, sum(f[s:k]) + cost(k, t, m - a[k - 1]) + cost(s, k - 1, m))
        return best

    return lambda m: cost(1, len(f) - 1, m)


# Claims ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_a_small_chain_costs_what_an_exhaustive_search_finds(seed: int) -> None:
    chain = (abstract if seed % 2 else chain_of)(1 + seed % 6, seed)
    truth = exhaustive(chain)
    for budget in budgets(chain):
        best = best_schedule(chain, budget)
        assert simulate(chain, best.schedule).peak_bytes <= budget
        assert best.cost == simulate(chain, best.schedule).cost
        assert best.cost == truth(budget)
        assert best.gap == 0


@pytest.mark.parametrize("seed", range(30))
def test_rounded_sizes_give_bounds_on_both_sides(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "exact_quantum", lambda chain, room: 0)
    monkeypatch.setattr(planner, "MOST_LEVELS", 24)
    chain = (abstract if seed % 3 == 0 else chain_of)(6, seed)
    needs, truth = Needs(chain), exhaustive(chain)
    for budget in budgets(chain, 6):
        best = best_schedule(chain, budget)
        assert simulate(chain, best.schedule).peak_bytes <= budget
        assert best.lower_bound <= truth(budget) <= best.cost
        for window in (1, 2, 3, 6):
            assert planner.lower_bound(needs, budget - chain.source_bytes, window) <= truth(budget)


@pytest.mark.parametrize("seed", range(20))
def test_narrow_windows_still_give_schedules_that_run(seed: int) -> None:
    chain = chain_of(9, seed)
    needs = Needs(chain)
    for window in (1, 2, 4):
        table = Table(needs, Levels(1, 120), window)
        for level in table.steps():
            trace = simulate(chain, table.write(level))
            assert trace.peak_bytes <= level + chain.source_bytes
            assert trace.cost == pytest.approx(table.cost(level))


@pytest.mark.parametrize("seed", range(25))
def test_never_dearer_than_rotor_under_equal_accounting(seed: int) -> None:
    random_, length = random.Random(seed), 3 + seed % 6

    def numbers(low: int, high: int, offset: int = 0) -> list[int]:
        return [0] * (1 - offset) + [random_.randint(low, high) for _ in range(length + offset)]

    sizes = {"a": numbers(1, 6), "delta": numbers(1, 6), "forward": numbers(0, 3), "backward": numbers(0, 3)}
    sizes["tape"] = [0, *(a + random_.randint(0, 5) for a in sizes["a"][1:])]
    sizes["delta"][length] = 0  # behind the last stage, which is the loss
    costs = {"f": numbers(1, 9), "b": numbers(1, 9)}
    a, tape, delta = sizes["a"], sizes["tape"], sizes["delta"]
    stages = [
        Stage(
            forward=costs["f"][n],
            backward=costs["b"][n],
            state_bytes=a[n],
            delta_bytes=delta[n],
            forward_scratch=sizes["forward"][n],
            backward_scratch=a[n] + sizes["backward"][n],
            tape=Tape(tape[n] - a[n] + a[n - 1], record_bytes=tape[n] + sizes["forward"][n]),
        )
        for n in range(1, length + 1)
    ]
    chain, oracle = Chain(tuple(stages)), rotor(sizes, costs)
    least = next(m for m in count() if oracle(m) < inf)
    assert simulate(chain, least_memory(chain)).peak_bytes == least
    for budget in range(least, least + 60):
        assert best_schedule(chain, budget).cost <= oracle(budget)


@pytest.mark.parametrize("seed", range(20))
def test_least_memory_is_the_least(seed: int) -> None:
    chain = (abstract if seed % 2 else chain_of)(6, seed)
    least, truth = simulate(chain, least_memory(chain)).peak_bytes, exhaustive(chain)
    assert truth(least) < inf
    assert truth(least - 1) == inf
    with pytest.raises(BudgetError, match=f"the least that works is {least:,}") as refused:
        optimal(chain, budget=least - 1)
    assert refused.value.minimum == least


@pytest.mark.parametrize("seed", range(10))
def test_the_simulator_counts_what_lives_by_name(seed: int) -> None:
    chain = (abstract if seed % 2 else chain_of)(5, seed)
    for ops in trees(0, 5, 5):
        trace = simulate(chain, Schedule("by hand", ops))
        assert (trace.peak_bytes, trace.cost) == took(chain, ops)


@given(st.integers(1, 30), st.integers(0, 10**6), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_every_strategy_reverses_every_chain(length: int, seed: int, step: int) -> None:
    chain = chain_of(length, seed)
    cost = simulate(chain, store_all(chain)).cost
    assert cost == sum(stage.forward + stage.backward for stage in chain.stages)
    for schedule in (sqrt(chain), segments(chain, segments=step), least_memory(chain)):
        trace = simulate(chain, schedule)
        assert trace.cost >= cost
        assert simulate(chain, optimal(chain, budget=trace.peak_bytes)).cost <= trace.cost


def test_rules_cut_chains_as_they_say() -> None:
    chain = abstract(10, 0)
    assert [op for op in sqrt(chain) if isinstance(op, Forward)] == [Forward(1, 4), Forward(5, 7)]
    assert [op for op in segments(chain, segments=4) if isinstance(op, Forward)] == [Forward(1, 4), Forward(5, 8)]
    assert store_all(abstract(2, 0)).ops == (Record(1), Record(2), Loss(), Backward(2), Backward(1))
    with pytest.raises(InputError, match="segments must be a whole number from 1"):
        segments(chain, segments=0)


@pytest.mark.parametrize(
    "ops",
    [
        (Record(1), Record(2), Loss(), Backward(2)),
        (Record(1), Record(2), Loss(), Backward(2), Backward(1), Forward(1, 1)),
        (Record(2), Loss(), Backward(2), Backward(1)),
        (Record(1), Record(2), Loss(), Backward(1), Backward(2)),
        (Record(1), Record(2), Backward(2), Backward(1)),
        (Forward(1, 1), Record(1), Record(2), Loss(), Backward(2), Backward(1)),
    ],
)
def test_what_cannot_run_is_refused(ops: tuple[Op, ...]) -> None:
    with pytest.raises(ScheduleError):
        simulate(abstract(2, 0), Schedule("by hand", ops))


def test_an_abstract_chain_checks_its_numbers() -> None:
    with pytest.raises(InputError, match="an abstract chain of 2 steps needs as many tape sizes; got 1"):
        Chain.abstract(forward=[1, 1], backward=[1, 1], state_bytes=[0, 1, 1], tape_bytes=[1])
    with pytest.raises(InputError, match="tape_bytes needs finite numbers that are not negative; got -1"):
        Chain.abstract(forward=[1], backward=[1], state_bytes=[0, 1], tape_bytes=[-1])


@pytest.mark.parametrize(("length", "gap"), [(100, 0.02), (500, 0.03)])
def test_plans_are_near_the_bound(length: int, gap: float) -> None:
    chain = chain_of(length, 1, unit=99_991)
    stages = [vary(stage, seed) for seed, stage in enumerate(chain.stages)]
    chain = replace(chain, stages=tuple(stages))
    most = simulate(chain, store_all(chain)).peak_bytes
    best = best_schedule(chain, most * 3 // 10)
    assert simulate(chain, best.schedule).peak_bytes <= most * 3 // 10
    assert best.gap < gap


def vary(stage: Stage, seed: int) -> Stage:
    """Return a stage with a size that shares no quantum with others."""
    assert stage.tape is not None
    more = random.Random(seed).randrange(50_000)
    return replace(stage, tape=replace(stage.tape, kept_bytes=stage.tape.kept_bytes + more))


def test_planners_without_tapes_refuse_them_and_the_others_need_them() -> None:
    chain, plain = abstract(4, 0), Chain.abstract(forward=[1] * 4, backward=[1] * 4, state_bytes=[1] * 5)
    with pytest.raises(InputError, match="revolve knows no tapes. Take store_all, sqrt, segments or optimal"):
        PLANNERS["revolve"](chain, slots=1)
    with pytest.raises(InputError, match="for chains whose stages have tapes"):
        best_schedule(plain, 3)
    with pytest.raises(ScheduleError, match="the stages of this chain have no tapes"):
        simulate(plain, store_all(chain))
    assert Schedule.from_json(store_all(chain).to_json()) == store_all(chain)


def test_a_schedule_with_tapes_is_drawn() -> None:
    chain = chain_of(8, 3)
    least = simulate(chain, least_memory(chain)).peak_bytes
    schedule = optimal(chain, budget=least)
    series = moments(chain, schedule)
    assert max(moment.bytes for moment in series) == simulate(chain, schedule).peak_bytes == least
    figure = lm.plots.schedule_diagram(schedule, chain)
    assert len(figure.axes[0].collections) == 4
    assert lm.plots.memory_timeline(schedule, chain).axes
