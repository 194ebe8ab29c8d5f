"""Which states go to the disk: compared with every plan that there is, on chains that are short enough to try all."""

import random
from collections.abc import Iterator
from itertools import combinations
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowmem.chain import Chain, Stage
from lowmem.errors import BudgetError
from lowmem.schedule import PLANNERS, Backward, Forward, Free, Load, Loss, Op, Schedule, Store, simulate
from lowmem.schedule.disk.planner import DiskPlanner
from lowmem.schedule.disk.spilling import spill
from lowmem.schedule.disk.transfers import DiskRates
from lowmem.schedule.optimal.planner import Planner
from lowmem.schedule.store_all import store_all


def trees(chain: Chain, i: int, j: int) -> Iterator[tuple[Op, ...]]:
    """Yield every way to reverse layers i+1..j whose checkpoints stay until their segment is done."""
    if j == i + 1:
        yield (*((Forward(j, j), Loss()) if j == chain.length else ()), Backward(j))
    for k in range(i + 1, j):
        for right in trees(chain, k, j):
            for left in trees(chain, i, k):
                yield (Forward(i + 1, k), *right, *left)


def outermost(ops: tuple[Op, ...]) -> list[int]:
    """Return the states of the outermost sweep."""
    states = []
    for op in ops:
        if not isinstance(op, Forward):
            break
        states.append(op.last)
    return states[:-1]


def every_plan(chain: Chain, room: int, rates: DiskRates) -> Iterator[tuple[float, bool]]:
    """Yield the seconds of every plan in the room, and whether all states of its sweep but the last go to the disk.

    Of the outermost sweep any states go to the disk, others stay in memory.
    """
    for ops in trees(chain, 0, chain.length):
        states = outermost(ops)
        for count in range(len(states) + 1):
            for moved in combinations(states, count):
                trace = simulate(chain, spill(chain, Schedule("own", ops), moved, room), rates)
                if trace.peak_bytes <= room:
                    yield trace.seconds, list(moved) == states[:-1]


def drawn(rng: random.Random, longest: int) -> tuple[Chain, int, DiskRates]:
    """Draw a chain, bytes between the least and those for storing everything, and a disk."""
    ragged, length = rng.random() < 0.7, rng.randint(3, longest)
    stages = []
    for _ in range(length):
        cost, size = (rng.uniform(0.5, 3), rng.choice([64, 128, 192, 256, 320])) if ragged else (1.0, 128)
        stages.append(Stage(cost, 2 * cost, size, size))
    chain = Chain(tuple(stages))
    least, most = (simulate(chain, PLANNERS[name](chain)).peak_bytes for name in ("recompute_all", "store_all"))
    write, read = (10 ** rng.uniform(1, 3.5) for _ in range(2))
    return chain, rng.randint(min(least, most), most), DiskRates((1,), (write,), (read,), rng.choice([0.5, 0.7, 1.0]))


def chosen(chain: Chain, room: int, rates: DiskRates) -> tuple[float, float]:
    """Return the seconds of the plan that is chosen, with or without a disk, and the lower bound of those with one."""
    planner = Planner(chain, room)
    try:
        best = planner.best(room).cost
    except BudgetError:
        best = inf
    found = DiskPlanner(chain, planner.table, room, rates, None).best(lambda s: simulate(chain, s).peak_bytes)
    if found is None:
        return best, 0.0
    assert simulate(chain, found.schedule, rates).seconds == found.seconds
    return min(best, found.seconds), found.lower_bound


@settings(deadline=None, max_examples=60)
@given(st.randoms(use_true_random=False))
def test_no_plan_of_all_is_a_tenth_quicker(rng: random.Random) -> None:
    chain, room, rates = drawn(rng, 5)
    plans = list(every_plan(chain, room, rates))
    seconds, bound = chosen(chain, room, rates)
    assert seconds <= 1.1 * min(seconds for seconds, _ in plans)
    assert bound <= min((seconds for seconds, usual in plans if usual), default=inf) * (1 + 1e-9)


