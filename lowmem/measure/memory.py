"""Measuring memory: what Python and NumPy allocate (traced), and what the process holds (resident).

Linux says both the present and the peak in /proc; elsewhere psutil and getrusage are asked. Where the system cannot
start its peak anew (all but Linux), `SampledPeak` finds that of a stretch of a run.
"""

import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from time import perf_counter
from types import TracebackType

STATM, STATUS, CLEAR_REFS = Path("/proc/self/statm"), Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Where Linux tells about this process."""

MOST_SAMPLES = 4096
"""Kept by `SampledPeak`; beyond, every other one is dropped and the next are taken half as often."""


class TracedPeak:
    """The peak of all allocations through Python's allocators, NumPy's arrays included, from now on.

    Exact to the byte and independent of the system; what libraries allocate behind Python's back (BLAS buffers) is
    not in it. Tracing slows Python objects down a little and NumPy's loops not at all. If somebody traces already,
    theirs goes on.
    """

    def __init__(self) -> None:
        self._ours = not tracemalloc.is_tracing()
        if self._ours:
            tracemalloc.start()
        tracemalloc.reset_peak()
        self._before = tracemalloc.get_traced_memory()[0]

    def restart(self) -> None:
        """Forget the peak so far; what is held counts on."""
        tracemalloc.reset_peak()

    def bytes(self) -> int:
        """Return the peak so far, above what was held at the start."""
        return tracemalloc.get_traced_memory()[1] - self._before

    def stop(self) -> int:
        """Stop tracing and return the peak."""
        peak = self.bytes()
        if self._ours:
            tracemalloc.stop()
        return peak


class SampledPeak:
    """The process's resident memory while a `with` block runs, read every few milliseconds by a thread of its own.

    seconds: between two samples. The thread sleeps meanwhile; a sample is one read of a file that stays open, a few
    microseconds. There is a sample at either end as well, however short the block. Short peaks between two samples
    are missed: where the system keeps a peak itself, `resident_peak` is the better witness.

    `series` holds (time of `perf_counter`, bytes), at most `MOST_SAMPLES`; `bytes` the largest of all that was read.
    """

    def __init__(self, seconds: float = 0.01) -> None:
        self.seconds = seconds
        self.series: list[tuple[float, int]] = []
        self.bytes = 0
        self._done = Event()
        self._thread = Thread(target=self._run, name="lowmem-meter", daemon=True)

    def __enter__(self) -> "SampledPeak":
        """Take the first sample and start the thread."""
        self._read, self._close = _open_resident()
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
    """Start the system's peak of resident memory anew; False where the system cannot."""
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def resident_peak() -> int:
    """Return the most memory that the process held resident, in bytes: since its start, or the last reset."""
    known = _status("VmHWM:")
    return _resident_peak_elsewhere() if known is None else known


def _status(name: str) -> int | None:
    """Return a size that the system tells of this process, None where there is no /proc."""
    try:
        for line in STATUS.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _resident_peak_elsewhere() -> int:
    """Ask psutil (Windows) or getrusage (macOS, and Linux where /proc says nothing)."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most) * (1 if sys.platform == "darwin" else 1024)  # macOS counts bytes, all others KiB


def resident_peak_of(run: Callable[[], object]) -> int:
    """Return the peak of resident memory while `run` runs: the system's where it starts that anew, else sampled."""
    if reset_resident_peak():
        run()
        return resident_peak()
    with SampledPeak() as sampled:
        run()
    return sampled.bytes


def resident() -> int:
    """Return the memory that the process holds resident now, in bytes."""
    read, close = _open_resident()
    try:
        return read()
    finally:
        close()


def _open_resident() -> tuple[Callable[[], int], Callable[[], None]]:
    """Return a function that reads the resident memory, and one that lets go of what the first needs."""
    try:
        file = os.open(STATM, os.O_RDONLY)
    except OSError:
        import psutil  # 2.3 MiB of a process, which Linux does without

        process = psutil.Process()
        return lambda: int(process.memory_info().rss), lambda: None
    page = os.sysconf("SC_PAGE_SIZE")
    return lambda: int(os.pread(file, 128, 0).split()[1]) * page, lambda: os.close(file)
