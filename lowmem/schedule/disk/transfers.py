"""The disk beside the ops: transfers that are in flight, and when each of them ends.

States have two queues, one for what is written and one for what is read. Each carries out its transfers one after the
other; the two run at the same time, and slow each other down by what was measured. A state is read once it is written.
Parameters and the optimizer's arrays have a third queue, for both directions; what goes the same way as a transfer of
another queue shares the rate with it.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log2


@dataclass(frozen=True, slots=True)
class DiskRates:
    """How fast a disk is, in bytes a second, by the size of a transfer.

    sizes: of the transfers that were measured, ascending. write, read: the rate of each, alone.
    shared: the share of its rate that each direction has while the other is in flight: 1 if they do not meet, 0.5 if
        the disk does one thing at a time.
    streamed_write, streamed_read: rates at which parameters and moments are written and fetched, for which memory is
        taken and given back; None if they were not measured: then those of states.
    """

    sizes: tuple[int, ...]
    write: tuple[float, ...]
    read: tuple[float, ...]
    shared: float = 1.0
    streamed_write: float | None = None
    streamed_read: float | None = None

    def streamed_seconds(self, size: int, *, written: bool) -> float:
        """Return how long a transfer of `size` bytes of parameters or moments takes, alone."""
        seconds = self.write_seconds(size) if written else self.read_seconds(size)
        rate = self.streamed_write if written else self.streamed_read
        return seconds if rate is None else max(seconds, size / rate)

    def write_seconds(self, size: int) -> float:
        """Return how long a transfer of `size` bytes to the disk takes, alone."""
        return size / self._at(self.write, size)

    def read_seconds(self, size: int) -> float:
        """Return how long a transfer of `size` bytes from the disk takes, alone."""
        return size / self._at(self.read, size)

    def _at(self, rates: Sequence[float], size: int) -> float:
        """Return a rate, interpolated on a logarithmic scale of sizes; beyond the ends, the end."""
        high = bisect_right(self.sizes, size)
        if high in (0, len(self.sizes)):
            return rates[min(high, len(rates) - 1)]
        low = high - 1
        share = log2(size / self.sizes[low]) / log2(self.sizes[high] / self.sizes[low])
        return rates[low] * (1 - share) + rates[high] * share


AT_ONCE = DiskRates((1,), (inf,), (inf,))
"""A disk that takes no time, for those who look at bytes alone."""


class Transfers:
    """The queues of transfers and the time that it is, in seconds since the pass began."""

    def __init__(self, rates: DiskRates) -> None:
        self._rates = rates
        self._writes: deque[list[float]] = deque()  # [layer, seconds left], in order
        self._reads: deque[list[float]] = deque()
        self._stream: deque[list[float]] = deque()  # [number, seconds left, 1 if it is written], in order
        self._begun = 0
        self.now = 0.0
        self.busy = 0.0
        """Seconds in which a transfer was in flight."""

    def write(self, layer: int, size: int) -> None:
        """Begin to write a state."""
        self._writes.append([layer, self._rates.write_seconds(size)])

    def read(self, layer: int, size: int) -> None:
        """Begin to read a state, once it is written."""
        self._reads.append([layer, self._rates.read_seconds(size)])

    def stream(self, size: int, *, written: bool) -> int:
        """Begin to write or to fetch a part of a layer, behind all that were begun before. Returns its number."""
        self._begun += 1
        self._stream.append([self._begun, self._rates.streamed_seconds(size, written=written), written])
        return self._begun

    def arrive(self, number: int) -> None:
        """Let time pass until the transfer of a part has ended."""
        while self._stream and self._stream[0][0] <= number:
            self._progress(inf)

    def run(self, seconds: float) -> None:
        """Let an op run for so long, beside which transfers go on."""
        until = self.now + seconds
        while self.now < until and (self._writes or self._reads or self._stream):
            self._progress(until)
        self.now = until

    def wait(self, layer: int, *, written: bool, read: bool) -> None:
        """Let time pass until the state of a layer is written, and read, if a transfer of it is in flight."""
        while (written and self._has(self._writes, layer)) or (read and self._has(self._reads, layer)):
            self._progress(inf)

    def finish(self) -> None:
        """Let time pass until no transfer is in flight."""
        while self._writes or self._reads or self._stream:
            self._progress(inf)

    def _has(self, queue: deque[list[float]], layer: int) -> bool:
        return any(transfer[0] == layer for transfer in queue)

    def _progress(self, until: float) -> None:
        """Go on to the next end of a transfer, or to `until` if that is before."""
        write = self._writes[0] if self._writes else None
        read = self._reads[0] if self._reads else None
        if read is not None and self._has(self._writes, int(read[0])):
            read = None  # it waits for its own write
        heads = [
            (queue, head, way)
            for queue, head, way in ((self._writes, write, True), (self._reads, read, False))
            if head
        ]
        if self._stream:
            heads.append((self._stream, self._stream[0], bool(self._stream[0][2])))
        ways = [way for _, _, way in heads]
        speed = self._rates.shared if True in ways and False in ways else 1.0
        speeds = [speed / ways.count(way) for way in ways]
        passed = min(until - self.now, *(head[1] / speed for (_, head, _), speed in zip(heads, speeds, strict=True)))
        for (queue, head, _), speed in zip(heads, speeds, strict=True):
            head[1] -= passed * speed
            if head[1] <= 1e-15:
                queue.popleft()
        self.now += passed
        self.busy += passed
