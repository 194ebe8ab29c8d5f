"""An array on the disk: its numbers are right whatever is in memory, and errors are one clear line.

What is dropped is gone from memory.
"""

import copy
import ctypes
import gc
import mmap
import os
import pickle
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lowmem.common.disk import directions, pages, parts, spill_file
from lowmem.common.disk.paged_array import PagedArray
from lowmem.errors import DiskError, InputError

PAGE = pages.MAPPED_PAGE
ITEMS = PAGE // 8
"""Numbers of a page."""


def cached(one: PagedArray) -> int:
    """Return how many pages of the array's file are in memory, in this process or in the page cache."""
    count = -(-one.array.nbytes // PAGE)
    seen = np.zeros(count, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    pointer = ctypes.c_void_p
    assert not libc.mincore(pointer(one.array.ctypes.data), ctypes.c_size_t(count * PAGE), pointer(seen.ctypes.data))
    return int((seen & 1).sum())


def resident_bytes(one: PagedArray) -> int:
    """Return the bytes of the array that count as this process's memory."""
    try:
        text = Path("/proc/self/smaps").read_text()
    except OSError:
        pytest.skip("this system does not tell")
    start, total = one.array.ctypes.data, 0
    inside = False
    for line in text.splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = start <= int(found[1], 16) < start + one._file.size
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def filled(folder: Path, count: int) -> PagedArray:
    """Return an array of 0..count-1 whose pages are on the disk."""
    one = PagedArray(folder, count, np.float64)
    one.array[:] = np.arange(count)
    one.release(0, count, changed=True)
    one.settle()
    return one


def ended_threads() -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not any(thread.name.startswith("lowmem ") for thread in threading.enumerate()):
            return True
        time.sleep(0.01)
    return False


def in_child(work: Callable[[], None]) -> int:
    """Return the exit status of a forked process that does some work: 0 if nothing was raised."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


# What it holds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["disk", "/dev/shm"])
def test_numbers_come_back_whatever_was_dropped(where: str, tmp_path: Path) -> None:
    if where != "disk" and not os.path.isdir(where):
        pytest.skip(f"there is no {where}")
    count = 100 * ITEMS + 37  # borders that are no borders of pages
    one = PagedArray(tmp_path if where == "disk" else where, count, np.float64)
    assert not one.array.any()
    view, rng = one.array[1000:50_000], np.random.default_rng(0)
    truth = np.zeros(count)
    for _ in range(30):
        start, stop = sorted(map(int, rng.integers(0, count + 1, 2)))
        one.fetch(start, stop, to_change=bool(rng.integers(2)))
        one.wait(start, stop)
        values = rng.standard_normal(stop - start)
        one.array[start:stop] += values
        truth[start:stop] += values
        one.release(start, stop, changed=True)
        other = int(rng.integers(0, count))
        one.release(other, min(other + 5000, count), changed=False)  # what is being written is not lost
    np.testing.assert_array_equal(view, truth[1000:50_000])  # not fetched: whatever touches a page gets it
    one.settle()
    np.testing.assert_array_equal(one.array, truth)


def test_what_is_dropped_is_in_memory_no_more_but_for_the_pages_at_borders(tmp_path: Path) -> None:
    """Neither mapped nor in the page cache, which counts in a control group."""
    layers = [(k * 100 * ITEMS + 5, (k + 1) * 100 * ITEMS + 5) for k in range(20)]
    one = PagedArray(tmp_path, layers[-1][1], np.float64)
    for _ in range(3):
        for start, stop in layers:
            one.fetch(start, stop)
            one.wait(start, stop)
            one.array[start:stop] += 1
            one.release(start, stop, changed=True)
            assert cached(one) <= 20 + 1 + 3 * 101  # borders, one in use, one on its way out, one just behind it
            one.settle()
        for start, stop in layers:
            one.fetch(start, stop)
            one.wait(start, stop)
            assert (one.array[start:stop] == one.array[5]).all()
            assert cached(one) <= 21 + 100
            assert resident_bytes(one) <= (21 + 100) * PAGE
            one.release(start, stop, changed=False)
            one.settle()
    assert cached(one) <= 21
    assert one.array[5] == 3


def test_what_is_fetched_is_there(tmp_path: Path) -> None:
    one = filled(tmp_path, 300 * ITEMS)
    assert cached(one) == 0
    one.fetch(100 * ITEMS, 200 * ITEMS)
    one.wait(100 * ITEMS, 200 * ITEMS)
    assert cached(one) == 100


def test_traffic_is_that_of_the_pages_that_lie_wholly_inside(tmp_path: Path) -> None:
    one = PagedArray(tmp_path, 100 * ITEMS, np.float64)
    begin, end = pages.whole_pages(ITEMS + 1, 50 * ITEMS + 1, 8)
    assert (begin, end) == (2 * PAGE, 50 * PAGE)
    assert pages.whole_pages(1, ITEMS, 8) == (PAGE, PAGE)
    one.fetch(ITEMS + 1, 50 * ITEMS + 1)
    assert (one.traffic.read, one.traffic.written) == (48 * PAGE, 0)
    one.release(ITEMS + 1, 50 * ITEMS + 1, changed=False)
    assert (one.traffic.read, one.traffic.written) == (48 * PAGE, 0)
    one.release(ITEMS + 1, 50 * ITEMS + 1, changed=True)
    assert (one.traffic.read, one.traffic.written) == (48 * PAGE, 48 * PAGE)
    one.release(1, ITEMS, changed=True)  # no whole page
    assert one.traffic.written == 48 * PAGE
    one.settle()


@pytest.mark.parametrize("fetched", [True, False])
def test_a_sweep_has_three_ranges_in_memory(tmp_path: Path, fetched: bool) -> None:
    count, each = 1000 * ITEMS, 50 * ITEMS
    one = filled(tmp_path, count)
    ranges = [(start, start + each) for start in range(0, count, each)]
    seen = []
    for start, stop in one.sweep(ranges, changed=True, fetched=fetched):
        seen.append((start, stop))
        assert cached(one) <= 3 * 50  # one on its way out, one in use, one on its way in
        one.array[start:stop] = -1
    assert seen == ranges
    assert cached(one) == 0
    assert one.traffic.read == (count * 8 if fetched else 0)
    assert (one.array == -1).all()


def test_a_sweep_waits_until_a_range_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, read_in = filled(tmp_path, 100 * ITEMS), pages.read_in

    def slow(descriptor: int, address: int, start: int, stop: int, *, to_change: bool) -> None:
        time.sleep(0.05)
        read_in(descriptor, address, start, stop, to_change=to_change)

    monkeypatch.setattr(pages, "read_in", slow)
    for _ in one.sweep([(0, 50 * ITEMS), (50 * ITEMS, 100 * ITEMS)]):
        assert cached(one) >= 50


def test_a_mapping_that_the_system_refuses_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, size: int) -> None:
        raise OSError(12, os.strerror(12))

    monkeypatch.setattr("mmap.mmap", refuse)
    with pytest.raises(InputError, match="cannot be mapped into memory: Cannot allocate memory. Raise the limit"):
        PagedArray(tmp_path, 5, np.float64)


def test_a_sweep_that_is_left_lets_go_of_everything(tmp_path: Path) -> None:
    one = filled(tmp_path, 100 * ITEMS)
    sweep = one.sweep([(0, 50 * ITEMS), (50 * ITEMS, 100 * ITEMS)])
    next(sweep)
    sweep.close()
    assert cached(one) == 0


def test_pieces_of_a_part_are_its_numbers_and_leave_nothing_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PIECE", 10 * PAGE)
    one = filled(tmp_path, 100 * ITEMS)
    part = one.part(ITEMS + 5, 95 * ITEMS + 5, (2, 47 * ITEMS))
    assert (part.shape, part.dtype.name, part.nbytes) == ((2, 47 * ITEMS), "float64", 94 * PAGE)
    several = []
    for piece in part.pieces(changed=True):
        several.append(piece.copy())
        piece += 1
        assert cached(one) <= 3 * 11
    np.testing.assert_array_equal(np.concatenate(several), np.arange(ITEMS + 5, 95 * ITEMS + 5))
    assert cached(one) <= 2  # pages that others share
    np.testing.assert_array_equal(one.array[ITEMS + 5 : 95 * ITEMS + 5], np.concatenate(several) + 1)
    assert one.array[ITEMS + 4] == ITEMS + 4


def test_what_is_brought_and_dropped_at_once_is_as_what_is_fetched(tmp_path: Path) -> None:
    one = filled(tmp_path, 100 * ITEMS)
    one.bring(0, 50 * ITEMS, to_change=True)
    assert cached(one) == 50
    one.array[: 50 * ITEMS] = 7
    one.drop(0, 50 * ITEMS, changed=True)
    assert cached(one) == 0
    one.bring(0, 100 * ITEMS)
    assert (one.array[: 50 * ITEMS] == 7).all()
    one.drop(0, 100 * ITEMS)
    assert cached(one) == 0
    assert (one.traffic.read, one.traffic.written) == (150 * PAGE, 150 * PAGE)  # with those that filled it


def in_page_cache(one: PagedArray) -> int:
    """Return how many pages of the array's file are in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    with mmap.mmap(one._file._file.descriptor, one._file.size) as other:
        view = np.frombuffer(other, np.uint8)
        seen = np.zeros(one._file.size // PAGE, np.uint8)
        address, size = ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(one._file.size)
        assert not libc.mincore(address, size, ctypes.c_void_p(seen.ctypes.data))
        del view
    return int((seen & 1).sum())


def past_the_cache(one: PagedArray) -> PagedArray:
    """Return an array whose file goes past the page cache; skip the test where the system has none."""
    if one._file._own is None:
        pytest.skip("this file system goes through the page cache")
    return one


def test_what_is_fetched_goes_past_the_page_cache(tmp_path: Path) -> None:
    one = past_the_cache(filled(tmp_path, 2000 * ITEMS))
    one.bring(1, 1500 * ITEMS + 1)
    assert cached(one) == 1501
    assert in_page_cache(one) == 2  # at the borders
    one.array[ITEMS : 1500 * ITEMS] += 1
    one.drop(1, 1500 * ITEMS + 1, changed=True)
    assert cached(one) == in_page_cache(one) == 2
    assert one.array[ITEMS + 3] == ITEMS + 4


def test_what_was_changed_before_it_is_fetched_is_not_lost(tmp_path: Path) -> None:
    one = filled(tmp_path, 100 * ITEMS)
    one.array[50 * ITEMS] = -1  # in the page cache, and not yet on the disk
    one.bring(0, 100 * ITEMS)
    assert one.array[50 * ITEMS] == -1
    one.drop(0, 100 * ITEMS)
    assert cached(one) == in_page_cache(one) == 0
    assert one.array[50 * ITEMS] == -1


def test_what_is_fetched_twice_or_let_go_of_in_pieces_keeps_what_was_changed(tmp_path: Path) -> None:
    one = filled(tmp_path, 100 * ITEMS)
    one.bring(20 * ITEMS, 60 * ITEMS, to_change=True)
    one.array[20 * ITEMS : 60 * ITEMS] = -1
    one.bring(0, 100 * ITEMS, to_change=True)
    one.array[90 * ITEMS :] = -2
    one.drop(30 * ITEMS, 40 * ITEMS, changed=True)
    assert cached(one) == 90
    one.drop(0, 70 * ITEMS, changed=True)
    assert cached(one) == 30
    one.drop(0, 100 * ITEMS, changed=True)
    assert cached(one) == 0
    expected = np.arange(100.0 * ITEMS)
    expected[20 * ITEMS : 60 * ITEMS], expected[90 * ITEMS :] = -1, -2
    np.testing.assert_array_equal(one.array, expected)


def test_large_pages_are_moved_as_they_are_and_take_no_more_memory(tmp_path: Path) -> None:
    one = past_the_cache(filled(tmp_path, 3000 * ITEMS))
    one.bring(5 * ITEMS, 2900 * ITEMS)
    assert cached(one) == 2895
    assert resident_bytes(one) == 2895 * PAGE
    np.testing.assert_array_equal(one.array, np.arange(3000 * ITEMS))


# What becomes of it -------------------------------------------------------------------------------------------------


def test_threads_and_the_file_go_with_the_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directions, "IDLE", 0.01)
    gc.collect()
    assert ended_threads()
    before = len(os.listdir("/proc/self/fd"))
    one = filled(tmp_path, 10 * ITEMS)
    assert os.listdir(tmp_path) == []
    assert ended_threads()
    view = one.array[5:]
    del one
    gc.collect()
    assert view[0] == 5  # a view keeps what it shows
    del view
    gc.collect()
    assert ended_threads()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_forked_process_cannot_change_the_array(tmp_path: Path) -> None:
    one = filled(tmp_path, 10 * ITEMS)
    alone = filled(tmp_path, 10 * ITEMS).array  # its memory is in use, and the object that drops it is gone

    def work() -> None:
        assert one.array[7] == alone[7] == 7
        one.array[:] = alone[:] = -1
        for refused in (one.settle, lambda: one.fetch(0, 5), lambda: one.release(0, ITEMS, changed=True)):
            with pytest.raises(InputError, match=f"belongs to process {os.getppid()}"):
                refused()

    assert in_child(work) == 0
    np.testing.assert_array_equal(one.array, np.arange(10 * ITEMS))
    np.testing.assert_array_equal(alone, np.arange(10 * ITEMS))


def test_a_copy_has_a_file_of_its_own_and_a_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PIECE", 3 * PAGE)
    one = filled(tmp_path, 100 * ITEMS + 3)
    other = copy.deepcopy(one)
    np.testing.assert_array_equal(other.array, np.arange(100 * ITEMS + 3))
    other.array[:] = 0
    assert one.array[7] == 7
    with pytest.raises(InputError, match="cannot be pickled"):
        pickle.dumps(one)


# What goes wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "what"), [(1, "writing to"), (2, "reading from")])
def test_an_error_of_the_disk_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    monkeypatch.setenv("LOWMEM_DISK_TEST", f"fail={number}")
    one = PagedArray(tmp_path, 100 * ITEMS, np.float64)
    one.array[:] = 7
    with pytest.raises(DiskError, match=f"failed at {what} the file of 400.0 KiB in .*: Input/output error") as caught:  # noqa: PT012
        one.release(0, 100 * ITEMS, changed=True)
        one.fetch(0, 100 * ITEMS)
        one.wait(0, 100 * ITEMS)
    assert "\n" not in str(caught.value)
    assert "step" not in str(caught.value)  # whether this was one, only who makes steps knows
    one.settle()
    assert (one.array == 7).all()  # what could not be written is still in memory


@pytest.mark.parametrize(("number", "what"), [(1, "writing to"), (2, "reading from")])
def test_an_error_at_once_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    monkeypatch.setenv("LOWMEM_DISK_TEST", f"fail={number}")
    one = PagedArray(tmp_path, 100 * ITEMS, np.float64)
    with pytest.raises(DiskError, match=f"failed at {what} the file"):  # noqa: PT012
        one.drop(0, 100 * ITEMS, changed=True)
        one.bring(0, 100 * ITEMS)


@pytest.mark.parametrize("name", ["take_memory", "move_memory"])
def test_memory_that_cannot_be_had_is_an_error_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    one = past_the_cache(filled(tmp_path, 100 * ITEMS))

    def refuse(*arguments: int) -> None:
        if name == "move_memory":  # as the system may, before it finds that there is no memory
            pages.give_memory(one.array.ctypes.data, 100 * PAGE)
        raise OSError(12, os.strerror(12))

    monkeypatch.setattr(pages, name, refuse)
    with pytest.raises(DiskError, match="failed at reading from the file .*: Cannot allocate memory"):
        one.bring(0, 100 * ITEMS)
    np.testing.assert_array_equal(one.array, np.arange(100 * ITEMS))


def test_a_file_that_is_too_short_is_an_error_and_no_signal(tmp_path: Path) -> None:
    one = filled(tmp_path, 100 * ITEMS)
    os.truncate(one._file._file.descriptor, 50 * PAGE)
    one.fetch(0, 100 * ITEMS)
    with pytest.raises(DiskError, match="only 204,800 of 409,600 bytes could be read"):
        one.wait(0, 100 * ITEMS)


def test_a_slow_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWMEM_DISK_TEST", "throttle=4MB")
    one = PagedArray(tmp_path, 100 * ITEMS, np.float64)
    began = time.perf_counter()
    one.release(0, 100 * ITEMS, changed=True)
    one.fetch(0, 100 * ITEMS)  # after what is being written
    one.wait(0, 100 * ITEMS)
    took = time.perf_counter() - began
    assert took >= 0.2
    assert 0 < one.traffic.waited <= took


def test_a_disk_without_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="too full"):
        PagedArray(tmp_path, 1 << 50, np.float64)
    monkeypatch.setattr(spill_file, "free_bytes", lambda folder: 1 << 62)
    with pytest.raises(InputError, match="too full|can be made|larger than files may be"):
        PagedArray(tmp_path, 1 << 57, np.float64)
    with pytest.raises(InputError, match="does not exist"):
        PagedArray(tmp_path / "nowhere", 5, np.float64)


def test_an_old_kernel_does_without_its_newer_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what maps pages ahead, and without what writes a part of a file."""
    real = pages._libc()

    class Old:
        madvise, msync = real.madvise, real.msync

    monkeypatch.setattr(pages, "_libc", lambda: Old)
    monkeypatch.setattr(pages, "POPULATE_READ", 999)
    one = filled(tmp_path, 100 * ITEMS)
    assert cached(one) == 0
    one.fetch(0, 100 * ITEMS)
    one.wait(0, 100 * ITEMS)
    assert cached(one) == 100
    np.testing.assert_array_equal(one.array, np.arange(100 * ITEMS))
