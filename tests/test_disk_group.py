"""A run with a disk in a real memory control group, where the page cache counts too."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RAM = 110_000_000
CODE = """
import json, sys
import numpy as np, lowmem as lm
from lowmem.measure.memory import resident_peak
from lowmem.planning.machine import DiskTier
from lowmem.schedule.disk.transfers import DiskRates
from tests.helpers import model
arch = lm.Architecture((64, *[256] * 40, 10))
disk = DiskTier(sys.argv[1], DiskRates((1,), (1e12,), (1e12,)))
trainer = lm.Trainer(
    lm.MLP(arch), "sgd", batch_size=2048, micro_batch=2048, ram=int(sys.argv[2]), disk=disk, costs=model(), threads=1
)
x = np.random.default_rng(0).standard_normal((2 * 2048, 64), np.float32)
list(trainer.epochs((x, np.zeros(len(x), int)), 1))
plan = trainer.plan
promise = trainer.report().process_promise
print(json.dumps([plan.strategy, plan.disk_bytes, plan.store_all_bytes, resident_peak(), promise]))
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a control group of memory; skip where that is not allowed."""
    first = Path("/sys/fs/cgroup/memory")
    path = (first if first.is_dir() else Path("/sys/fs/cgroup")) / f"lowmem-test-{os.getpid()}"
    limit = "memory.limit_in_bytes" if first.is_dir() else "memory.max"
    try:
        path.mkdir()
        (path / limit).write_text(str(RAM))
    except OSError as problem:
        if path.is_dir():
            path.rmdir()
        pytest.skip(f"no control group can be made here: {problem}")
    yield path
    path.rmdir()


def test_a_process_with_a_disk_lives_in_a_group_of_the_promised_size(group: Path, tmp_path: Path) -> None:
    """Neither the states on the disk nor their pages count: storing everything would take more than the group."""
    enter = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs")]
    done = subprocess.run(
        [*enter, sys.executable, "-c", CODE, str(tmp_path), str(RAM)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    strategy, disk_bytes, store_all_bytes, resident, promise = json.loads(done.stdout)
    assert strategy == "disk"
    assert disk_bytes > 30e6
    assert store_all_bytes > 80e6
    assert resident <= promise <= RAM
    # Pages of the file in the cache would have been thrown out to stay within the group.
    failed = group / "memory.failcnt"
    times = (
        failed.read_text() if failed.exists() else (group / "memory.events").read_text().split("max ")[1].split()[0]
    )
    assert int(times) == 0
