"""Measuring memory: what Python and NumPy allocate (traced), and what the process holds (resident).

On Linux, /proc tells the resident memory and its peak; elsewhere psutil and getrusage do. Linux alone can reset the
peak; on other systems `SampledPeak` measures the peak of a part of a run.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from time import perf_counter
from types import TracebackType

from lowmem.common.process_memory import open_resident

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Files in which Linux describes this process."""

MOST_SAMPLES = 4096
"""The most samples that `SampledPeak` holds; at this number it drops every second one and samples half as often."""


class TracedPeak:
    """The peak of all allocations through Python's allocators, NumPy's arrays included, from now on.

    It is exact to the byte and the same on every system. Memory that libraries allocate by themselves, such as the
    buffers of BLAS, is not in it. Tracing slows Python down a little, and NumPy's loops not at all. If tracemalloc is
    tracing already, that tracing goes on afterwards.
    """

    def __init__(self) -> None:
        import tracemalloc  # takes 80 KiB, which a run with a cap for the process does not need

        self._tracing = tracemalloc
        self._ours = not tracemalloc.is_tracing()
        if self._ours:
            tracemalloc.start()
            _make_room_for_names(lambda: tracemalloc.get_traced_memory()[0])
        tracemalloc.reset_peak()
        self._before = tracemalloc.get_traced_memory()[0]

    def restart(self) -> None:
        """Forget the peak so far. What has been allocated since the start, and is still held, goes on counting."""
        self._tracing.reset_peak()

    def bytes(self) -> int:
        """Return the peak so far, in bytes above what was held at the start."""
        return self._tracing.get_traced_memory()[1] - self._before

    def stop(self) -> int:
        """Stop tracing, and return the peak as `bytes` does."""
        peak = self.bytes()
        if self._ours:
            self._tracing.stop()
        return peak


NAMES = 1 << 16
"""More names than CPython's table of a process of our size has room for; a table of so many takes a megabyte."""


def _make_room_for_names(traced: Callable[[], int]) -> None:
    """Let CPython's table of interned names be made anew now, and not, by chance, while training is measured.

    Every new name takes a place there, also one that nobody keeps. Once in some ten thousand names none is left, and
    the table is made anew: a block of about a megabyte that is no part of training. traced: bytes that are traced.
    """
    before = traced()
    for number in range(NAMES):
        sys.intern(f"\0{number}")
        if number % 256 == 0 and traced() - before > NAMES:
            return


class SampledPeak:
    """The process's resident memory while a `with` block runs, sampled by a thread of its own.

    seconds: time between two samples. A sample reads a file that stays open, which takes a few microseconds.

    There is always a sample at the begin and at the end of the block. Peaks between two samples are missed; where the
    system records the peak itself, `resident_peak` is exact.

    `series` holds pairs of the time (of `perf_counter`) and the bytes, at most `MOST_SAMPLES`. `bytes` is the largest
    number of bytes read.
    """

    def __init__(self, seconds: float = 0.01) -> None:
        self.seconds = seconds
        self.series: list[tuple[float, int]] = []
        self.bytes = 0
        self._done = Event()
        self._thread = Thread(target=self._run, name="lowmem-meter", daemon=True)

    def __enter__(self) -> "SampledPeak":
        """Take the first sample and start the thread."""
        self._read, self._close = open_resident()
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the thread and take the last sample."""
        self._done.set()
        self._thread.join()
        self._sample()
        self._close()

    def _run(self) -> None:
        while not self._done.wait(self.seconds):
            self._sample()

    def _sample(self) -> None:
        now = self._read()
        self.bytes = max(self.bytes, now)
        self.series.append((perf_counter(), now))
        if len(self.series) >= MOST_SAMPLES:
            del self.series[1::2]
            self.seconds *= 2


def reset_resident_peak() -> bool:
    """Reset the peak of resident memory that the system records. Return False where the system cannot do that."""
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def resident_peak() -> int:
    """Return the most bytes that the process has held resident since its start, or since the last reset."""
    known = _status("VmHWM:")
    return _resident_peak_elsewhere() if known is None else known


def _status(name: str) -> int | None:
    """Return a size that Linux tells of this process, in bytes; None on other systems. name: the line's first word."""
    try:
        for line in STATUS.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _resident_peak_elsewhere() -> int:
    """Return the peak of resident memory from psutil on Windows, and from getrusage on other systems without /proc."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most) * (1 if sys.platform == "darwin" else 1024)  # macOS counts bytes, all others KiB


def resident_peak_of(run: Callable[[], object]) -> int:
    """Return the peak of resident memory while `run` runs: recorded by the system if it can be reset, else sampled."""
    if reset_resident_peak():
        run()
        return resident_peak()
    with SampledPeak() as sampled:
        run()
    return sampled.bytes
