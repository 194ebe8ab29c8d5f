"""Schedules that send states to a disk: what is valid, what they take, and how long with transfers beside the ops."""

import pytest

from lowmem.chain import Chain, Stage, Value
from lowmem.errors import ScheduleError
from lowmem.planning.packing import pack
from lowmem.schedule import Backward, Forward, Free, Load, Loss, Op, Schedule, Store, simulate
from lowmem.schedule.disk.transfers import DiskRates, Transfers

CHAIN = Chain(tuple(Stage(1.0, 2.0, 100, 100) for _ in range(3)))
"""Three layers of 1 s forward, 2 s backward; states of 100 bytes."""

X1, X2 = Value("x", 1), Value("x", 2)
PLAIN = (Forward(1, 1), Forward(2, 2), Forward(3, 3), Loss(), Backward(3), Backward(2), Backward(1))
SPILLED = (
    Forward(1, 1),
    Store(X1),
    Forward(2, 2),
    Free(X1),
    Forward(3, 3),
    Loss(),
    Load(X1),
    Backward(3),
    Backward(2),
    Backward(1),
)


def rates(write: float, read: float, shared: float = 1.0) -> DiskRates:
    return DiskRates((1,), (write,), (read,), shared)


def test_what_goes_to_the_disk_does_not_count_in_memory() -> None:
    plain, spilled = simulate(CHAIN, Schedule("own", PLAIN)), simulate(CHAIN, Schedule("own", SPILLED))
    assert (plain.peak_bytes, plain.disk_bytes, plain.written, plain.read) == (300, 0, 0, 0)
    assert (spilled.peak_bytes, spilled.disk_bytes, spilled.written, spilled.read) == (300, 100, 100, 100)
    late: list[Op] = [op for op in SPILLED if not isinstance(op, Load)]
    late.insert(late.index(Backward(2)), Load(X1))  # there is no state 2 and δ^(3) beside it any more
    assert simulate(CHAIN, Schedule("own", tuple(late))).peak_bytes == 200
    assert pack(CHAIN, Schedule("own", tuple(late))).arena_bytes == 200
    assert pack(CHAIN, Schedule("own", tuple(late))).disk_bytes == 100


@pytest.mark.parametrize(
    ("write", "read", "seconds"),
    [
        (1e9, 1e9, 9),  # a fast disk hides behind the ops
        (100, 100, 9),  # written in the second of Forward(2), read in the two of Backward(3)
        (50, 1e9, 10),  # Free waits 1 s for a write of 2 s
        (1e9, 25, 11),  # Backward(2) waits 2 s for a read of 4 s
        (50, 25, 12),
    ],
)
def test_ops_wait_for_transfers_that_are_in_flight(write: float, read: float, seconds: float) -> None:
    trace = simulate(CHAIN, Schedule("own", SPILLED), rates(write, read))
    assert trace.seconds == pytest.approx(seconds, rel=1e-6)
    assert trace.cost == 9
    assert simulate(CHAIN, Schedule("own", SPILLED)).seconds == 9


def test_two_directions_slow_each_other_down() -> None:
    alone, both = Transfers(rates(100, 100)), Transfers(rates(100, 100, shared=0.5))
    for transfers in (alone, both):
        transfers.write(1, 100)
        transfers.write(2, 100)
        transfers.read(1, 100)  # begins when state 1 is written, and goes on beside state 2
        transfers.finish()
    assert (alone.now, both.now) == (2, 3)


def test_rates_lie_between_those_measured() -> None:
    disk = DiskRates((4096, 65536), (1e6, 3e6), (2e6, 2e6))
    assert disk.write_seconds(4096) == pytest.approx(4096 / 1e6)
    assert disk.write_seconds(16384) == pytest.approx(16384 / 2e6)
    assert disk.write_seconds(1 << 20) == pytest.approx((1 << 20) / 3e6)
    assert disk.read_seconds(100) == pytest.approx(100 / 2e6)


@pytest.mark.parametrize(
    ("ops", "index", "words"),
    [
        ((Store(X1),), 0, "x^(1) is missing"),
        ((Forward(1, 1), Load(X1)), 1, "d^(1) is missing"),
        ((Forward(1, 1), Store(X1), Load(X1)), 2, "x^(1) is there already"),
        ((Forward(1, 1), Store(X1), Store(X1)), 2, "d^(1) is there already"),
        ((Forward(1, 3), Store(Value("x", 3))), 1, "only states between"),
        ((Store(Value("x", 0)),), 0, "only states between"),
        ((Forward(1, 1), Store(X1), *PLAIN[1:]), 8, "left behind: d^(1)"),
        ((*SPILLED[:4], *SPILLED[4:6], *SPILLED[7:]), 7, "x^(1) is missing"),
    ],
)
def test_what_a_disk_cannot_do_is_refused(ops: tuple[object, ...], index: int, words: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        simulate(CHAIN, Schedule("own", ops))  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert caught.value.index == index


def test_schedules_with_transfers_are_written_and_read_as_json() -> None:
    schedule = Schedule("own", SPILLED)
    assert Schedule.from_json(schedule.to_json()) == schedule
    assert str(Store(X1)) == "Store(x^(1))"
    assert str(Load(X2)) == "Load(x^(2))"
