"""Memory of the whole process: what the machine or container allows, and how much of it is left for training.

What the process holds before training is measured, not guessed: with libraries loaded, data read and BLAS warmed up.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier, BrokenBarrierError, Thread
from typing import TypeAlias

import numpy as np

from lowmem.common.cores import cgroups, lines_of
from lowmem.common.process_memory import give_back, resident, share_one_heap
from lowmem.data.dataset import Dataset
from lowmem.data.samples import samples_alive
from lowmem.errors import Advice, BudgetError
from lowmem.network.architecture import Architecture
from lowmem.network.tiles import TILE_ROWS
from lowmem.planning.candidates import LEAST_TABLES
from lowmem.planning.plan import Plan
from lowmem.runtime.blas_threads import at_most
from lowmem.units import ceil_bytes, format_bytes, parse_bytes

RESERVE = 3 << 20
"""Bytes for what no plan counts: small objects, stacks of threads, pages of libraries that are loaded at first use."""

FIRST_USE = 1 << 20
"""Bytes of the reserve that every training uses, so that the peak which is promised holds them."""

LEFT_BY_PLANNING = 1 << 20
"""Bytes that planning may leave in the process, and by which processes differ; at least, and a fiftieth."""

OF_A_LIMIT = 0.97
"""Share of a cgroup's limit that the process may hold: the kernel counts its own page tables in that limit too."""

USUAL_STACK, STACKS_KEPT = 8 << 20, 40 << 20
"""Bytes of a thread's stack where none is told, and of stacks of ended threads that glibc keeps for others."""

UNLIMITED = 1 << 60
"""Cgroups of version 1 write numbers above this for "no limit"."""


def read_ram(ram: int | str, lanes: int = 1) -> int:
    """Return the most bytes that the process shall hold.

    ram: a size as `parse_bytes` reads it, or "auto" for what the machine or container allows.
    lanes: threads of a step.
    """
    return machine_limit(lanes=lanes).bytes if isinstance(ram, str) and ram == "auto" else parse_bytes(ram)


@dataclass(frozen=True, slots=True)
class Limit:
    """The most bytes that this process may hold. source: what sets this limit, for people to read."""

    bytes: int
    source: str


