"""What the targets of samples are: classes or numbers. Decided here, from what y holds, for every format and route.

Text is classes, and so are whole numbers from 0 (or -1) if there are few of them for so many samples. Numbers that
are not whole, and several columns, are regression. Between the two nothing is guessed: the user says which.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import lookup
from lowmem.data.class_names import listed
from lowmem.data.samples import Targets
from lowmem.errors import Advice, InputError

TASKS = ("classification", "regression")

MOST_CLASSES = 1 << 20

SHARE = 5
"""Classes are taken for such where there are at most a fifth as many as samples."""

FEW = 5
"""As many classes are taken for such however few samples there are."""

EITHER = Advice("task", "classification"), " or ", Advice("task", "regression")


@dataclass(frozen=True, slots=True)
class Answers:
    """What the values of y are, as far as deciding needs it.

    name: of the data, for messages. samples: their number. columns: of y.
    low, high: the least and the largest number. row_of_high: the row of the latter.
    whole: whether all are whole numbers. row_of_part: the first row where they are not.
    decimal: whether they are stored as numbers that need not be whole.
    counts: how often each whole number from `low` on occurs; None if they are too far from each other.
    class_names: the names of the classes, where y is text or numbers in place of it; else None.
    labelled: whether the format says that y are class numbers, as MNIST's does, or a network knows the classes.
    """

    name: str
    samples: int
    columns: int
    low: float
    high: float
    row_of_high: int
    whole: bool
    row_of_part: int
    decimal: bool
    counts: NDArray[np.int64] | None
    class_names: tuple[str, ...] | None = None
    labelled: bool = False

    @property
    def different(self) -> int | None:
        """How many different numbers there are, None if they were not counted."""
        return None if self.counts is None else int(np.count_nonzero(self.counts))

    @property
    def range(self) -> str:
        """The least and the largest number, for people."""
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class Task:
    """What was decided.

    targets: what y holds. names: whole numbers in y, as text, that become the class numbers 0, 1, ... in this order;
        None where y holds class numbers already, or is text, or no class.
    note: the decision and its reason, for people.
    """

    targets: Targets
    names: tuple[str, ...] | None
    note: str


def check_task(task: str | None) -> None:
    """Raise `UnknownNameError` for a task that is none."""
    if task is not None:
        lookup("task", task, dict.fromkeys(TASKS))


def decide(y: Answers, told: str | None) -> Task:
    """Return what y holds, as told or as its values say.

    Raises `InputError` where y cannot be what was told, and where its values do not say what it is.
    """
    if told is None:
        told, why = _by_values(y)
    else:
        why = "as told"
    if told == "regression":
        if y.class_names is not None:
            raise InputError(
                f"{y.name}: y is text, which can only be labels; regression needs numbers. Name another target with ",
                Advice("target", "..."),
                ", or classify.",
            )
        note = f"task: regression of {'one number' if y.columns == 1 else f'{y.columns} numbers'}, {y.range} ({why})"
        return Task(Targets(False, y.columns, y.low, y.high, y.row_of_high), None, note)
    return _classes(y, why)


def _classes(y: Answers, why: str) -> Task:
    """Return the classes of y."""
    if y.class_names is not None:
        return Task(_named(y, y.class_names), None, _note(y.class_names, why))
    if y.columns > 1:
        raise InputError(
            f"{y.name}: y has {y.columns} columns; labels are one whole number for each sample. One-hot rows become "
            "labels with y.argmax(axis=1)."
        )
    if not y.whole:
        raise InputError(
            f"{y.name}: y[{y.row_of_part}] is no whole number; labels are whole numbers from 0 or text. Such targets "
            "go with regression."
        )
    if y.low < 0:
        if y.counts is None:
            raise InputError(f"{y.name}: y goes from {y.range}; that is too far apart for labels. Number them from 0.")
        names = tuple(str(int(y.low) + int(place)) for place in np.flatnonzero(y.counts))
        return Task(_named(y, names), names, _note(names, why))
    if y.high >= MOST_CLASSES:
        raise InputError(f"{y.name}: y goes from {y.range}; labels are whole numbers from 0, below {MOST_CLASSES:,}.")
    classes = int(y.high) + 1
    note = f"task: classification, {classes} class{'es' * (classes > 1)} 0 to {classes - 1} ({why})"
    return Task(Targets(True, classes, y.low, y.high, y.row_of_high), None, note)


def _named(y: Answers, names: tuple[str, ...]) -> Targets:
    """Return targets of classes that have names."""
    return Targets(True, len(names), 0.0, float(len(names) - 1), y.row_of_high)


def _note(names: tuple[str, ...], why: str) -> str:
    """Write the classes for people."""
    return f"task: classification, {len(names)} class{'es' * (len(names) != 1)}: {listed(names)} ({why})"


def _by_values(y: Answers) -> tuple[str, str]:
    """Return the task that values say, and why."""
    most = max(FEW, y.samples // SHARE)
    if y.class_names is not None and not y.labelled:
        count = len(y.class_names)
        if count > most:
            raise InputError(
                f"{y.name}: the target holds {count:,} different texts in {y.samples:,} samples. If these are its "
                "classes, say so with ",
                Advice("task", "classification"),
                "; otherwise name the column of the classes with ",
                Advice("target", "..."),
                ".",
            )
        return "classification", "y is text"
    if y.labelled:
        return "classification", "y is labels"
    if y.columns > 1:
        return "regression", f"y has {y.columns} columns"
    if not y.whole:
        return "regression", "y is not whole"
    if y.low >= 0 and y.high < most:
        return "classification", "y is whole numbers"
    if y.low == -1 and y.different is not None and y.different <= most:
        return "classification", "y is whole numbers"
    if y.decimal:
        return "regression", "y is stored as decimal numbers, of more values than classes would have"
    if y.low >= 0:
        classes = int(y.high) + 1
        what = (
            f"the whole numbers {y.range} in {y.samples:,} samples: {classes:,} classes are more than a fifth of that"
        )
    else:
        what = f"whole numbers from {y.range}"
    raise InputError(f"{y.name}: y holds {what}. Say what they are: ", *EITHER, ".")
