"""Shards of a batch: the same bits for the same number of shards, along one tree of additions, in counted bytes."""

import gc
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lowmem as lm
from lowmem.common.shards import Shards, folded
from lowmem.measure.step_profile import profile_step
from lowmem.planning.engines.choice import why_not_native
from lowmem.planning.engines.machine import DiskTier
from lowmem.planning.timeline import planned_flops
from lowmem.schedule.disk.transfers import DiskRates
from tests.helpers import FIXED, Array, batch, model, stirred

ENGINES = ["numpy", *(["native"] if why_not_native() is None else [])]
ROOM = 64 * 1024


def named_sum(first: int, stop: int, rows: dict[int, tuple[int, int]]) -> str | None:
    """Write the sum over a node of the tree, by its definition; None for a node without rows."""
    if stop - first == 1:
        return str(first) if rows[first][0] < rows[first][1] else None
    middle = (first + stop) // 2
    left, right = named_sum(first, middle, rows), named_sum(middle, stop, rows)
    return left or right if left is None or right is None else f"({left}+{right})"


def divisors(number: int) -> list[int]:
    return [other for other in range(1, number + 1) if number % other == 0]


# The tree --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 24), st.integers(1, 60), st.data())
def test_any_number_of_ranks_adds_up_along_the_same_tree(count: int, rows: int, data: st.DataObject) -> None:
    ranks = data.draw(st.sampled_from(divisors(count)))
    sums: dict[tuple[int, int], str] = {}
    covered: list[int] = []
    for rank in range(ranks):
        shards, stack, kept = Shards(count, ranks, rank), [""][:0], 0
        leaves = shards.leaves(rows)
        for leaf in leaves:
            covered += range(*shards.rows(rows, leaf.shard))
            stack.append(str(leaf.shard))
            kept = max(kept, len(stack)) if not leaf.merges and leaf != leaves[-1] else kept
            for _ in range(leaf.merges):
                top = stack.pop()
                stack[-1] = f"({stack[-1]}+{top})"
        assert kept <= max(shards.slots(rows), shards.slots(max(rows, count)))
        sums |= dict(zip(shards.pieces(rows), stack, strict=True))
    expected = named_sum(0, count, {shard: Shards(count).rows(rows, shard) for shard in range(count)})
    assert folded(count, sums, lambda one, other: f"({one}+{other})") == expected
    assert covered == list(range(rows))  # every row is in one shard of one rank


@given(st.integers(1, 24), st.integers(0, 2000), st.data())
def test_the_parts_of_a_layer_are_the_same_for_any_number_of_ranks(count: int, size: int, data: st.DataObject) -> None:
    ranks = data.draw(st.sampled_from(divisors(count)))
    parts = [part for rank in range(ranks) for part in Shards(count, ranks, rank).parts(size)]
    assert parts == list(Shards(count).parts(size))
    assert sum(stop - first for first, stop in parts) == size
    assert Shards(count, ranks).largest_part(size) <= size / ranks + 16


def test_the_shards_of_an_uneven_batch_differ_by_a_row() -> None:
    sizes = [stop - first for first, stop in (Shards(4).rows(10, shard) for shard in range(4))]
    assert sizes == [2, 3, 2, 3]
    assert [leaf.shard for leaf in Shards(4).leaves(3)] == [1, 2, 3]  # the first has no row


def test_ranks_that_do_not_divide_the_shards_are_refused_with_those_that_do() -> None:
    with pytest.raises(lm.InputError, match="4 ranks do not divide shards=6.*Run 1, 2, 3 or 6 ranks.*shards=8"):
        lm.plan((8, 4, 2), 12, shards=6, ranks=4)


# Gradients -------------------------------------------------------------------------------------------------------

KINDS: list[dict[str, Any]] = [
    {},
    {"activation": "gelu", "residual": "learned"},
    {"norm": "layer", "residual": True, "loss": "mse"},
    {"activation": "tanh", "residual": "scaled", "norm": "rms", "loss": "bce"},
]


