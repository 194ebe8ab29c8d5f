"""Tables as text, a row for each line, read by runs of rows."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from sys import getsizeof
from typing import Any

import numpy as np

from lowmem.common.damage import damage_is_input_error
from lowmem.data.class_names import CODES, ClassNames, are_numbers
from lowmem.data.formats.cells import (
    BLANKS,
    TRUTH,
    is_comma_number,
    is_missing,
    is_number,
    is_value,
    is_whole,
    may_be_thousands,
)
from lowmem.data.formats.columns import Selection, choose_columns, number_of
from lowmem.data.formats.dialect import OPEN_QUOTE, read_dialect
from lowmem.data.formats.rows import Rows, Watched
from lowmem.data.formats.text_lines import TextLines
from lowmem.data.formats.thousands import Marks
from lowmem.data.samples import Batch
from lowmem.errors import Advice, InputError, RunError

EVERY = 4096
"""Lines from one whose place in the file is noted to the next."""

AT_ONCE, TEXT_AT_ONCE, VALUES_AT_ONCE = 512, 1 << 17, 1 << 16
"""Lines, bytes of their text, and bytes of their numbers that are parsed together; at least one line is."""

OF_CELL, OF_LONGEST = 96, 7
"""Bytes for a cell of a line that is taken apart, and for a byte of its text: copies, and NumPy's wide characters."""

END = " \t\n\r\x1a"
"""Characters of a line that holds nothing; the last one ended files of DOS."""


@dataclass(slots=True)
class Seen:
    """What the readers of a file share: where a decimal comma, and where a decimal point, was seen first."""

    comma: str = ""
    point: str = ""


