"""`Stream`: samples that stay in their file, which may be larger than memory.

In an epoch the rows are shuffled block by block: the blocks in a new order, and the rows of a block among each other.
Data of no more rows than a block are shuffled exactly, and give the same bits as the same data in arrays.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from lowmem.common.shards import Shards
from lowmem.data.formats.chosen_rows import ChosenRows
from lowmem.data.formats.rows import RowRange, Rows
from lowmem.data.row_mask import mark_rows, rows_held_out
from lowmem.data.samples import Batch, Samples, Targets
from lowmem.data.scan import Contents, runs
from lowmem.data.standardisation import standardisation_of
from lowmem.data.stream_batches import StreamBatches
from lowmem.errors import InputError
from lowmem.network.architecture import Architecture

OPENING = 96 << 10
"""Bytes that opening a file takes: the directory of an archive, and unpacking."""


@dataclass(frozen=True, slots=True, eq=False)
class Stream(Samples):
    """Samples that stay in their file. `Samples` tells the other fields and the methods.

    rows: reads the samples; the file is opened again for each pass.
    contents: what the first pass found in the file. targets: what y holds. Both are of the whole file after a split.
    one_hot: True where labels become rows with a one.
    """

    rows: Rows = field(repr=False)
    contents: Contents = field(repr=False)
    targets: Targets
    one_hot: bool = field(default=False, repr=False)

    def __reduce_ex__(self, protocol: Any) -> Any:  # noqa: ANN401 - as object's
        """Refuse copies and pickles, which would need the open file."""
        raise InputError(
            "samples that stay in their file cannot be copied or pickled; open the file again, as with "
            "lowmem.open_data(path)."
        )

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.rows.samples

    @property
    def features(self) -> int:
        """The number of columns of x."""
        return self.rows.features

    @property
    def reading_bytes(self) -> int:
        """See `Samples.reading_bytes`."""
        return OPENING + self.rows.reading_bytes

    @property
    def reading_loss(self) -> int:
        """See `Samples.reading_loss`."""
        return self.rows.reading_loss

    def split(self, held_out: float, seed: int = 0) -> tuple["Stream", "Stream"]:
        """See `Samples.split`.

        A pass over the file, if there are classes, marks the rows with a bit each; another one standardises.
        """
        counts = self._counts()
        labels = (batch.y for _, batch in self._runs()) if counts is not None else ()
        mask = mark_rows(len(self), held_out, seed, counts, labels)
        train, rest = (ChosenRows(self.rows, mask, marked=marked) for marked in (False, True))
        kept, held = replace(self, rows=train), replace(self, rows=rest, fitted=False)
        if not self.fitted:
            return kept, held
        found = standardisation_of((batch.x for _, batch in kept._runs()), self.features)
        return replace(kept, standardisation=found), replace(held, standardisation=found)

    def split_in_order(self, held_out: float) -> tuple["Stream", "Stream"]:
        """Return the first rows of the file, and its last ones, held out: as an earlier version split streams."""
        kept = len(self) - rows_held_out(len(self), held_out)
        first, last = RowRange(self.rows, 0, kept), RowRange(self.rows, kept, len(self) - kept)
        return replace(self, rows=first), replace(self, rows=last)

    def _counts(self) -> NDArray[np.int64] | None:
        """Return the number of samples of each class, None where there are no classes."""
        if not (self.targets.labels or self.one_hot):
            return None
        counted = self.contents.class_counts(self.targets.classes)
        whole = counted is not None and int(counted.sum()) == len(self)
        return counted if whole else self.class_counts(self.targets.classes)

    def _runs(self) -> Iterator[tuple[int, Batch]]:
        """Yield all rows, some at a time."""
        with closing(self.rows.again()) as rows:
            yield from runs(rows)

    def class_counts(self, classes: int) -> NDArray[np.int64]:
        """Count in a pass over the file; see `Samples.class_counts`."""
        counts = np.zeros(classes, np.int64)
        for _, batch in self._runs():
            counts += np.bincount(batch.y.astype(np.intp), minlength=classes)
        return counts

    def fingerprint(self) -> str:
        """Return a checksum of the first and last samples; see `Samples.fingerprint`."""
        code = 0
        with closing(self.rows.again()) as rows:
            for start in dict.fromkeys((0, max(0, len(self) - 8))):
                batch = rows.buffer(min(8, len(self) - start))
                rows.read(start, batch)
                for array in (batch.x, batch.y, *(() if batch.weights is None else (batch.weights,))):
                    code = crc32(array.tobytes(), code)
        return f"{len(self)} x {self.features}, {code:08x}"

    def batches(
        self, rows: int, architecture: Architecture, seed: int | None, share: Shards | None = None
    ) -> StreamBatches:
        """See `Samples.batches`."""
        most, found = float(np.finfo(architecture.dtype).max), self.contents
        weighted = seed is not None and found.largest_weight > most
        largest = found.largest * (max(1.0, abs(self.scale)) if self.standardisation is None else 1.0)
        if weighted or max(largest, abs(self.targets.low), abs(self.targets.high)) > most:
            what = "weights" if weighted else "values"
            raise InputError(f"{self.name} has {what} too large for {architecture.dtype}. Scale them, or use float64.")
        return self._batches(rows, architecture, seed, share).allocate()

    def batch_bytes(
        self, rows: int, architecture: Architecture, *, shuffled: bool = True, share: Shards | None = None
    ) -> int:
        """See `Samples.batch_bytes`."""
        return self._batches(rows, architecture, 0 if shuffled else None, share).nbytes

    def _batches(self, rows: int, architecture: Architecture, seed: int | None, share: Shards | None) -> StreamBatches:
        assert self.shuffle_rows is not None
        return StreamBatches(
            self.rows,
            rows,
            architecture,
            seed,
            shuffle_rows=self.shuffle_rows,
            scale=self.scale,
            standardisation=self.standardisation,
            one_hot=self.targets.classes if self.one_hot else 0,
            share=share,
        )
