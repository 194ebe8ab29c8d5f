"""Whatever is given to a public name, the answer is a result or one line that says what is needed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.chain import Chain
from lowmem.data.dataset import from_arrays
from lowmem.measure.expected import Expected
from lowmem.measure.learning import EpochRecord
from lowmem.schedule import PLANNERS, simulate
from lowmem.schedule.disk.transfers import AT_ONCE
from lowmem.schedule.streaming import Moves, PartBytes
from scripts.junk_calls import ARCH, CHAIN, X, Y, network, raw_errors

NONE, SIZES = Moves((), ()), PartBytes((1, 1, 1), (1, 1, 1), 0, 0)


def test_junk_calls_end_in_a_result_or_one_line() -> None:
    assert raw_errors(0, 400) == []


@pytest.mark.parametrize("odd", [3, (), [1, 2, 3], "ab", ([1], 2), ([NONE], 2), ([NONE], SIZES)])
def test_a_simulation_refuses_what_are_no_moves(odd: Any) -> None:
    with pytest.raises(lm.InputError, match="streamed "):
        simulate(CHAIN, PLANNERS["store_all"](CHAIN), AT_ONCE, odd)
    with pytest.raises(lm.InputError, match="rates must be"):
        simulate(CHAIN, PLANNERS["store_all"](CHAIN), odd)


# What is plain is taken -------------------------------------------------------------------------------------------


def test_names_and_numbers_stand_for_optimizers_and_schedules() -> None:
    def parameters(optimizer: Any, schedule: Any = None) -> Any:
        one = lm.Trainer(network(), optimizer, batch_size=8, schedule=schedule)
        list(one.epochs((X, Y), 2))
        return one.mlp.parameters

    assert np.array_equal(parameters("adam"), parameters(lm.Adam()))
    assert np.array_equal(parameters("nesterov"), parameters(lm.make_optimizer("nesterov")))
    assert np.array_equal(parameters("sgd", 0.1), parameters(lm.SGD(0.1)))
    assert np.array_equal(parameters("sgd", "constant"), parameters("sgd"))
    # Two epochs of 20 samples in batches of 8 have 6 steps.
    assert np.array_equal(parameters("sgd", "cosine"), parameters("sgd", lm.LearningRate(0.01, "cosine", steps=6)))
    with pytest.raises(lm.InputError, match=r'schedule="step" needs to know how often the rate falls'):
        parameters("sgd", "step")


def test_a_cosine_by_name_is_saved_with_its_end(tmp_path: Path) -> None:
    whole = lm.Trainer(network(), "sgd", batch_size=8, schedule="cosine")
    list(whole.epochs((X, Y), 4))
    first = lm.Trainer(network(), "sgd", batch_size=8, schedule="cosine")
    next(first.epochs((X, Y), 4, save_to=tmp_path / "run"))
    again = lm.Trainer.resume(tmp_path / "run")
    list(again.epochs((X, Y)))
    assert np.array_equal(again.mlp.parameters, whole.mlp.parameters)


def test_networks_and_widths_stand_for_architectures() -> None:
    mlp = lm.MLP((4, 6, 6, 3), seed=0)
    assert mlp.architecture == ARCH
    assert np.array_equal(mlp.parameters, network().parameters)
    for given in (mlp, (4, 6, 6, 3), [4, 6, 6, 3]):
        assert lm.plan(given, 8).to_dict() == lm.plan(ARCH, 8).to_dict()
        assert lm.minimum_budget(given, 8) == lm.minimum_budget(ARCH, 8)
        assert lm.compare(given, 8, ["99%"]).to_dict() == lm.compare(ARCH, 8, ["99%"]).to_dict()
        assert lm.largest_batch(given, "96KiB") == lm.largest_batch(ARCH, "96KiB")
        assert lm.deepest(given, 8, "96KiB") == lm.deepest(ARCH, 8, "96KiB")


def test_lists_are_predicted() -> None:
    mlp = network()
    assert np.array_equal(mlp.predict(X.tolist()), mlp.predict(X))
    with pytest.raises(lm.InputError, match="the rows of x differ in length"):
        mlp.predict([[1, 2, 3, 4], [1]])


def test_errors_show_junk_in_one_line() -> None:
    with pytest.raises(lm.InputError) as error:
        lm.SGD(np.zeros((40, 40)))  # type: ignore[arg-type]
    assert len(str(error.value)) < 160
    assert "\n" not in str(error.value)


ODD = [np.zeros((3, 4)), np.array([1, 2]), np.array([]), np.array("x"), 3, 2.5, b"x", {"a": 1}, object(), "\ud800"]
"""What stands for no text: arrays, whose comparisons are arrays, numbers, and half of a letter."""


def refused(call: Callable[..., Any], **named: Any) -> str:
    """Make a call that must be refused in one line, and return the line."""
    with pytest.raises(lm.InputError) as error:
        call(**named)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: type(odd).__name__)
def test_what_is_no_text_is_refused_where_text_is_needed(odd: Any) -> None:
    plan, epoch = lm.plan(ARCH, 8), EpochRecord(1, 1, 0.5)
    assert "unknown initialisation scheme" in refused(lm.MLP, architecture=ARCH, initialiser=odd)
    for label in ("title", "memory_label", "compute_label"):
        said = refused(lm.plots.frontier, points=lm.compare(ARCH, 8, ["99%"]), **{label: odd})
        assert said.startswith(f"{label} must be text; got ")
    for label in ("title", "compute_label"):
        assert "must be text" in refused(lm.plots.scaling, records=[plan], **{label: odd})
    assert "title must be text" in refused(lm.plots.learning_curves, epochs=[epoch], title=odd)


def test_arrays_are_refused_where_one_value_is_needed() -> None:
    for odd in (np.zeros((3, 4)), np.array([]), np.array([1, 2])):
        assert "nesterov must be True or False" in refused(lm.SGD, momentum=0.9, nesterov=odd)
        assert "size in bytes" in refused(lm.Trainer, mlp=network(), batch_size=8, ram=odd)
        for mode in ("gather", "rehearse"):
            assert f"{mode} must be True or False" in refused(lm.plan, architecture=ARCH, batch_size=8, **{mode: odd})


def test_an_array_without_axes_is_no_list() -> None:
    odd: Any = np.array("adam")
    assert "budgets must be a list" in refused(lm.compare, architecture=ARCH, batch_size=8, budgets=odd)
    assert "points must be" in refused(lm.plots.frontier, points=odd)
    assert "forward needs a list" in refused(Chain.abstract, forward=odd, backward=[1], state_bytes=[1, 1])


@pytest.mark.parametrize("odd", [3, [None], (X, Y), np.zeros((3, 4)), object])
def test_what_are_no_data_to_come_is_refused(odd: Any) -> None:
    assert "expected must be" in refused(lm.Trainer, mlp=network(), batch_size=8, expected=odd)
    assert "train must be data" in refused(Expected, train=odd)
    assert "held_out must be data" in refused(Expected, train=from_arrays(X, Y), held_out=odd)
    assert "patience must be" in refused(Expected, train=from_arrays(X, Y), patience=odd)


@pytest.mark.parametrize("odd", [3, "mpi", np.zeros((3, 4)), object(), type], ids=lambda odd: type(odd).__name__)
def test_what_is_no_group_of_ranks_is_refused(odd: Any) -> None:
    assert "group must be what lowmem.distributed.mpi() returns" in refused(
        lm.Trainer, mlp=network(), batch_size=8, group=odd
    )
    assert "group must be" in refused(lm.Backprop, mlp=network(), plan=lm.plan(ARCH, 8), group=odd)
