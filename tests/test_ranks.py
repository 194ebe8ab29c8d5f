"""Several ranks: the same bits as one process, moments shared out, bytes as promised. Ranks are threads here."""

import json
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.cli import main
from lowmem.planning.timeline import chain_of
from lowmem.runtime.clipping import ClippedBackprop
from lowmem.schedule import AllReduce, Backward, Schedule, Update, simulate
from tests.helpers import Array, batch, stirred
from tests.test_shards import ENGINES
from tests.thread_group import ThreadGroup, in_ranks

NETWORK = lm.Architecture((12, *[37] * 6, 5), "tanh", dropout=0.1)


def stepped(group: ThreadGroup | None, sizes: tuple[int, ...], **options: Any) -> tuple[Array, list[float]]:
    """Return the parameters and the losses of steps on batches of these sizes, the largest of which is planned for."""
    optimizer = lm.make_optimizer(options.pop("optimizer", "adam"), lr=0.01)
    mlp, ranks = stirred(NETWORK), 1 if group is None else group.size
    clip = options.pop("clip", None)
    plan = lm.plan(NETWORK, max(sizes), optimizer=optimizer, ranks=ranks, gather=clip is not None, **options)
    backprop = lm.Backprop(mlp, plan, optimizer, group=group)
    if clip is not None:
        backprop = ClippedBackprop(mlp, plan, optimizer, clip, group=group)
    losses = []
    for number, rows in enumerate(sizes):
        x, y = batch(NETWORK, rows, seed=number)
        first, stop = backprop.buffers.shards.own_rows(rows)
        losses.append(backprop.step(x[first:stop], y[first:stop], whole=None if group is None else rows)[0])
    if group is not None:
        assert backprop.account().total <= plan.account().total
    return mlp.parameters, losses


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("shards", "ranks"), [(2, 2), (4, 2), (4, 4), (6, 2), (6, 3), (12, 4), (12, 6)], ids=lambda number: str(number)
)
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "nesterov"])
def test_any_number_of_ranks_gives_the_bits_of_one_process(
    engine: str, shards: int, ranks: int, optimizer: str
) -> None:
    options: dict[str, Any] = {"shards": shards, "engine": engine, "optimizer": optimizer}
    sizes = (50, 47, 3, 1, 50)  # of the small ones some ranks have no row
    expected, losses = stepped(None, sizes, **options)
    for parameters, found in in_ranks(ranks, lambda group: stepped(group, sizes, **options)):
        assert found == losses
        assert (parameters == expected).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("shards", "ranks"), [(2, 2), (4, 4), (6, 3)], ids=lambda number: str(number))
@pytest.mark.parametrize("clip", [1e-3, 0.3, 1e6], ids=str)
def test_clipping_by_norm_gives_the_same_bits_on_any_number_of_ranks(
    engine: str, shards: int, ranks: int, clip: float
) -> None:
    options: dict[str, Any] = {"shards": shards, "engine": engine, "optimizer": "momentum", "clip": clip}
    sizes = (50, 47, 3, 1, 50)
    expected, losses = stepped(None, sizes, **options)
    for parameters, found in in_ranks(ranks, lambda group: stepped(group, sizes, **options)):
        assert found == losses
        assert (parameters == expected).all()
    if clip < 1:
        unclipped, _ = stepped(None, sizes, **options | {"clip": 1e9})
        assert (unclipped != expected).any()


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_that_overflow_on_one_rank_stop_all_before_any_update(engine: str) -> None:
    network = lm.Architecture((12, 16, 16, 4), "relu", "mse")
    x, y = batch(network, 40)
    x[33] = 1e18  # the loss is finite, and the squares of gradients are not

    def run(group: ThreadGroup) -> bool:
        mlp, optimizer = stirred(network), lm.Adam()
        plan = lm.plan(network, 40, optimizer=optimizer, shards=4, ranks=4, engine=engine, gather=True)
        backprop, before = ClippedBackprop(mlp, plan, optimizer, 1.0, group=group), mlp.parameters.copy()
        own = slice(10 * group.rank, 10 * group.rank + 10)
        with pytest.raises(lm.NonFiniteError, match="norm of the gradients became nan"):
            backprop.step(x[own], y[own], whole=40)
        assert (mlp.parameters == before).all()
        backprop.step(np.zeros_like(x[own]), y[own], whole=40)  # and the run can go on
        return bool((mlp.parameters != before).any())

    assert in_ranks(4, run) == [True] * 4


def test_a_rank_that_clips_keeps_its_own_parts_of_the_gradients_alone() -> None:
    fused, clipped = (lm.plan(NETWORK, 64, None, "adam", shards=4, ranks=4, gather=gather) for gather in (False, True))
    own = clipped.parameter_bytes / 4
    assert clipped.gradient_bytes - fused.gradient_bytes == pytest.approx(own, rel=0.05)


