"""Training networks of all kinds of layers: what goes beyond one step, and must not be lost between steps."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from tests.helpers import KINDS, Array, batch

ARCH = (5, 8, 8, 8, 3)


def trained(kind: dict[str, Any], data: tuple[Array, Array], epochs: int, **options: Any) -> lm.Trainer:
    """Return a trainer after so many epochs, whose batches are of 8 rows but for the last one."""
    trainer = lm.Trainer(lm.MLP(lm.Architecture(ARCH, **kind), 1), lm.Adam(0.01), batch_size=8, seed=3, **options)
    list(trainer.epochs(data, epochs))
    return trainer


@pytest.mark.parametrize(
    "architecture",
    [
        lm.Architecture((257, 100, 33, 257, 33, 16), "softplus"),
        lm.Architecture((33, 7, 33, 1, 7, 100), "mish", dtype="float64", dropout=0.1),
        lm.Architecture((1, 16, 1, 7, 2, 100), "selu", dtype="float64", dropout=0.1),
    ],
)
def test_a_plan_for_single_samples_leaves_room_to_evaluate(architecture: lm.Architecture) -> None:
    mlp = lm.MLP(architecture)
    x, y = batch(architecture, 3)
    for strategy in ("store_all", "recompute_all"):
        trainer = lm.Trainer(mlp, batch_size=1, strategy=strategy)
        list(trainer.epochs((x, y), 1))
        loss, _ = trainer.evaluate((x, y))
        s = mlp.predict(x).astype(float)
        expected = np.mean(np.log(np.exp(s).sum(axis=1)) - s[np.arange(3), y])
        assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_the_seed_of_a_trainer_is_that_of_its_masks(clip_norm: float | None) -> None:
    architecture = lm.Architecture(ARCH, dropout=0.5)
    x, y = np.ones((8, 5), np.float32), np.zeros(8, np.int64)  # alike, so that their order is nothing
    expected = lm.Backprop(lm.MLP(architecture, 1), lm.plan(architecture, 8), seed=3)(x, y)[0]
    trainer = lm.Trainer(lm.MLP(architecture, 1), batch_size=8, seed=3, clip_norm=clip_norm)
    assert [epoch.loss for epoch in trainer.epochs((x, y), 1)] == [pytest.approx(expected, rel=1e-6)]
    assert lm.Backprop(lm.MLP(architecture, 1), lm.plan(architecture, 8))(x, y)[0] != pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("kind", "clip_norm"), [*product(KINDS[::3], [None, 0.1])])
def test_a_resumed_run_ends_with_the_bits_of_an_unbroken_one(
    tmp_path: Path, kind: dict[str, Any], clip_norm: float | None
) -> None:
    data = batch(lm.Architecture(ARCH), 44)
    whole = trained(kind, data, 4, clip_norm=clip_norm)
    trained(kind, data, 2, clip_norm=clip_norm).save(tmp_path / "run.safetensors")
    resumed = lm.Trainer.resume(tmp_path / "run.safetensors", strategy="recompute_all")
    list(resumed.epochs(data, 2))
    assert np.array_equal(resumed.mlp.parameters, whole.mlp.parameters)
    assert np.array_equal(resumed.mlp.running, whole.mlp.running)
