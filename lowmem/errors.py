"""Every error lowmem raises on purpose: what was given, what is needed, what to do.

Two families. `InputError` is refused input: nothing has been lost, the shell sees exit code 2.
`RunError` is a run that failed: exit code 1. Both carry their exit code, so that no door has to guess.
"""

from collections.abc import Iterable


class LowmemError(Exception):
    """Root of every error that lowmem raises on purpose."""

    exit_code: int = 1


class InputError(LowmemError, ValueError):
    """The request cannot be carried out as it was made; nothing was started."""

    exit_code = 2


class UnknownNameError(InputError):
    """A name that lowmem does not know, with the nearest ones that it does."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        import difflib  # only on the way to an error

        self.known = sorted(known)
        near = difflib.get_close_matches(str(name), self.known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {', '.join(self.known)}.")


class BudgetError(InputError):
    """No plan fits the budget.

    `budget` is what was asked for, `minimum` the least number of bytes that works for the same request.

    >>> import lowmem as lm
    >>> arch = lm.Architecture(widths=(64, *[128] * 50, 10))
    >>> try:
    ...     lm.plan(arch, batch_size=512, budget="1MiB")
    ... except lm.BudgetError as error:
    ...     print(lm.plan(arch, batch_size=512, budget=error.minimum).peak_bytes <= error.minimum)
    True
    """

    def __init__(self, message: str, *, budget: int, minimum: int) -> None:
        super().__init__(message)
        self.budget = budget
        self.minimum = minimum


class ScheduleError(InputError):
    """A list of ops that does not reverse the chain; `index` is the op where it goes wrong."""

    def __init__(self, message: str, *, index: int) -> None:
        super().__init__(message)
        self.index = index


class RunError(LowmemError):
    """A run that started and could not go on."""


class SaveError(RunError):
    """A run could not be saved; an earlier file, if there is one, stands."""


class StoppedError(RunError):
    """A run that a signal ended; the shell sees 128 + the signal's number, as is the custom."""

    def __init__(self, message: str, *, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


class NonFiniteError(RunError):
    """The loss became NaN or infinite; the parameters are those before the step."""
