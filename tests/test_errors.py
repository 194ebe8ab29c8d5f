"""The error hierarchy: two families, each with the exit code that the shell sees."""

import pytest

from lowmem.errors import (
    BudgetError,
    InputError,
    LowmemError,
    NonFiniteError,
    RunError,
    ScheduleError,
    UnknownNameError,
)

REFUSED = [
    InputError("no"),
    UnknownNameError("dtype", "int8", ["float32"]),
    BudgetError("no", budget=1, minimum=2),
    ScheduleError("no", index=3),
]
FAILED = [LowmemError("no"), RunError("no"), NonFiniteError("no")]


@pytest.mark.parametrize("error", REFUSED)
def test_refused_input_is_a_value_error_with_exit_code_2(error: LowmemError) -> None:
    assert isinstance(error, LowmemError)
    assert isinstance(error, InputError)
    assert isinstance(error, ValueError)
    assert error.exit_code == 2


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
