"""Schedules: every planner's are valid and cost what theory says, and the simulator refuses all that are not."""

from functools import cache
from itertools import pairwise
from math import inf, isqrt, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowmem as lm
from lowmem.chain import Chain, Value
from lowmem.errors import InputError, ScheduleError
from lowmem.planning.network_chain import network_chain
from lowmem.schedule import PLANNERS, Backward, Forward, Free, Loss, Op, Schedule, Update, simulate
from lowmem.schedule.revolve import revolve_forwards
from tests.helpers import FIXED, InvalidError, architectures, chains, interpret, planned


def even(length: int, *, updates: bool = False) -> Chain:
    """Return an abstract chain of equal stages of cost and size 1."""
    chain = Chain.abstract(forward=[1] * length, backward=[1] * length, state_bytes=[1] * (length + 1))
    return Chain(chain.stages, updates=updates, in_hand_free=True)


def forwards(name: str, length: int, **options: int) -> int:
    chain = even(length)
    return simulate(chain, PLANNERS[name](chain, **options)).forward_runs


# Every planner ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(planned())
def test_every_planner_makes_a_valid_schedule(made: tuple[Chain, Schedule]) -> None:
    chain, schedule = made
    trace = simulate(chain, schedule)
    assert [op.layer for op in schedule if isinstance(op, Backward)] == list(range(chain.length, 0, -1))
    assert trace.forward_runs >= chain.length
    assert trace.cost == trace.flops


@settings(deadline=None, max_examples=150)
@given(planned())
def test_the_memory_and_cost_fold_equals_an_independent_interpreters(made: tuple[Chain, Schedule]) -> None:
    chain, schedule = made
    trace = simulate(chain, schedule)
    assert (trace.peak_bytes, trace.forward_runs, trace.cost) == interpret(chain, schedule.ops)
    assert 0 <= trace.peak_at < len(schedule)


@settings(deadline=None, max_examples=60)
@given(architectures(), st.integers(1, 1100), st.sampled_from(FIXED), st.booleans())
def test_the_fold_is_right_for_networks_too(
    architecture: lm.Architecture, rows: int, fixed: tuple[str, dict[str, int]], updates: bool
) -> None:
    chain = network_chain(architecture, rows, updates=updates)
    schedule = PLANNERS[fixed[0]](chain, **fixed[1])
    trace = simulate(chain, schedule)
    assert (trace.peak_bytes, trace.forward_runs, trace.cost) == interpret(chain, schedule.ops)


@settings(deadline=None, max_examples=60)
@given(planned())
def test_lifetimes_name_every_value_once_for_each_time_it_is_made(made: tuple[Chain, Schedule]) -> None:
    chain, schedule = made
    lifetimes = simulate(chain, schedule).lifetimes
    states = sum(isinstance(op, Forward) for op in schedule)
    gradients = chain.length if chain.updates else 0
    assert len(lifetimes) == states + chain.length + gradients
    assert all(life.start < life.end < len(schedule) for life in lifetimes)
    assert [life.end for life in lifetimes] == sorted(life.end for life in lifetimes)


@settings(deadline=None, max_examples=60)
@given(planned())
def test_a_schedule_is_data(made: tuple[Chain, Schedule]) -> None:
    _, schedule = made
    again = Schedule.from_json(schedule.to_json())
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert list(schedule) == list(schedule) == list(schedule.ops)
    assert len(schedule) == len(schedule.ops)


