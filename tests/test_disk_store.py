"""The store of the disk tier: what is written is read back, nothing is left over, and errors are one clear line."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lowmem.common.disk import PAGE, directions, spill_file
from lowmem.common.disk.spill_file import SpillFile
from lowmem.errors import DiskError, InputError
from lowmem.planning.engines.choice import why_not_native
from lowmem.runtime.offload.checksums import checksum_by
from lowmem.runtime.offload.store import Store

SIZE = 3 * PAGE
FOLDERS = ["disk", "/dev/shm"]
"""A folder of the tests' own, and one in memory, where many systems know no direct transfers."""


def folder_of(name: str, tmp_path: Path) -> Path:
    if name == "disk":
        return tmp_path
    if not os.path.isdir(name):
        pytest.skip(f"there is no {name}")
    return Path(name)


def pages(count: int) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    """Return random bytes that begin at a multiple of a page."""
    raw = np.random.default_rng(0).integers(0, 256, (count + 1) * PAGE, dtype=np.uint8)
    start = -raw.ctypes.data % PAGE
    return raw[start : start + count * PAGE]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lowmem ")]


def settle() -> None:
    """Wait until the threads of stores that are gone have ended, and their files with them."""
    deadline = time.monotonic() + 10
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads()


@pytest.mark.parametrize("name", FOLDERS)
def test_states_come_back_as_they_were_written(name: str, tmp_path: Path) -> None:
    memory = pages(6)
    before = memory.copy()
    one = Store(folder_of(name, tmp_path), 2 * SIZE)
    for layer in (1, 2):  # state 1 lies in two pieces, as two lanes have it
        whole = memory[(layer - 1) * SIZE : layer * SIZE].data
        one.write(layer, [whole[:PAGE], whole[PAGE:]] if layer == 1 else [whole], (layer - 1) * SIZE)
    for layer in (1, 2):
        one.wait(layer, written=True)
    memory[:] = 0
    for layer in (2, 1):
        one.read(layer, [memory[(layer - 1) * SIZE : layer * SIZE].data], (layer - 1) * SIZE)
    for layer in (1, 2):
        one.wait(layer, written=False)
    np.testing.assert_array_equal(memory, before)
    assert (one.traffic.written, one.traffic.read) == (2 * SIZE, 2 * SIZE)


def test_a_state_is_read_only_once_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWMEM_DISK_TEST", "throttle=100KB")
    memory, copy = pages(3), pages(3)
    copy[:] = 0
    slow = Store(tmp_path, SIZE)
    slow.write(1, [memory.data], 0)
    slow.read(1, [copy.data], 0)
    slow.wait(1, written=False)
    np.testing.assert_array_equal(copy, memory)
    slow.finish()


@pytest.mark.parametrize("name", FOLDERS)
def test_the_file_has_no_name_and_goes_with_its_store(name: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path)
    gc.collect()
    settle()  # what other tests have left
    before, files = set(os.listdir(folder)), descriptors()
    one = Store(folder, SIZE)
    one.write(1, [pages(3).data], 0)
    one.finish()
    assert set(os.listdir(folder)) == before
    assert descriptors() == files + 1
    del one
    gc.collect()
    settle()
    assert descriptors() == files


def test_a_file_system_without_nameless_files_gets_one_that_loses_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE")
    one = SpillFile(tmp_path, SIZE)
    assert os.listdir(tmp_path) == []
    memory = pages(3)
    one.write([memory.data], 0)
    copy = pages(3)
    copy[:] = 0
    one.read([copy.data], 0)
    np.testing.assert_array_equal(copy, memory)


def test_where_transfers_cannot_be_direct_pages_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *rest: dropped.append(rest))
    monkeypatch.setattr(spill_file, "_make_direct", lambda fd: False)
    one = SpillFile(tmp_path, SIZE)
    one.write([pages(3).data], 0)
    assert not one.direct
    assert dropped == [(0, SIZE, os.POSIX_FADV_DONTNEED)]


def test_threads_are_there_only_while_something_is_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directions, "IDLE", 0.01)
    memory, one = pages(3), Store(tmp_path, SIZE)
    assert not threads()
    for _ in range(2):  # a second time: a thread that has ended is started anew
        one.write(1, [memory.data], 0)
        one.wait(1, written=True)
        one.read(1, [memory.data], 0)
        one.wait(1, written=False)
        deadline = time.monotonic() + 10
        while threads() and time.monotonic() < deadline:
            time.sleep(0.005)
        assert not threads()


# What goes wrong ---------------------------------------------------------------------------------------------------


def test_a_full_disk_is_refused_at_the_start_with_what_is_needed_and_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"too full: .*TiB are needed in .* are free"):
        Store(tmp_path, 1 << 60)
    # The system may count otherwise than it gives: quotas, reserved blocks.
    monkeypatch.setattr(spill_file, "free_bytes", lambda folder: 1 << 62)
    with pytest.raises(InputError, match="too full|can be made|larger than files may be"):
        Store(tmp_path, 1 << 60)
    assert os.listdir(tmp_path) == []


