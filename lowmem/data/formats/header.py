"""Whether the first line of a table in text holds names of columns or a sample, by what the lines below it hold.

A name stands above values of another kind: text above numbers. Numbers may be names too, as pandas writes them: 0, 1,
2, ... for columns without names, or years. They are names if the lines below say so. If these do not, the file is
refused: a guess would cost a sample, or train on a line of names.
"""

from collections.abc import Sequence
from itertools import pairwise

from lowmem.data.formats.cells import is_missing, is_value, is_whole
from lowmem.errors import Advice, InputError

MANY = 10
"""Columns from which on 0, 1, 2, ... in the first line cannot be a sample by chance."""

YEARS = range(1500, 2200)

Table = Sequence[Sequence[str]]
"""Lines, each as its cells."""


def has_names(first: Sequence[str], rest: Table, target: int | None, delimiter: str, where: str) -> bool:
    """Say whether the first line of a table holds names.

    first: its cells. rest: those of some lines below. target: the column of the target, None if there is none.
    where: file and line, for the message.

    Raises `InputError` where both are possible.
    """
    others = [column for column in range(len(first)) if column != target]
    values = [is_value(cell, delimiter) for cell in first]
    if not rest:
        return not all(values[column] for column in others)
    if not first[0] and _named(first[1:], delimiter) and all(row and not is_missing(row[0]) for row in rest):
        return True  # pandas and R leave the name of an index out
    above = [column for column, value in enumerate(values) if not value and _numbers(rest, column, delimiter)]
    if target is not None and target in above:
        return True  # a label would not be followed by a number
    numbers = [column for column in others if values[column] and not is_missing(first[column])]
    if above:
        return len(above) >= len(numbers) or _in_steps(first, delimiter)
    if numbers:
        return _in_steps(first, delimiter) and _below_says_names(first, rest, target, delimiter, where)
    return not all(values[column] for column in others)


def _numbers(rest: Table, column: int, delimiter: str) -> bool:
    """Say whether most of what a column holds below the first line is numbers."""
    held = [row[column] for row in rest if len(row) > column and not is_missing(row[column])]
    return 2 * sum(is_value(cell, delimiter) for cell in held) > len(held)


def _named(others: Sequence[str], delimiter: str) -> bool:
    """Say whether all cells behind an empty first one are names: text, or whole numbers that rise."""
    if not all(others):
        return False
    texts = sum(not is_value(cell, delimiter) for cell in others)
    numbers = [int(cell) for cell in others if is_whole(cell)]
    rising = len(numbers) + texts == len(others) and all(one < other for one, other in pairwise(numbers))
    return 2 * texts >= len(others) or rising


def _in_steps(first: Sequence[str], delimiter: str) -> bool:
    """Say whether the numbers of a line are whole, and either their columns' or years, each after the one before."""
    places = [place for place, cell in enumerate(first) if is_value(cell, delimiter)]
    if not places or not all(is_whole(first[place]) for place in places):
        return False
    counted = [int(first[place]) for place in places]
    return counted == places or _are_years(counted)


def _are_years(counted: Sequence[int]) -> bool:
    """Say whether whole numbers are years, each later than the one before."""
    return all(year in YEARS for year in counted) and all(one < other for one, other in pairwise(counted))


def _below_says_names(first: Sequence[str], rest: Table, target: int | None, delimiter: str, where: str) -> bool:
    """Say whether the lines below a line of whole numbers in steps tell that these are names."""
    labels = [row[target] for row in rest if len(row) > target] if target is not None else []
    if target is not None and not is_value(first[target], delimiter) and first[target] in labels:
        return False  # a label that occurs again
    places = [place for place, cell in enumerate(first) if is_value(cell, delimiter)]
    below = [[row[place] for row in rest if len(row) > place] for place in places]
    if any(cells and not any(map(is_whole, cells)) for cells in below):
        return True  # who writes 1.0 for one does not write 0 for zero
    whole = [[int(cell) for cell in cells if is_whole(cell)] for cells in below]
    counted = [int(first[place]) for place in places]
    if counted != places and not any(value in YEARS for values in whole for value in values):
        return True
    outside = any(not 0 <= value < len(first) for values in whole for value in values)
    if counted == places and len(places) < len(first) and outside:
        return True  # numbers beside a word that is no label below
    if counted == places and len(places) >= MANY and not all(map(_is_ramp, rest)):
        return True
    advice = Advice("header", True), " or ", Advice("header", False)
    shown = ", ".join(first)[:60]
    raise InputError(
        f"{where}: {shown} may be names of columns, as pandas writes them, or a sample. Say which with ", *advice, "."
    )


def _is_ramp(row: Sequence[str]) -> bool:
    """Say whether the whole numbers of a line go up by one."""
    counted = [int(cell) for cell in row if is_whole(cell)]
    return all(other - one == 1 for one, other in pairwise(counted))