class CsvRows(Rows):
    """Numbers as text, a row for each line; the target may be text. Names of columns are told from samples.

    The place of every `EVERY`-th line is noted when the file is opened, so that later reads can go to it.
    """

    def __init__(self, path: Path, wanted: Selection) -> None:
        self.name, self.path, self.files = str(path), path, (path,)
        self.x_dtype = self.y_dtype = np.dtype(np.float32)
        self._watched = Watched(path)
        with damage_is_input_error(path):
            self._text = TextLines(path)
        try:
            with damage_is_input_error(path):
                self._begin(wanted)
                self._index()
        except RunError as problem:  # nothing has begun
            self.close()
            raise InputError(str(problem)) from None
        except BaseException:
            self.close()
            raise

    def _begin(self, wanted: Selection) -> None:
        """Read the first lines: which columns there are, whether they have names, and whether labels are text."""
        self.seekable = not self._text.packed
        self.dialect = dialect = read_dialect(self._text, wanted, self.path)
        self.columns = choose_columns(dialect.names, dialect.columns, wanted, self.path, self._index_columns(wanted))
        self.schema = self.columns.schema
        encoding = "" if self._text.encoding.startswith("utf-8") else f", {self._text.encoding.upper()}"
        self.notes = (f"{dialect}{encoding}{', gzipped' * self._text.packed}", *self.columns.notes)
        self.remarks = self.columns.remarks
        self.features = len(self.columns.x)
        self._x, y = np.array(self.columns.x, np.intp), self.columns.y
        self.w_dtype = None if self.columns.w is None else np.dtype(np.float32)
        held = [] if y is None else [row[y] for row in dialect.rows if len(row) > y and not is_missing(row[y])]
        self.y_decimal = any(not is_whole(cell) and cell.lower() not in TRUTH for cell in held)
        self._converters: dict[int, Callable[[str], float]] = dict.fromkeys(self.columns.aside, lambda text: 0.0)
        truth = bool(held) and all(cell.lower() in TRUTH for cell in held)
        text = bool(held) and not (truth or is_number(held[0]) or is_comma_number(held[0]))
        if y is not None and (text or (wanted.class_names is not None and not are_numbers(wanted.class_names))):
            self.class_names, self.y_dtype = ClassNames(wanted.class_names), CODES
            self._converters[y] = self.class_names.number
        self._cellwise, self._seen = truth and self.class_names is None, Seen()
        self._last_is_target = wanted.target is None and not wanted.inputs_only
        self.dialect = replace(dialect, rows=())  # which may be megabytes of small objects

    def _index_columns(self, wanted: Selection) -> list[int]:
        """Return the first column if it has no name, or the one that pandas gave it, and numbers or names the rows."""
        dialect = self.dialect
        if not dialect.headed or dialect.names[0] not in ("", "Unnamed: 0"):
            return []
        held = [row[0] for row in dialect.rows if row]
        if all(is_whole(cell) or not is_value(cell, dialect.delimiter) for cell in held):
            return [0]
        if dialect.names[0] or 0 in (*wanted.ignore, *(wanted.features or ())):
            return []
        raise InputError(
            f"{self.path}, line {dialect.skipped + 1}: column 0 has no name, and holds {held[0][:20]!r}, which is no "
            "number of a row. Name the column, or leave it out with ",
            Advice("ignore", "0"),
            ".",
        )

    def _index(self) -> None:
        """Count the rows, note the place of every `EVERY`-th, and see whether there may be decimal commas."""
        text, commas = self._text, self.dialect.delimiter != ","
        named = set() if self.class_names is None else {self.columns.y}
        marks = Marks({*range(self.dialect.columns)} - {*self.columns.aside} - named, self.dialect.delimiter)
        text.go(0)
        for _ in range(self.dialect.skipped + self.dialect.headed):
            text.next()
        self._places, self.samples = [text.place()], 0
        self._longest, self._whole = 0, 0  # bytes of the longest line, and of all
        while (line := text.next()).strip(END):
            self.samples += 1
            size = getsizeof(line)
            self._whole += size
            if size > self._longest:
                self._longest = size
            if self.samples % EVERY == 0:
                self._places.append(text.place())
            if commas and "," in line:
                self._cellwise, commas = True, False
            if marks.are_in(line):
                marks.look(self.dialect.cells(line), self.samples - 1)
        while line:
            if line.strip(END):
                raise InputError(
                    f"{self.path} has an empty line {self.line(self.samples)} with more rows behind it. Remove it."
                )
            line = text.next()
        if not self.samples:
            raise InputError(f"{self.path} has no rows of numbers.")
        self.remarks += marks.remarks(self.path, self.line(0))
        self._row = -1
        row_bytes = self.dialect.columns * np.dtype(np.float32).itemsize
        self._most = max(1, min(AT_ONCE, self.samples, VALUES_AT_ONCE // row_bytes))

    @property
    def reading_bytes(self) -> int:
        """See `Rows.reading_bytes`: the text of some lines, their numbers, and what one line takes to be taken apart.

        Numbers take their bytes, and one more each to see that they are finite.
        """
        columns = self.dialect.columns
        text = min(self._whole, TEXT_AT_ONCE + self._longest)
        values = self._most * columns * (np.dtype(np.float32).itemsize + 1)
        return text + values + OF_CELL * columns + OF_LONGEST * self._longest

    def line(self, row: int) -> int:
        """Return the line of the file, from 1, on which a row is."""
        return row + 1 + self.dialect.skipped + self.dialect.headed

    def read(self, start: int, batch: Batch) -> None:
        """See `Rows.read`."""
        self._watched.check()
        if start != self._row:
            self._text.go(self._places[start // EVERY])
            for _ in range(start % EVERY):
                self._text.next()
        self._row = -1  # until all went well
        done = 0
        while done < len(batch):
            lines = self._lines(start + done, min(self._most, len(batch) - done))
            self._parse(start + done, lines, batch.part(done, done + len(lines)))
            done += len(lines)
            del lines  # the next ones shall not come on top of them
        self._row = start + len(batch)

    def _lines(self, row: int, most: int) -> list[str]:
        """Return some lines from that of `row` on: at most so many, and no more once they are long enough."""
        lines, size = list[str](), 0
        while len(lines) < most and size < TEXT_AT_ONCE:
            line = self._text.next()
            if not line:
                raise RunError(
                    f"{self.path} ends in row {row + len(lines):,} of its {self.samples:,}. It was cut while it was "
                    "in use."
                )
            lines.append(line)
            size += getsizeof(line)
        return lines

    def _parse(self, start: int, lines: list[str], batch: Batch) -> None:
        """Fill a batch with the numbers of some lines, the first of which is row `start`."""
        values = None if self._cellwise else self._at_once(lines)
        if values is None:
            values = self._cell_by_cell(start, lines)
        np.take(values, self._x, axis=1, out=batch.x, mode="clip")
        batch.y[:] = 0 if self.columns.y is None else values[:, self.columns.y]
        if batch.weights is not None and self.columns.w is not None:
            batch.weights[:] = values[:, self.columns.w]

    def _at_once(self, lines: list[str]) -> np.ndarray[Any, Any] | None:
        """Return the numbers of some lines, None unless all of their cells are finite numbers or known names."""
        dialect = self.dialect
        given: Iterable[str] = lines
        if dialect.trailing:
            given = (line.rstrip(END.replace("\t", "")).removesuffix(dialect.delimiter) for line in lines)
        options: dict[str, Any] = {"comments": None, "quotechar": '"', "converters": self._converters or None}
        options["delimiter"] = None if dialect.delimiter == BLANKS else dialect.delimiter
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # NumPy warns of lines without numbers, which are refused
                values = np.loadtxt(given, np.float32, ndmin=2, max_rows=len(lines), **options)
        except (ValueError, UnicodeError):
            return None
        labels_known = self.class_names is None or values[:, self.columns.y].min() >= 0
        right = values.shape == (len(lines), dialect.columns) and labels_known and bool(np.isfinite(values).all())
        return values if right else None

    def _cell_by_cell(self, start: int, lines: list[str]) -> np.ndarray[Any, Any]:
        """Return the numbers of some lines, also where they have decimal commas or are truth values.

        Raises `InputError`, with line and column, for what is no number.
        """
        values = np.zeros((len(lines), self.dialect.columns), np.float32)
        for number, line in enumerate(lines):
            self._take_apart(line, f"{self.path}, line {self.line(start + number):,}", values[number])
        return values

    def _take_apart(self, line: str, place: str, values: np.ndarray[Any, Any]) -> None:
        """Write the numbers of one line, whose cells are all that is in memory besides; see `_cell_by_cell`."""
        held = self.dialect.cells(line)
        if len(held) != self.dialect.columns:
            raise InputError(f"{place} {self._wrong_count(line, held)}")
        for column, cell in enumerate(held):
            if column == self.columns.y and self.class_names is not None:
                values[column] = self.class_names.number(cell)
                if values[column] < 0:
                    raise InputError(f"{place}, column {column + 1}: {self.class_names.complaint(cell)}")
            elif column not in self.columns.aside:
                values[column] = self._value(cell, place, column)

    def _wrong_count(self, line: str, held: Sequence[str]) -> str:
        """Say why a line has not as many cells as the table has columns."""
        if line.count('"') % 2:
            return OPEN_QUOTE
        count = f"{len(held)} column{'s' * (len(held) != 1)}"
        where = "the first line has" if not self.dialect.skipped else "the lines before have"
        return f"has {count}; {where} {self.dialect.columns}. Mend that row."

    def _value(self, cell: str, place: str, column: int) -> float:
        """Return the number that a cell holds. Raises `InputError` if it is none, or not finite as float32."""
        cell = TRUTH.get(cell.lower(), cell)
        point = is_number(cell)
        if point or (self.dialect.delimiter != "," and is_comma_number(cell)):
            if "." in cell or "," in cell:
                self._note_mark(cell, f"{place}, column {column + 1}")
            with np.errstate(over="ignore"):
                value = float(np.float32(cell.replace(",", ".")))
            if np.isfinite(value):
                return value
        where = f"{place}, column {column + 1}{self._named(column)}"
        advice = self._leave_out(column, text=not (point or is_missing(cell) or is_comma_number(cell)))
        if is_missing(cell):
            raise InputError(f"{where}: the value is missing ({cell[:20]!r}). Fill it in, or remove that row", *advice)
        if point:
            raise InputError(f"{where}: {cell[:40]!r} is no finite number of float32. Mend it, or scale the column.")
        between = ", and nothing between thousands" if may_be_thousands(cell) else ""
        commas = f" Numbers have a decimal point{between}." if is_comma_number(cell) or between else ""
        raise InputError(f"{where}: {cell[:40]!r} is no number.{commas} Code it as one", *advice)

    def _named(self, column: int) -> str:
        """Write the name of a column behind its number."""
        return f" ({self.dialect.names[column][:60]!r})" if self.dialect.headed else ""

    def _leave_out(self, column: int, *, text: bool) -> Sequence[object]:
        """Return the end of a sentence that advises to leave a column out, where that is possible."""
        if column not in self.columns.x or len(self.columns.x) == 1:
            return (".",)
        name = (self.dialect.names[column] if self.dialect.headed else "") or str(column)
        target = (", or make it the target with ", Advice("target", name)) if text and self._last_is_target else ()
        return ", or leave the column out with ", Advice("ignore", name), *target, "."

    def _note_mark(self, cell: str, place: str) -> None:
        """Note whether numbers have decimal points or commas, and refuse a file with both."""
        seen = self._seen
        if "," in cell:
            seen.comma = seen.comma or f"{cell[:20]!r} in {place.removeprefix(f'{self.path}, ')}"
        else:
            seen.point = seen.point or f"{cell[:20]!r} in {place.removeprefix(f'{self.path}, ')}"
        if seen.comma and seen.point:
            raise InputError(
                f"{self.path} has decimal commas, {seen.comma}, and decimal points, {seen.point}. Write all numbers "
                "alike."
            )

    def texts(self, column: str) -> Iterator[str]:
        """See `Rows.texts`."""
        number = number_of(column, self.dialect.names, self.dialect.columns, "copied", self.path)
        with closing(self.again()) as rows:
            rows._text.go(rows._places[0])
            for row in range(self.samples):
                cells = self.dialect.cells(rows._text.next())
                if len(cells) <= number:
                    raise RunError(
                        f"{self.path}, {self.place(row, number)} is missing. The file changed while it was in use."
                    )
                yield cells[number]

    def place(self, row: int, column: int | None) -> str:
        """See `Rows.place`."""
        return f"line {self.line(row):,}" + ("" if column is None else f", column {column + 1}{self._named(column)}")

    def again(self) -> "CsvRows":
        """See `Rows.again`; the places of lines are shared."""
        other = CsvRows.__new__(CsvRows)
        other.__dict__.update(self.__dict__)
        with damage_is_input_error(self.path):
            other._text, other._row = TextLines(self.path), -1
        return other

    def close(self) -> None:
        """See `Rows.close`."""
        self._text.close()
