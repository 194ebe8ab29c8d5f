"""Runs and networks on a disk in a real memory control group, where the page cache counts too."""

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import lowmem as lm
from tests.control_groups import memory_group, run_in, times_full

RAM = 110_000_000
CODE = """
import json, sys
import numpy as np, lowmem as lm
from lowmem.measure.memory import resident_peak
from lowmem.planning.engines.machine import DiskTier
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
    with memory_group(RAM) as path:
        yield path


def test_a_process_with_a_disk_lives_in_a_group_of_the_promised_size(group: Path, tmp_path: Path) -> None:
    """Neither the states on the disk nor their pages count: storing everything would take more than the group."""
    done = run_in(group, CODE, str(tmp_path), str(RAM))
    assert done.returncode == 0, done.stderr
    strategy, disk_bytes, store_all_bytes, resident, promise = json.loads(done.stdout)
    assert strategy == "disk"
    assert disk_bytes > 30e6
    assert store_all_bytes > 80e6
    assert resident <= promise <= RAM
    # Pages of the file in the cache would have been thrown out to stay within the group.
    assert times_full(group) == 0


NETWORK = """
import json, sys, zlib
from pathlib import Path
import numpy as np, lowmem as lm
from lowmem.interchange.safetensors import checksum
from lowmem.measure.memory import resident_peak
from tests.control_groups import times_full
folder, group = Path(sys.argv[1]), Path(sys.argv[2])
mlp = lm.MLP(lm.Architecture((64, *[1024] * 40, 10)), 3, disk=folder)
outputs = mlp.predict(np.ones((3000, 64), np.float32))
lm.export_torch(mlp, folder / "net.safetensors")
back = lm.import_torch(folder / "net.safetensors", disk=folder)
codes = [checksum(lambda: [("", one.streamed(one.learned))]) for one in (mlp, back)]
print(json.dumps([mlp.learned.nbytes, resident_peak(), times_full(group), *codes, zlib.crc32(outputs)]))
"""


def test_a_network_on_the_disk_is_made_used_saved_and_loaded_in_a_group_that_cannot_hold_it(tmp_path: Path) -> None:
    """Pages of its file count in the group, mapped or not, and so do those of exported files: none of them stays."""
    with memory_group(80_000_000) as group:
        done = run_in(group, NETWORK, str(tmp_path), str(group))
    assert done.returncode == 0, done.stderr
    size, resident, full, code, back, outputs = json.loads(done.stdout)
    assert size > 160e6
    assert resident < 75e6
    assert full == 0
    mlp = lm.MLP(lm.Architecture((64, *[1024] * 40, 10)), 3)
    assert code == back == zlib.crc32(mlp.learned.data)
    assert outputs == zlib.crc32(mlp.predict(np.ones((3000, 64), np.float32)).data)
