"""What messages between two ranks cost, measured with what a step uses: `MpiGroup.exchange`, its waits and its thread.

Run by `python -m scripts.measure_ranks messages` on two ranks. Prints, one JSON object a line, the seconds of messages
of some sizes, each way at once; `work`, the seconds that a byte sent and received takes from the products that a rank
computes meanwhile; and `add_per_number`, the seconds of an addition while the other rank adds too.
"""

import json
import time
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lowmem.distributed import MpiGroup

SIZES = (64, 1 << 14, 1 << 17, 1 << 20, 1 << 23)
"""Bytes of the messages."""

WORK = 1 << 23
"""Bytes of the message beside which products are computed."""


class Exchange:
    """Messages of one size between two ranks. size: bytes each way."""

    def __init__(self, group: "MpiGroup", size: int) -> None:
        self.group, numbers = group, size // 4
        self._bounds, self._counts = [0, numbers, 2 * numbers], [numbers, numbers]
        self._sent, self._received = np.ones(2 * numbers, np.float32), np.zeros(2 * numbers, np.float32)

    def seconds(self, products: int = 0, *, sends: bool = True) -> tuple[float, float]:
        """Return seconds until so many products are computed, and until the messages sent before have come."""
        one, out = np.ones((256, 256), np.float32), np.empty((256, 256), np.float32)
        self.group.agree(None)
        start = time.perf_counter()
        if sends:
            flying = self.group.exchange(self._sent, self._bounds, self._received, self._counts)
        for _ in range(products):
            np.matmul(one, one, out=out)
        computed = time.perf_counter() - start
        if sends:
            self.group.wait(flying)
        return computed, time.perf_counter() - start


def work_per_byte(group: "MpiGroup", seconds: float) -> float:
    """Return what a byte takes from products. seconds: of the message alone; products take twice as long."""
    exchange, few = Exchange(group, WORK), 20
    products = max(few, int(2 * seconds / exchange.seconds(few, sends=False)[0] * few))
    alone, beside = [], []
    for _ in range(9):
        alone.append(exchange.seconds(products, sends=False)[0])
        beside.append(exchange.seconds(products)[0])
    return max(median(beside) - median(alone), 0.0) / WORK


def messages() -> None:
    """Print what messages and additions take; on two ranks."""
    from lowmem.distributed import mpi

    group, taken = mpi(), 0.0
    found: list[dict[str, float]] = []
    for size in SIZES:
        exchange, tries = Exchange(group, size), 200 if size < 1 << 17 else 15
        taken = median(exchange.seconds()[1] for _ in range(tries))
        found.append({"message": size, "seconds": taken})
    longest = max(group.agree(taken))  # both compute as many products
    found.append({"work": max(group.agree(work_per_byte(group, longest)))})
    one, other = np.ones(1 << 16, np.float32), np.ones(1 << 16, np.float32)
    group.agree(None)
    start = time.perf_counter()
    for _ in range(200):
        np.add(one, other, out=one)
    found.append({"add_per_number": (time.perf_counter() - start) / 200 / len(one)})
    if group.rank == 0:
        print("\n".join(map(json.dumps, found)))
