"""How many lanes carry out a step, and whether its products are worth several threads of BLAS. No NumPy."""

import os
from itertools import pairwise

from lowmem.common.checks import positive
from lowmem.network.architecture import Architecture

SMALL = 5e6
"""FLOPs of a layer's forward below which BLAS does not share it among threads: it takes less than 0.1 ms, of which two
threads save a third on a quiet machine, and on a busy one they wait for each other many times as long."""

VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Variables of the environment that limit the threads of a BLAS library. The number of lanes obeys them, and measured
speeds hold for their values."""


def lanes_for(architecture: Architecture, rows: int, threads: int | None = None) -> int:
    """Return the number of lanes for passes of `rows` samples: 1, as the NumPy engine has one lane.

    threads: what was asked for, None to choose.

    Raises `InputError` for anything but a positive whole number.
    """
    if threads is not None:
        positive("threads", threads)
    return 1


def small(architecture: Architecture, rows: int) -> bool:
    """Say whether the products of a pass of `rows` samples are too small for several threads."""
    return _work(architecture, rows) < SMALL


def _work(architecture: Architecture, rows: int) -> float:
    """Return the mean FLOPs of a layer's forward."""
    products = sum(one * other for one, other in pairwise(architecture.widths))
    return 2 * rows * products / architecture.layers


def cores() -> int:
    """Return the cores that this process may use, or fewer if the environment bids BLAS to use fewer."""
    try:
        available = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        available = os.cpu_count() or 1
    for name in VARIABLES:
        number = os.environ.get(name, "")
        if number.isdecimal() and int(number):
            return min(available, int(number))
    return available