def machine_limit(root: Path = Path("/"), lanes: int = 1) -> Limit:
    """Return the most bytes that this process may hold: the least of what each of these leaves to it.

    They are the limits of its cgroups (v1 or v2) without what others hold there, the available memory with what the
    process holds already, and the limit of its address space (`ulimit -v`).

    root: folder in which the system's files lie; tests put others in their place.
    lanes: threads of a step, after a warm-up with as many: stacks of theirs that the system did not keep take
        addresses again.
    """
    limits = [Limit(resident() + _available(root), "available memory")]
    for version, folder in cgroups("memory", root):
        limit = _number_in(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
        if limit is not None and limit < UNLIMITED:
            left = int(limit * OF_A_LIMIT) - _held_by_others(folder, version, root)
            limits.append(Limit(max(left, 0), f"cgroup v{version}"))
    limits += _address_space(lanes)
    return min(limits, key=lambda limit: limit.bytes)


def _held_by_others(folder: Path, version: int, root: Path) -> int:
    """Return the bytes that other processes hold in a cgroup.

    What is cached of files is not among them: the kernel gives it up where memory is short.
    """
    held = _number_in(folder / ("memory.current" if version == 2 else "memory.usage_in_bytes"))
    if held is None:
        return 0
    cached = _fields(folder / "memory.stat")
    files = sum(cached.get(name, 0) for name in ("inactive_file", "active_file"))
    status = _fields(root / "proc/self/status")
    ours = (status.get("RssAnon:", 0) + status.get("RssShmem:", 0)) * 1024 or resident()
    return max(held - files - ours, 0)


def _address_space(lanes: int) -> list[Limit]:
    """Return what the limits of this process's addresses leave to it; nothing where there are no such limits."""
    try:
        import resource
    except ImportError:  # not on this system
        return []
    stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
    stacks = max((lanes - 1) * (USUAL_STACK if stack == resource.RLIM_INFINITY else stack) - STACKS_KEPT, 0)
    status, left = _fields(Path("/proc/self/status")), []
    for kind, used in ((resource.RLIMIT_AS, "VmSize:"), (resource.RLIMIT_DATA, "VmData:")):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY and used in status:
            room = resident() + max(limit - status[used] * 1024 - stacks, 0)
            left.append(Limit(room, "address-space limit"))
    return left


def _number_in(path: Path) -> int | None:
    """Return the whole number that a file of the system holds, None if it holds none."""
    text = "".join(lines_of(path)).strip()
    return int(text) if text.isdecimal() else None


def _fields(path: Path) -> dict[str, int]:
    """Return the numbers in a file of the system by the words in front of them."""
    words = (line.split() for line in lines_of(path))
    return {word[0]: int(word[1]) for word in words if len(word) > 1 and word[1].isdecimal()}


def _available(root: Path) -> int:
    """Return the bytes that could be allocated now without swapping."""
    for line in lines_of(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    import psutil

    return int(psutil.virtual_memory().available)


def warm_up(architecture: Architecture, rows: int, lanes: int | None) -> None:
    """Let BLAS allocate its buffers, which it keeps, by products as large as those of a step.

    rows: of a batch. lanes: threads that multiply at once, each with one thread of BLAS; None for one that multiplies
    with as many as BLAS has.

    Operands are packed in a buffer for each thread, and it is filled as far as layers are wide. This takes no more
    memory than the widest layer of a step. Where addresses are limited, what its threads reserve, those of a step
    find again: the limit of the process is looked up behind it.
    """
    if _address_space(1):
        share_one_heap()
    layers, tile = [*architecture.each_layer], min(rows, TILE_ROWS)
    widest = max(layers, key=lambda layer: layer.entering), max(layers, key=lambda layer: layer.leaving)
    operands = [
        tuple(np.zeros(shape, architecture.dtype) for shape in ((tile, n), (tile, m), (m, n)))
        for n, m in {(layer.entering, layer.leaving) for layer in widest}
    ]
    begin = Barrier(lanes or 1)

    def multiply() -> None:
        with suppress(BrokenBarrierError):
            for x, delta, g in operands:
                begin.wait()
                np.matmul(x, g.T, delta)
                np.matmul(delta, g, x)
                np.matmul(delta.T, x, g)

    threads = [Thread(target=multiply) for _ in range((lanes or 1) - 1)]
    with at_most(None if lanes is None else 1):
        try:
            for thread in threads:
                thread.start()
        except RuntimeError:  # the system starts no more: those that wait for it would wait for ever
            begin.abort()
            raise
        multiply()
        for thread in threads:
            thread.join()


def room_for_tables(ram: int) -> int:
    """Return the limit of planning's tables with which the process stays within `ram` bytes.

    Planning may take three times its limit.
    """
    return max(ram - resident(), 0) // 3


Make: TypeAlias = Callable[[int, int], Plan]


def plan_within(
    cap: int, held: int, make: Make, likely: Make | None = None, beyond: int = 0, patience: int = 0
) -> tuple[Plan, int]:
    """Return a plan with which the process stays within a cap, and the peak of the process that it promises.

    cap: bytes that the process may hold.
    held: bytes that the process holds for training already, and that the plan counts too.
    make: returns the plan for the given bytes of training and of planning's tables.
    likely: as make, for the advice of a refusal: it counts data too that are not known for sure yet.
    beyond: bytes that training may take beyond what plans count, for advice too.
    patience: bytes of the second network of a run with patience, where it is not known yet whether this is one.

    Raises `BudgetError` with a cap that works if no plan fits.
    """
    for _ in range(3):  # how much memory planning leaves in the process is known only afterwards
        give_back()  # what readers have freed, as it will be free when the least cap is told
        floor = resident() - held
        room = cap - floor - RESERVE
        if room <= 0:
            raise _below_the_floor(cap, floor, _least(cap, held, likely or make, 1) + beyond, patience)
        try:
            plan = make(room, room_for_tables(cap))
        except BudgetError as error:
            needed = _least(cap, held, likely or make, error.minimum) + beyond
            raise BudgetError(
                f"ram={format_bytes(cap)}: {format_bytes(floor + RESERVE)} of it are the process before training. Of "
                f"the rest, {error.reason} With ram, {ceil_bytes(needed)} works.{_with_patience(needed, patience)}",
                budget=cap,
                minimum=needed,
                advice=[one for one in error.advice if not (isinstance(one, Advice) and one.keyword == "budget")],
            ) from None
        give_back()
        promise = resident() - held + plan.peak_bytes + FIRST_USE
        if promise + RESERVE - FIRST_USE <= cap:
            break
    return plan, promise


def _below_the_floor(cap: int, floor: int, needed: int, patience: int) -> BudgetError:
    """Return the error of a cap that nothing fits into.

    floor: what the process holds. needed: a cap that works. patience: bytes that patience would add.
    """
    known = samples_alive()
    in_memory = not known or any(isinstance(one, Dataset) and one.x.nbytes > RESERVE for one in known)
    smaller = ", or let the data be read in blocks with open_data" if in_memory else ""
    return BudgetError(
        f"ram={format_bytes(cap)} is less than the process takes before any training: {format_bytes(floor)} for "
        f"the interpreter, libraries and data, and {format_bytes(RESERVE)} in reserve. Give {ceil_bytes(needed)}"
        f"{smaller}.{_with_patience(needed, patience)}",
        budget=cap,
        minimum=needed,
    )


def _with_patience(needed: int, patience: int) -> str:
    """Return a sentence that names the cap for a run with patience; none if that adds less than caps leave free."""
    if patience <= LEFT_BY_PLANNING:
        return ""
    return f" With patience, which keeps a second network, give {ceil_bytes(needed + patience)}."


def _least(cap: int, held: int, make: Make, budget: int) -> int:
    """Return a cap that works for the plan of the least bytes: the process, this plan, and what planning leaves."""
    for _ in range(4):
        try:
            plan = make(budget, room_for_tables(cap) or LEAST_TABLES)
            break
        except BudgetError as error:
            budget = max(error.minimum, budget + 1)
    else:
        raise AssertionError("the least budget that an error names does not work")
    give_back()
    needed = resident() - held + RESERVE + plan.peak_bytes
    return needed + max(LEFT_BY_PLANNING, needed // 50)