def test_every_kind_of_op_compares_hashes_and_survives_json() -> None:
    ops: tuple[Op, ...] = (Forward(1, 3), Forward(1, 2), Loss(), Backward(2), Update(2), Free(Value("s", 2)))
    schedule = Schedule("mine", ops)
    again = Schedule.from_json(schedule.to_json())
    assert again == schedule
    assert [hash(op) for op in again] == [hash(op) for op in ops]
    assert len(set(ops)) == len(ops)
    assert schedule != Schedule("other", ops)
    assert [str(op) for op in ops[:2]] == ["Forward(1..3)", "Forward(1..2)"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "{}",
        '{"planner": "a"}',
        '{"planner": "a", "ops": 3}',
        '{"planner": "a", "ops": [[]]}',
        '{"planner": "a", "ops": [["forward", 1]]}',
        '{"planner": "a", "ops": [["forward", 1, 2, 3]]}',
        '{"planner": "a", "ops": [["forward", 1, 2.5]]}',
        '{"planner": "a", "ops": [["forward", 1, true]]}',
        '{"planner": "a", "ops": [["jump", 1]]}',
        '{"planner": "a", "ops": [["free", "q", 1]]}',
        '{"planner": "a", "ops": [["free", "x"]]}',
        '{"planner": "a", "ops": [7]}',
    ],
)
def test_text_that_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a schedule"):
        Schedule.from_json(text)


# Counts ----------------------------------------------------------------------------------------------------------

LENGTHS = [1, 2, 3, 4, 5, 7, 10, 16, 33, 100, 257]


@pytest.mark.parametrize("length", LENGTHS)
def test_store_all_runs_every_layer_once(length: int) -> None:
    assert forwards("store_all", length) == length


@pytest.mark.parametrize("length", LENGTHS)
def test_recompute_all_runs_a_triangle_of_layers_and_keeps_nothing(length: int) -> None:
    assert forwards("recompute_all", length) == length * (length - 1) // 2 + 1
    chain = even(length)
    assert simulate(chain, PLANNERS["recompute_all"](chain)).peak_bytes == 0


def boundaries(length: int) -> list[int]:
    """Return the states that sqrt keeps during its first sweep, 0 first, and L."""
    ends = [0]
    for op in PLANNERS["sqrt"](even(length)):
        if not isinstance(op, Forward) or op.first != ends[-1] + 1:
            break
        ends.append(op.last)
    return ends


@pytest.mark.parametrize("length", [4, 5, 7, 10, 16, 17, 33, 100, 101, 257, 1000])
def test_segments_of_sqrt_are_as_even_as_can_be_and_about_sqrt_of_l(length: int) -> None:
    # The first sweep jumps from boundary to boundary and walks through the last segment layer by layer.
    count = isqrt(4 * length - 3) + 1 >> 1
    assert abs(count - length**0.5) <= 0.5
    starts = boundaries(length)[:count]
    sizes = [b - a for a, b in zip(starts, [*starts[1:], length], strict=True)]
    assert sum(sizes) == length
    assert max(sizes) - min(sizes) <= 1
    # Each segment but the last runs all its layers twice but its own last one.
    assert forwards("sqrt", length) == length + sum(size - 1 for size in sizes[:-1])


