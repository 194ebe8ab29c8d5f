"""Every error that lowmem raises on purpose: what was given, what is needed, what to do.

There are two families. An `InputError` refuses input: nothing has been lost, and a command ends with exit code 2. A
`RunError` is a run that failed: exit code 1. Every error carries its exit code, and what it knows as fields; its text
is written from the fields, so that whoever passes it on adds to the fields and never cuts the text.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple


class Advice(NamedTuple):
    """An argument that would have worked: its keyword in Python, and the value to give."""

    keyword: str
    value: float | str | bool | None

    def __str__(self) -> str:
        """Write the advice as a keyword of Python: `budget="24MiB"`."""
        return f'{self.keyword}="{self.value}"' if isinstance(self.value, str) else f"{self.keyword}={self.value}"


class LowmemError(Exception):
    """Root of every error that lowmem raises on purpose.

    Its arguments are pieces of text, and advice between them, which a command writes as flags.
    """

    exit_code: int = 1

    def text(self, write: Callable[[Advice], str]) -> str:
        """Return the text with every piece of advice as `write` writes it."""
        return "".join(write(part) if isinstance(part, Advice) else str(part) for part in self.args)

    def line(self, write: Callable[[Advice], str]) -> str:
        """Return the text in one line, also where a name of a file or another text of the user has several."""
        return self.text(write).replace("\r", "\\r").replace("\n", "\\n")

    def __str__(self) -> str:
        """Write the text in one line, with advice as keywords of Python."""
        return self.line(str)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let errors travel between processes with all their fields, whatever their constructors ask for."""
        return _restored, (type(self), self.args, vars(self))


def _restored(kind: type[LowmemError], arguments: tuple[Any, ...], fields: Mapping[str, Any]) -> LowmemError:
    """Return the error that `__reduce__` described."""
    error = kind.__new__(kind, *arguments)
    vars(error).update(fields)
    return error


class InputError(LowmemError, ValueError):
    """The request cannot be carried out as given; nothing was started."""

    exit_code = 2


NEAR = 0.6
"""Likeness, from 0 to 1, from which on a known name may be what a wrong one stands for."""

LONGEST_SHOWN = 80
"""The most characters of a value that an error shows."""