def test_nine_of_ten_plans_are_the_quickest_of_all() -> None:
    rng, gaps = random.Random(0), []
    for _ in range(60):
        chain, room, rates = drawn(rng, 6)
        best = min(seconds for seconds, _ in every_plan(chain, room, rates))
        gaps.append(chosen(chain, room, rates)[0] / best - 1)
    assert sum(gap < 1e-9 for gap in gaps) >= 0.9 * len(gaps)
    assert max(gaps) < 0.1


EVEN = Chain(tuple(Stage(1.0, 2.0, 100, 100) for _ in range(40)))


@pytest.mark.parametrize(
    ("rate", "states"), [(1e6, range(30, 40)), (60, range(8, 30)), (10, range(1, 8)), (2, range(1))]
)
def test_the_slower_the_disk_the_fewer_states_go_there(rate: float, states: range) -> None:
    rates = DiskRates((1,), (rate,), (rate,))
    planner = Planner(EVEN, 500)
    found = DiskPlanner(EVEN, planner.table, 500, rates, None).best(lambda s: simulate(EVEN, s).peak_bytes)
    ram = planner.best(500).cost
    moved = 0
    if found is not None and found.seconds < ram:
        moved = sum(isinstance(op, Store) for op in found.schedule)
    assert moved in states


def test_states_stay_in_memory_until_room_is_needed_and_the_last_ones_to_the_end() -> None:
    chain = Chain(tuple(Stage(1.0, 2.0, 100, 100) for _ in range(8)))
    spilled = spill(chain, store_all(chain), range(1, 8), 400)
    moved = [op.value.layer for op in spilled if isinstance(op, Store)]
    assert moved == [1, 2, 3, 4]  # 5, 6, 7 and the output are what memory has room for
    assert [op.value.layer for op in spilled if isinstance(op, Load)] == [4, 3, 2, 1]
    trace = simulate(chain, spilled)
    assert (trace.peak_bytes, trace.disk_bytes, trace.cost) == (400, 400, 24)
    for layer in moved:  # a state is given back when the third one after it is made
        ops = list(spilled)
        free = next(n for n, op in enumerate(ops) if isinstance(op, Free) and op.value.layer == layer)
        assert ops[free + 1] == Forward(layer + 4, layer + 4)


def test_what_is_spilled_runs_the_same_ops() -> None:
    chain = Chain(tuple(Stage(1.0, 2.0, 100, 100) for _ in range(12)))
    plain = PLANNERS["sqrt"](chain)
    spilled = spill(chain, plain, outermost(plain.ops), 500)
    assert tuple(op for op in spilled if not isinstance(op, Store | Load | Free)) == tuple(
        op for op in plain if not isinstance(op, Free)
    )
    assert simulate(chain, spilled).peak_bytes <= 500 < simulate(chain, plain).peak_bytes


def test_figures_show_what_is_on_the_disk() -> None:
    from matplotlib.figure import Figure

    from lowmem.planning.timeline import moments
    from lowmem.plots import memory_timeline, schedule_diagram

    chain = Chain(tuple(Stage(1.0, 2.0, 100, 100) for _ in range(12)))
    schedule = spill(chain, store_all(chain), range(1, 12), 500)
    trace, series = simulate(chain, schedule), moments(chain, schedule)
    assert max(moment.bytes for moment in series) == trace.peak_bytes
    assert max(moment.disk for moment in series) == trace.disk_bytes > 0

    def named(figure: Figure) -> set[str]:
        return {text.get_text() for legend in figure.legends for text in legend.get_texts()}

    assert "states on the disk" in named(memory_timeline(schedule, chain))
    assert "state on the disk" in named(schedule_diagram(schedule, chain))
    assert "states on the disk" not in named(memory_timeline(store_all(chain), chain))
