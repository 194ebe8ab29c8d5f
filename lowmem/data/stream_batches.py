"""Batches of rows in a file: shuffled block by block, and read in the background while the last one is trained on."""

import math
import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.shards import Shards
from lowmem.data.formats.rows import Rows
from lowmem.data.samples import LABEL_DTYPE, Batch
from lowmem.data.standardisation import Standardisation, Transform
from lowmem.errors import InputError, RunError
from lowmem.network.architecture import Architecture

Array = NDArray[Any]

STACK = 512 << 10
"""Bytes of the reader's stack."""

PAGE = 4096
"""Bytes between two rows up to which it costs nothing to read them too: disks give whole pages."""

Piece = tuple[int, int, int, int]
"""Where a part of a batch comes from: number and first row of a block, start and stop in the block's order."""


class StreamBatches:
    """Goes through rows in shuffled batches; the next one is read while the last one is used.

    stored: the rows; they are opened again for each epoch.
    rows: samples per batch; the last batch of an epoch may have fewer.
    seed: the order of epoch e is a function of (seed, e). None keeps the order of the file and leaves out weights.
    shuffle_rows: the rows of a block, which are shuffled among each other.
    scale, standardisation: see `lowmem.data.standardisation.Transform`.
    one_hot: the number of classes where labels become rows with a one, for losses that compare targets; else 0.
    share: of several ranks; batches hold the rows of this rank alone. Of arrays in files they are read, and no
        others, but for what lies between rows that are less than `PAGE` apart.

    Nothing is allocated before `allocate`: two batches, or the only one of an epoch, one block of rows as stored and
    its order, that of the blocks, a batch of rows as stored, and what standardises. See
    `lowmem.data.samples.Batches` for the other methods.
    """

    def __init__(
        self,
        stored: Rows,
        rows: int,
        architecture: Architecture,
        seed: int | None,
        *,
        shuffle_rows: int,
        scale: float = 1.0,
        standardisation: Standardisation | None = None,
        one_hot: int = 0,
        share: Shards | None = None,
    ) -> None:
        self._stored, self.rows, self._seed, self._one_hot = stored, rows, seed, one_hot
        self._share, self._own_rows = share, rows if share is None else share.most_own_rows(rows)
        self._scale, self._standardisation = scale, standardisation
        self._dtype, self._weighted = np.dtype(architecture.dtype), seed is not None and stored.w_dtype is not None
        # Without shuffling a block is a batch.
        self._block_rows = min(stored.samples, rows if seed is None else shuffle_rows)
        labels = architecture.loss_facts.labels
        self._y_shape = () if labels else (one_hot or math.prod(stored.y_shape),)
        self._y_dtype = LABEL_DTYPE if labels else self._dtype
        self._batches = min(2, len(self))  # one is used while the next one is read
        self._held: tuple[int, int] | None = None  # epoch and number of the block that is in memory
        self._begins: dict[int, int] = {}  # where in the epoch blocks begin, by number
        alone = stored.samples <= self._block_rows  # the block is read once, for all epochs
        self._parts = share is not None and share.ranks > 1 and stored.apart and not alone
        mixed = seed is not None and stored.seekable and not alone
        self._mixed_blocks = -(-stored.samples // self._block_rows) * mixed

    @property
    def nbytes(self) -> int:
        """Bytes of every array owned here once they are made."""
        stored, item = self._stored, self._dtype.itemsize
        beside_x = stored.y_bytes(weighted=self._weighted)
        staged = beside_x + (0 if stored.x_dtype == self._dtype else stored.x_bytes)
        batch = stored.features * item + math.prod(self._y_shape) * self._y_dtype.itemsize + self._weighted * item
        block = stored.x_bytes + beside_x + np.dtype(np.intp).itemsize + 2 * self._parts
        standardised = 0 if self._standardisation is None else 2 * stored.features * item
        order = self._mixed_blocks * np.dtype(np.intp).itemsize
        return self._block_rows * block + self._own_rows * (staged + self._batches * batch) + standardised + order

    def allocate(self) -> "StreamBatches":
        """Make every array, and return this object."""
        stored, rows, dtype = self._stored, self._own_rows, self._dtype
        self._block = stored.buffer(self._block_rows, weighted=self._weighted)
        self._order = np.arange(self._block_rows, dtype=np.intp)
        self._block_order = np.arange(self._mixed_blocks, dtype=np.intp)
        self._marks = np.zeros(self._block_rows * self._parts, np.bool_)
        self._buffers = [
            Batch(
                np.zeros((rows, stored.features), dtype),
                np.zeros((rows, *self._y_shape), self._y_dtype),
                np.zeros(rows, dtype) if self._weighted else None,
            )
            for _ in range(self._batches)
        ]
        # Without a cast, x goes from the block to the batch at once.
        x_rows = 0 if stored.x_dtype == dtype else rows
        self._staged = stored.buffer(rows, weighted=self._weighted, x_rows=x_rows)
        self._transform = Transform(self._scale, self._standardisation, dtype)
        return self

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-self._stored.samples // self.rows)

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[Batch, None, None]:
        """See `Batches.epoch`.

        Raises `RunError` if the file can no longer be read as in the first pass.
        """
        free, ready = threading.Semaphore(len(self._buffers)), queue.SimpleQueue[Any]()
        stop = threading.Event()
        arguments = (epoch, start, free, ready, stop)
        reader = threading.Thread(target=self._read_ahead, args=arguments, name="lowmem reader", daemon=True)
        _start(reader)
        try:
            while (batch := ready.get()) is not None:
                if isinstance(batch, BaseException):
                    raise batch
                yield batch
                free.release()
        finally:
            stop.set()
            free.release()
            reader.join()

    def _read_ahead(
        self, epoch: int, start: int, free: threading.Semaphore, ready: "queue.SimpleQueue[Any]", stop: threading.Event
    ) -> None:
        """Make batches as long as a buffer is free; in a thread of its own."""
        try:
            with closing(self._stored.again()) as stored:
                for buffer, pieces in zip(cycle(self._buffers), self._pieces(epoch, start), strict=False):
                    free.acquire()
                    if stop.is_set():
                        return
                    whole = sum(last - first for _, _, first, last in pieces)
                    batch = self._assemble(stored, epoch, self._own(pieces, whole), buffer)
                    ready.put(batch if self._share is None else replace(batch, whole=whole))
            ready.put(None)
        except BaseException as problem:  # raised again where batches are taken
            ready.put(problem)

    def _blocks(self, epoch: int) -> Iterator[tuple[int, int, int]]:
        """Yield (number, first row, row behind the last) of the blocks in the order of an epoch."""
        samples, rows, begin = self._stored.samples, self._block_rows, 0
        order = self._block_order
        if self._seed is not None and len(order):
            order.sort()
            np.random.default_rng((self._seed, epoch)).shuffle(order)
        self._begins.clear()
        for number in map(int, order) if len(order) else range(-(-samples // rows)):
            first, last = number * rows, min(number * rows + rows, samples)
            if self._parts:
                self._begins[number] = begin
                begin += last - first
            yield number, first, last

    def _pieces(self, epoch: int, start: int) -> Iterator[list[Piece]]:
        """Yield the pieces of each batch from `start` on."""
        skip, pieces, wanted = start * self.rows, list[Piece](), self.rows
        for number, first, last in self._blocks(epoch):
            count = last - first
            if skip >= count:
                skip -= count
                continue
            at, skip = skip, 0
            while at < count:
                taken = min(wanted, count - at)
                pieces.append((number, first, at, at + taken))
                at, wanted = at + taken, wanted - taken
                if not wanted:
                    yield pieces
                    pieces, wanted = [], self.rows
        if pieces:
            yield pieces

    def _own(self, pieces: list[Piece], whole: int) -> list[Piece]:
        """Return what this rank has of the pieces of a batch of so many rows."""
        if self._share is None:
            return pieces
        (low, high), own, at = self._share.own_rows(whole), [], 0
        for number, first, start, stop in pieces:
            begin, end = max(start, start + low - at), min(stop, start + high - at)
            if begin < end:
                own.append((number, first, begin, end))
            at += stop - start
        return own

    def _assemble(self, stored: Rows, epoch: int, pieces: list[Piece], buffer: Batch) -> Batch:
        """Gather, cast and transform one batch in a buffer."""
        filled, staged = 0, self._staged
        x = staged.x if len(staged.x) else buffer.x
        for number, first, start, stop in pieces:
            self._hold(stored, epoch, number, first)
            chosen = self._order[start:stop]
            part = slice(filled, filled + len(chosen))
            np.take(self._block.x, chosen, axis=0, out=x[part], mode="clip")
            np.take(self._block.y, chosen, axis=0, out=staged.y[part], mode="clip")
            if self._block.weights is not None and staged.weights is not None:
                np.take(self._block.weights, chosen, out=staged.weights[part], mode="clip")
            filled += len(chosen)
        batch = buffer.part(0, filled)
        if x is staged.x:
            np.copyto(batch.x, x[:filled], casting="same_kind")
        self._transform.apply(batch.x)
        self._copy_y(staged.y[:filled], batch.y)
        if batch.weights is not None and staged.weights is not None:
            np.copyto(batch.weights, staged.weights[:filled], casting="unsafe")
        return batch

    def _hold(self, stored: Rows, epoch: int, number: int, first: int) -> None:
        """Bring a block into memory, and its rows into the order of this epoch."""
        if self._held == (epoch, number):
            return
        count, alone = min(self._block_rows, stored.samples - first), stored.samples <= self._block_rows
        if self._held is None or not alone:
            self._held = None
        self._order.sort()  # every block is shuffled from the same order, whatever ran before
        if self._seed is not None:
            # One block has the order that the same samples have in arrays.
            key = (self._seed, epoch) if alone else (self._seed, epoch, number)
            np.random.default_rng(key).shuffle(self._order[:count])
        if self._held is None:
            try:
                for start, stop in self._wanted(number, count):
                    stored.read(first + start, self._block.part(start, stop))
            except InputError as problem:  # in the first pass all was well
                raise RunError(f"{problem} It has changed since it was opened.") from None
        self._held = (epoch, number)

    def _wanted(self, number: int, count: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of rows of a block that are to be read: all, or those with rows of this rank."""
        if not self._parts or self._share is None:
            yield 0, count
            return
        self._marks.fill(False)
        begin = at = self._begins[number]
        while at < begin + count:  # batch by batch
            of_batch = at // self.rows * self.rows
            whole = min(self.rows, self._stored.samples - of_batch)
            low, high = (of_batch + row - begin for row in self._share.own_rows(whole))
            self._marks[self._order[max(low, 0) : max(min(high, count), 0)]] = True
            at = of_batch + whole
        marks, near = self._marks[:count].tobytes(), PAGE // max(self._stored.x_bytes, 1)
        start = marks.find(1)
        while start >= 0:
            stop = start
            following = start
            while 0 <= following <= stop + near:
                stop = marks.find(0, following)
                stop = count if stop < 0 else stop
                following = marks.find(1, stop)
            yield start, stop
            start = following

    def _copy_y(self, stored: Array, y: Array) -> None:
        """Write y as the loss wants it."""
        if self._one_hot:
            y[:] = 0
            y[np.arange(len(y)), stored.astype(np.intp)] = 1
        elif y.ndim == 1:
            np.copyto(y, stored, casting="unsafe")
        else:
            np.copyto(y, stored.reshape(y.shape), casting="same_kind")


def _start(thread: threading.Thread) -> None:
    """Start a thread with a small stack: the usual 8 MiB are counted where a system limits what may be reserved."""
    usual = threading.stack_size(STACK)
    try:
        thread.start()
    except RuntimeError as problem:
        raise MemoryError(f"a thread that reads data: {problem}") from None
    finally:
        threading.stack_size(usual)