def shown(value: object) -> str:
    """Return what was given as text for an error: one line, cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # whatever an object of the caller raises
        text = f"a {type(value).__name__}"
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 4]} ..."


def nearest(name: object, known: Iterable[str]) -> str | None:
    """Return the known name that a wrong one most likely stands for, None if none is near."""
    import difflib  # only on the way to an error

    def likeness(other: str) -> float:
        one, two = (text.lower().replace("_", "-").lstrip("-") for text in (str(name), other))
        begins = min(len(one), len(two)) > 1 and (one.startswith(two) or two.startswith(one))
        return difflib.SequenceMatcher(None, one, two).ratio() + 0.3 * begins

    if not isinstance(name, str):
        return None
    best = max(known, key=likeness, default=None)
    return best if best is not None and likeness(best) >= NEAR else None


class UnknownNameError(InputError):
    """A name that lowmem does not know. `known` holds the names that it knows, sorted; the text suggests the nearest.

    kind: what the name stands for, such as "activation".
    """

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        self.known = sorted(known)
        near = nearest(name, self.known)
        hint = f" Did you mean {near!r}?" if near else ""
        super().__init__(f"unknown {kind} {shown(name)}.{hint} Known: {', '.join(self.known)}.")


class UnknownColumnError(InputError):
    """A table has no such column.

    table: its file. column: the name or number that was given. what: what it was to be. hint: which columns there are.
    """

    def __init__(self, table: object, column: str | int, what: str, hint: str) -> None:
        super().__init__(table, column, what, hint)
        self.table, self.column, self.what, self.hint = table, column, what, hint

    def text(self, write: Callable[[Advice], str]) -> str:
        """Return what the table lacks, and what it has."""
        return f"{self.table} has no column {shown(self.column)} to be {self.what}; {self.hint}"


class BudgetError(InputError):
    """No plan fits the budget.

    reason: what was given and what is needed, in whole sentences.
    budget: the bytes asked for.
    minimum: the least number of bytes that works for the same request.
    advice: what to try instead, the best first: arguments, or clauses that follow "Try".

    >>> import lowmem as lm
    >>> arch = lm.Architecture(widths=(64, *[128] * 50, 10))
    >>> try:
    ...     lm.plan(arch, batch_size=512, budget="1MiB")
    ... except lm.BudgetError as error:
    ...     print(lm.plan(arch, batch_size=512, budget=error.minimum).peak_bytes <= error.minimum)
    True
    """

    def __init__(self, reason: str, *, budget: int, minimum: int, advice: Iterable[Advice | str] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.budget = budget
        self.minimum = minimum
        self.advice = tuple(advice)

    def text(self, write: Callable[[Advice], str]) -> str:
        """Return the reason, then what to try."""
        advice = [write(part) if isinstance(part, Advice) else part for part in self.advice]
        return f"{self.reason} Try {' or '.join(advice)}." if advice else self.reason


class ScheduleError(InputError):
    """A list of ops that does not reverse its chain. `index` is the number of the op where it goes wrong."""

    def __init__(self, message: str, *, index: int) -> None:
        super().__init__(message)
        self.index = index


class RunError(LowmemError):
    """A run that started and could not go on."""


class DiskError(RunError):
    """What lives on the disk of `disk=` could not be written to it, or read back from it.

    reason: what failed and why, as a sentence.
    torn: whether parameters of some layers had been updated by then; if not, they are those before the step. None
        outside of a step.
    last_save: file and step of the last good save of the run; None if nothing was saved, or outside of training.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.torn: bool | None = None
        self.last_save: str | None = None

    def text(self, write: Callable[[Advice], str]) -> str:
        """Return the reason, what is left of the step if there is one, and the last save."""
        left = ""
        if self.torn is not None:
            left = " The parameters are those before this step."
        if self.torn:
            left = " This step has updated the parameters of some layers: go back to a saved run."
        saved = f" The last good save is {self.last_save}." if self.last_save else ""
        return f"{self.reason}{left}{saved}"


class SaveError(RunError):
    """A run could not be saved. If there was an earlier file, it is unchanged."""


class StoppedError(RunError):
    """A run that a signal ended. A command then ends with 128 + the signal's number, as is the custom of shells."""

    def __init__(self, message: str, *, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


class Origin(NamedTuple):
    """Where the first number that is not finite stands: in the parameters of a layer, or in its output.

    layer: the number of the layer; None if the outputs of all layers are finite and only the loss is not.
    parameters: True if the layer's parameters are not finite, so that no later step can succeed.
    """

    layer: int | None = None
    parameters: bool = False

    def __str__(self) -> str:
        """Write the place as a clause."""
        if self.layer is None:
            return "it began with the loss itself: the outputs of all layers are finite"
        if self.parameters:
            return f"it began with the parameters of layer {self.layer}, which are not finite"
        return f"it began with the output of layer {self.layer}"


class StepNumber(NamedTuple):
    """Which step of a run: `step` counts from the run's begin, `batch` within the `epoch`; all count from 1."""

    step: int
    epoch: int
    batch: int

    def __str__(self) -> str:
        """Write the number of the step, and where that is."""
        return f"step {self.step} (epoch {self.epoch}, batch {self.batch})"


class NonFiniteError(RunError):
    """The loss, or the norm of the gradients, became NaN or infinite. The parameters are those before the step.

    reason: what happened and what to do, in whole sentences.
    step: which step of training it was; None outside of training.
    origin: where the first number that is not finite stands; None if nobody has looked.
    last_save: file and step of the last good save of the run; None if nothing was saved.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.step: StepNumber | None = None
        self.origin: Origin | None = None
        self.last_save: str | None = None

    @property
    def layer(self) -> int | None:
        """The layer where the first number that is not finite stands, None if that is unknown or no layer."""
        return None if self.origin is None else self.origin.layer

    def text(self, write: Callable[[Advice], str]) -> str:
        """Return the reason, and in training also step, origin and last save."""
        if self.step is None or self.origin is None:
            return self.reason
        saved = f"The last good save is {self.last_save}." if self.last_save else "Nothing was saved."
        return f"{self.reason} At {self.step} {self.origin}. {saved}"
