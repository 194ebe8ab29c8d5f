"""Tables as text, a row for each line, read by runs of rows."""

import csv
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lowmem.common.damage import damage_is_input_error
from lowmem.data.class_names import CODES, ClassNames
from lowmem.data.formats.columns import Selection, choose_columns, number_of
from lowmem.data.formats.rows import Rows, Watched, blocks
from lowmem.data.samples import Batch
from lowmem.errors import InputError, RunError

EVERY = 4096
"""Lines from one whose offset in the file is noted to the next."""

AT_ONCE = 512
"""Lines that are parsed together."""

LONGEST_LINE = 1 << 24
"""Bytes of a line that are read at most."""

MARK = b"\xef\xbb\xbf"
"""The mark of the byte order, which some programs put before the first line."""


class CsvRows(Rows):
    """Numbers as text, a row for each line; the target may be text. A first line with names of columns is left out.

    The offset of every `EVERY`-th line is noted when the file is opened, so that later reads can jump to it.
    """

    def __init__(self, path: Path, wanted: Selection) -> None:
        self.name, self.path = str(path), path
        self.x_dtype = self.y_dtype = np.dtype(np.float32)
        self._watched = Watched(path)
        with damage_is_input_error(path):
            self._stream = path.open("rb")
        try:
            with damage_is_input_error(path):
                self._begin(wanted)
                self._index()
        except BaseException:
            self.close()
            raise

    def _begin(self, wanted: Selection) -> None:
        """Read the first lines: which columns there are, whether they have names, and whether labels are text."""
        lines = [self._stream.readline(LONGEST_LINE).removeprefix(MARK), self._stream.readline(LONGEST_LINE)]
        self._delimiter = _delimiter(lines[0])
        first, second = ([cell.strip() for cell in _cells(line, self._delimiter)] for line in lines)
        self._count = len(first)
        if self._count < 2 and not wanted.inputs_only:
            raise InputError(
                f"{self.path} has one column; numbers separated by commas, the target among them, are needed."
            )
        self._headed = isinstance(wanted.target, str) or isinstance(wanted.weights, str)
        if not self._headed:
            bare = wanted.inputs_only and wanted.target is None
            at = None if bare else number_of(wanted.target, [], self._count, "target", self.path)
            self._headed = _is_header(first, second, at)
        self.columns = choose_columns(first if self._headed else [], self._count, wanted, self.path)
        self.features = len(self.columns.x)
        self._x, y = np.array(self.columns.x, np.intp), self.columns.y
        self.w_dtype = None if self.columns.w is None else np.dtype(np.float32)
        sample = second if self._headed else first
        self._converters: dict[int, Callable[[str], float]] = {}
        if y is not None and (wanted.class_names or (len(sample) > y and not _is_number(sample[y]))):
            self.class_names, self.y_dtype = ClassNames(wanted.class_names), CODES
            self._converters[y] = self.class_names.number
        self._converters |= dict.fromkeys(self.columns.aside, lambda text: 0.0)

    def _index(self) -> None:
        """Count the rows, and note the offset of every `EVERY`-th."""
        self._stream.seek(0)
        if self._headed:
            self._stream.readline(LONGEST_LINE)
        else:
            self._stream.seek(len(MARK) if self._stream.read(len(MARK)) == MARK else 0)
        self._offsets, self.samples = [self._stream.tell()], 0
        for line in iter(partial(self._stream.readline, LONGEST_LINE), b""):
            if not line.strip():
                break  # the end, if nothing comes behind it
            self.samples += 1
            if self.samples % EVERY == 0:
                self._offsets.append(self._stream.tell())
        if self._stream.read(LONGEST_LINE).strip():
            raise InputError(
                f"{self.path} has an empty line {self.line(self.samples)} with more rows behind it. Remove it."
            )
        if not self.samples:
            raise InputError(f"{self.path} has no rows of numbers.")
        self._row = -1

    def line(self, row: int) -> int:
        """Return the line of the file, from 1, on which a row is."""
        return row + 1 + self._headed

    def read(self, start: int, batch: Batch) -> None:
        """See `Rows.read`."""
        self._watched.check()
        if start != self._row:
            self._stream.seek(self._offsets[start // EVERY])
            for _ in range(start % EVERY):
                self._stream.readline(LONGEST_LINE)
        self._row = -1  # until all went well
        for done, stop in blocks(len(batch), AT_ONCE):
            lines = [self._stream.readline(LONGEST_LINE) for _ in range(stop - done)]
            if not lines[-1]:
                raise RunError(
                    f"{self.path} ends in row {start + done + lines.index(b''):,} of its {self.samples:,}. It was cut "
                    "while it was in use."
                )
            self._parse(start + done, lines, batch.part(done, stop))
        self._row = start + len(batch)

    def _parse(self, start: int, lines: list[bytes], batch: Batch) -> None:
        """Fill a batch with the numbers of some lines, the first of which is row `start`."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # NumPy warns of lines without numbers; they are refused below
                options: dict[str, Any] = {"delimiter": self._delimiter, "comments": None, "quotechar": '"'}
                options |= {"converters": self._converters or None, "encoding": "utf-8"}
                values = np.loadtxt(lines, np.float32, ndmin=2, **options)
            if values.shape != (len(lines), self._count):
                raise ValueError
        except (ValueError, UnicodeDecodeError):
            raise self._complaint(start, lines) from None
        np.take(values, self._x, axis=1, out=batch.x, mode="clip")
        batch.y[:] = 0 if self.columns.y is None else values[:, self.columns.y]
        if self.class_names is not None and batch.y.min() < 0:
            raise self._complaint(start, lines)
        if batch.weights is not None and self.columns.w is not None:
            batch.weights[:] = values[:, self.columns.w]

    def _complaint(self, start: int, lines: list[bytes]) -> InputError:
        """Return the error that says which of some lines cannot be read, and why."""
        for row, line in enumerate(lines, start=start):
            cells = _cells(line, self._delimiter)
            place = f"{self.path}, line {self.line(row):,}"
            if len(cells) != self._count:
                held = f"{len(cells)} column{'s' * (len(cells) != 1)}"
                return InputError(f"{place} has {held}; the first line has {self._count}. Mend that row.")
            for column, cell in enumerate(cells):
                if self.class_names is not None and column == self.columns.y:
                    if self.class_names.number(cell) < 0:
                        return InputError(f"{place}, column {column + 1}: {self.class_names.complaint(cell)}")
                elif column not in self.columns.aside and not _is_number(cell):
                    return InputError(
                        f"{place}, column {column + 1}: {cell[:40]!r} is no number. Mend or code it as one."
                    )
        return InputError(f"{self.path}, line {self.line(start):,} and after cannot be read as numbers.")

    def again(self) -> "CsvRows":
        """See `Rows.again`; the offsets of lines are shared."""
        other = CsvRows.__new__(CsvRows)
        other.__dict__.update(self.__dict__)
        with damage_is_input_error(self.path):
            other._stream, other._row = self.path.open("rb"), -1
        return other

    def close(self) -> None:
        """See `Rows.close`."""
        self._stream.close()


def csv_columns(path: Path) -> int:
    """Return the number of columns of a table."""
    with damage_is_input_error(path), path.open("rb") as stream:
        line = stream.readline(LONGEST_LINE)
    return len(_cells(line, _delimiter(line)))


def _delimiter(line: bytes) -> str:
    """Return what separates the cells of a line: comma, semicolon or tab, whichever it holds most of."""
    return max(",;\t", key=line.decode("utf-8", "replace").count)


def _cells(line: bytes, delimiter: str) -> list[str]:
    """Return the cells of a line."""
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    try:
        return next(csv.reader([text], delimiter=delimiter), [""])
    except csv.Error:
        return text.split(delimiter)


def _is_header(first: Sequence[str], second: Sequence[str], target: int | None) -> bool:
    """Say whether the first line holds names of columns. It does if a cell other than the target's is no number.

    Where only the target's cell is no number, the line below decides: a number there means that the cell above is a
    name, text means that both are labels. Cells numbered from 0 are names in any case.
    """
    others = [cell for column, cell in enumerate(first) if column != target]
    if not all(map(_is_number, others)):
        return True
    if target is None or _is_number(first[target]) or len(second) <= target:
        return False
    return _is_number(second[target]) or others == [str(n) for n in range(len(first)) if n != target]


def _is_number(cell: str) -> bool:
    """Say whether the text of a cell is a number."""
    try:
        float(cell.strip())
    except ValueError:
        return False
    return True
