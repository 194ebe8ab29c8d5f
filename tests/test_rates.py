"""Learning rates: pure functions of the step, checked against formulas and refused where they make no sense."""

from math import cos, pi
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lowmem as lm

RATES = st.builds(
    lm.LearningRate,
    lr=st.floats(0, 10),
    kind=st.sampled_from(["constant", "step", "cosine"]),
    warm_up=st.integers(0, 50),
    every=st.integers(1, 50),
    factor=st.floats(0, 1),
    steps=st.integers(1, 200),
)


def test_the_kinds_follow_their_formulas() -> None:
    assert [lm.LearningRate(0.5).at(step) for step in (0, 9, 10**9)] == [0.5] * 3
    fallen = lm.LearningRate(1.0, "step", every=2, factor=0.5)
    assert [fallen.at(step) for step in range(6)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    wave = lm.LearningRate(1.0, "cosine", steps=8, least=0.2)
    assert [wave.at(step) for step in range(9)] == pytest.approx([0.6 + 0.4 * cos(pi * n / 8) for n in range(9)])
    assert wave.at(100) == pytest.approx(0.2)


def test_a_warm_up_rises_in_a_line_and_the_rest_begins_after_it() -> None:
    rate = lm.LearningRate(1.0, "cosine", warm_up=4, steps=12)
    assert [rate.at(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rate.at(12) == pytest.approx(0)
    assert rate.at(8) == pytest.approx(0.5)


@given(rate=RATES, step=st.integers(0, 1000))
def test_a_rate_stays_between_zero_and_its_height_and_comes_back_from_its_numbers(
    rate: lm.LearningRate, step: int
) -> None:
    assert 0 <= rate.at(step) <= rate.lr * (1 + 1e-12)
    assert lm.LearningRate(**rate.to_dict()) == rate


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": -1.0},
        {"lr": float("nan")},
        {"lr": "1"},
        {"lr": True},
        {"kind": "step"},
        {"kind": "cosine"},
        {"kind": "linear"},
        {"kind": "step", "every": 0},
        {"kind": "step", "every": 1.5},
        {"kind": "cosine", "steps": -1},
        {"warm_up": -1},
        {"warm_up": 0.5},
        {"factor": -0.1},
        {"least": float("inf")},
    ],
    ids=str,
)
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(lm.InputError, match="learning rate"):
        lm.LearningRate(**{"lr": 0.1, **wrong})


def test_the_trainer_sets_the_rate_before_each_step() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 4)).astype(np.float32), rng.integers(0, 3, 20)
    architecture, rate = lm.Architecture((4, 6, 3)), lm.LearningRate(0.1, "step", every=3, warm_up=2)
    trainer = lm.Trainer(lm.MLP(architecture), lm.SGD(9.0), batch_size=5, schedule=rate)
    seen: list[float] = []
    epochs = list(trainer.epochs((x, y), 2, on_step=lambda done, count: seen.append(trainer.optimizer.lr)))
    assert seen == [rate.at(step) for step in range(8)]
    assert epochs[-1].learning_rate == rate.at(7)
