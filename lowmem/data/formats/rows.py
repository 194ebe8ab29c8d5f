"""Rows of a file: what every format's reader offers, and the parts of one that a split makes."""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lowmem.data.class_names import ClassNames
from lowmem.data.formats.columns import Schema
from lowmem.data.samples import Batch
from lowmem.errors import InputError, RunError


class Rows(ABC):
    """Samples in a file, read by runs of rows. Every reader stands at a row of its own.

    name: the file, for messages. samples, features: how many rows, and columns of x.
    x_dtype, y_dtype, w_dtype: as stored, of x (samples, features), y (samples, *y_shape) and weights (samples,); the
        last is None where there are no weights.
    class_names: the names of the classes, where y is text in the file; y is then their numbers.
    seekable: True where rows can be read in any order at about the same cost.
    apart: True where a single row costs no more to read than its bytes: no others are read with it.
    y_decimal: True where the numbers of y are stored as numbers that need not be whole: floats, "1.0".
    schema: the columns of a table; None for arrays. notes: what was found in the file and chosen, for people.
    remarks: what people should know before they trust the result, such as columns in another order.
    files: that are read.
    """

    name: str
    samples: int
    features: int
    x_dtype: np.dtype[Any]
    y_dtype: np.dtype[Any]
    y_shape: tuple[int, ...] = ()
    w_dtype: np.dtype[Any] | None = None
    class_names: ClassNames | None = None
    seekable: bool = True
    apart: bool = False
    y_decimal: bool = False
    schema: Schema | None = None
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    @abstractmethod
    def read(self, start: int, batch: Batch) -> None:
        """Fill a batch, made by `buffer`, with the rows from `start` on.

        Raises `RunError` if the file has changed or ends early, `InputError` for a row that is no sample.
        """

    @abstractmethod
    def again(self) -> "Rows":
        """Return another reader of the same rows, which shares the class names."""

    @abstractmethod
    def close(self) -> None:
        """Close the files."""

    def texts(self, column: str) -> Iterator[str]:
        """Yield what a column of a table holds in each row as text. Raises `InputError` if it has no such column."""
        raise InputError(f"{self.name} is no table, and has no column {column!r}.")

    def place(self, row: int, column: int | None) -> str:
        """Write where a value is, for messages; column: of the features, None for the target."""
        return f"{'y' if column is None else 'x'}[{row}]"

    @property
    def reading_bytes(self) -> int:
        """Bytes that a reader takes besides what it fills."""
        return 0

    @property
    def reading_loss(self) -> int:
        """Bytes that the process holds for a reader beyond those that are allocated, as measured.

        Below 0 where some are allocated and never touched.
        """
        return 0

    def buffer(self, rows: int, *, weighted: bool = True, x_rows: int | None = None) -> Batch:
        """Return memory for so many rows as stored, and for `x_rows` of x; without `weighted`, for no weights."""
        x = np.empty((rows if x_rows is None else x_rows, self.features), self.x_dtype)
        weights = None if self.w_dtype is None or not weighted else np.empty(rows, self.w_dtype)
        return Batch(x, np.empty((rows, *self.y_shape), self.y_dtype), weights)

    def y_bytes(self, *, weighted: bool = True) -> int:
        """Return the bytes of a row of `buffer` besides x."""
        w_bytes = 0 if self.w_dtype is None or not weighted else self.w_dtype.itemsize
        return math.prod(self.y_shape) * self.y_dtype.itemsize + w_bytes

    @property
    def x_bytes(self) -> int:
        """Bytes of a row of x as stored."""
        return self.features * self.x_dtype.itemsize


class Wrapped(Rows):
    """Another reader's rows, changed or chosen by a class below this one."""

    def __init__(self, rows: Rows) -> None:
        self.__dict__.update({name: getattr(rows, name) for name in Rows.__annotations__})
        self._rows = rows

    @property
    def reading_bytes(self) -> int:
        """See `Rows.reading_bytes`."""
        return self._rows.reading_bytes

    @property
    def reading_loss(self) -> int:
        """See `Rows.reading_loss`."""
        return self._rows.reading_loss

    def place(self, row: int, column: int | None) -> str:
        """See `Rows.place`."""
        return self._rows.place(row, column)

    def close(self) -> None:
        """See `Rows.close`."""
        self._rows.close()


class RowRange(Wrapped):
    """A run of another reader's rows, as a data set of its own; first: the row of the other that is row 0 here."""

    def __init__(self, rows: Rows, first: int, samples: int) -> None:
        super().__init__(rows)
        self._first, self.samples = first, samples

    def read(self, start: int, batch: Batch) -> None:
        """See `Rows.read`."""
        self._rows.read(self._first + start, batch)

    def again(self) -> "RowRange":
        """See `Rows.again`."""
        return RowRange(self._rows.again(), self._first, self.samples)

    def place(self, row: int, column: int | None) -> str:
        """See `Rows.place`."""
        return self._rows.place(self._first + row, column)


class Watched:
    """A file that must not change while it is in use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = self._look()

    def _look(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns

    def check(self) -> None:
        """Raise `RunError` if the file is another than at the start."""
        if self._look() != self._known:
            raise RunError(f"{self.path} has changed since it was opened; what was read may not belong together.")


def blocks(samples: int, rows: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of runs of at most `rows` rows."""
    for start in range(0, samples, rows):
        yield start, min(start + rows, samples)