def checkpoint_sequential_forwards(length: int, segments: int) -> int:
    """Return what torch.utils.checkpoint.checkpoint_sequential runs: all, and all but the last segment again."""
    return length + (length // segments) * (segments - 1)


@pytest.mark.parametrize("length", [*range(1, 60), 100, 101, 1000, 10_000])
def test_sqrt_runs_fewer_layers_than_pytorch_with_as_many_segments(length: int) -> None:
    count = isqrt(4 * length - 3) + 1 >> 1
    theirs = checkpoint_sequential_forwards(length, count)
    assert forwards("sqrt", length) <= theirs
    # PyTorch's last segment takes the remainder, and is not recomputed. Where that is all but one of the segments,
    # it just makes up for re-running the last layer of each segment.
    if length % count < count - 1:
        assert forwards("sqrt", length) < theirs


def test_at_a_hundred_layers_sqrt_runs_nine_layers_fewer_than_pytorch() -> None:
    assert forwards("sqrt", 100) == 181
    assert checkpoint_sequential_forwards(100, 10) == 190


@pytest.mark.parametrize("length", LENGTHS)
def test_segments_keeps_every_kth_state(length: int) -> None:
    for every in {1, 2, 3, 7, length, length + 5}:
        sizes = [min(every, length - start) for start in range(0, length, every)]
        assert forwards("segments", length, segments=every) == length + sum(size - 1 for size in sizes[:-1])


@cache
def least_forwards(length: int, slots: int) -> int:
    """Return the fewest forwards that reverse `length` layers with state 0 in hand, the loss's one left out.

    Griewank and Walther's recurrence, by trying every split.
    """
    if length == 1:
        return 0
    if slots == 0:
        return length * (length - 1) // 2
    return min(k + least_forwards(length - k, slots - 1) + least_forwards(k, slots) for k in range(1, length))


@pytest.mark.parametrize("length", range(1, 41))
def test_revolve_equals_a_search_over_all_splits_and_its_closed_form(length: int) -> None:
    for slots in range(10):
        assert forwards("revolve", length, slots=slots) == least_forwards(length, slots) + 1
        assert revolve_forwards(length, slots) == least_forwards(length, slots) + 1


@pytest.mark.parametrize(("length", "slots"), [(500, 3), (1000, 1), (1000, 30), (2000, 8), (10_000, 12), (97, 200)])
def test_revolve_equals_its_closed_form_in_deep_chains(length: int, slots: int) -> None:
    assert forwards("revolve", length, slots=slots) == revolve_forwards(length, slots)


@pytest.mark.parametrize("length", [1, 2, 3, 10, 50, 101])
def test_revolve_gains_by_every_slot_and_keeps_no_more_than_them(length: int) -> None:
    chain = even(length)
    traces = [simulate(chain, PLANNERS["revolve"](chain, slots=slots)) for slots in range(length + 2)]
    runs = [trace.forward_runs for trace in traces]
    assert runs[0] == length * (length - 1) // 2 + 1
    assert all(more > less for more, less in pairwise(runs[: length - 1]))
    assert runs[-1] == runs[max(length - 2, 0)] == length
    assert all(trace.peak_bytes <= slots for slots, trace in enumerate(traces))


@pytest.mark.parametrize("name", ["store_all", "sqrt", "recompute_all", "segments", "revolve"])
@pytest.mark.parametrize("updates", [False, True])
def test_ten_thousand_layers_take_fewer_than_four_ops_each(name: str, updates: bool) -> None:
    options = {"segments": {"segments": 100}, "revolve": {"slots": 20}}.get(name, {})
    chain = even(10_000, updates=updates)
    schedule = PLANNERS[name](chain, **options)
    assert len(schedule) < 4 * chain.length
    simulate(chain, schedule)


@pytest.mark.parametrize("length", [16, 25, 64, 100, 257, 1000, 2500, 10_000])
def test_memory_of_sqrt_grows_like_the_root_and_costs_less_than_a_third_more(length: int) -> None:
    chain = network_chain(lm.Architecture((64, *[64] * (length - 1), 64), "relu", "mse"), 512)
    state = chain.state_bytes(1)
    stored = simulate(chain, PLANNERS["store_all"](chain))
    trace = simulate(chain, PLANNERS["sqrt"](chain))
    # Two segments' worth of states about: the boundaries kept, and those of the one being reversed.
    assert 1.5 * length**0.5 * state < trace.peak_bytes < (2 * length**0.5 + 4) * state
    assert stored.peak_bytes >= length * state
    # Backward costs twice the forward but for layer 1, which has no δ^(0) to make: hence the edge.
    assert 1 <= trace.flops / stored.flops < 4 / 3 + 1 / (3 * length)


# Refusals --------------------------------------------------------------------------------------------------------


def mutate(draw: Any, chain: Chain, ops: list[Op]) -> list[Op]:
    """Spoil a list of ops in one place, or add an op that may or may not be wanted there."""
    layer = st.integers(0, chain.length + 1)
    at = draw(st.integers(0, len(ops) - 1))
    kind = draw(st.sampled_from(["drop", "twice", "swap", "layer", "insert", "move"]))
    ops = list(ops)
    match kind:
        case "drop":
            del ops[at]
        case "twice":
            ops.insert(draw(st.integers(at, len(ops))), ops[at])
        case "swap":
            other = draw(st.integers(0, len(ops) - 1))
            ops[at], ops[other] = ops[other], ops[at]
        case "move":
            ops.insert(draw(st.integers(0, len(ops) - 1)), ops.pop(at))
        case "layer":
            ops[at] = draw(
                st.one_of(st.builds(Forward, layer, layer), st.builds(Backward, layer), st.builds(Update, layer))
            )
        case "insert":
            value = st.builds(Value, st.sampled_from(["x", "s", "δ", "g"]), layer)
            op = st.one_of(
                st.builds(Forward, layer, layer),
                st.builds(Loss),
                st.builds(Backward, layer),
                st.builds(Update, layer),
                st.builds(Free, value),
            )
            ops.insert(draw(st.integers(0, len(ops))), draw(op))
    return ops


@settings(deadline=None, max_examples=700)
@given(planned(max_length=7), st.integers(1, 3), st.data())
def test_a_spoilt_schedule_is_refused_where_it_goes_wrong_or_counted_rightly(
    made: tuple[Chain, Schedule], times: int, data: st.DataObject
) -> None:
    chain, schedule = made
    ops = list(schedule.ops)
    for _ in range(times):
        if ops:
            ops = mutate(data.draw, chain, ops)
    spoilt = Schedule("spoilt", tuple(ops))
    try:
        expected = interpret(chain, spoilt.ops)
    except InvalidError as refused:
        with pytest.raises(ScheduleError) as error:
            simulate(chain, spoilt)
        assert error.value.index == refused.args[0]
        if error.value.index < len(ops):
            assert f"op {error.value.index}, {ops[error.value.index]}, cannot run" in str(error.value)
    else:
        trace = simulate(chain, spoilt)
        assert (trace.peak_bytes, trace.forward_runs, trace.cost) == expected


@settings(deadline=None, max_examples=60)
@given(planned(), st.data())
def test_a_dropped_op_is_always_missed(made: tuple[Chain, Schedule], data: st.DataObject) -> None:
    chain, schedule = made
    at = data.draw(st.integers(0, len(schedule) - 1))
    with pytest.raises(ScheduleError):
        simulate(chain, Schedule("short", schedule.ops[:at] + schedule.ops[at + 1 :]))


F, B = Forward, Backward


@pytest.mark.parametrize(
    ("ops", "index", "missing"),
    [
        ([], 0, "layers 1..2 not reversed"),
        ([F(1, 1), F(2, 2), Loss(), B(2)], 4, "layers 1..1 not reversed"),
        ([F(2, 2)], 0, "x^(1) is missing"),
        ([F(1, 1), Loss()], 1, "s^(2) is missing"),
        ([F(1, 1), B(2)], 1, "δ^(2) is missing"),
        ([F(1, 2), Loss(), B(2)], 2, "x^(1) is missing"),
        ([F(1, 1), F(1, 1)], 1, "x^(1) is there already"),
        ([F(1, 3)], 0, "layers go from 1 to 2"),
        ([F(0, 1)], 0, "layers go from 1 to 2"),
        ([F(2, 1)], 0, "layers go from 1 to 2"),
        ([F(1, 1), Free(Value("x", 1)), F(2, 2)], 2, "x^(1) is missing"),
        ([Free(Value("x", 0))], 0, "the batch is the caller's"),
        ([F(1, 1), Free(Value("s", 1))], 1, "s^(1) is missing"),
        ([F(1, 1), F(2, 2), Loss(), B(2), F(1, 2)], 4, "reversed already"),
        ([F(1, 1), F(2, 2), Loss(), F(2, 2)], 3, "needs no output any more"),
        ([F(1, 1), F(2, 2), Loss(), B(2), F(1, 1), B(1)], 6, "left behind: x^(1)"),
        ([F(1, 1), F(2, 2), Loss(), B(2), Update(2)], 4, "gathers its gradients"),
    ],
)
def test_a_refusal_names_the_op_and_what_is_missing(ops: list[Op], index: int, missing: str) -> None:
    chain = network_chain(lm.Architecture((3, 4, 2)), 5)
    with pytest.raises(ScheduleError) as error:
        simulate(chain, Schedule("mine", tuple(ops)))
    assert error.value.index == index
    assert missing in str(error.value)


@pytest.mark.parametrize(
    ("ops", "index", "missing"),
    [
        ([F(1, 1), Loss(), Update(1)], 2, "g^(1) is missing"),
        ([F(1, 1), Loss(), B(1)], 3, "left behind: g^(1)"),
        ([F(1, 1), Loss(), B(1), Update(1), Update(1)], 4, "g^(1) is missing"),
    ],
)
def test_an_update_too_few_or_too_many_is_refused(ops: list[Op], index: int, missing: str) -> None:
    chain = network_chain(lm.Architecture((3, 2)), 5, updates=True)
    with pytest.raises(ScheduleError) as error:
        simulate(chain, Schedule("mine", tuple(ops)))
    assert error.value.index == index
    assert missing in str(error.value)


def test_a_state_may_be_dropped_early_and_made_again() -> None:
    chain = even(3)
    ops = (F(1, 1), F(2, 2), Free(Value("x", 1)), F(3, 3), Loss(), B(3), F(1, 1), B(2), B(1))
    trace = simulate(chain, Schedule("mine", ops))
    assert (trace.forward_runs, trace.peak_bytes) == (4, 0)


def test_what_is_no_op_is_refused() -> None:
    with pytest.raises(ScheduleError, match="not an op"):
        simulate(even(1), Schedule("mine", ("forward",)))  # type: ignore[arg-type]


# Chains and options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forward", "backward", "sizes", "words"),
    [
        ([], [], [1], "L >= 1"),
        ([1], [1, 1], [1, 1], "got 1, 2 and 2"),
        ([1], [1], [1], "got 1, 1 and 1"),
        ([1, -1], [1, 1], [1, 1, 1], "forward needs finite numbers"),
        ([1, 1], [1, nan], [1, 1, 1], "backward needs finite numbers"),
        ([1, 1], [1, 1], [1, inf, 1], "state_bytes needs finite numbers"),
        (["1"], [1], [1, 1], "forward needs finite numbers"),
        ([1], [None], [1, 1], "backward needs finite numbers"),
    ],
)
def test_an_impossible_abstract_chain_is_refused(
    forward: list[Any], backward: list[Any], sizes: list[Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        Chain.abstract(forward=forward, backward=backward, state_bytes=sizes)


def test_an_abstract_chain_may_be_given_as_arrays() -> None:
    import numpy as np

    ones: Any = np.ones(4)
    sizes: Any = np.ones(5, int)
    chain = Chain.abstract(forward=ones, backward=ones, state_bytes=sizes)
    assert simulate(chain, PLANNERS["recompute_all"](chain)).cost == 7 + 4


@pytest.mark.parametrize("every", [0, -1, 1.5, "2", None, True])
def test_segments_needs_a_positive_whole_number(every: Any) -> None:
    with pytest.raises(InputError, match="segments must be"):
        PLANNERS["segments"](even(4), segments=every)


@pytest.mark.parametrize("slots", [-1, 1.5, "2", None, True])
def test_revolve_needs_a_whole_number_of_slots(slots: Any) -> None:
    with pytest.raises(InputError, match="slots must be"):
        PLANNERS["revolve"](even(4), slots=slots)


@settings(deadline=None, max_examples=40)
@given(chains(), st.data())
def test_costs_and_sizes_of_runs_of_layers_are_sums_and_maxima(chain: Chain, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, chain.length))
    last = data.draw(st.integers(first, chain.length))
    stages = chain.stages[first - 1 : last]
    assert chain.forward_cost(first, last) == sum(stage.forward for stage in stages)
    assert chain.travelling_bytes(first, last) == max(stage.state_bytes for stage in stages)
    scratch = [stages[0].forward_scratch, *(stage.advance_scratch for stage in stages[1:])]
    assert chain.forward_scratch(first, last) == max(scratch)