def gradient(mlp: lm.MLP, data: tuple[Array, Array], rows: int, **options: Any) -> tuple[float, Array]:
    """Return loss and gradient, flat, of a step planned for batches of so many rows."""
    backprop = lm.Backprop(mlp, lm.plan(mlp, rows, **options))
    loss, gradients = backprop(*data)
    return loss, np.concatenate([part.ravel() for arrays in gradients.arrays for part in arrays.values()])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shards", [2, 8])
def test_the_gradient_is_the_sum_of_the_shards_gradients_along_the_tree(
    engine: str, kind: dict[str, Any], shards: int
) -> None:
    architecture = lm.Architecture((12, *[16] * 5, 4), **kind)
    mlp, (x, y) = stirred(architecture), batch(architecture, 64)
    loss, whole = gradient(mlp, (x, y), 64, shards=shards, engine=engine)
    each = 64 // shards
    parts = [
        gradient(mlp, (x[at : at + each], y[at : at + each]), each, engine=engine, threads=1)
        for at in range(0, 64, each)
    ]
    while len(parts) > 1:  # neighbours are added up
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [(one[0] + other[0], one[1] + other[1]) for one, other in pairs]
    # Means of a shard become means of the batch; dividing by a power of two rounds nothing.
    assert (whole == parts[0][1] / shards).all()
    assert loss == pytest.approx(parts[0][0] / shards, rel=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("shards", "given_rows", "micro_batch"), [(4, 50, None), (3, 50, 5), (7, 4, None), (4, 1, 2)])
