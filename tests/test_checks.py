"""Each kind of number is refused by one function, and NumPy's numbers are numbers everywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.common.checks import as_number, as_whole, fraction, number, positive, positive_number, whole
from lowmem.common.random import generator
from lowmem.units import parse_bytes

ARCH = lm.Architecture((4, 6, 6, 6, 3))
NO_NUMBERS: list[Any] = [True, np.True_, None, "1", b"1", [1], np.array([1, 2]), np.array([0.5]), object(), 1j]


@pytest.mark.parametrize("value", [*NO_NUMBERS, 1.0, np.float64(1), np.array(1.5)])
def test_what_is_no_whole_number_is_refused_with_its_name(value: Any) -> None:
    assert as_whole(value) is None
    with pytest.raises(lm.InputError, match=r"^rows must be a positive whole number; got "):
        positive("rows", value)
    with pytest.raises(lm.InputError, match=r"^rows must be a whole number from 2; got "):
        whole("rows", value, 2)


@pytest.mark.parametrize("value", [*NO_NUMBERS, np.nan, np.inf, -0.5])
@pytest.mark.parametrize(
    ("check", "words"),
    [
        (number, "number of at least 0;"),
        (fraction, "number of at least 0 and below 1"),
        (positive_number, "positive n"),
    ],
)
def test_what_is_no_number_is_refused_with_its_name(check: Callable[..., float], words: str, value: Any) -> None:
    with pytest.raises(lm.InputError, match=f"^rate must be a {words}"):
        check("rate", value)


@pytest.mark.parametrize("kind", [int, np.int8, np.uint64, np.int64, np.array])
def test_numpys_whole_numbers_are_whole_numbers(kind: Callable[[int], Any]) -> None:
    for result in (positive("n", kind(3)), whole("n", kind(3)), as_whole(kind(3)), parse_bytes(kind(3))):
        assert result == 3
        assert type(result) is int


@pytest.mark.parametrize("kind", [float, np.float16, np.float32, np.float64, np.array])
def test_numpys_numbers_are_numbers(kind: Callable[[float], Any]) -> None:
    for result in (number("n", kind(0.5)), fraction("n", kind(0.5)), positive_number("n", kind(0.5))):
        assert result == 0.5
        assert type(result) is float
    assert as_number(kind(2)) == 2


TWO: Any = np.int64(2)
HALF: Any = np.float32(0.5)


def test_numpys_numbers_do_wherever_numbers_are_asked_for() -> None:
    wide: Any = np.int64(2**20)
    assert lm.plan(ARCH, TWO, wide, threads=TWO, micro_batch=TWO) == lm.plan(ARCH, 2, 2**20, threads=2, micro_batch=2)
    for strategy, name in (("segments", "segments"), ("revolve", "slots")):
        given: list[dict[str, Any]] = [{name: TWO}, {name: 2}]
        ours, theirs = (lm.plan(ARCH, 8, strategy=strategy, **options).schedule for options in given)
        assert ours == theirs
    architecture = lm.Architecture((4, TWO, TWO, 3), dropout=HALF, overrides={TWO: {"dropout": HALF}})
    assert architecture == lm.Architecture((4, 2, 2, 3), dropout=0.5, overrides={2: {"dropout": 0.5}})
    rate = lm.LearningRate(HALF, "step", warm_up=TWO, every=TWO)
    assert rate == lm.LearningRate(0.5, "step", warm_up=2, every=2)
    assert lm.Adam(HALF, beta1=HALF).settings() == lm.Adam(0.5, beta1=0.5).settings()
    assert generator(TWO).random() == generator(2).random()


def test_a_run_with_numpys_numbers_is_saved_and_resumed(tmp_path: Path) -> None:
    x, y = np.zeros((6, 4), np.float32), np.arange(6) % 3
    rate = lm.LearningRate(HALF, "cosine", steps=TWO)
    budget: Any = np.int64(2**20)
    options: dict[str, Any] = {"batch_size": TWO, "seed": TWO, "budget": budget, "schedule": rate, "clip_norm": HALF}
    trainer = lm.Trainer(lm.MLP(ARCH), lm.Adam(HALF), **options)
    list(trainer.epochs((x, y), TWO, save_to=tmp_path / "run", save_every=TWO))
    again = lm.Trainer.resume(tmp_path / "run")
    assert (again.schedule, again.clip_norm, again.seed) == (lm.LearningRate(0.5, "cosine", steps=2), 0.5, 2)
