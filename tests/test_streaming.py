"""Parameters and optimizer's arrays on a disk: the same bits, the memory and the traffic that the plan tells."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.planning.engines.machine import DiskTier
from lowmem.schedule.disk.transfers import DiskRates
from tests.helpers import batch, model, randomised

FAST = DiskRates((1,), (1e12,), (1e12,))
ENGINES = ("native", "numpy")
ARCH = lm.Architecture((40, *[128] * 16, 10), activation="tanh")
ROWS = 48


def tier(folder: Path, rates: DiskRates = FAST, limit: int | None = None) -> DiskTier:
    return DiskTier(str(folder), rates, limit)


def on_disk(folder: Path, arch: lm.Architecture) -> lm.MLP:
    """Return a network like that of `randomised` whose parameters lie on a disk."""
    mlp, source = lm.MLP.empty(arch, disk=folder), randomised(arch)
    assert mlp.paged is not None
    mlp.learned[:] = source.learned
    mlp.paged.drop(0, len(source.learned), changed=True)
    return mlp


def smallest(folder: Path, mlp: lm.MLP, optimizer: str | None, **options: Any) -> lm.Plan:
    """Return the plan for the least budget."""
    usual: dict[str, Any] = {"batch_size": ROWS, "costs": model(dtype=mlp.architecture.dtype), "micro_batch": ROWS}
    usual |= {"threads": 1, "disk": tier(folder)} | options
    least = lm.minimum_budget(mlp, optimizer=optimizer, **usual)
    return lm.plan(mlp, budget=least, optimizer=optimizer, **usual)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("optimizer", [None, "sgd", "adam"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": "gelu", "norm": "layer", "residual": "learned", "dropout": 0.2},
        {"norm": "batch", "activation": "silu"},
        {"dtype": "float64", "loss": "mse"},
    ],
    ids=lambda options: ",".join(options) or "plain",
)
def test_streaming_changes_no_bit(
    tmp_path: Path, engine: str, threads: int, optimizer: str | None, options: dict[str, Any]
) -> None:
    arch = lm.Architecture((40, *[128] * 16, 10), **{"activation": "tanh"} | options)
    plain, paged = randomised(arch), on_disk(tmp_path, arch)
    plan = smallest(tmp_path, paged, optimizer, engine=engine, threads=threads)
    assert plan.streams == (True, optimizer == "adam")
    rules = [None if optimizer is None else lm.make_optimizer(optimizer) for _ in range(2)]
    everything = lm.plan(arch, ROWS, None, optimizer, engine=engine, threads=threads)
    steps = lm.Backprop(plain, everything, rules[0]), lm.Backprop(paged, plan, rules[1])
    for seed in range(3):
        one, other = (step(*batch(arch, ROWS, seed)) for step in steps)
        assert one[0] == other[0]
        for first, second in zip(one[1].arrays, other[1].arrays, strict=True):
            for name, array in first.items():
                np.testing.assert_array_equal(array, second[name])
        assert steps[1].disk_traffic == plan.disk_traffic
    np.testing.assert_array_equal(plain.learned, paged.learned)
    x, y = batch(arch, ROWS)
    outs = []
    for step in steps:
        out = np.zeros((ROWS, arch.widths[-1]), arch.dtype)
        step.forward(x, out)
        outs.append((out.copy(), step.loss(out, y)))
    np.testing.assert_array_equal(outs[0][0], outs[1][0])
    assert outs[0][1] == outs[1][1]