def test_uneven_and_short_batches_have_the_gradient_of_the_whole(
    engine: str, shards: int, given_rows: int, micro_batch: int | None
) -> None:
    architecture = lm.Architecture((12, *[16] * 5, 4), "tanh", dtype="float64")
    mlp, data = stirred(architecture), batch(architecture, given_rows)
    loss, expected = gradient(mlp, data, 50, engine=engine)
    found, cut = gradient(mlp, data, 50, engine=engine, shards=shards, micro_batch=micro_batch)
    assert found == pytest.approx(loss, rel=1e-13)
    np.testing.assert_allclose(cut, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("micro_batch", [None, 7])
def test_every_strategy_and_budget_gives_the_same_bits(engine: str, micro_batch: int | None) -> None:
    architecture = lm.Architecture((12, *[16] * 9, 4), "gelu", dropout=0.2)
    mlp, data, options = stirred(architecture), batch(architecture, 90), {"shards": 6, "engine": engine}
    options |= {"micro_batch": micro_batch}
    loss, bits = gradient(mlp, data, 90, **options)
    ways = [{"strategy": name, **more} for name, more in FIXED] + [{"budget": "30% of activations"}]
    for way in ways:
        again, other = gradient(mlp, data, 90, **options, **way)
        assert again == loss
        assert (other == bits).all()


# Training --------------------------------------------------------------------------------------------------------

NETWORK = lm.Architecture((12, *[16] * 6, 4), "tanh")


def trained(path: Path | None = None, epochs: int = 3, **options: Any) -> Array:
    """Return the parameters after some epochs over 70 samples in batches of 24; path: to save the run to."""
    optimizer = lm.make_optimizer(options.pop("optimizer", "adam"), lr=0.01)
    trainer = lm.Trainer(lm.MLP(NETWORK, seed=1), optimizer, batch_size=24, **options)
    list(trainer.epochs(batch(NETWORK, 70), epochs, batch(NETWORK, 30, seed=1), save_to=path))
    return trainer.mlp.parameters.copy()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("more", [{}, {"clip_norm": 0.5}, {"clip_value": 0.01}, {"optimizer": "momentum"}], ids=str)
def test_training_in_shards_is_training_in_one_piece_but_for_rounding(engine: str, more: dict[str, Any]) -> None:
    np.testing.assert_allclose(
        trained(engine=engine, shards=4, **more), trained(engine=engine, **more), rtol=1e-3, atol=2e-5
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_resumed_run_keeps_its_shards_and_goes_on_to_the_same_bits(tmp_path: Path, engine: str) -> None:
    straight = trained(epochs=4, engine=engine, shards=4)
    trained(tmp_path / "run", epochs=2, engine=engine, shards=4)
    trainer = lm.Trainer.resume(tmp_path / "run")
    assert trainer.plan.shards == 4
    list(trainer.epochs(batch(NETWORK, 70), 2, batch(NETWORK, 30, seed=1)))
    assert (trainer.mlp.parameters == straight).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shard", [0, 2])
def test_a_shard_whose_loss_overflows_changes_nothing(engine: str, shard: int) -> None:
    network = lm.Architecture((12, *[16] * 2, 4), "relu", "mse")
    mlp, optimizer = stirred(network), lm.Adam()
    backprop = lm.Backprop(mlp, lm.plan(network, 24, optimizer=optimizer, shards=3, engine=engine), optimizer)
    x, y = batch(network, 24)
    x[8 * shard] = 3e38  # of this row the outputs overflow
    before = mlp.parameters.copy()
    with pytest.raises(lm.NonFiniteError):
        backprop(x, y)
    assert (mlp.parameters == before).all()
    assert optimizer.step_count == 0


def test_a_command_trains_in_shards(tmp_path: Path) -> None:
    flags = ["--data", "digits", "--layers", "4", "--width", "16", "--epochs", "1", "--shards", "4", "--batch", "128"]
    for name in ("one", "two"):
        command = [sys.executable, "-m", "lowmem", "train", *flags, "--save", str(tmp_path / name)]
        done = subprocess.run([*command, "--no-calibrate"], capture_output=True, text=True, check=True)
        assert "4 shards of 32" in done.stdout
    runs = [lm.Trainer.resume(tmp_path / name) for name in ("one", "two")]
    assert (runs[0].mlp.parameters == runs[1].mlp.parameters).all()
    assert runs[0].plan.shards == 4


# Memory ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def traced() -> Iterator[None]:
    """Trace allocations during a test, of which everything that is loaded at first use is no part."""
    for engine in ENGINES:
        trained(engine=engine, shards=2, epochs=1)
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("shards", "micro_batch", "optimizer"), [(2, None, "adam"), (8, None, "sgd"), (4, 30, "adam"), (4, None, None)]
)
@pytest.mark.usefixtures("traced")
def test_a_step_takes_no_more_than_promised(
    engine: str, shards: int, micro_batch: int | None, optimizer: str | None
) -> None:
    architecture = lm.Architecture((100, *[128] * 12, 10))
    data = batch(architecture, 400)
    plan = lm.plan(architecture, 400, None, optimizer, shards=shards, micro_batch=micro_batch, engine=engine)
    gc.collect()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    made = lm.make_optimizer(optimizer) if optimizer else None
    backprop = lm.Backprop(lm.MLP(architecture), plan, made)
    for _ in range(2):
        backprop(*data)
    peak = tracemalloc.get_traced_memory()[1] - before
    assert plan.peak_bytes - 256 * 1024 <= peak <= plan.peak_bytes + ROOM
    assert backprop.account().arrays() == plan.account().arrays()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    backprop(*data)
    assert tracemalloc.get_traced_memory()[1] - before < 40 * 1024  # no array is made in a step


def test_what_shards_take_is_a_sum_of_all_layers_for_each_level_of_the_tree() -> None:
    one = lm.plan(NETWORK, 64, optimizer="adam", engine="numpy", threads=1)
    for shards, sums in ((2, 1), (4, 2), (8, 3), (16, 4)):
        plan = lm.plan(NETWORK, 64, optimizer="adam", engine="numpy", shards=shards)
        assert plan.gradient_bytes == one.gradient_bytes + sums * one.parameter_bytes


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("micro_batch", [None, 10])
def test_the_flops_that_are_counted_are_those_of_the_plan(engine: str, micro_batch: int | None) -> None:
    plan = lm.plan(NETWORK, 60, "60% of activations", "sgd", shards=4, micro_batch=micro_batch, engine=engine)
    backprop = lm.Backprop(lm.MLP(NETWORK), plan, lm.SGD())
    profile = profile_step(backprop, *batch(NETWORK, 60))
    counted = {phase: flops for phase, flops in profile.flops.items() if phase != "update"}
    assert counted == {phase: flops for phase, flops in planned_flops(plan).items() if phase != "update"}


# Refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"shards": 0}, "shards must be a positive whole number; got 0"),
        ({"shards": "4"}, "shards must be a positive whole number; got '4'"),
        ({"shards": 65}, "shards=65 are more than batch_size=64; every shard needs a sample"),
        ({"shards": 4, "micro_batch": 17}, "micro_batch=17 is more than the 16 rows of a shard"),
        ({"shards": 4, "optimizer": "sgd", "rehearse": True}, "shards=4 would split it; gather=True"),
        ({"shards": 4, "ranks": 3}, "3 ranks do not divide shards=4"),
        ({"ranks": 2}, "2 ranks do not divide shards=1: .* Give shards=2"),
    ],
    ids=str,
)
def test_numbers_that_make_no_sense_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(lm.InputError, match=text):
        lm.plan(NETWORK, 64, **options)


