"""The moves of streamed parameters and moments: what they need is there, and never more than was said."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowmem.chain import Chain
from lowmem.schedule import PLANNERS, Backward, Forward, Op, Update, simulate
from lowmem.schedule.disk.transfers import AT_ONCE, DiskRates, Transfers
from lowmem.schedule.streaming import Move, PartBytes, Streaming, moves, resident, runs_of, traffic

KINDS = st.sampled_from([(True, False), (False, True), (True, True)])


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[Op], list[int]]:
    """Return the ops of a step that runs layers again now and then, and the numbers of each layer."""
    layers = draw(st.integers(1, 8))
    sizes = draw(st.lists(st.integers(1, 9000), min_size=layers, max_size=layers))
    ops: list[Op] = [Forward(1, layers)]
    for layer in range(layers, 0, -1):
        if draw(st.booleans()):
            first = draw(st.integers(1, layer))
            ops.append(Forward(first, draw(st.integers(first, layers))))
        ops.append(Backward(layer))
        if draw(st.booleans()) or layer == 1:
            ops.append(Update(layer))
    return ops, sizes


@given(steps(), KINDS, st.integers(0, 3), st.integers(0, 2))
def test_no_more_is_resident_than_was_said_and_all_that_is_needed(
    step: tuple[list[Op], list[int]], kind: tuple[bool, bool], ahead: int, states: int
) -> None:
    ops, sizes = step
    streaming, bytes_of = Streaming(*kind, ahead), PartBytes.of(sizes, 4, states)
    borders = bytes_of.borders * (kind[0] + kind[1] * states)
    most = sum(resident(bytes_of, streaming)) - borders
    here: dict[tuple[str, int], bool] = {}
    held = 0
    runs = [run for op in ops for run in runs_of(op)]
    for (layer, updates), around in zip(runs, moves(ops, streaming), strict=True):
        for move in (*around.before, None, *around.behind):
            if move is None:
                needed = [("w", layer)] * kind[0] + [("m", layer)] * (kind[1] and updates)
                assert all(part in here for part in needed)
                for part in needed:
                    here[part] |= updates
            elif move.kind == "fetch":
                held += bytes_of.moved(move)
                here[move.part, move.layer] = False
            elif move.kind == "release":
                held -= bytes_of.moved(move)
                assert here.pop((move.part, move.layer)) == move.changed
        assert held <= most
    assert not here


def test_what_is_used_again_at_once_stays() -> None:
    ops: list[Op] = [Forward(1, 2), Backward(2), Update(2), Backward(1), Update(1)]
    planned = moves(ops, Streaming(parameters=True, moments=True, ahead=1))
    told = [" ".join(f"{move.kind} {move.part}{move.layer}" for move in (*a.before, *a.behind)) for a in planned]
    assert told == [
        "fetch w1 fetch w2 arrive w1 release w1",
        "fetch m2 arrive w2",
        "",
        "fetch w1 arrive m2 release w2 release m2",
        "fetch m1 arrive w1",
        "arrive m1 release w1 release m1",
    ]
    assert [move for a in planned for move in a.behind if move.changed] == [
        Move("release", 2, "w", changed=True),
        Move("release", 2, "m", changed=True),
        Move("release", 1, "w", changed=True),
        Move("release", 1, "m", changed=True),
    ]


@pytest.mark.parametrize("updating", [False, True])
def test_traffic_counts_whole_pages_once_for_each_transfer(updating: bool) -> None:
    ops: list[Op] = [Forward(1, 3), *(op(layer) for layer in (3, 2, 1) for op in (Backward, Update))]
    sizes = PartBytes.of([1024] * 3, 4, 2)
    planned = moves(ops, Streaming(parameters=True, moments=True, ahead=0))
    # Forward and backward fetch three layers each, but the last one stays between.
    written, read = traffic(planned, sizes, updating=updating)
    assert read == 4096 * (5 + 6 * updating)
    assert written == 4096 * (3 + 6) * updating


def test_borders_count_as_resident_and_not_as_traffic() -> None:
    sizes = PartBytes.of([1500, 1500], 4, 1)  # 6,000 bytes each: the second page has numbers of both
    assert (sizes.parameters, sizes.borders, sizes.whole) == ((4096, 0), 8192, 12288)


def test_transfers_hide_behind_ops_where_they_are_short() -> None:
    chain = Chain.abstract(forward=[1.0] * 6, backward=[2.0] * 6, state_bytes=[1] * 7)
    schedule = PLANNERS["store_all"](chain)
    sizes = PartBytes.of([1024] * 6, 4, 0)
    both = []
    for rate in (4096 * 4, 4096 / 8):
        for ahead in (0, 1):
            planned = moves(schedule.ops, Streaming(parameters=True, moments=False, ahead=ahead))
            both.append(simulate(chain, schedule, DiskRates((1,), (rate,), (rate,)), (planned, sizes)).seconds)
    quick_now, quick_ahead, slow_now, slow_ahead = both
    alone = simulate(chain, schedule).cost
    assert alone == 18.0
    assert quick_ahead == pytest.approx(alone + 0.25)  # the first layer is waited for
    assert quick_now == pytest.approx(alone + 11 * 0.25)
    assert slow_ahead < slow_now
    assert slow_ahead >= 10 * 8  # layer 5 stays as well


def test_what_is_streamed_waits_for_what_was_begun_before() -> None:
    transfers = Transfers(DiskRates((1,), (1.0,), (1.0,)))
    transfers.stream(5, written=True)
    number = transfers.stream(3, written=False)
    transfers.arrive(number)
    assert transfers.now == pytest.approx(8.0)


def test_what_is_streamed_has_rates_of_its_own() -> None:
    rates = DiskRates((1,), (4.0,), (4.0,), 1.0, streamed_write=2.0, streamed_read=8.0)
    assert [rates.streamed_seconds(8, written=written) for written in (True, False)] == [4.0, 2.0]


def test_streams_share_the_rate_with_states_that_go_the_same_way() -> None:
    transfers = Transfers(DiskRates((1,), (1.0,), (1.0,)))
    transfers.write(1, 4)
    transfers.arrive(transfers.stream(4, written=True))
    assert transfers.now == pytest.approx(8.0)
    other = Transfers(DiskRates((1,), (1.0,), (1.0,), 0.5))
    other.read(1, 4)
    other.arrive(other.stream(4, written=True))
    assert other.now == pytest.approx(8.0)
    assert all(one <= two for one, two in pairwise((0, transfers.now, other.now)))


def test_a_disk_that_takes_no_time_costs_nothing() -> None:
    chain = Chain.abstract(forward=[1.0] * 3, backward=[2.0] * 3, state_bytes=[1] * 4)
    sizes = PartBytes.of([1024] * 3, 4, 0)
    schedule = PLANNERS["store_all"](chain)
    trace = simulate(chain, schedule, AT_ONCE, (moves(schedule.ops, Streaming(True, False, 1)), sizes))
    assert trace.seconds == trace.cost
