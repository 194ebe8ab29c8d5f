"""`lowmem doctor`: all that a bug report needs, nothing private, and nothing left behind."""

import errno
import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lowmem as lm
from lowmem.common import cores
from lowmem.measure import calibration, machine
from lowmem.measure.ram import OF_A_LIMIT, machine_limit
from lowmem.planning.engines.choice import choose_engine
from tests.helpers import model
from tests.test_cli import ROOT, Ran
from tests.test_ram import MEMINFO, NONE, system

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure shortly: here it is not about the speeds."""
    monkeypatch.setattr(machine, "SECONDS", 0.01)


def test_all_that_a_bug_report_needs_is_said(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOWMEM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    ran = Ran(capsys, "doctor", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    found = json.loads(ran.out)
    assert found["lowmem"] == lm.__version__
    assert found["python"].endswith(platform.python_version())
    assert platform.system() in found["system"]
    assert 1 <= found["usable"] <= found["cores"]
    assert found["threads"]["OPENBLAS_NUM_THREADS"] == "1"
    assert found["packages"]["numpy"] == np.__version__
    assert {"onnx", "pyarrow", "scikit-learn", "torch"} <= found["packages"].keys()
    assert 0 < found["available"] <= found["memory"]
    assert found["calibrated"] == {"float32": None, "float64": None}
    assert min(found["products"].values()) > 1e6
    assert min(found["copying"], found["disk"]["write"], found["disk"]["read"]) > 1e6
    ran = Ran(capsys, "doctor")
    assert (ran.code, ran.err) == (0, "")
    for words in (f"lowmem               {lm.__version__}\n", "usable of", "GFLOP/s", "GB/s", "disk here", "write"):
        assert words in ran.out


def test_nothing_private_is_said(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = Ran(capsys, "doctor").out + Ran(capsys, "doctor", "--json").out
    private = {str(tmp_path), str(Path.home()), sys.prefix, str(ROOT), platform.node(), os.environ.get("USER", "")}
    assert not [word for word in private if len(word) > 5 and word in text]
    assert "filepath" not in text
    assert os.sep + "lib" + os.sep not in text


def test_the_age_of_a_cost_model_is_said_where_it_is_this_machines(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWMEM_CACHE_DIR", str(tmp_path))
    path = calibration.cache_path("float32")
    engine = choose_engine(None, lm.Architecture((1, 1)), None)
    calibration.store(replace(model(), machine=calibration.machine(), engine=engine))
    calibration.store(model(dtype="float64"))  # another machine's
    assert calibration.age("float32") == pytest.approx(0, abs=60)
    then = path.stat().st_mtime - 3 * 86_400
    os.utime(path, (then, then))
    assert "float32 3 days old, float64 none for this machine" in Ran(capsys, "doctor").out


@pytest.mark.parametrize(
    ("files", "source"),
    [
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "1000000\n"}, "cgroup v2"),
        (
            {"proc/self/cgroup": "4:memory:/a\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1000000\n"},
            "cgroup v1",
        ),
    ],
)
def test_where_the_limit_comes_from_is_known(tmp_path: Path, files: dict[str, str], source: str) -> None:
    limit = machine_limit(system(tmp_path, files | MEMINFO))
    assert (limit.bytes, limit.source) == (int(1_000_000 * OF_A_LIMIT), source)


def test_without_a_limit_the_available_memory_is_named(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": NONE}
    assert machine_limit(system(tmp_path, files | MEMINFO)).source == "available memory"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, None),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        ({}, None),
    ],
)
def test_the_quota_of_cores_is_found(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert cores.core_quota(system(tmp_path, files)) == quota


def test_an_interrupt_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        machine.disk_rates(tmp_path, 1 << 20)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_the_rest_goes_on(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    ran = Ran(capsys, "doctor")
    assert (ran.code, ran.err) == (0, "")
    assert "64 MiB cannot be written to the current folder: No space left on device" in ran.out
    assert "GFLOP/s" in ran.out
    assert json.loads(Ran(capsys, "doctor", "--json").out)["disk"]["write"] is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_files_is_said(tmp_path: Path) -> None:
    assert "cannot be written" in str(machine.disk_rates(tmp_path / "none").problem)


LIMITED = """
import resource, sys
from pathlib import Path
from lowmem.measure.machine import disk_rates
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
print(disk_rates(Path(sys.argv[1])).problem)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs limits of resources")
def test_a_system_that_refuses_more_is_said(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith("64 MiB cannot be written to the current folder: ")
    assert list(tmp_path.iterdir()) == []
