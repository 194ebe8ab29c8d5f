"""Caps for the whole process: read where the system says them, refused below the floor, kept in a real process."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.common.process_memory import give_back, resident
from lowmem.data.dataset import Dataset
from lowmem.measure import ram
from lowmem.measure.ram import OF_A_LIMIT, RESERVE, machine_limit, read_ram, warm_up
from lowmem.units import parse_bytes

ROOT = Path(__file__).resolve().parent.parent
ARCH = lm.Architecture((10, 32, 32, 3))
DATA = (np.zeros((40, 10), np.float32), np.zeros(40, int))


def system(root: Path, files: dict[str, str]) -> Path:
    """Write the files of a pretended system."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:  9000 kB\nMemAvailable:  4096 kB\n"}
NONE = str(0x7FFFFFFFFFFFF000)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "1000000\n"}, 1_000_000),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/memory.max": "700000\n",
            },
            700_000,
        ),
        # In a container the path is the host's, and the limit lies at the top.
        ({"proc/self/cgroup": "0::/docker/1f\n", "sys/fs/cgroup/memory.max": "500000\n"}, 500_000),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/a\n0::/\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "300000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": NONE,
            },
            300_000,
        ),
    ],
)
def test_the_limit_of_the_control_group_is_found(tmp_path: Path, files: dict[str, str], limit: int) -> None:
    assert machine_limit(system(tmp_path, files | MEMINFO)).bytes == int(limit * OF_A_LIMIT)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"},
        {"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": NONE},
        {"proc/self/cgroup": "nonsense\n\n::\n"},
    ],
)
def test_without_a_limit_it_is_what_is_available_and_what_we_hold(tmp_path: Path, files: dict[str, str]) -> None:
    held = resident()
    assert machine_limit(system(tmp_path, files | MEMINFO)).bytes == pytest.approx(held + 4096 * 1024, abs=2**21)


