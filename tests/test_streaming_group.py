"""Parameters and moments that outweigh the memory, in a real control group, where the page cache counts too."""

import json
from pathlib import Path

from tests.control_groups import memory_group, run_in, times_full

RAM = 110_000_000
CODE = """
import json, sys
import numpy as np, lowmem as lm
from lowmem.measure.memory import resident_peak
from lowmem.planning.cost_model import CostModel, ROWS, WIDTHS
from lowmem.planning.engines.machine import DiskTier
from lowmem.schedule.disk.transfers import DiskRates
from lowmem.training.saved_run import open_run
grid = tuple(tuple(1e-11 for _ in WIDTHS) for _ in ROWS)
costs = CostModel("test", "float32", grid, grid, {"relu": 1e-10}, {"relu": 1e-10}, 1e-10, 1e-10, "native")
arch = lm.Architecture((64, *[1024] * 16, 10))
disk = DiskTier(sys.argv[1], DiskRates((1,), (1e9,), (1e9,)))
mlp = lm.MLP(arch, seed=0, disk=sys.argv[1])
trainer = lm.Trainer(mlp, "adam", batch_size=256, micro_batch=256, ram=int(sys.argv[2]), disk=disk, costs=costs)
x = np.random.default_rng(0).standard_normal((3 * 256, 64), np.float32)
y = np.zeros(len(x), int)
list(trainer.epochs((x, y), 1, (x[:300], y[:300])))
trainer.save(sys.argv[1] + "/run.safetensors")
open_run(sys.argv[1] + "/run.safetensors")
plan = trainer.plan
whole = 3 * mlp.parameters.nbytes
print(json.dumps([plan.streams, whole, plan.disk_bytes, resident_peak(), trainer.report().process_promise]))
"""


def test_a_network_larger_than_its_group_trains_in_it(tmp_path: Path) -> None:
    """Parameters and Adam's arrays take 200 MB; all stays in a group of 110 MB, a save of it too."""
    with memory_group(RAM) as group:
        done = run_in(group, CODE, str(tmp_path), str(RAM))
        assert done.returncode == 0, done.stderr
        streams, whole, disk_bytes, resident, promise = json.loads(done.stdout)
        assert streams == [True, True]
        assert whole > 1.7 * RAM
        assert disk_bytes >= whole
        assert resident <= promise <= RAM
        assert times_full(group) == 0
