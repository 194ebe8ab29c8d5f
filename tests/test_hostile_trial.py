"""A small share of the adversarial trial: each part of it, with a seed of its own."""

import pytest

from scripts.hostile_trial import PARTS
from scripts.kill_and_resume import FLAGS, KINDS, kill_and_compare

SHARES = {"networks": 12, "trainers": 4, "files": 200}


@pytest.mark.parametrize("part", SHARES)
def test_a_share_of_the_trial_breaks_nothing(part: str) -> None:
    counts, broke = PARTS[part][0](range(SHARES[part]), 20)
    assert broke == []
    assert counts[part if part != "trainers" else "trainings"] > 0


def test_a_training_that_is_killed_ends_with_the_same_bits() -> None:
    came = kill_and_compare(2, 1, (*FLAGS, *KINDS[0]))
    assert came.same
