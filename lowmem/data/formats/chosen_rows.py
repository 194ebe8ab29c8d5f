"""Rows of a file that are chosen by a mask, and labels of a file that are turned into class numbers."""

from collections.abc import Sequence

import numpy as np

from lowmem.data.class_names import listed
from lowmem.data.formats.rows import Rows, Wrapped, blocks
from lowmem.data.row_mask import RowMask
from lowmem.data.samples import Batch
from lowmem.errors import InputError

AT_ONCE = 1 << 16
"""Bytes of x that are read together, of which the chosen rows are taken."""

LABELS_AT_ONCE = 4096
"""Labels that are looked up together."""


class ChosenRows(Wrapped):
    """The rows of another reader that a mask marks, or those that it does not mark; in the order of the file."""

    def __init__(self, rows: Rows, mask: RowMask, *, marked: bool) -> None:
        super().__init__(rows)
        self._mask, self._chosen, self._all = mask, marked, rows.samples
        self.samples = mask.count(marked=marked)
        self._at_once = max(1, min(rows.samples, AT_ONCE // max(1, rows.x_bytes)))
        self._held: Batch | None = None
        self._next = 0  # the chosen row that comes next, whose row of the file is not yet read or is in `_left`
        self._start = 0  # the row of the file that is read next
        self._left = np.zeros(0, np.intp)  # places in `_held` of chosen rows that were read and not given yet

    @property
    def reading_bytes(self) -> int:
        """See `Rows.reading_bytes`: some rows as stored, their numbers, and the mask."""
        row = self.x_bytes + self.y_bytes() + np.dtype(np.intp).itemsize
        return self._rows.reading_bytes + self._at_once * row + self._mask.nbytes

    def read(self, start: int, batch: Batch) -> None:
        """See `Rows.read`."""
        if self._held is None:
            self._held = self._rows.buffer(self._at_once)
        if start != self._next:
            self._start, self._left = self._mask.row(start, marked=self._chosen), self._left[:0]
        self._next, filled = -1, 0  # until all went well
        while filled < len(batch):
            if not len(self._left):
                self._read_more(self._held, len(batch) - filled)
                continue
            taken = self._left[: len(batch) - filled]
            part = batch.part(filled, filled + len(taken))
            np.take(self._held.x, taken, axis=0, out=part.x, mode="clip")
            np.take(self._held.y, taken, axis=0, out=part.y, mode="clip")
            if part.weights is not None and self._held.weights is not None:
                np.take(self._held.weights, taken, out=part.weights, mode="clip")
            self._left, filled = self._left[len(taken) :], filled + len(taken)
        self._next = start + len(batch)

    def _read_more(self, held: Batch, wanted: int) -> None:
        """Read the next rows of the file, and note which of them are chosen; wanted: how many of those are needed."""
        stop = min(self._start + self._at_once, self._all)
        self._left = self._mask.between(self._start, stop, marked=self._chosen)
        if self.apart and len(self._left) > wanted:
            self._left = self._left[:wanted]
            stop = self._start + int(self._left[-1]) + 1
        if len(self._left):
            self._rows.read(self._start, held.part(0, stop - self._start))
        self._start = stop

    def place(self, row: int, column: int | None) -> str:
        """See `Rows.place`."""
        return self._rows.place(self._mask.row(row, marked=self._chosen), column)

    def again(self) -> "ChosenRows":
        """See `Rows.again`; the mask is shared."""
        return ChosenRows(self._rows.again(), self._mask, marked=self._chosen)


class CodedRows(Wrapped):
    """Another reader's rows whose labels are whole numbers, such as -1 and 1, turned into class numbers.

    names: the labels as text, in the order of their class numbers.
    """

    def __init__(self, rows: Rows, names: Sequence[str]) -> None:
        super().__init__(rows)
        self.coded = tuple(names)
        numbers = np.array([int(name) for name in names], np.int64)
        self._codes = np.argsort(numbers)
        self._values = numbers[self._codes]
        if rows.y_dtype.kind != "f" and np.iinfo(rows.y_dtype).max < len(names):
            raise InputError(
                f"{self.name}: y is {rows.y_dtype}, too narrow for {len(names)} classes. Save it as int32."
            )

    def read(self, start: int, batch: Batch) -> None:
        """See `Rows.read`."""
        self._rows.read(start, batch)
        for first, stop in blocks(len(batch), LABELS_AT_ONCE):
            y = batch.y[first:stop]
            places = np.searchsorted(self._values, y).clip(max=len(self._values) - 1)
            wrong = self._values[places] != y
            if wrong.any():
                row = start + first + int(wrong.argmax())
                raise InputError(
                    f"{self.name}, {self.place(row, None)}: the label {y[wrong.argmax()]:g} is none of the "
                    f"{len(self.coded)} known classes ({listed(self.coded)})."
                )
            y[:] = self._codes[places]

    def again(self) -> "CodedRows":
        """See `Rows.again`."""
        return CodedRows(self._rows.again(), self.coded)
