"""Parquet tables, read by runs of rows with pyarrow (`pip install lowmem[parquet]`)."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.process_memory import give_back, resident
from lowmem.data.class_names import CODES, ClassNames
from lowmem.data.formats.columns import Selection, choose_columns, number_of
from lowmem.data.formats.rows import Rows, Watched
from lowmem.data.samples import Batch
from lowmem.errors import Advice, InputError, RunError

Array = NDArray[Any]

AT_ONCE, BYTES_AT_ONCE = 4096, 4 << 20
"""Rows that are unpacked together, and bytes of x, at most: the time of that is one for each column."""

READ_BYTES = 1 << 16
"""Bytes of a column that are read together."""

OF_COLUMN = 2500
"""Bytes of each column that later passes lose in pieces of freed pages, shared among the row groups.

Where there are many groups the first pass has lost them too, and they are measured. This was fitted, with the system's
allocator, to the peaks of training on files of 1 to 120 row groups with 12 to 1,500 columns (scripts/try_caps.py).
"""

WHOLE = ("int", "uint")
INDEX_NAME = re.compile(r"__index_level_\d+__")
"""The name that pandas gives an index without one."""

NUMBERS = ("int", "uint", "float", "double", "half", "bool")
TEXTS = ("string", "large_string", "dictionary<values=string", "dictionary<values=large_string")


class ReadingMemory:
    """What reading a file takes of the process's memory, measured while its first reader reads; readers share it.

    A page of each column is in memory at a time, packed and unpacked. How large pages are is not known before they are
    read, nor how much more the allocator takes for them.

    bytes: the most that reading has taken; 0 before the first reader is closed. allocated: the most of it that pyarrow
        counted, the same in every run.
    """

    def __init__(self) -> None:
        self.bytes, self.allocated, self._most = 0, 0, 0

    def look(self, allocated: int) -> None:
        """Note how much the process holds now; once for each record batch, whose pages are in memory still."""
        self.allocated = max(self.allocated, allocated)
        self._most = max(self._most, resident())

    def end(self) -> None:
        """Tell the bytes that were taken from what the process holds now that the reader has freed all."""
        if self._most:
            give_back()
            self.bytes, self._most = max(self.bytes, self._most - resident()), 0


class ParquetRows(Rows):
    """A Parquet file with columns of numbers; the target may be text.

    names: of another reader of the file. like: that reader, with which all is shared that a file has once.
    """

    def __init__(
        self, path: Path, wanted: Selection, names: ClassNames | None = None, like: "ParquetRows | None" = None
    ) -> None:
        self.name, self.path, self.files, self._wanted = str(path), path, (path,), wanted
        self._memory: ReadingMemory = ReadingMemory() if like is None else like._memory
        self._is_first = like is None
        self._watched: Watched = Watched(path) if like is None else like._watched
        self._file: Any
        # The account of row groups and columns takes a kilobyte for each column of each group.
        self._file, self._pool = _opened(path, None if like is None else like._file.metadata)
        self._before, self._most_before = self._pool.bytes_allocated(), self._pool.max_memory()
        try:
            self._begin(wanted, names)
            if self._is_first:
                give_back()  # reading would hide in memory that is freed and still held
        except BaseException:
            self.close()
            raise

    def _begin(self, wanted: Selection, names: ClassNames | None) -> None:
        """See which columns and row groups there are."""
        held, metadata, path = self._file.schema_arrow, self._file.metadata, self.path
        if len(set(held.names)) < len(held.names):
            raise InputError(f"{path} has two columns of one name. Rename one.")
        if not held.names:
            raise InputError(f"{path} has no columns.")
        columns = choose_columns(held.names, len(held.names), wanted, path, _index_columns(held))
        self.schema, self.notes = columns.schema, ("Parquet", *columns.notes)
        self.remarks = columns.remarks
        self._x = [held.names[column] for column in columns.x]
        self._y, self._w = (None if column is None else held.names[column] for column in (columns.y, columns.w))
        self._read = [*self._x, *(name for name in (self._y, self._w) if name is not None)]
        kinds = {name: str(held.field(name).type) for name in held.names}
        if self._y is not None and kinds[self._y].startswith(TEXTS):
            self.class_names = names or ClassNames(wanted.class_names)
        labels = None if self.class_names is None else self._y
        numbers = [*self._x, *(name for name in (self._y, self._w) if name is not None and name != labels)]
        for name in numbers:
            if not kinds[name].startswith(NUMBERS):
                raise self._no_numbers(name, kinds[name])
        self.samples, self.features = metadata.num_rows, len(self._x)
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        if sum(sizes) != self.samples or min(sizes, default=0) < 0:
            raise InputError(f"{path} announces {self.samples:,} rows and its groups {sum(sizes):,}. It is damaged.")
        if not self.samples:
            raise InputError(f"{path} has no rows.")
        self.x_dtype = np.dtype(np.float32)
        self.y_dtype = self.x_dtype if self.class_names is None else CODES
        self.y_decimal = self._y is not None and kinds[self._y].startswith(("float", "double", "half"))
        self.w_dtype = None if self._w is None else self.x_dtype
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int).tolist()
        self._at_once = max(1, min(AT_ONCE, BYTES_AT_ONCE // max(self.x_bytes, 1), int(max(sizes))))
        self._unpacked_rows: Batch | None = None
        self._row, self._tables, self._left = -1, iter(()), range(0)

    def _no_numbers(self, name: str, kind: str) -> InputError:
        """Return the error of a column that should hold numbers."""
        says = f"{self.path}: column {name!r} holds {kind[:60]}, and numbers are needed. "
        advice = "Cast it to double" if kind.startswith(("decimal", "dictionary<values=int")) else "Code it as numbers"
        if name not in self._x or len(self._x) == 1:
            return InputError(f"{says}{advice}.")
        target = (", or make it the target with ", Advice("target", name)) if self._wanted.target is None else ()
        return InputError(f"{says}{advice}, or leave it out with ", Advice("ignore", name), *target, ".")

    @property
    def reading_bytes(self) -> int:
        """See `Rows.reading_bytes`."""
        return self._memory.allocated + self._at_once * (self.x_bytes + self.y_bytes())

    @property
    def reading_loss(self) -> int:
        """See `Rows.reading_loss`."""
        if not self._memory.bytes:
            return 0
        later = OF_COLUMN * len(self._read) // (len(self._starts) - 1)
        return self._memory.bytes + later - self.reading_bytes

    def place(self, row: int, column: int | None) -> str:
        """See `Rows.place`."""
        name = self._y if column is None else self._x[column]
        return f"row {row:,}, column {name!r}"

    def read(self, start: int, batch: Batch) -> None:
        """See `Rows.read`."""
        self._watched.check()
        if start != self._row:
            self._tables, self._left = self._from(start), range(0)
        self._row, filled = -1, 0
        while filled < len(batch):
            held = self._unpack(start + filled) if not self._left else self._unpacked_rows
            assert held is not None
            taken, self._left = self._left[: len(batch) - filled], self._left[len(batch) - filled :]
            into, source = batch.part(filled, filled + len(taken)), held.part(taken.start, taken.stop)
            into.x[:], into.y[:] = source.x, source.y
            if into.weights is not None and source.weights is not None:
                into.weights[:] = source.weights
            filled += len(taken)
        self._row = start + len(batch)

    def _unpack(self, row: int) -> Batch:
        """Unpack the next rows, the first of which is `row`, and return where they are; `_left` says which."""
        table = self._next(row)
        if self._unpacked_rows is None:
            self._unpacked_rows = self.buffer(self._at_once, weighted=self._w is not None)
        self._fill(table, row, self._unpacked_rows.part(0, table.num_rows))
        self._left = range(table.num_rows)
        if self._is_first:
            self._memory.look(self._most_held() - self._before)
        return self._unpacked_rows

    def _fill(self, table: Any, row: int, batch: Batch) -> None:  # noqa: ANN401 - a record batch
        """Copy the rows of a record batch, the first of which is `row`."""
        for column, name in enumerate(self._x):
            self._copy(table, name, row, batch.x[:, column])
        if self._y is None:
            batch.y[:] = 0
        elif self.class_names is None:
            self._copy(table, self._y, row, batch.y)
        else:
            batch.y[:] = self._labels(table, self.class_names, self._y, row)
        if batch.weights is not None and self._w is not None:
            self._copy(table, self._w, row, batch.weights)

    def _copy(self, table: Any, name: str, row: int, out: Array) -> None:  # noqa: ANN401 - a record batch
        """Copy a column of numbers. Raises `InputError` for those that are too large for float32."""
        numbers = self._numbers(table, name, row)
        with np.errstate(over="ignore", invalid="ignore"):  # a NaN that a damaged file signals is refused later
            out[:] = numbers
        if numbers.dtype == np.float64 and not np.isfinite(out).all():
            large = np.isfinite(numbers) & ~np.isfinite(out)
            if large.any():
                at = int(large.argmax())
                raise InputError(
                    f"{self.path}, row {row + at:,}, column {name!r}: {numbers[at]:g} is no finite number of float32. "
                    "Mend it, or scale the column."
                )

    def _from(self, start: int) -> Iterator[Any]:
        """Return record batches from a row on."""
        group = next(g for g in range(len(self._starts) - 1) if self._starts[g + 1] > start)
        skip = start - self._starts[group]
        for number in range(group, len(self._starts) - 1):
            yield from self._of_group(number, skip)
            skip = 0

    def _of_group(self, group: int, skip: int) -> Iterator[Any]:
        """Return record batches of a row group, but for its first rows.

        Asked for one group, pyarrow has freed all that it took for it before the next group is read. Asked for several
        it takes up to 1.8 times as much, in pieces that what was read before has left.
        """
        for table in self._file.iter_batches(self._at_once, row_groups=[group], columns=self._read, use_threads=False):
            if skip < table.num_rows:
                yield table.slice(skip)
            skip = max(0, skip - table.num_rows)

    def _most_held(self) -> int:
        """Return the most bytes that pyarrow has held since this reader began, or holds where it held more before."""
        most: int = self._pool.max_memory()
        return most if most > self._most_before else self._pool.bytes_allocated()

    def _next(self, row: int) -> Any:  # noqa: ANN401 - a record batch
        """Return the next record batch, which begins with `row`."""
        try:
            return next(self._tables)
        except Exception as problem:  # pyarrow raises its own kinds, and OSError
            reason = " ".join(str(problem).split())[:200] or "it ends early"
            raise RunError(f"{self.path} cannot be read at row {row:,}: {reason}.") from None

    def _column(self, table: Any, name: str, row: int) -> Any:  # noqa: ANN401 - a record batch, a column
        """Return a column without empty values."""
        column = table.column(name)
        if column.null_count:
            at = row + column.is_null().to_pylist().index(True)
            raise InputError(
                f"{self.path}: column {name!r} has an empty value in row {at:,}. Fill it in, or remove that row."
            )
        return column

    def _numbers(self, table: Any, name: str, row: int) -> Array:  # noqa: ANN401 - a record batch
        """Return a column of numbers. Its own `to_numpy` would import pandas where that is installed: 48 MiB."""
        column = self._column(table, name, row)
        held, start, stop = column.buffers()[1], column.offset, column.offset + len(column)
        if column.type.bit_width == 1:
            bits = np.frombuffer(held, np.uint8)[start // 8 : -(-stop // 8)]
            return np.unpackbits(bits, bitorder="little")[start % 8 :][: stop - start]
        numbers: Array = np.frombuffer(held, column.type.to_pandas_dtype())[start:stop]
        return numbers

    def _labels(self, table: Any, names: ClassNames, name: str, row: int) -> Array:  # noqa: ANN401 - a record batch
        """Return class numbers for a column of text."""
        column = self._column(table, name, row)
        try:
            texts = column.to_pylist()
        except (ValueError, IndexError) as problem:  # no UTF-8, or a dictionary that lacks an entry
            raise RunError(f"{self.path} cannot be read at row {row:,}: {problem}.") from None
        numbers = np.fromiter(map(names.number, texts), CODES, len(texts))
        if numbers.min(initial=0) < 0:
            at = int(numbers.argmin())
            raise InputError(f"{self.path}: column {name!r}, row {row + at:,}: {names.complaint(texts[at])}")
        return numbers

    def texts(self, column: str) -> Iterator[str]:
        """See `Rows.texts`; an empty value is an empty text."""
        names = self._file.schema_arrow.names
        name = names[number_of(column, names, len(names), "copied", self.path)]
        with contextlib.closing(_opened(self.path, self._file.metadata)[0]) as held:
            for table in held.iter_batches(AT_ONCE, columns=[name]):
                yield from ("" if value is None else str(value) for value in table.column(0).to_pylist())

    def again(self) -> "ParquetRows":
        """See `Rows.again`."""
        self._watched.check()
        return ParquetRows(self.path, self._wanted, self.class_names, self)

    def close(self) -> None:
        """See `Rows.close`."""
        self._tables, self._left, self._unpacked_rows = iter(()), range(0), None
        self._file.close()
        self._pool.release_unused()
        if self._is_first:
            self._memory.end()


def _index_columns(held: Any) -> list[int]:  # noqa: ANN401 - a schema of pyarrow
    """Return the columns that pandas wrote for an index: those that its metadata name, or that have its names."""
    import json

    found = {name for name in held.names if INDEX_NAME.fullmatch(name)}
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        told = json.loads((held.metadata or {})[b"pandas"])["index_columns"]
        found |= {name for name in told if isinstance(name, str)}
    places = [place for place, name in enumerate(held.names) if name in found]
    if held.names[0] in ("", "Unnamed: 0") and str(held.types[0]).startswith((*WHOLE, *TEXTS)):
        places.append(0)
    return places


def _opened(path: Path, metadata: Any = None) -> tuple[Any, Any]:  # noqa: ANN401 - of pyarrow
    """Open a Parquet file. Return it, and the pool of memory that pyarrow reads it with. metadata: of the file."""
    try:
        with _systems_allocator():
            from pyarrow import ArrowException, default_memory_pool, parquet  # 39 MiB, for those who read Parquet
    except ImportError:
        raise InputError(f"{path} is a Parquet file; reading it needs pyarrow: pip install pyarrow.") from None
    try:
        # Left to itself, pyarrow reads many row groups ahead: 75 MB for groups of 4 MB.
        return (
            parquet.ParquetFile(path, metadata=metadata, pre_buffer=False, buffer_size=READ_BYTES),
            default_memory_pool(),
        )
    except (ArrowException, OSError, ValueError) as problem:
        raise InputError(f"{path} cannot be read as Parquet: {' '.join(str(problem).split())[:200]}.") from None


@contextlib.contextmanager
def _systems_allocator() -> Iterator[None]:
    """Let pyarrow allocate as the system does, if nobody has imported it yet.

    Its own allocators keep what is freed: up to as much again as is in use.
    """
    name = "ARROW_DEFAULT_MEMORY_POOL"
    if "pyarrow" in sys.modules or name in os.environ:
        yield
        return
    os.environ[name] = "system"
    try:
        yield
    finally:
        del os.environ[name]
