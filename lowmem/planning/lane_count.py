"""How many lanes carry out a step: what the network's size gives work to, on the cores there are. No NumPy."""

import os
from itertools import pairwise

from lowmem.common.checks import positive
from lowmem.network.architecture import Architecture

LEAST_WORK = 1.6e7
"""FLOPs of a layer's forward in each lane below which lanes wait and talk too much for what they do: about 0.2 ms."""

SMALL = 5e6
"""FLOPs of a layer's forward below which BLAS does not share it among threads: it takes less than 0.1 ms, of which two
threads save a third on a quiet machine, and on a busy one they wait for each other many times as long."""

MOST_CHANGES = 0.1
"""Share of layers of another width than the one before up to which lanes pay: they do not pass those side by side."""

VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Variables of the environment that limit the threads of a BLAS library. The number of lanes obeys them, and measured
speeds hold for their values."""


def lanes_for(architecture: Architecture, rows: int, threads: int | None = None) -> int:
    """Return the number of lanes for passes of `rows` samples.

    threads: what was asked for; if None, a lane for each core where the layers are large enough, else one. Always one
    where a norm looks at the whole batch.
    Raises `InputError` for anything but a positive whole number.
    """
    if threads is not None:
        wanted = positive("threads", threads)
        return 1 if architecture.couples else min(wanted, rows)
    if architecture.couples:
        return 1  # every lane would wait for the others' rows twice more in every layer
    widths = architecture.widths
    changes = sum(one != other for one, other in pairwise(widths[1:-1]))
    if changes > MOST_CHANGES * architecture.layers:
        return 1
    return max(min(cores(), rows, int(_work(architecture, rows) / LEAST_WORK)), 1)


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
