"""Whatever is given to a public name, the answer is a result or one line that says what is needed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from scripts.junk_calls import ARCH, X, Y, network, raw_errors


def test_junk_calls_end_in_a_result_or_one_line() -> None:
    assert raw_errors(0, 400) == []


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
