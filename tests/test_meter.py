"""The meter: peaks that are there are seen, systems without /proc are asked otherwise, nothing is left behind."""

import mmap
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from lowmem.common import process_memory
from lowmem.common.process_memory import resident
from lowmem.measure import memory as meter
from lowmem.measure.memory import (
    SampledPeak,
    TracedPeak,
    reset_resident_peak,
    resident_peak,
    resident_peak_of,
)

resource = pytest.importorskip("resource", reason="Windows has none, and these pretend to be elsewhere")

MIB = 2**20


def touched_memory(size: int) -> mmap.mmap:
    """Return memory straight from the system, touched: what a freed array leaves behind is not given again."""
    memory = mmap.mmap(-1, size)
    for start in range(0, size, mmap.PAGESIZE):
        memory[start] = 1
    return memory


LINUX = sys.platform == "linux"


@pytest.fixture
def without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make this a system that has no /proc."""
    monkeypatch.setattr(process_memory, "STATM", tmp_path / "missing" / "STATM")
    for name in ("STATUS", "CLEAR_REFS"):
        monkeypatch.setattr(meter, name, tmp_path / "missing" / name)


def pretend_psutil(monkeypatch: pytest.MonkeyPatch, **information: int) -> None:
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(**information))
    monkeypatch.setattr(psutil, "Process", lambda: process)


# Allocations -----------------------------------------------------------------------------------------------------


def test_a_traced_peak_is_exact_and_forgets_on_demand() -> None:
    np.empty(8)
    traced = TracedPeak()
    held = np.empty(MIB, np.uint8)
    del held
    assert MIB <= traced.bytes() < MIB + 4096
    traced.restart()
    assert traced.bytes() < 4096
    assert traced.stop() < 4096
    assert not tracemalloc.is_tracing()


def test_tracing_of_others_goes_on() -> None:
    tracemalloc.start()
    try:
        TracedPeak().stop()
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()


NAMES = """
import sys
import lowmem.cli, lowmem.training.trainer
from lowmem.measure.memory import TracedPeak
from scripts.hostile_networks import table_of_names
peak = TracedPeak()
grown = table_of_names()
for number in range(15_000):
    sys.intern(f"a name that is new {number}")
print(grown > 0, peak.bytes() < 1 << 18)
"""


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the size of the table is that of CPython 3.11")
def test_the_table_of_names_is_made_anew_before_anything_is_measured() -> None:
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", NAMES], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.split() == ["True", "True"]


# The process -----------------------------------------------------------------------------------------------------


def test_resident_memory_is_what_psutil_says() -> None:
    assert resident() == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_reading_resident_memory_needs_no_psutil_where_there_is_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)  # importing it raises
    assert resident() > MIB
    with SampledPeak() as sampled:
        pass
    assert sampled.bytes > MIB


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_the_peak_of_a_stretch_is_seen_where_the_system_starts_it_anew() -> None:
    if not reset_resident_peak():
        pytest.skip("this system does not let go of its peak")
    before = resident_peak()
    touched = touched_memory(64 * MIB)
    del touched
    assert resident_peak() - before > 60 * MIB
    assert reset_resident_peak()
    assert resident_peak() - before < 32 * MIB


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_the_peak_of_a_run_does_not_know_what_was_before() -> None:
    before = touched_memory(64 * MIB)
    del before
    now = resident()
    assert resident_peak_of(lambda: touched_memory(16 * MIB)) - now == pytest.approx(16 * MIB, rel=0.2)


def test_the_peak_of_a_run_is_sampled_where_the_system_cannot_start_it_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "reset_resident_peak", lambda: False)
    monkeypatch.setattr(meter, "resident_peak", lambda: 1 / 0)
    now = resident()

    def run() -> None:
        held = touched_memory(16 * MIB)
        time.sleep(0.1)  # ten samples
        del held

    assert resident_peak_of(run) - now == pytest.approx(16 * MIB, rel=0.2)


@pytest.mark.usefixtures("without_proc")
def test_without_proc_the_peak_cannot_be_started_anew_and_says_so() -> None:
    assert not reset_resident_peak()


@pytest.mark.usefixtures("without_proc")
def test_without_proc_psutil_says_what_is_resident(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_psutil(monkeypatch, rss=123 * MIB)
    assert resident() == 123 * MIB
    with SampledPeak() as sampled:
        pass
    assert sampled.bytes == 123 * MIB


@pytest.mark.parametrize(("platform", "unit"), [("darwin", 1), ("linux", 1024), ("freebsd14", 1024)])
@pytest.mark.usefixtures("without_proc")
def test_getrusage_counts_bytes_on_macos_and_kibibytes_elsewhere(
    monkeypatch: pytest.MonkeyPatch, platform: str, unit: int
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=5000))
    assert resident_peak() == 5000 * unit


@pytest.mark.usefixtures("without_proc")
def test_windows_keeps_the_peak_of_the_working_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "resource", None)  # Windows has none
    pretend_psutil(monkeypatch, rss=1, peak_wset=77 * MIB)
    assert resident_peak() == 77 * MIB


def test_a_status_without_a_peak_is_no_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmRSS:\t 100 kB\n")  # as some containers have it
    monkeypatch.setattr(meter, "STATUS", tmp_path / "status")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=9))
    assert resident_peak() == 9 * 1024


# Samples ---------------------------------------------------------------------------------------------------------


def test_samples_see_what_comes_and_goes_and_when() -> None:
    with SampledPeak(seconds=0.001) as sampled:
        begin = resident()
        touched = touched_memory(64 * MIB)
        full = time.perf_counter()
        while sampled.series[-1][0] <= full:
            time.sleep(0.001)
        del touched
    assert sampled.bytes - begin > 60 * MIB
    times = [when for when, _ in sampled.series]
    assert times == sorted(times)
    assert max(size for _, size in sampled.series) == sampled.bytes
    assert sampled.bytes - sampled.series[-1][1] > 30 * MIB


def test_samples_leave_neither_a_thread_nor_an_open_file() -> None:
    files = psutil.Process().num_fds() if hasattr(psutil.Process(), "num_fds") else 0
    with pytest.raises(KeyError), SampledPeak():
        raise KeyError
    assert "lowmem-meter" not in {thread.name for thread in threading.enumerate()}
    assert files == (psutil.Process().num_fds() if files else 0)


def test_even_the_shortest_block_has_a_sample_at_either_end() -> None:
    with SampledPeak(seconds=60) as sampled:
        pass
    assert len(sampled.series) == 2


def test_a_long_run_keeps_few_samples_and_its_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "MOST_SAMPLES", 8)
    sizes = iter([1, 2, 99, *[3] * 100])
    monkeypatch.setattr(meter, "open_resident", lambda: (lambda: next(sizes), lambda: None))
    with SampledPeak(seconds=60) as sampled:
        for _ in range(50):
            sampled._sample()
    assert len(sampled.series) < 8
    assert sampled.bytes == 99
    assert sampled.seconds > 60


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_statm_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    original = os.open

    def counted(path: Path, flags: int) -> int:
        opened.append(path)
        return original(path, flags)

    monkeypatch.setattr(os, "open", counted)
    with SampledPeak(seconds=0.001) as sampled:
        while len(sampled.series) < 5:
            time.sleep(0.001)
    assert opened == [process_memory.STATM]
