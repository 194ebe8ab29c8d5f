"""Marks in numbers that may be decimal or stand between thousands: "1,234" is 1.234 to some and 1234 to others.

A cell such as "0,5" or "12,34" in the same table settles that its commas are decimal, and so do cells with points for
these. Semicolons between cells speak for decimal commas, as spreadsheets write them where numbers have such.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from lowmem.data.formats.cells import is_comma_number, is_number
from lowmem.errors import InputError

_MAY_BE = {mark: re.compile(rf"[+-]?[1-9]\d{{0,2}}\{mark}\d{{3}}", re.ASCII) for mark in ",."}


class Marks:
    """Looks at the rows of a table, until a cell settles what a mark is.

    columns: those that are read as numbers. delimiter: what separates cells.
    `doubted`: of each mark that may still be either, the first such cell and its row; None before one was seen.
    """

    def __init__(self, columns: Collection[int], delimiter: str) -> None:
        self._columns, self._delimiter = columns, delimiter
        marks = {",": "", ";": ",."}.get(delimiter, ",")  # in a comma-separated table a point is decimal
        self.doubted: dict[str, tuple[str, int] | None] = dict.fromkeys(marks)

    def are_in(self, line: str) -> bool:
        """Say whether a line has marks in doubt, so that its cells are to be looked at."""
        return any(mark in line for mark in self.doubted)

    def look(self, cells: Sequence[str], row: int) -> None:
        """Look at the cells of a row."""
        for column, cell in enumerate(cells):
            if column not in self._columns:
                continue
            for mark in [mark for mark in self.doubted if mark in cell]:
                if _MAY_BE[mark].fullmatch(cell):
                    self.doubted[mark] = self.doubted[mark] or (cell, row)
                elif is_comma_number(cell) if mark == "," else is_number(cell):
                    del self.doubted[mark]

    def remarks(self, path: Path, first: int) -> tuple[str, ...]:
        """Return remarks on numbers that were never settled. first: the line of row 0.

        Raises `InputError` where they can be read in two ways.
        """
        seen = [(mark, *held) for mark, held in self.doubted.items() if held is not None]
        for mark, cell, row in seen:
            if self._delimiter != ";":
                raise InputError(
                    f"{path}, line {first + row:,} has {cell!r}, which may be {cell.replace(mark, '.')} or "
                    f"{cell.replace(mark, '')}. Write decimal points, and nothing between thousands."
                )
        return tuple(
            f"{cell!r} in line {first + row:,} is read as {cell.replace(mark, '.')}, and not as "
            f"{cell.replace(mark, '')}: write nothing between thousands"
            for mark, cell, row in seen
        )
