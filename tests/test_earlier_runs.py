"""Runs that an earlier version saved are resumed to the weights that it reached.

tests/data/saved_runs holds three runs on the digits, saved after two of four epochs with batches of 200 samples and
one lane, and the parameters after the fourth epoch, as the same version trained them. Bits depend on the BLAS library,
so they are compared within the rounding of float32. Biases in front of a BatchNorm are left out: it takes the mean
away, so that their gradient is rounding alone, and AdamW makes steps of full length of that.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.training.saved_run import open_run

FOLDER = Path(__file__).parent / "data" / "saved_runs"
STEPS = 9  # of an epoch: 1797 samples in batches of 200

RUNS: dict[str, tuple[dict[str, Any], dict[str, Any], list[float]]] = {
    "plain_adam": (
        {"widths": (64, 16, 16, 10)},
        {"lr": 3e-3},
        [1.9814849, 1.8253810],
    ),
    "residual_layernorm_dropout_momentum": (
        {
            "widths": (64, 16, 16, 16, 10),
            "residual": "scaled",
            "norm": "layer",
            "dropout": 0.1,
            "label_smoothing": 0.1,
        },
        {"momentum": 0.9, "nesterov": False},
        [1.9118032, 1.8244936],
    ),
    "batchnorm_gelu_adamw": (
        {
            "widths": (64, 16, 16, 10),
            "activation": "gelu",
            "residual": "learned",
            "norm": "batch",
            "overrides": {3: {"dropout": 0.2}},
        },
        {"lr": 2e-3, "beta1": 0.9, "beta2": 0.999},
        [1.9039085, 1.6758831],
    ),
}
"""By name: the architecture, some of the optimizer's settings, and the losses of the last two epochs."""


def test_every_run_in_the_folder_is_tried() -> None:
    assert {path.stem for path in FOLDER.glob("*.safetensors")} == RUNS.keys()


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_an_earlier_version_stands_where_it_stood(name: str) -> None:
    architecture, settings, _ = RUNS[name]
    run = open_run(FOLDER / f"{name}.safetensors")
    assert run.architecture == lm.Architecture(**architecture)
    assert run.optimizer.name == name.rpartition("_")[2]
    assert run.optimizer.step_count == 2 * STEPS
    assert run.optimizer.settings().items() >= settings.items()
    position = run.position
    assert (position.epoch, position.batch, position.steps, position.until) == (2, 0, 2 * STEPS, 4)
    assert (run.options["batch_size"], run.options["threads"]) == (200, 1)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_an_earlier_version_goes_on_to_the_weights_of_that_version(name: str) -> None:
    trainer = lm.Trainer.resume(FOLDER / f"{name}.safetensors", threads=1)
    assert trainer.epochs_done == 2
    before = trainer.mlp.parameters.copy()
    epochs = list(trainer.epochs(lm.open_data("digits")))
    assert [epoch.number for epoch in epochs] == [3, 4]
    assert [epoch.loss for epoch in epochs] == pytest.approx(RUNS[name][2], rel=1e-4)
    with np.load(FOLDER / "weights_after_epoch_4.npz") as weights:
        compared = determined(trainer.mlp.architecture)
        assert np.abs(weights[name] - before)[compared].max() > 0.01
        np.testing.assert_allclose(trainer.mlp.parameters[compared], weights[name][compared], rtol=1e-4, atol=1e-5)


def determined(architecture: lm.Architecture) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Indices of the parameters whose gradient is more than rounding."""
    numbered = lm.MLP(architecture)
    numbered.parameters[:] = np.arange(numbered.parameters.size)
    normed = numbered.biases[:-1] if architecture.norm == "batch" else []
    left_out = [index for bias in normed for index in bias.astype(np.int64)]
    return np.delete(np.arange(numbered.parameters.size), left_out)