@pytest.mark.parametrize(
    ("version", "files"),
    [
        (2, {"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "9000000\n"}),
        (1, {"proc/self/cgroup": "4:memory:/a\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "9000000\n"}),
    ],
)
def test_what_others_hold_in_the_group_is_not_ours(tmp_path: Path, version: int, files: dict[str, str]) -> None:
    folder = "sys/fs/cgroup/a" if version == 2 else "sys/fs/cgroup/memory/a"
    usage = "memory.current" if version == 2 else "memory.usage_in_bytes"
    whole = int(9_000_000 * OF_A_LIMIT)
    ours = {"proc/self/status": "Name:\tpython\nRssAnon:\t1000 kB\nRssFile:\t500 kB\nRssShmem:\t0 kB\n"}
    held = files | MEMINFO | ours | {f"{folder}/{usage}": "6000000\n"}
    assert machine_limit(system(tmp_path, held)).bytes == whole - (6_000_000 - 1_024_000)
    held |= {f"{folder}/memory.stat": "anon 3000000\ninactive_file 2000000\nactive_file 1000000\n"}
    assert machine_limit(system(tmp_path, held)).bytes == whole - (3_000_000 - 1_024_000)
    held |= {f"{folder}/{usage}": "900000\n"}  # less than ours: pages that another group was charged for
    assert machine_limit(system(tmp_path, held)).bytes == whole


def test_a_limit_above_the_physical_memory_is_none(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": str(1 << 50)}
    limit = machine_limit(system(tmp_path, files | MEMINFO))
    assert limit.source == "available memory"
    assert limit.bytes == pytest.approx(resident() + 4096 * 1024, abs=2**21)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_an_address_space_limit_bounds_auto() -> None:
    code = """
import resource
from lowmem.common.process_memory import resident
from lowmem.measure.ram import machine_limit
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (50 << 20), resource.RLIM_INFINITY))
resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
limit = machine_limit()
print(limit.source, (limit.bytes - resident()) >> 20, (machine_limit(lanes=9).bytes - resident()) >> 20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    source, room, beside_stacks = done.stdout.strip().rsplit(" ", 2)
    assert source == "address-space limit"
    assert 45 <= int(room) <= 50
    assert 45 <= int(beside_stacks) + 8 * 8 - 40 <= 50  # the stacks of eight threads, of which 40 MiB are kept


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("room", [150, 205, 260])
def test_a_run_within_an_address_space_limit_is_refused_or_goes_through(room: int) -> None:
    code = f"""
import resource
import numpy as np
import lowmem as lm
mlp = lm.MLP(lm.Architecture((60, *[400] * 60, 10)))
x, y = np.ones((1000, 60), np.float32), np.arange(1000) % 10
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + ({room} << 20), resource.RLIM_INFINITY))
try:
    trainer = lm.Trainer(mlp, batch_size=1000, ram="auto", threads=2)
except lm.BudgetError:
    print("refused")
else:
    list(trainer.epochs((x, y), 1))
    print("trained")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout in (("refused\n", "trained\n") if room < 200 else ("trained\n",))


def test_a_cap_is_a_size_or_auto() -> None:
    assert read_ram("128MB") == 128_000_000
    assert read_ram("auto") > 2**20
    with pytest.raises(lm.InputError, match="cannot read 'much'"):
        lm.Trainer(lm.MLP(ARCH), batch_size=4, ram="much")
    with pytest.raises(lm.InputError, match="not both"):
        lm.Trainer(lm.MLP(ARCH), batch_size=4, ram="1GB", budget="1GB")


def test_a_cap_below_the_floor_is_refused_and_the_floor_said() -> None:
    with pytest.raises(lm.BudgetError, match="less than the process takes before any training: .* MiB for") as error:
        lm.Trainer(lm.MLP(ARCH), batch_size=4, ram="4MiB")
    assert error.value.minimum > resident() // 2


def test_data_in_memory_are_advised_to_be_read_in_blocks() -> None:
    data = Dataset("large", x=np.zeros((1 << 18, 4), np.float32), y=np.arange(1 << 18) % 2)
    with pytest.raises(lm.BudgetError, match="or let the data be read in blocks with open_data"):
        lm.Trainer(lm.MLP(ARCH), batch_size=4, ram="4MiB")
    assert len(data)


def test_a_cap_that_leaves_too_little_is_refused_with_what_works() -> None:
    mlp = lm.MLP(lm.Architecture((512, *[512] * 20, 10)))
    words = "are the process before training. Of the rest, .* With ram, .* works"
    give_back()  # what tests before have freed
    with pytest.raises(lm.BudgetError, match=words) as error:
        lm.Trainer(mlp, batch_size=4096, ram=resident() + (40 << 20))
    assert error.value.minimum > resident() + (20 << 20)
    assert "budget=" not in str(error.value)
    end = r'works\. With patience, which keeps a second network, give \S+\. Try optimizer="sgd"\.$'
    assert re.search(end, str(error.value))
    lm.Trainer(mlp, batch_size=4096, ram=error.value.minimum + (4 << 20))


def test_auto_trains_and_the_report_puts_the_first_step_beside_the_promise() -> None:
    trainer = lm.Trainer(lm.MLP(ARCH), batch_size=8, ram="auto")
    (epoch,) = trainer.epochs(DATA, 1)
    assert epoch.peak_bytes > 2**20
    report = trainer.report()
    assert report.process_promise is not None
    assert report.first_step_peak is not None
    assert "after the first step" in str(report)
    assert report.to_dict()["process_promise_bytes"] == report.process_promise


SCRIPT = """
import json, sys
import numpy as np
import lowmem as lm
case = json.loads(sys.argv[1])
rng = np.random.default_rng(0)
x, y = rng.standard_normal((1500, 64), np.float32), rng.integers(0, 10, 1500)
from lowmem.measure.memory import reset_resident_peak, resident_peak
reset_resident_peak()
architecture = lm.Architecture(tuple(case["widths"]))
trainer = lm.Trainer(lm.MLP(architecture), lm.SGD(1e-7), batch_size=512, ram=case["ram"])
planned = resident_peak()
list(trainer.epochs((x, y), 2))
report = trainer.report()
print(json.dumps(report.to_dict() | {"planned": planned}))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "case",
    [
        {"widths": [64, *[256] * 100, 10], "ram": 96 << 20},
        {"widths": [64, *[300, 130, 257, 90] * 20, 10], "ram": 76 << 20},
        # Here the usual tables of planning would pass the cap.
        {"widths": [64, *[40 + 97 * n % 361 for n in range(200)], 10], "ram": 98 << 20},
    ],
    ids=lambda case: f"{len(case['widths'])}-{case['ram'] >> 20}",
)
def test_a_process_stays_within_its_cap_planning_included(case: dict[str, Any]) -> None:
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(case)], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["planned"] <= case["ram"]
    assert seen["resident_peak_bytes"] <= case["ram"]
    assert seen["process_promise_bytes"] <= case["ram"]
    assert seen["first_step_peak_bytes"] == pytest.approx(seen["process_promise_bytes"], abs=5 << 20)


def test_where_no_more_threads_start_nobody_waits_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []

    def start(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        begin(thread)

    begin = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start"):
        warm_up(lm.Architecture((4, 4)), 8, 3)
    started[0].join(10)
    assert not started[0].is_alive()


WIDE = """
import sys
import numpy as np
import lowmem as lm
from lowmem.measure.memory import reset_resident_peak, resident_peak
rng = np.random.default_rng(0)
x, y = rng.standard_normal((1024, 64), np.float32), rng.integers(0, 10, 1024)
mlp = lm.MLP(lm.Architecture((64, *[1024] * 6, 10)))
reset_resident_peak()
trainer = lm.Trainer(mlp, lm.SGD(1e-7), batch_size=512, ram=256 << 20, engine=sys.argv[1] or None)
list(trainer.epochs((x, y), 2))
print(resident_peak() - trainer.report().process_promise)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")
@pytest.mark.parametrize("engine", ["", "numpy"])
def test_what_blas_keeps_for_wide_layers_is_in_the_promise(engine: str) -> None:
    """Its buffers are filled as far as layers are wide: 2 MB more than for narrow ones here."""
    done = subprocess.run([sys.executable, "-c", WIDE, engine], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 64 << 10


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")
@pytest.mark.parametrize("group", [1 << 20, 5000], ids=["one row group", "many"])
def test_a_cap_holds_for_parquet_whatever_its_row_groups(tmp_path: Path, group: int) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rng = np.random.default_rng(0)
    columns = {f"x{n}": rng.random(100_000, np.float32) for n in range(20)}  # a page of each column is half a MB
    table = pyarrow.table(columns | {"y": rng.integers(0, 3, 100_000)})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=group)

    def trained(cap: int) -> "subprocess.CompletedProcess[str]":
        flags = ["--data", "a.parquet", "--layers", "1", "--width", "8", "--batch", "512", "--epochs", "1", "--json"]
        command = [sys.executable, "-m", "lowmem", "train", *flags, "--no-calibrate", "--ram", str(cap)]
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    done = trained(240 << 20)
    assert done.returncode == 0, done.stderr
    cap = json.loads(done.stdout)["process_promise_bytes"] + RESERVE
    done = trained(cap)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["resident_peak_bytes"] <= cap
    assert report["resident_peak_bytes"] == pytest.approx(report["process_promise_bytes"], rel=0.02)
    assert trained(cap - (10 << 20)).returncode == 2


READING = """
import sys
import lowmem as lm
from lowmem.common.process_memory import give_back, resident, return_large_blocks
from lowmem.measure.memory import reset_resident_peak, resident_peak
data = lm.open_data(sys.argv[1])
batches = data.batches(256, lm.Architecture((data.features, 4, 3)), None)
return_large_blocks()
give_back()
reset_resident_peak()
before = resident()
for _ in batches.epoch(0):
    pass
print(data.reading_bytes + data.reading_loss, resident_peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")
@pytest.mark.parametrize(("group", "least", "most"), [(1 << 20, 15e6, 50e6), (1000, 0.2e6, 4e6)], ids=["one", "many"])
def test_what_reading_parquet_takes_is_measured_in_the_first_pass(
    tmp_path: Path, group: int, least: float, most: float
) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rng = np.random.default_rng(0)
    columns = {f"x{n}": rng.random(150_000, np.float32) for n in range(20)}
    table = pyarrow.table(columns | {"y": rng.integers(0, 3, 150_000)})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=group)
    command = [sys.executable, "-c", READING, str(tmp_path / "a.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    counted, taken = map(int, done.stdout.split())
    assert least < taken < most
    assert counted == pytest.approx(taken, abs=3_000_000)


FREED = """
import sys
import numpy as np
from lowmem.common.process_memory import resident, return_large_blocks
if sys.argv[1] == "returned":
    return_large_blocks()
large = np.ones(16 << 20, np.uint8)
del large  # from now on glibc would keep blocks of this size
block = np.ones(8 << 20, np.uint8)
behind = np.ones(64 << 10, np.uint8)  # so that the block is not the last one
before = resident()
del block
print(before - resident())
"""


@pytest.mark.skipif(not hasattr(os, "confstr") or "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="is of glibc")
@pytest.mark.parametrize("how", ["returned", "kept"])
def test_large_blocks_go_back_to_the_system_when_they_are_freed(how: str) -> None:
    done = subprocess.run([sys.executable, "-c", FREED, how], capture_output=True, text=True, cwd=ROOT, check=True)
    assert (int(done.stdout) > 7 << 20) == (how == "returned")


ADVISED = """
import re, sys
import numpy as np
import lowmem as lm
rng = np.random.default_rng(0)
x, y = rng.standard_normal((1500, 64), np.float32), rng.integers(0, 10, 1500)
deep, patient = sys.argv[1] == "deep", sys.argv[1] == "patient"
widths = [32] * 300 if deep else [1024] * 6 if patient else [256] * 20
architecture = lm.Architecture((64, *widths, 10), norm="layer" if deep else None)
options = {"clip_norm": 1.0} if deep else {}
try:
    trainer = lm.Trainer(lm.MLP(architecture), "adam", batch_size=512, ram=sys.argv[2], **options)
    list(trainer.epochs((x, y), 1, (x[:500], y[:500]), patience=2 if patient else None))
    print("trained", trainer.report().resident_peak)
except lm.BudgetError as error:
    with_patience = re.search(r"With patience, .* give (\\S+)\\.", str(error))
    if patient and with_patience is not None:
        print(with_patience[1])
        sys.exit()
    print(re.search(r"With ram, (\\S+) works|Give (\\S+), or", str(error)).expand(r"\\1\\2"))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("network", "first"), [("wide", "20MB"), ("wide", "62MB"), ("deep", "20MB"), ("patient", "20MB")]
)
def test_an_advised_cap_works_at_the_first_time(network: str, first: str) -> None:
    def told(ram: str) -> str:
        command = [sys.executable, "-c", ADVISED, network, ram]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()

    advised = told(first)
    answer, _, peak = told(advised).partition(" ")
    assert answer == "trained"
    assert int(peak) <= parse_bytes(advised)


THIN = """
from pathlib import Path
def held():
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0]: int(line[1]) for line in lines if line[0] in ("RssAnon:", "RssFile:")}
import argparse, json, numpy
before = held()
import lowmem.cli, lowmem.cli.session, lowmem.training.trainer
print(*(after - before[kind] for kind, after in held().items()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_what_training_imports_is_thin(tmp_path: Path) -> None:
    # Compiling takes memory too, 1.2 MiB: the first process compiles for the second, in a cache that nobody else uses.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", THIN], capture_output=True, text=True, cwd=ROOT, env=env, check=True
        )
    anonymous, of_files = map(int, done.stdout.split())
    assert anonymous < 9 * 1024  # 8.5 to 8.6 MiB were seen
    # Shared libraries: 1.1 MiB the compiled engine, 3.4 what numpy.random imports. How much of a file is mapped around
    # a page that is touched depends on what other processes have read: 6.3 to 6.7 MiB were seen.
    assert of_files < 7.5 * 1024


def test_what_readers_have_freed_is_not_held_against_a_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [60 << 20]
    monkeypatch.setattr(ram, "resident", lambda: held[0])
    monkeypatch.setattr(ram, "give_back", lambda: held.__setitem__(0, 40 << 20))
    arch = lm.Architecture((4, 8, 3))
    plan, promise = ram.plan_within(50 << 20, 0, lambda room, tables: lm.plan(arch, 16, room))
    assert plan.peak_bytes < promise - (40 << 20) < 10 << 20
