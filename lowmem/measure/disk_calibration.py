"""The rates of a disk: measured once in a second or two with transfers as a step makes them, and stored in a file."""

import json
import os
from dataclasses import asdict
from mmap import PAGESIZE
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from lowmem.common.disk import PAGE
from lowmem.common.disk.conditions import conditions
from lowmem.common.disk.spill_file import check_folder, free_bytes
from lowmem.errors import InputError
from lowmem.measure.calibration import cache_folder, store_json
from lowmem.runtime.offload.store import Store
from lowmem.schedule.disk.transfers import DiskRates
from lowmem.units import format_bytes

VERSION = 3
"""Version of the stored file; a file of any other version is measured anew."""

SIZES = (1 << 16, 1 << 19, 1 << 21, 1 << 23)
"""Of the transfers that are timed, in bytes."""

STREAMED = 1 << 22
"""Bytes of the parts of an array on the disk that are timed."""

PLACES = 4
"""Places of the file that are written and read in turn."""

LEAST_TRANSFERS, SECONDS = 2, 0.12
"""Of each thing that is timed, at least."""


LEAST = PLACES * max(PAGE, PAGESIZE)
"""Bytes of the disk without which it cannot be measured."""


def disk_rates(folder: str | Path, limit: int | None = None, *, again: bool = False) -> DiskRates:
    """Return the rates of the disk that a folder lies on. The first call for a file system measures and stores them.

    limit: bytes of the disk that may be taken for it, None for as many as are free. again: measure anew even if a file
        is there.

    A file that cannot be read is measured anew, as is what was measured with less room than there is now, and one that
    cannot be written is left out. Raises `InputError` if the folder cannot be written or has no room.
    """
    check_folder(folder)
    path = rates_path(folder)
    rates = None if again else _read(path)
    if rates is None or _with_less(rates, folder, limit):
        rates = measure_disk(folder, limit)
        store_rates(folder, rates)
    return rates


def _with_less(rates: DiskRates, folder: str | Path, limit: int | None) -> bool:
    """Say whether rates were measured with smaller transfers than there is room for now."""
    return LEAST // PLACES <= rates.sizes[-1] < SIZES[-1] and rates.sizes[-1] < _sizes(_room(folder, limit))[-1]


def _room(folder: str | Path, limit: int | None) -> int:
    """Return the bytes of a disk that may be taken."""
    free = free_bytes(folder)
    return free if limit is None else min(free, limit)


