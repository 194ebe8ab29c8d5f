"""How a table in text is written: what separates its cells, where its rows begin, and whether its columns have names.

Some lines from the begin of the file decide; every later line is then read in the same way, or refused.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lowmem.data.formats.cells import (
    BLANKS,
    DELIMITERS,
    NAMES_OF_DELIMITERS,
    cells,
    is_value,
)
from lowmem.data.formats.columns import Selection, number_of
from lowmem.data.formats.header import has_names
from lowmem.data.formats.text_lines import TextLines
from lowmem.errors import InputError

SAMPLE_LINES, SAMPLE_CHARACTERS = 100, 1 << 20
"""Lines, and characters, that decide at most; three lines do in any case."""

OPEN_QUOTE = (
    "has a quote that is not closed in that line; cells with line breaks are not read. Mend that row, or write it in "
    "one line."
)

_DELIMITER_LINE = re.compile(r'"?sep=(.)"?\s*')
_OTHER_KINDS = (("{", "JSON"), ("[", "JSON"), ("<", "HTML or XML"), ("@relation", "ARFF"))


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a table in text is written.

    delimiter: what separates cells; `cells.BLANKS` for any run of blanks.
    skipped: lines before the first one of the table: comments, empty lines, and "sep=;".
    names: of the columns, empty if they have none; the name of a column that has none is "".
    columns: their number, without the empty one that a delimiter at the end of each line makes.
    trailing: whether lines end with a delimiter.
    rows: the cells of some rows.
    """

    delimiter: str
    skipped: int
    names: tuple[str, ...]
    columns: int
    trailing: bool
    rows: tuple[tuple[str, ...], ...]

    @property
    def headed(self) -> bool:
        """Whether a line of names comes before the rows."""
        return bool(self.names)

    def cells(self, line: str) -> list[str]:
        """Return the cells of a line."""
        held = cells(line, self.delimiter)
        return held[:-1] if self.trailing and len(held) == self.columns + 1 and not held[-1] else held

    def __str__(self) -> str:
        """Write the dialect for people."""
        names = f"names in line {self.skipped + 1}" if self.headed else "no names of columns"
        left_out = f", {self.skipped} line{'s' * (self.skipped > 1)} before" if self.skipped else ""
        return f"cells between {NAMES_OF_DELIMITERS[self.delimiter]}, {names}{left_out}"


def read_dialect(text: TextLines, wanted: Selection, path: Path) -> Dialect:
    """Read the first lines of a table, and return how it is written.

    Raises `InputError` for what is no table, and where two ways of reading it are possible.
    """
    lines, skipped, told = _first_lines(text)
    if not lines:
        raise InputError(f"{path} {'has no lines but comments' if skipped else 'is empty'}; a table is needed.")
    for begin, kind in _OTHER_KINDS:
        if lines[0].lstrip().lower().startswith(begin):
            raise InputError(f"{path} begins with {lines[0].strip()[:20]!r}: it is {kind}, and a table is needed.")
    delimiter = told or _delimiter(lines)
    table = [cells(line, delimiter) for line in lines]
    first, rest = table[0], table[1:]
    trailing = _is_trailing(first, rest, delimiter)
    if trailing:
        rest = [row[:-1] if not row[-1] else row for row in rest]
        first = first[:-1] if not first[-1] and len(first) > 1 else first
    if rest and len(first) == len(rest[0]) - 1 and not any(is_value(cell, delimiter) for cell in first):
        first = ["", *first]  # R writes names of rows, and none above them
    if lines[0].count('"') % 2:
        raise InputError(f"{path}, line {skipped + 1} {OPEN_QUOTE}")
    if len(first) < 2 and not wanted.inputs_only:
        raise InputError(f"{path} has one column; features and a target, separated by commas, are needed.")
    headed = wanted.header
    if headed is None:
        target = None if wanted.inputs_only and wanted.target is None else _target(wanted, first, path)
        headed = has_names(first, rest, target, delimiter, f"{path}, line {skipped + 1}")
    dialect = Dialect(
        delimiter,
        skipped,
        tuple(first) if headed else (),
        len(first),
        trailing,
        tuple(map(tuple, rest if headed else [first, *rest])),
    )
    _check(dialect, path)
    return dialect


def _first_lines(text: TextLines) -> tuple[list[str], int, str | None]:
    """Return some lines of a table, how many come before them, and the delimiter if a line "sep=;" tells it."""
    lines, skipped, told, characters = list[str](), 0, None, 0
    while len(lines) < SAMPLE_LINES and (characters < SAMPLE_CHARACTERS or len(lines) < 3):
        line = text.next()
        mark = _DELIMITER_LINE.fullmatch(line)
        if not line:
            break
        if not lines and (not line.strip() or line.lstrip().startswith("#") or mark):
            told = mark[1] if mark else told
            skipped += 1
            continue
        if not line.strip(" \n\r\x1a"):
            break
        lines.append(line)
        characters += len(line)
    return lines, skipped, told


def _delimiter(lines: Sequence[str]) -> str:
    """Return what separates cells: of what makes as many cells in most lines, what makes most of them numbers."""
    best, delimiter, between_tabs = (0.0, 0.0), ",", 0
    names = cells(lines[0], "\t")
    for candidate in DELIMITERS:
        table = [cells(line, candidate) for line in lines[:20]]
        below = table[1:] or table
        counts = [len(row) for row in below]
        usual = max(counts, key=counts.count)
        if usual < 2:
            continue
        if candidate == BLANKS and delimiter == "\t" and best[0] == 1 and len(names) == between_tabs and all(names):
            continue  # as many cells as names: two tabs have a cell without a value between them
        between_tabs = usual if candidate == "\t" else between_tabs
        held = [cell for row in below for cell in row]
        score = (
            round(counts.count(usual) / len(counts), 2),
            sum(is_value(cell, candidate) and bool(cell) for cell in held) / len(held),
        )
        if score > best:
            best, delimiter = score, candidate
    return delimiter


def _is_trailing(first: Sequence[str], rest: Sequence[Sequence[str]], delimiter: str) -> bool:
    """Say whether every line ends with a delimiter, which makes an empty cell behind the last column."""
    if delimiter == BLANKS or len(first) < 2 or not all(len(row) > 1 and not row[-1] for row in rest):
        return False
    if not rest:
        return not first[-1]
    return not first[-1] or len(first) == len(rest[0]) - 1


def _target(wanted: Selection, first: Sequence[str], path: Path) -> int | None:
    """Return the column of the target as far as it is known before the names are: None if it has a name."""
    if wanted.target is None:
        return len(first) - 1
    if isinstance(wanted.target, str) and wanted.target in first:
        return list(first).index(wanted.target)
    try:
        return number_of(wanted.target, (), len(first), "the target", path)
    except InputError:
        return None  # which is refused once the names are known


def _check(dialect: Dialect, path: Path) -> None:
    """Refuse names that cannot be told apart or read."""
    known: set[str] = set()
    for column, name in enumerate(dialect.names):
        if any("\ud800" <= character <= "\udfff" or character == "\ufffd" for character in name):
            raise InputError(
                f"{path}, line {dialect.skipped + 1}, column {column + 1}: the name {name[:40]!a} is no UTF-8 text. "
                "Save the file as UTF-8."
            )
        if name and name in known:
            raise InputError(f"{path} has two columns named {name[:60]!r}. Rename one.")
        known.add(name)
