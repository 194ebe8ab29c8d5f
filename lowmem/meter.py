"""Measuring memory: what Python and NumPy allocate (traced), and what the process holds (resident)."""

import tracemalloc
from pathlib import Path


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


def reset_resident_peak() -> bool:
    """Start the system's peak of resident memory anew; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def resident_peak() -> int:
    """Return the most memory that the process held resident, in bytes: since its start, or the last reset."""
    known = _status("VmHWM:")
    return _resident_peak_elsewhere() if known is None else known


def resident() -> int:
    """Return the memory that the process holds resident now, in bytes."""
    known = _status("VmRSS:")
    if known is not None:
        return known
    import psutil  # 2.3 MiB, for systems without /proc

    return int(psutil.Process().memory_info().rss)


def _status(name: str) -> int | None:
    """Return a size that the system tells of this process, None where there is no /proc."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _resident_peak_elsewhere() -> int:
    """Ask psutil (Windows) or getrusage (macOS)."""
    import psutil

    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):
        return int(info.peak_wset)
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS
