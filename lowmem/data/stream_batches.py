"""Batches of a stream: shuffled block by block, and read in the background while the last one is trained on."""

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowmem.data.batches import LABEL_DTYPE
from lowmem.data.formats.array_file import Rows, blocks
from lowmem.errors import InputError, RunError
from lowmem.network.architecture import Architecture

if TYPE_CHECKING:
    from lowmem.data.stream import Stream

Array = NDArray[Any]

STACK = 512 << 10
"""Bytes of the reader's stack."""

Piece = tuple[int, int, int, int]
"""Of a batch: the number and first row of a block, and a range of the block's order."""


class StreamBatches:
    """Goes through a stream in shuffled batches; the next one is read while the last one is used.

    rows: samples per batch. seed: the order of epoch e is a function of (seed, e); None keeps the order of the file.

    Two batches, one block of rows as stored, and its order are all that is allocated. Batches are views (x, y), valid
    until the next one is asked for. One epoch at a time: they share the memory.
    """

    def __init__(self, stream: "Stream", rows: int, architecture: Architecture, seed: int | None) -> None:
        self._stream, self.rows, self._seed = stream, rows, seed
        work = np.dtype(architecture.dtype)
        if max(stream.largest, *map(abs, stream.y_range)) > float(np.finfo(work).max):
            raise InputError(f"{stream.name} has values too large for {work}. Scale them, or use float64.")
        self._block_rows = stream.block_rows(rows, seed is not None)
        self._x_block, self._y_block = stream.buffers(self._block_rows)
        x_stage, self._y_stage = stream.buffers(rows)
        weighted = seed is not None and stream.rows.w_dtype is not None  # what is not shuffled is evaluated
        if weighted and stream.largest_weight > float(np.finfo(work).max):
            raise InputError(f"{stream.name} has weights too large for {work}. Scale them, or use float64.")
        self._w_block, self._w_stage = (
            np.empty(count, stream.rows.w_dtype) if weighted else None for count in (self._block_rows, rows)
        )
        self._w = [np.zeros(rows, work) if weighted else None for _ in range(2)]
        self._x_stage = None if x_stage.dtype == work else x_stage
        y_shape = (rows,) if architecture.loss_facts.labels else (rows, stream.columns)
        y_work = LABEL_DTYPE if architecture.loss_facts.labels else work
        self._x = [np.zeros((rows, stream.features), work) for _ in range(2)]
        self._y = [np.zeros(y_shape, y_work) for _ in range(2)]
        self._order = np.arange(self._block_rows, dtype=np.intp)
        self._standard: tuple[Array, Array] | None = None
        if stream.standardisation is not None:
            found = stream.standardisation
            self._standard = found.mean.astype(work), (1 / found.deviation).astype(work)
        self.weights_now: Array | None = None
        self._held: tuple[int, int] | None = None  # the block that is in memory

    @property
    def nbytes(self) -> int:
        """Bytes of every array owned here."""
        owned = [self._x_block, self._y_block, self._y_stage, self._order, *self._x, *self._y, *(self._standard or ())]
        some = [self._x_stage, self._w_block, self._w_stage, *self._w]
        return sum(int(array.nbytes) for array in (*owned, *some) if array is not None)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self._stream) // self.rows)

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[tuple[Array, Array]]:
        """Yield the batches of one epoch, from batch `start` on, to go on inside an epoch."""
        free, ready = threading.Semaphore(2), queue.SimpleQueue[Any]()
        stop = threading.Event()
        arguments = (epoch, start, free, ready, stop)
        reader = threading.Thread(target=self._read_ahead, args=arguments, name="lowmem reader", daemon=True)
        _start(reader)
        try:
            while (batch := ready.get()) is not None:
                if isinstance(batch, BaseException):
                    raise batch
                x, y, self.weights_now = batch
                yield x, y
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
            with closing(self._stream.rows.again()) as rows:
                for number, pieces in enumerate(self._pieces(epoch, start)):
                    free.acquire()
                    if stop.is_set():
                        return
                    ready.put(self._assemble(rows, epoch, pieces, number % 2))
            ready.put(None)
        except BaseException as problem:  # raised again where batches are taken
            ready.put(problem)

    def _blocks(self, epoch: int) -> list[tuple[int, int, int]]:
        """Return (number, first row, row behind the last) of the blocks in the order of an epoch."""
        bounds = [(n, *rows) for n, rows in enumerate(blocks(len(self._stream), self._block_rows))]
        if self._seed is None or not self._stream.rows.seekable or len(bounds) == 1:
            return bounds
        order = np.random.default_rng((self._seed, epoch)).permutation(len(bounds))
        return [bounds[n] for n in order]

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

    def _assemble(self, rows: Rows, epoch: int, pieces: list[Piece], buffer: int) -> tuple[Array, Array, Array | None]:
        """Gather, cast and scale one batch, with the weights of its samples."""
        filled = 0
        x, y = self._x[buffer], self._y[buffer]
        landing = x if self._x_stage is None else self._x_stage
        for number, first, start, stop in pieces:
            self._hold(rows, epoch, number, first)
            chosen = self._order[start:stop]
            part = slice(filled, filled + len(chosen))
            np.take(self._x_block, chosen, axis=0, out=landing[part], mode="clip")
            np.take(self._y_block, chosen, axis=0, out=self._y_stage[part], mode="clip")
            if self._w_block is not None and self._w_stage is not None:
                np.take(self._w_block, chosen, out=self._w_stage[part], mode="clip")
            filled += len(chosen)
        x, y = x[:filled], y[:filled]
        if landing is not x.base:
            np.copyto(x, landing[:filled], casting="same_kind")
        self._transform(x)
        self._targets(y, self._y_stage[:filled])
        w = self._w[buffer]
        if w is not None and self._w_stage is not None:
            w = w[:filled]
            np.copyto(w, self._w_stage[:filled], casting="unsafe")
        return x, y, w

    def _hold(self, rows: Rows, epoch: int, number: int, first: int) -> None:
        """Bring a block into memory, in the order of this epoch."""
        count = min(self._block_rows, len(self._stream) - first)
        if self._held != (epoch, number):
            alone = len(self._stream) <= self._block_rows
            if self._held is None or not alone:
                self._held = None
                w = None if self._w_block is None else self._w_block[:count]
                try:
                    rows.read(self._stream.first + first, self._x_block[:count], self._y_block[:count], w)
                except InputError as problem:  # in the first pass all was well
                    raise RunError(f"{problem} It has changed since it was opened.") from None
            self._held = (epoch, number)
            self._order.sort()
            order = self._order[:count]
            if self._seed is not None:
                # One block has the order that the same samples have in arrays.
                key = (self._seed, epoch) if alone else (self._seed, epoch, number)
                np.random.default_rng(key).shuffle(order)

    def _transform(self, x: Array) -> None:
        """Scale or standardise a batch in place."""
        if self._standard is not None:
            np.subtract(x, self._standard[0], out=x)
            np.multiply(x, self._standard[1], out=x)
        elif self._stream.scale != 1:
            np.multiply(x, self._stream.scale, out=x)

    def _targets(self, y: Array, stored: Array) -> None:
        """Write the targets as the loss wants them."""
        if self._stream.one_hot:
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