def _sizes(room: int) -> tuple[int, ...]:
    """Return the sizes of transfers that can be timed in so many bytes; of few bytes, a power of two of pages."""
    fitting = tuple(size for size in SIZES if PLACES * size <= room)
    return fitting or (LEAST // PLACES << max((room // LEAST).bit_length() - 1, 0),)


def rates_path(folder: str | Path) -> Path:
    """Return the file with the rates of the file system that a folder lies on."""
    device = os.stat(folder).st_dev
    return cache_folder() / f"disk-{os.major(device)}-{os.minor(device)}{conditions().name}.json"


def measure_disk(folder: str | Path, limit: int | None = None) -> DiskRates:
    """Return the rates of the disk that a folder lies on, with transfers as a step makes them.

    For each size, transfers wait in the queue, as they do in a step: first to write, then to read, then both. It takes
    a second or two, 32 MiB of the disk and 16 MiB of memory; less where less is free, or `limit` allows less, and then
    only smaller transfers are timed.

    Raises `InputError` if not even a few pages can be had.
    """
    room = min(_room(folder, limit), PLACES * SIZES[-1])
    while room >= LEAST:
        try:
            return _measured(folder, _sizes(room))
        except InputError:  # a file system may give less than it calls free
            room //= 4
    needed, free = f"measuring the disk needs {format_bytes(LEAST)} in {str(folder)!r}", free_bytes(folder)
    if limit is not None and limit < min(LEAST, free):
        raise InputError(f"{needed}, and disk_limit={format_bytes(limit)} allows less. Give at least that.")
    raise InputError(f"{needed}, and {format_bytes(free)} are free. Make room, or give another folder.")


def _measured(folder: str | Path, sizes: tuple[int, ...]) -> DiskRates:
    """Return the rates of a disk for transfers of these sizes. Raises `InputError` if there is no room for them."""
    largest = sizes[-1]
    store = Store(folder, PLACES * largest)
    one, other = _pages(largest), _pages(largest)
    for place in range(PLACES):  # blocks that were never written take longer, which happens in the first step alone
        store.write(place, [one.data], place * largest)
    store.finish()
    writes, reads, shares = [], [], []
    for size in sizes:
        write = _rate(store, size, one, None)
        read = _rate(store, size, None, one)
        both = _rate(store, size, one, other)
        writes.append(write)
        reads.append(read)
        # The slower direction ends alone: n bytes each take n (1/slow + (1/share - 1)/fast).
        fast, slow = max(write, read), min(write, read)
        shares.append(1 / max(1 + fast * (2 / both - 1 / slow), 1.0))
    shared = min(max(sorted(shares)[len(shares) // 2], 0.25), 1.0)
    store.file.close()  # what follows needs its room
    return DiskRates(sizes, tuple(writes), tuple(reads), shared, *_streamed_rates(folder, min(STREAMED, largest)))


def _streamed_rates(folder: str | Path, size: int) -> tuple[float, float]:
    """Return bytes a second of a `PagedArray`, written and fetched in parts of `size` bytes as a step does."""
    from lowmem.common.disk.paged_array import PagedArray  # with ctypes, for those who use it

    array, seconds, moved = PagedArray(folder, PLACES * size, np.uint8), [0.0, 0.0], -PLACES * size
    place = 0
    while moved < LEAST_TRANSFERS * size or sum(seconds) < SECONDS:
        start, stop = place * size, (place + 1) * size
        times = [perf_counter()]
        array.bring(start, stop, to_change=True)
        times.append(perf_counter())
        array.array[start:stop] += 1
        times.append(perf_counter())
        array.drop(start, stop, changed=True)
        times.append(perf_counter())
        if moved >= 0:  # blocks that were never written take longer
            seconds = [seconds[0] + times[3] - times[2], seconds[1] + times[1] - times[0]]
        moved, place = moved + size, (place + 1) % PLACES
    return moved / seconds[0], moved / seconds[1]


def store_rates(folder: str | Path, rates: DiskRates) -> str | None:
    """Store rates for the file system of a folder. Returns why that did not go, None if it did."""
    return store_json(rates_path(folder), {"version": VERSION, **asdict(rates)})


def _read(path: Path) -> DiskRates | None:
    """Return stored rates, None if there are none that can be used."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored.pop("version") != VERSION:
            return None
        streamed = stored["streamed_write"], stored["streamed_read"]
        rates = DiskRates(
            tuple(stored["sizes"]), tuple(stored["write"]), tuple(stored["read"]), stored["shared"], *streamed
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    numbers = (*rates.sizes, *rates.write, *rates.read, rates.shared, *(rate for rate in streamed if rate is not None))
    plain = all(isinstance(number, int | float) and 0 < number < float("inf") for number in numbers)
    same = len(rates.sizes) == len(rates.write) == len(rates.read) > 0
    return rates if plain and same and list(rates.sizes) == sorted(set(rates.sizes)) else None


def _rate(store: Store, size: int, source: NDArray[np.uint8] | None, target: NDArray[np.uint8] | None) -> float:
    """Return bytes a second of transfers of `size` bytes: written from `source`, read to `target`, or both in turns.

    Two transfers of each direction are in flight at any time.
    """
    begin, number, far = perf_counter(), 0, store.size // PLACES
    while number < LEAST_TRANSFERS or perf_counter() - begin < SECONDS:
        for place in (0, 1):
            if source is not None:
                store.write(place, [source[:size].data], place * far)
            if target is not None:
                store.read(place + 2, [target[:size].data], (place + 2) * far)
        for place in (0, 1):
            store.wait(place, written=True)
            store.wait(place + 2, written=True)
        number += 2 * ((source is not None) + (target is not None))
    return number * size / (perf_counter() - begin)


def _pages(size: int) -> NDArray[np.uint8]:
    """Return `size` bytes of noise that begin at a page."""
    raw = np.random.default_rng(0).integers(0, 256, size + PAGE, np.uint8)
    start = -raw.ctypes.data % PAGE
    return raw[start : start + size]