def test_a_norm_over_the_batch_is_refused_with_what_else_to_take() -> None:
    architecture = lm.Architecture((12, 16, 16, 4), norm="batch")
    with pytest.raises(lm.InputError, match='shards=2 would split a batch of 64.*norm="batch".*another norm'):
        lm.plan(architecture, 64, shards=2)


def test_a_budget_that_is_too_small_names_one_that_works() -> None:
    with pytest.raises(lm.BudgetError) as refused:
        lm.plan(NETWORK, 64, "10KiB", "adam", shards=4)
    plan = lm.plan(NETWORK, 64, refused.value.minimum, "adam", shards=4)
    assert plan.peak_bytes <= refused.value.minimum == lm.minimum_budget(NETWORK, 64, "adam", shards=4)
    rows = lm.largest_batch(NETWORK, 300_000, "adam", shards=4)
    least = [lm.minimum_budget(NETWORK, number, "adam", shards=4) for number in (rows, rows + 1)]
    assert least[0] <= 300_000 < least[1]


def test_shards_go_with_a_disk_whose_costs_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowmem.planning.choose.measured_costs", lambda dtype, engine: model(dtype=dtype))
    disk = DiskTier(str(tmp_path), DiskRates((1,), (1e9,), (1e9,)))
    assert lm.plan(NETWORK, 64, shards=4, disk=disk).micro_batch == 16
    assert lm.largest_batch(NETWORK, "1MiB", shards=4, disk=disk) >= 64
    with pytest.raises(lm.InputError, match="shards=65 are more than batch_size=64"):
        lm.plan(NETWORK, 64, shards=65, disk=disk)


def test_the_largest_batch_in_passes_has_no_pass_longer_than_a_shard() -> None:
    few = lm.minimum_budget(NETWORK, 12, "sgd", shards=4, micro_batch=3)
    largest = lm.largest_batch(NETWORK, few, "sgd", shards=4, micro_batch=16)
    assert largest >= 12
    assert lm.minimum_budget(NETWORK, largest, "sgd", shards=4, micro_batch=-(-largest // 4)) <= few
    with pytest.raises(lm.InputError, match="batches of any size fit"):
        lm.largest_batch(NETWORK, "10MiB", "sgd", shards=4, micro_batch=16)
