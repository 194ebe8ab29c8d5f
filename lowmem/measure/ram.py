"""Memory for the whole process: what the machine or container allows, and what is left of it for training.

The floor is measured, not guessed: what the process holds now, libraries loaded, data read and BLAS warmed up.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from lowmem.errors import BudgetError
from lowmem.measure.memory import resident
from lowmem.planning.plan import Plan
from lowmem.units import ceil_bytes, format_bytes, parse_bytes

RESERVE = 3 << 20
"""Bytes left to what no plan sees: small objects, threads' stacks, pages of libraries that were not used yet."""

OF_A_LIMIT = 0.97
"""Share of a container's limit that is used: the kernel counts page tables and the like as well."""

UNLIMITED = 1 << 60


def read_ram(ram: int | str) -> int:
    """Return a cap for the process in bytes: a size, or "auto" for what the machine or container allows."""
    return machine_limit() if ram == "auto" else parse_bytes(ram)


@dataclass(frozen=True, slots=True)
class Limit:
    """The bytes that this process may hold, and what says so."""

    bytes: int
    source: str


def machine_limit(root: Path = Path("/")) -> int:
    """Return the bytes that this process may hold: its control group's limit (v1 or v2), else what is available."""
    return found_limit(root).bytes


def found_limit(root: Path = Path("/")) -> Limit:
    """Return the same with its source. root: where the system's files are, for tests."""
    limits = [
        (int(text), version)
        for version, folder in control_groups("memory", root)
        for text in lines_of(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
        if text.isdecimal() and int(text) < UNLIMITED
    ]
    if limits:
        limit, version = min(limits)
        return Limit(int(limit * OF_A_LIMIT), f"control group v{version}")
    return Limit(resident() + _available(root), "available memory")


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[tuple[int, Path]]:
    """Yield version (1 or 2) and folder of the control groups that this process is in, and of those above them."""
    for line in lines_of(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers == "":
            version, bases = 2, ["sys/fs/cgroup", "sys/fs/cgroup/unified"]
        elif controller in controllers.split(","):
            version, bases = 1, [f"sys/fs/cgroup/{controller}"]
        else:
            continue
        inside = PurePosixPath(group.lstrip("/"))
        # In a container the group's path may be the host's: then its own files lie at the top.
        for folder in (inside, *inside.parents):
            for base in bases:
                yield version, root / base / folder


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file of the system, none if it cannot be read."""
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []


def _available(root: Path) -> int:
    """Return the memory that can be had without swapping."""
    for line in lines_of(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    import psutil

    return int(psutil.virtual_memory().available)


def warm_up(dtype: str) -> None:
    """Let BLAS make its buffers, which stay: products of a usual size, and of one tall enough for all its threads."""
    a = np.ones((512, 512), dtype)
    np.matmul(a, a, np.empty_like(a))


def give_back() -> None:
    """Return memory that planning has freed to the system, where the C library keeps it otherwise (glibc does)."""
    import ctypes  # which NumPy has loaded already

    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def room_for_tables(ram: int) -> int:
    """Return the limit for planning's tables that keeps the process within `ram`: they may take it three times."""
    return max(ram - resident(), 0) // 3


def room_for_training(ram: int, held: int) -> int:
    """Return the bytes that a plan may take so that the process stays within `ram`.

    held: what of the process's memory is lowmem's already, and counted by the plan as well. Raises `BudgetError` if
    nothing is left.
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
    """Return a plan with which the process stays within `cap`, and the peak of the process to be expected.

    held: what of the process's memory is lowmem's already, and counted by the plan as well. make: plans for so many
    bytes of training and of planning's tables. Raises `BudgetError`, saying what the process itself takes.
    """
    for _ in range(3):  # what planning leaves in the process is not known before
        room = room_for_training(cap, held)
        try:
            made = make(room, room_for_tables(cap))
        except BudgetError as error:
            floor = cap - room
            raise BudgetError(
                f"ram={format_bytes(cap)}: {format_bytes(floor)} of it are the process before training. Of the rest, "
                f"{error} With ram, {format_bytes(floor + error.minimum)} works.",
                budget=cap,
                minimum=floor + error.minimum,
            ) from None
        give_back()
        promise = resident() - held + made.peak_bytes
        if promise + RESERVE <= cap:
            break
    return made, promise
