"""The script that trains in little memory trains by the settings it names, and says where a case falls short."""

from typing import Any

import numpy as np
import pytest

from scripts.train_in_little import CANDIDATES, ON_MNIST, judged
from scripts.trainings import EnoughError, Laps, made, rates

SMALL: dict[str, Any] = {**ON_MNIST, "widths": [64, 16, 16, 10]}


def test_the_rate_rises_and_falls_over_all_epochs_of_a_run() -> None:
    schedule = rates(SMALL, samples=1000)  # 8 batches in an epoch
    assert schedule is not None
    steps = 8 * SMALL["epochs"]
    followed = [schedule.at(step) for step in range(steps)]
    assert max(followed) == SMALL["lr"] == followed[int(SMALL["warm_up"] * steps)]
    assert followed[0] < SMALL["lr"] / 2
    assert 0 <= followed[-1] < SMALL["lr"] / 100


def test_the_gain_multiplies_the_weights_of_every_layer() -> None:
    for w in made(SMALL).weights:
        np.testing.assert_allclose(np.linalg.svd(w, compute_uv=False), SMALL["gain"], rtol=1e-5)


def test_every_candidate_changes_settings_that_exist() -> None:
    assert all(set(given) <= set(ON_MNIST) for given in CANDIDATES)


def test_a_case_over_its_limit_or_below_its_accuracy_is_told() -> None:
    case = {"limit": 100, "wanted": 0.9}
    found = judged(case, {"peak_bytes": 101, "accuracy": 0.9})
    assert (found["within"], found["reached"]) == (False, True)
    found = judged(case, {"peak_bytes": 100, "accuracy": 0.89})
    assert (found["within"], found["reached"]) == (True, False)


def test_laps_stop_a_run_after_enough_steps() -> None:
    laps = Laps(enough=3)
    laps.take()
    laps.take()
    with pytest.raises(EnoughError):
        laps.take()
    assert laps.summary()["steps"] == 3
    assert laps.of_epochs(0) == {}
