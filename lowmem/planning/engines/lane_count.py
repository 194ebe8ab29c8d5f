"""How many lanes carry out a step, by the size of the network and the cores that there are. No NumPy."""

from itertools import pairwise

from lowmem.common.checks import positive
from lowmem.common.cores import cores
from lowmem.network.architecture import Architecture

SMALL = 5 * 10**6
"""FLOPs of a layer's forward below which BLAS does not share it among threads: it takes less than 0.1 ms, of which two
threads save a third on a quiet machine, and on a busy one they wait for each other many times as long."""

LEAST_WORK = 10**6
"""FLOPs of a layer's forward in each lane below which lanes of the compiled engine wait more than they help: about
10 microseconds, where lanes meet twice in the backward of a layer."""

LEAST_ROWS = 32
"""Rows of a lane below which products run at a fraction of their speed."""


def lanes_for(engine: str, architecture: Architecture, rows: int, threads: int | None = None) -> int:
    """Return the number of lanes for passes of `rows` samples; the NumPy engine has one.

    threads: what was asked for. If None, a lane for each core that may be used, or fewer where layers are too small.

    Raises `InputError` for anything but a positive whole number.
    """
    if threads is not None:
        threads = positive("threads", threads)
    if engine == "numpy":
        return 1
    if threads is not None:
        return min(threads, rows)
    return max(min(cores(), rows // LEAST_ROWS, _work(architecture, rows) // LEAST_WORK), 1)


def small(architecture: Architecture, rows: int) -> bool:
    """Say whether the products of a pass of `rows` samples are too small for several threads of BLAS."""
    return _work(architecture, rows) < SMALL


def _work(architecture: Architecture, rows: int) -> int:
    """Return the mean FLOPs of a layer's forward, rounded down."""
    products = sum(one * other for one, other in pairwise(architecture.widths))
    return 2 * rows * products // architecture.layers
