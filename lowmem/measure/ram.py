"""Memory of the whole process: what the machine or container allows, and how much of it is left for training.

What the process holds before training is measured, not guessed: with libraries loaded, data read and BLAS warmed up.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lowmem.common.cores import cgroups, lines_of
from lowmem.errors import Advice, BudgetError
from lowmem.measure.memory import resident
from lowmem.planning.plan import Plan
from lowmem.units import ceil_bytes, format_bytes, parse_bytes

RESERVE = 3 << 20
"""Bytes for what no plan counts: small objects, stacks of threads, pages of libraries that are loaded at first use."""

FIRST_USE = 1 << 20
"""Bytes of the reserve that every training uses, so that the peak which is promised holds them."""

OF_A_LIMIT = 0.97
"""Share of a cgroup's limit that the process may hold: the kernel counts its own page tables in that limit too."""

UNLIMITED = 1 << 60
"""Cgroups of version 1 write numbers above this for "no limit"."""


def read_ram(ram: int | str) -> int:
    """Return the most bytes that the process shall hold.

    ram: a size as `parse_bytes` reads it, or "auto" for what the machine or container allows.
    """
    return machine_limit().bytes if ram == "auto" else parse_bytes(ram)


@dataclass(frozen=True, slots=True)
class Limit:
    """The most bytes that this process may hold. source: what sets this limit, for people to read."""

    bytes: int
    source: str


def machine_limit(root: Path = Path("/")) -> Limit:
    """Return the most bytes that this process may hold: its cgroup's limit (v1 or v2), else the available memory.

    root: folder in which the system's files lie; tests put others in their place.
    """
    limits = [
        (int(text), version)
        for version, folder in cgroups("memory", root)
        for text in lines_of(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
        if text.isdecimal() and int(text) < UNLIMITED
    ]
    if limits:
        limit, version = min(limits)
        return Limit(int(limit * OF_A_LIMIT), f"cgroup v{version}")
    return Limit(resident() + _available(root), "available memory")


def _available(root: Path) -> int:
    """Return the bytes that could be allocated now without swapping."""
    for line in lines_of(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    import psutil

    return int(psutil.virtual_memory().available)


def warm_up(dtype: str) -> None:
    """Let BLAS allocate its buffers, which it keeps, by a product that is large enough for all its threads."""
    a = np.ones((512, 512), dtype)
    np.matmul(a, a, np.empty_like(a))


def give_back() -> None:
    """Return freed memory to the system; glibc would keep it."""
    import ctypes  # NumPy has loaded it already

    with suppress(AttributeError, OSError, TypeError):  # the C library is not glibc
        ctypes.CDLL(None).malloc_trim(0)


def room_for_tables(ram: int) -> int:
    """Return the limit of planning's tables with which the process stays within `ram` bytes.

    Planning may take three times its limit.
    """
    return max(ram - resident(), 0) // 3


def room_for_training(ram: int, held: int) -> int:
    """Return the bytes that a plan may take so that the process stays within `ram`.

    ram: bytes that the process may hold.
    held: bytes that the process holds for training already, and that the plan counts too.

    Raises `BudgetError` if nothing is left.
    """
    floor = resident() - held
    room = ram - floor - RESERVE
    if room <= 0:
        needed = floor + RESERVE
        raise BudgetError(
            f"ram={format_bytes(ram)} is less than the process takes before any training: {format_bytes(floor)} for "
            f"the interpreter, libraries and data, and {format_bytes(RESERVE)} in reserve. Give more than "
            f"{ceil_bytes(needed)}, or let the data be read in blocks with open_data.",
            budget=ram,
            minimum=needed,
        )
    return room


def plan_within(cap: int, held: int, make: Callable[[int, int], Plan]) -> tuple[Plan, int]:
    """Return a plan with which the process stays within a cap, and the peak of the process that it promises.

    cap: bytes that the process may hold.
    held: bytes that the process holds for training already, and that the plan counts too.
    make: returns the plan for the given bytes of training and of planning's tables.

    Raises `BudgetError` with the least cap that works if no plan fits.
    """
    for _ in range(3):  # how much memory planning leaves in the process is known only afterwards
        room = room_for_training(cap, held)
        try:
            plan = make(room, room_for_tables(cap))
        except BudgetError as error:
            floor = cap - room
            raise BudgetError(
                f"ram={format_bytes(cap)}: {format_bytes(floor)} of it are the process before training. Of the rest, "
                f"{error.reason} With ram, {format_bytes(floor + error.minimum)} works.",
                budget=cap,
                minimum=floor + error.minimum,
                advice=[one for one in error.advice if not (isinstance(one, Advice) and one.keyword == "budget")],
            ) from None
        give_back()
        promise = resident() - held + plan.peak_bytes + FIRST_USE
        if promise + RESERVE - FIRST_USE <= cap:
            break
    return plan, promise
