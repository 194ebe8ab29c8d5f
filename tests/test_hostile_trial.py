"""A small share of the adversarial trial: each part of it, with a seed of its own."""

from collections import Counter
from pathlib import Path

import pytest

from scripts.hostile_networks import Found
from scripts.hostile_trial import PARTS, Part, tried
from scripts.kill_and_resume import FLAGS, KINDS, kill_and_compare

SHARES = {"networks": 5, "trainers": 2, "files": 200}


@pytest.mark.parametrize("part", SHARES)
def test_a_share_of_the_trial_breaks_nothing(part: str) -> None:
    prepare = PARTS[part].prepare
    if prepare is not None:
        prepare()
    counts, broke = PARTS[part].try_numbers(range(SHARES[part]), 20)
    assert broke == []
    assert counts[part if part != "trainers" else "trainings"] > 0


def test_a_training_that_is_killed_ends_with_the_same_bits() -> None:
    came = kill_and_compare(2, 1, (*FLAGS, *KINDS[0]))
    assert came.same


def test_a_raw_error_is_a_finding_and_what_was_tried_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"

    def fails_at_three(numbers: range, seed: int) -> Found:
        with calls.open("a") as out:
            out.write(f"{numbers.start}\n")
        if 3 in numbers:
            raise OverflowError("too large")
        return Counter(cases=len(numbers)), []

    monkeypatch.setitem(PARTS, "networks", Part(fails_at_three, 10, 10, 2))
    done = tmp_path / "done.jsonl"
    records = [*tried("networks", range(5), 0, 1, done)]
    assert sum(record["tried"].get("cases", 0) for record in records) == 3
    (finding,) = [finding for record in records for finding in record["broke"]]
    assert finding.startswith("networks 2 to 3: OverflowError: too large (test_hostile_trial.py, line ")
    again = [*tried("networks", range(6), 0, 1, done)]  # the last piece is larger now, and tried
    assert sorted(calls.read_text().split()) == ["0", "2", "4", "4"]
    assert sum(len(record["broke"]) for record in again) == 1