def test_a_limit_of_the_size_of_files_is_told_as_such(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, usual[1]))
    try:
        with pytest.raises(InputError, match=r"256\.0 KiB in .* is larger than files may be there.*ulimit -f"):
            SpillFile(tmp_path, 1 << 18)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_a_folder_that_is_none_or_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Store(tmp_path / "nowhere", SIZE)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is no folder"):
        Store(tmp_path / "file", SIZE)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="cannot be written"):
        Store(tmp_path, SIZE)


@pytest.mark.parametrize(("number", "what"), [(1, "writing state 1 to"), (2, "reading state 1 from")])
def test_an_error_of_the_disk_is_told_to_whoever_needs_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    monkeypatch.setenv("LOWMEM_DISK_TEST", f"fail={number}")
    memory, one = pages(3), Store(tmp_path, SIZE)
    with pytest.raises(DiskError, match=f"at {what} the file of 12.0 KiB in .*: Input/output error"):  # noqa: PT012
        one.write(1, [memory.data], 0)
        one.wait(1, written=True)
        one.read(1, [memory.data], 0)
        one.wait(1, written=False)
    one.finish()


def test_a_short_read_is_an_error(tmp_path: Path) -> None:
    one = Store(tmp_path, SIZE)
    one.read(1, [pages(3).data], 2 * PAGE)
    with pytest.raises(DiskError, match="reading state 1 .* only .* bytes were moved|Input/output error"):
        one.wait(1, written=False)


ENGINES = [
    pytest.param("native", marks=pytest.mark.skipif(why_not_native() is not None, reason="nothing is compiled")),
    "numpy",
]


@pytest.mark.parametrize("engine", ENGINES)
def test_checksums_tell_what_was_altered_on_the_disk(tmp_path: Path, engine: str) -> None:
    memory, one = pages(3), Store(tmp_path, SIZE, checksum_by(engine))
    one.write(1, [memory[:PAGE].data, memory[PAGE:].data], 0)
    one.wait(1, written=True)
    one.read(1, [memory[:PAGE].data, memory[PAGE:].data], 0)
    one.wait(1, written=False)
    altered = pages(1)
    altered[:] = memory[PAGE : 2 * PAGE]
    altered[17] ^= 128
    one.file.write([altered.data], PAGE)
    one.read(1, [memory.data], 0)
    with pytest.raises(DiskError, match="checksums differ"):
        one.wait(1, written=False)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_flipped_bit_and_moved_word_changes_the_checksum(engine: str) -> None:
    checksum = checksum_by(engine)
    data = np.random.default_rng(1).integers(0, 256, 1100, dtype=np.uint8)  # not a whole number of blocks
    whole = checksum([data.data])
    changed = set()
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        changed.add(checksum([data.data]))
        data[bit // 8] ^= 1 << bit % 8
    data[[7, 519]] ^= 128  # the signs of two numbers
    changed.add(checksum([data.data]))
    data[[7, 519]] ^= 128
    words = data[:1096].view(np.uint64)
    words[[0, 64]] = words[[64, 0]]  # two words that one sum takes in
    changed.add(checksum([data.data]))
    assert whole not in changed
    words[[0, 64]] = words[[64, 0]]
    assert checksum([data.data]) == whole
    assert len({whole, checksum([data[:-1].data]), checksum([data[100:].data, data[:100].data])}) == 3


def test_a_forked_process_gets_a_file_of_its_own(tmp_path: Path) -> None:
    memory, one = pages(3), Store(tmp_path, SIZE)
    one.write(1, [memory.data], 0)
    one.finish()
    child = os.fork()
    if not child:  # its writes must not reach the parent's file
        status = 1
        try:
            other = pages(3)
            other[:] = 7
            one.begin()
            one.write(1, [other.data], 0)
            one.wait(1, written=True)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    copy = pages(3)
    copy[:] = 0
    one.begin()
    one.read(1, [copy.data], 0)
    one.wait(1, written=False)
    np.testing.assert_array_equal(copy, memory)


def test_nothing_is_left_after_a_kill(tmp_path: Path) -> None:
    code = (
        "import sys; from lowmem.runtime.offload.store import Store; from tests.test_disk_store import pages\n"
        "one = Store(sys.argv[1], 3 * 4096); print('ready', flush=True)\n"
        "while True:\n one.write(1, [pages(3).data], 0); one.wait(1, written=True)"
    )
    root = Path(__file__).parent.parent
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text", ["throttle", "fail=x", "slow=3"])
def test_conditions_that_cannot_be_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("LOWMEM_DISK_TEST", text)
    with pytest.raises(InputError):
        Store(tmp_path, SIZE)
