"""Labels that are text. The names of the classes are learnt in the first pass over the data, then sorted and fixed.

"setosa", "virginica", "setosa" become the class numbers 0, 1, 0.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import TEXT_KINDS, as_list, is_digits
from lowmem.errors import InputError, shown

Array = NDArray[Any]

MOST_NAMES, MOST_CHARACTERS = 1 << 16, 1 << 20
"""The most names that are learnt, and the most characters of all together: they stay in memory and in saved runs."""

CODES = np.dtype(np.int32)
"""The dtype of class numbers in place of text."""

AT_ONCE = 4096
"""Labels that are turned into Python's text together."""

LISTED, LONGEST_LIST = 8, 200
"""Names, and characters, that a message lists at most."""


class ClassNames:
    """Turns names into class numbers. Until `settle` is called, a new name gets the next number.

    known: the names by class number, where they are known from the start: then no others are learnt.
    """

    def __init__(self, known: Sequence[str] | None = None) -> None:
        self._learning = known is None
        self._numbers = {name: number for number, name in enumerate(known or ())}
        self._characters = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The names, by class number."""
        return tuple(self._numbers)

    def number(self, text: str | bytes) -> int:
        """Return the class number of a name, -1 if it has none; `complaint` says why."""
        name = _name(text)
        found = self._numbers.get(name)
        if found is None:
            if not self._learning or self._why_no_name(name):
                return -1
            found = self._numbers[name] = len(self._numbers)
            self._characters += len(name)
        return found

    def settle(self) -> Array:
        """Sort the names and learn no more. Return the class numbers, in the order of those given until now."""
        order = sorted(self._numbers) if self._learning else list(self._numbers)
        ranks = {name: number for number, name in enumerate(order)}
        moved = np.array([ranks[name] for name in self._numbers], CODES)
        self._numbers, self._learning = ranks, False
        return moved

    def complaint(self, text: str | bytes) -> str:
        """Say why a text has no class number, and what to do."""
        name = _name(text)
        if not self._learning:
            import difflib  # only on the way to an error

            near = difflib.get_close_matches(name, self._numbers, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            known = f"{len(self._numbers)} known classes ({listed(self.names)})"
            return f"the label {name[:40]!r} is none of the {known}.{hint}"
        return f"the label {name[:40]!r} {self._why_no_name(name)}"

    def _why_no_name(self, name: str) -> str:
        """Say why a text cannot be a new name; return "" if it can."""
        if any("\ud800" <= character <= "\udfff" or character == "\ufffd" for character in name):
            return "is no UTF-8 text. Save the file as UTF-8."
        if not name or not name.isprintable():
            return "is no name for a class: it is empty or cannot be printed. Mend that row."
        if len(self._numbers) >= MOST_NAMES or self._characters + len(name) > MOST_CHARACTERS:
            return f"is one too many after {len(self._numbers):,} different ones. Is this the column of the classes?"
        return ""


def known_names(given: object) -> tuple[str, ...] | None:
    """Return names of classes as a tuple, None for None. Raises `InputError` for what is no sequence of text."""
    listed = as_list(given)
    if given is not None and (listed is None or not all(isinstance(name, str) for name in listed)):
        raise InputError(
            'class_names must be a list of text, in the order of the class numbers, such as ["cat", "dog"]; got '
            f"{shown(given)}."
        )
    return None if listed is None else tuple(map(str, listed))


def are_numbers(names: Sequence[str]) -> bool:
    """Say whether all names are whole numbers, as those of labels that are numbers are: "-1", "1"."""
    return bool(names) and all(is_digits(name.removeprefix("-")) for name in names)


def listed(names: Sequence[str]) -> str:
    """Return the first names in a line, and how many there are if that is not all."""
    text = ", ".join(names[:LISTED])
    text = text if len(text) < LONGEST_LIST else f"{text[:LONGEST_LIST]} ..."
    return text + f", ... ({len(names)})" * (len(names) > LISTED)


def _name(text: str | bytes) -> str:
    """Return a label as the name of a class: decoded, without blanks around it."""
    return (text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text).strip()


def numbered(labels: Array, names: ClassNames, what: str, first: int = 0) -> Array:
    """Return the class numbers, (samples,), of labels that are text, (samples,).

    what: what to call the array in messages. first: the number of the first row.

    Raises `InputError` for a label that has no number, with its row.
    """
    if labels.ndim != 1:
        raise InputError(f"{what} is text of shape {labels.shape}; one label for each sample is needed.")
    numbers = np.empty(len(labels), CODES)
    for start in range(0, len(labels), AT_ONCE):
        for row, text in enumerate(_texts(labels[start : start + AT_ONCE], what, first + start), start=start):
            numbers[row] = names.number(text)
            if numbers[row] < 0:
                raise InputError(f"{what}[{first + row}]: {names.complaint(text)}")
    return numbers


def _texts(labels: Array, what: str, first: int) -> list[Any]:
    """Return labels as Python's text; see `numbered`."""
    if labels.dtype.kind == "U":
        labels = np.ascontiguousarray(labels)
        # Numbers beyond the last character would become text that Python itself does not expect.
        wrong = labels.view(f"{labels.dtype.str[0]}u4").reshape(len(labels), -1).max(axis=1) > sys.maxunicode
        if wrong.any():
            raise InputError(f"{what}[{first + int(wrong.argmax())}] is no text. The file is damaged; save it again.")
    return list(labels.tolist())


def as_text(values: object) -> Array | None:
    """Return labels as an array of text, None where they are no text."""
    try:
        array = np.asarray(values)
    except ValueError:
        return None
    if array.dtype.kind == "T" or (
        array.dtype.kind == "O" and array.size and all(isinstance(value, str) for value in array.ravel())
    ):
        array = array.astype(str)
    return array if array.dtype.kind in TEXT_KINDS and array.dtype.itemsize else None