@pytest.mark.parametrize("engine", ENGINES)
def test_ranks_with_budgets_of_their_own_give_the_same_bits(engine: str) -> None:
    options: dict[str, Any] = {"shards": 4, "engine": engine, "micro_batch": 5}
    expected, _ = stepped(None, (40, 40), **options)
    ways = [{"strategy": "store_all"}, {"strategy": "recompute_all"}]
    for parameters, _ in in_ranks(2, lambda group: stepped(group, (40, 40), **options, **ways[group.rank])):
        assert (parameters == expected).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rank", [0, 3])
def test_a_loss_that_overflows_on_one_rank_stops_all_of_them_before_any_update(engine: str, rank: int) -> None:
    network = lm.Architecture((12, 16, 16, 4), "relu", "mse")
    x, y = batch(network, 40)
    x[10 * rank + 3] = 3e38

    def run(group: ThreadGroup) -> bool:
        mlp, optimizer = stirred(network), lm.Adam()
        plan = lm.plan(network, 40, optimizer=optimizer, shards=4, ranks=4, engine=engine)
        backprop, before = lm.Backprop(mlp, plan, optimizer, group=group), mlp.parameters.copy()
        own = slice(10 * group.rank, 10 * group.rank + 10)
        with pytest.raises(lm.NonFiniteError, match=f"the loss became (nan|inf) on rank {rank}"):
            backprop.step(x[own], y[own], whole=40)
        assert (mlp.parameters == before).all()
        good = np.zeros_like(x[own])
        backprop.step(good, y[own], whole=40)  # and the run can go on
        return bool((mlp.parameters != before).any())

    assert in_ranks(4, run) == [True] * 4


def test_moments_and_gradients_fall_with_the_number_of_ranks() -> None:
    one = lm.plan(NETWORK, 64, optimizer="adam", shards=4, engine="numpy")
    four = lm.plan(NETWORK, 64, optimizer="adam", shards=4, ranks=4, engine="numpy")
    scratch = one.optimizer_scratch * 4
    assert (four.optimizer_bytes - scratch) / (one.optimizer_bytes - scratch) == pytest.approx(0.25, abs=0.02)
    assert four.gradient_bytes < one.gradient_bytes
    for question in (lm.minimum_budget, lambda *way, **more: -lm.largest_batch(way[0], "400KiB", way[2], **more)):
        assert question(NETWORK, 64, "adam", shards=4, ranks=4) < question(NETWORK, 64, "adam", shards=4)
    shapes = lm.Architecture((12, 37, 5))
    deepest = [lm.deepest(shapes, 64, "400KiB", "adam", shards=4, ranks=ranks) for ranks in (1, 2, 4)]
    assert deepest == sorted(deepest)
    assert deepest[0] < deepest[2]


@pytest.mark.parametrize("question", [[], ["--deepest"], ["--largest-batch"], ["--at-most", "2x"]], ids=str)
def test_the_command_plans_for_ranks_and_answers_for_them(
    question: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shape = ["--layers", "8", "--width", "32", "--batch", "64", "--optimizer", "adam", "--no-calibrate", "--json"]
    peaks = []
    for ranks in ("1", "4"):
        flags = ["plan", *shape, "--budget", "400KiB", "--shards", "4", "--ranks", ranks, *question]
        assert main(flags) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["plan"]["shards"], answer["plan"]["ranks"]) == (4, int(ranks))
        peaks.append(answer["plan"]["bytes"]["optimizer"] / answer["plan"]["bytes"]["parameters"])
    assert peaks[0] >= 2 > 1 > peaks[1]  # Adam's two moments, and a quarter of them


def test_an_exchange_stands_behind_its_backward_and_the_update_waits() -> None:
    plan = lm.plan(NETWORK, 64, optimizer="adam", shards=4, ranks=2)
    ops = [op for op in plan.schedule.ops if isinstance(op, Backward | AllReduce | Update)]
    for layer in range(1, NETWORK.layers + 1):
        at = ops.index(Backward(layer))
        assert ops[at + 1] == AllReduce(layer)
        if layer > 2:
            assert ops.index(Update(layer)) > ops.index(AllReduce(layer - 2))
    chain = chain_of(plan)
    too_early = [op for op in plan.schedule.ops if op != AllReduce(3)]
    with pytest.raises(lm.ScheduleError, match=r"Update\(3\), cannot run: r\^\(3\) is missing"):
        simulate(chain, Schedule("mine", tuple(too_early)))
    assert Schedule.from_json(plan.schedule.to_json()) == plan.schedule


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"optimizer": "adam", "rehearse": True}, "rehearse=True runs a batch in one piece.*gather=True"),
        ({"optimizer": None}, "ranks=2 exchange .* a caller who takes them. Give an optimizer"),
    ],
    ids=str,
)
def test_what_ranks_cannot_do_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(lm.InputError, match=text):
        lm.plan(NETWORK, 64, shards=4, ranks=2, **options)


def test_a_plan_for_ranks_that_are_not_there_is_refused() -> None:
    plan = lm.plan(NETWORK, 64, optimizer="adam", shards=4, ranks=2)
    with pytest.raises(lm.InputError, match="the plan is for 2 ranks and there is 1"):
        lm.Backprop(lm.MLP(NETWORK), plan, lm.Adam())
