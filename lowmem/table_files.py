"""Tables with a column for each feature and one for the target, read a run of rows at a time: CSV and Parquet."""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from lowmem.block_files import Array, Rows, Watched
from lowmem.data_files import damage_is_input_error
from lowmem.errors import InputError, RunError

EVERY = 4096
"""Lines of a CSV file from one whose place is noted to the next."""

LONGEST_LINE = 1 << 24
"""Bytes of a line that are read at most."""


class CsvRows(Rows):
    """Numbers as text: a row for each line, one column the target. A first line of names is left out.

    target: its name or number, the last column by default. The places of every so-many-th line are noted at the
    first pass, so that later ones can jump.
    """

    def __init__(self, path: Path, target: str | int | None = None, *, inputs_only: bool = False) -> None:
        self.name, self.path, self._inputs_only = str(path), path, inputs_only
        self.x_dtype = self.y_dtype = np.dtype(np.float32)
        self.y_shape = ()
        self._watched = Watched(path)
        with damage_is_input_error(path):
            self._stream = path.open("rb")
        try:
            self._begin(target)
        except BaseException:
            self.close()
            raise

    def _begin(self, target: str | int | None) -> None:
        """Read the first line, and find the rows."""
        path = self.path
        with damage_is_input_error(path):
            first = self._stream.readline(LONGEST_LINE)
            self._delimiter = max(",;\t", key=first.decode("utf-8", "replace").count)
            cells = [cell.strip().strip('"') for cell in first.decode("utf-8-sig").split(self._delimiter)]
        self._headed = not all(_is_number(cell) for cell in cells)
        self._columns = len(cells)
        if self._columns < 2 and not self._inputs_only:
            raise InputError(f"{path} has one column; numbers separated by commas, the target among them, are needed.")
        self._target = self._columns
        if not self._inputs_only:
            self._target = _column(cells if self._headed else [], self._columns, target, path)
        self.features = self._columns - (not self._inputs_only)
        self._index()

    def _index(self) -> None:
        """Count the rows, and note where every so-many-th begins."""
        self._stream.seek(0)
        if self._headed:
            self._stream.readline(LONGEST_LINE)
        self._places, self.samples = [self._stream.tell()], 0
        for line in iter(partial(self._stream.readline, LONGEST_LINE), b""):
            if not line.strip():
                break  # the end, if nothing comes behind it
            self.samples += 1
            if self.samples % EVERY == 0:
                self._places.append(self._stream.tell())
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

    def read(self, start: int, x: Array, y: Array) -> None:
        """See `Rows.read`."""
        self._watched.check()
        if start != self._row:
            self._stream.seek(self._places[start // EVERY])
            for _ in range(start % EVERY):
                self._stream.readline(LONGEST_LINE)
        for done in range(0, len(x), 512):
            count = min(512, len(x) - done)
            self._parse(start + done, [self._stream.readline(LONGEST_LINE) for _ in range(count)], x[done:], y[done:])
        self._row = start + len(x)

    def _parse(self, start: int, lines: list[bytes], x: Array, y: Array) -> None:
        """Turn lines into numbers."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of lines without numbers, which are said below
                options: dict[str, Any] = {"delimiter": self._delimiter, "comments": None, "quotechar": '"'}
                values = np.loadtxt(lines, np.float32, ndmin=2, encoding="utf-8", **options)
            if values.shape != (len(lines), self._columns):
                raise ValueError
        except (ValueError, UnicodeDecodeError):
            raise self._complaint(start, lines) from None
        x[: len(lines), : self._target] = values[:, : self._target]
        x[: len(lines), self._target :] = values[:, self._target + 1 :]
        y[: len(lines)] = 0 if self._inputs_only else values[:, self._target]

    def _complaint(self, start: int, lines: list[bytes]) -> InputError:
        """Say which row cannot be read, and why."""
        for row, line in enumerate(lines, start=start):
            cells = line.decode("utf-8", "replace").rstrip("\r\n").split(self._delimiter)
            place = f"{self.path}, line {self.line(row):,}"
            if len(cells) != self._columns:
                return InputError(
                    f"{place} has {len(cells)} columns; the first line has {self._columns}. Mend that row."
                )
            for column, cell in enumerate(cells, start=1):
                if not _is_number(cell):
                    return InputError(f"{place}, column {column}: {cell[:40]!r} is no number. Mend or code it as one.")
        return InputError(f"{self.path}, line {self.line(start):,} and after cannot be read as numbers.")

    def again(self) -> "CsvRows":
        """See `Rows.again`: the places of the lines are shared."""
        other = CsvRows.__new__(CsvRows)
        other.__dict__.update(self.__dict__)
        with damage_is_input_error(self.path):
            other._stream, other._row = self.path.open("rb"), -1
        return other

    def close(self) -> None:
        """See `Rows.close`."""
        self._stream.close()


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip().strip('"'))
    except ValueError:
        return False
    return True


def _column(names: Sequence[str], count: int, target: str | int | None, path: Path) -> int:
    """Return the number of the target's column."""
    if target is None:
        return count - 1
    if isinstance(target, str) and target in names:
        return list(names).index(target)
    if not isinstance(target, str) and -count <= target < count:
        return target % count
    known = ", ".join(map(repr, names)) if names else f"0 to {count - 1}"
    raise InputError(f"{path} has no column {target!r} to be the target; it has {known[:200]}.")


class ParquetRows(Rows):
    """A Parquet file, read by row groups with pyarrow (`pip install lowmem[parquet]`)."""

    def __init__(self, path: Path, target: str | int | None = None) -> None:
        try:
            from pyarrow import ArrowException, parquet  # 39 MiB, for those who read Parquet
        except ImportError:
            raise InputError(f"{path} is a Parquet file; reading it needs pyarrow: pip install pyarrow.") from None
        self.name, self.path, self._arguments = str(path), path, (path, target)
        self._watched = Watched(path)
        try:
            self._file = parquet.ParquetFile(path)
        except (ArrowException, OSError, ValueError) as problem:
            raise InputError(f"{path} cannot be read as Parquet: {' '.join(str(problem).split())[:200]}.") from None
        names = self._file.schema_arrow.names
        if len(names) < 2:
            raise InputError(f"{path} has {len(names)} columns; features and a target are needed.")
        at = _column(names, len(names), target, path)
        self._names, self._target = [name for name in names if name != names[at]], names[at]
        kinds = {str(field.type) for field in self._file.schema_arrow}
        if not all(kind.startswith(("int", "uint", "float", "double", "half", "bool")) for kind in kinds):
            raise InputError(f"{path} has columns of {', '.join(sorted(kinds))}; numbers are needed.")
        self.samples, self.features = self._file.metadata.num_rows, len(names) - 1
        if not self.samples:
            raise InputError(f"{path} has no rows.")
        self.x_dtype = self.y_dtype = np.dtype(np.float32)
        self.y_shape = ()
        groups = self._file.metadata.num_row_groups
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int).tolist()
        self._row, self._tables, self._left = -1, iter(()), None

    def read(self, start: int, x: Array, y: Array) -> None:
        """See `Rows.read`."""
        self._watched.check()
        if start != self._row:
            group = next(g for g in range(len(self._starts) - 1) if self._starts[g + 1] > start)
            groups = list(range(group, len(self._starts) - 1))
            self._tables = self._file.iter_batches(4096, row_groups=groups, columns=[*self._names, self._target])
            self._left, skip = None, start - self._starts[group]
        else:
            skip = 0
        filled = 0
        while filled < len(x):
            table = self._left if self._left is not None else self._next(start + filled)
            self._left = None
            if skip >= table.num_rows:
                skip -= table.num_rows
                continue
            count = min(table.num_rows - skip, len(x) - filled)
            part = table.slice(skip, count)
            for column, name in enumerate(self._names):
                x[filled : filled + count, column] = self._numbers(part, name, start + filled)
            y[filled : filled + count] = self._numbers(part, self._target, start + filled)
            if skip + count < table.num_rows:
                self._left = table.slice(skip + count)
            filled, skip = filled + count, 0
        self._row = start + len(x)

    def _next(self, row: int) -> Any:  # noqa: ANN401 - a record batch
        try:
            return next(self._tables)
        except Exception as problem:  # pyarrow raises its own kinds, and OSError
            reason = " ".join(str(problem).split())[:200] or "it ends early"
            raise RunError(f"{self.path} cannot be read at row {row:,}: {reason}.") from None

    def _numbers(self, part: Any, name: str, row: int) -> Array:  # noqa: ANN401 - a record batch
        column = part.column(name)
        if column.null_count:
            raise InputError(f"{self.path}: column {name!r} has empty values at row {row:,} or after. Fill them in.")
        return cast("Array", column.to_numpy(zero_copy_only=False))

    def again(self) -> "ParquetRows":
        """See `Rows.again`."""
        other = ParquetRows(*self._arguments)
        other._watched = self._watched
        return other

    def close(self) -> None:
        """See `Rows.close`."""
        self._file.close()
