"""The error hierarchy: two families, each with the exit code that the shell sees."""

import pickle

import pytest

from lowmem.cli.wording import in_flags
from lowmem.errors import (
    Advice,
    BudgetError,
    InputError,
    LowmemError,
    NonFiniteError,
    Origin,
    RunError,
    ScheduleError,
    StepNumber,
    StoppedError,
    UnknownColumnError,
    UnknownNameError,
)

REFUSED = [
    InputError("no"),
    UnknownNameError("dtype", "int8", ["float32"]),
    BudgetError("no", budget=1, minimum=2),
    ScheduleError("no", index=3),
    UnknownColumnError("a.csv", "x", "the target", "it has 'y'."),
]
FAILED = [LowmemError("no"), RunError("no"), NonFiniteError("no")]


def failed_step() -> NonFiniteError:
    """Return the error of a step in a run that was saved."""
    error = NonFiniteError("the loss became nan. Try a smaller learning rate.")
    error.step, error.origin, error.last_save = StepNumber(5, 2, 1), Origin(3), "run (step 4)"
    return error


@pytest.mark.parametrize("error", REFUSED)
def test_refused_input_is_a_value_error_with_exit_code_2(error: LowmemError) -> None:
    assert isinstance(error, LowmemError)
    assert isinstance(error, InputError)
    assert isinstance(error, ValueError)
    assert error.exit_code == 2


def test_an_error_is_one_line_whatever_the_names_of_files_are() -> None:
    error = InputError("there is no a\nb\r.csv. Give ", Advice("targets", "c\nd"), ".")
    assert str(error) == 'there is no a\\nb\\r.csv. Give targets="c\\nd".'
    assert in_flags(error) == "there is no a\\nb\\r.csv. Give --targets c\\nd."


@pytest.mark.parametrize("error", FAILED)
def test_a_failed_run_is_no_value_error_and_has_exit_code_1(error: LowmemError) -> None:
    assert isinstance(error, LowmemError)
    assert not isinstance(error, ValueError)
    assert error.exit_code == 1


def test_an_unknown_name_comes_with_the_nearest_known_one() -> None:
    error = UnknownNameError("activation", "rellu", ["tanh", "relu"])
    assert str(error) == "unknown activation 'rellu'. Did you mean 'relu'? Known: relu, tanh."
    assert error.known == ["relu", "tanh"]


@pytest.mark.parametrize("name", ["zzz", 3, None])
def test_a_name_like_no_other_gets_the_list_alone(name: object) -> None:
    assert str(UnknownNameError("loss", name, ["mse", "bce"])) == f"unknown loss {name!r}. Known: bce, mse."


def test_a_budget_error_carries_both_sizes() -> None:
    error = BudgetError("12 is less than 18", budget=12, minimum=18)
    assert (str(error), error.budget, error.minimum) == ("12 is less than 18", 12, 18)


def test_a_schedule_error_carries_the_op() -> None:
    assert ScheduleError("op 7 needs x^(3)", index=7).index == 7


def test_a_budget_error_writes_its_advice_as_keywords() -> None:
    advice: list[Advice | str] = [Advice("budget", "18.4MiB"), Advice("batch_size", 256), "another network"]
    error = BudgetError("12 is less than 18.", budget=12, minimum=18, advice=advice)
    assert str(error) == '12 is less than 18. Try budget="18.4MiB" or batch_size=256 or another network.'
    assert (error.reason, error.advice) == ("12 is less than 18.", tuple(advice))


def test_a_step_that_failed_says_where_when_and_what_is_saved() -> None:
    error = failed_step()
    assert error.layer == 3
    assert str(error) == (
        "the loss became nan. Try a smaller learning rate. At step 5 (epoch 2, batch 1) it began with the output of "
        "layer 3. The last good save is run (step 4)."
    )
    error.last_save, error.origin = None, Origin()
    assert error.layer is None
    assert str(error).endswith(
        "it began with the loss itself: the outputs of all layers are finite. Nothing was saved."
    )
    assert str(NonFiniteError("the loss became nan.")) == "the loss became nan."


@pytest.mark.parametrize(
    "error",
    [
        *REFUSED,
        *FAILED,
        failed_step(),
        StoppedError("no", signal=15),
        BudgetError("a", budget=1, minimum=2, advice="b"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_out_of_another_process_with_all_its_fields(error: LowmemError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), vars(again), again.exit_code) == (str(error), vars(error), error.exit_code)
