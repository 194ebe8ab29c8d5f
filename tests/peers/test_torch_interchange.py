"""Networks go to PyTorch and come from it with equal outputs, by the code that `torch_code` prints."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.interchange.torch_modules import torch_code
from lowmem.network.specs import ACTIVATIONS
from tests.helpers import batch, randomised

torch = pytest.importorskip("torch")
files = pytest.importorskip("safetensors.torch")

TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


def loaded(architecture: lm.Architecture, path: Path) -> Any:
    """Return the network that the printed code makes."""
    names: dict[str, Any] = {}
    exec(torch_code(architecture, path), names)
    return names["net"]


def apart(one: Any, other: Any) -> float:
    """Return the largest difference, relative to the largest output."""
    return float(np.abs(one - other).max() / np.abs(other).max())


@pytest.mark.parametrize("dtype", sorted(TOLERANCE))
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_a_network_trained_here_gives_the_same_outputs_there(tmp_path: Path, activation: str, dtype: str) -> None:
    architecture = lm.Architecture((8, 30, 30, 30, 17, 5), activation, "mse", dtype)
    mlp = randomised(architecture)
    x, y = batch(architecture, 200)
    for _ in lm.Trainer(mlp, lm.Adam(lr=1e-3), batch_size=50).epochs((x, y), 2):
        pass
    lm.export_torch(mlp, tmp_path / "net.safetensors")
    net = loaded(architecture, tmp_path / "net.safetensors")
    with torch.no_grad():
        assert apart(net(torch.from_numpy(x)).numpy(), mlp.predict(x)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", sorted(TOLERANCE))
def test_a_network_trained_there_gives_the_same_outputs_here(tmp_path: Path, dtype: str) -> None:
    nn = torch.nn
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 30), nn.SiLU(), nn.Linear(30, 30), nn.SiLU(), nn.Linear(30, 5))
    net = net.to(getattr(torch, dtype))
    architecture = lm.Architecture((8, 30, 30, 5), "silu", "cross_entropy", dtype)
    x, y = batch(architecture, 100)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(y)).backward()
        optimizer.step()
    files.save_file(net.state_dict(), tmp_path / "net.safetensors")
    mlp = lm.import_torch(tmp_path / "net.safetensors", activation="silu", loss="cross_entropy")
    assert mlp.architecture == architecture
    with torch.no_grad():
        assert apart(mlp.predict(x), net(torch.from_numpy(x)).numpy()) < TOLERANCE[dtype]


def test_a_hundred_layers_load(tmp_path: Path) -> None:
    architecture = lm.Architecture((16, *[32] * 99, 4), "tanh")
    lm.export_torch(lm.MLP(architecture), tmp_path / "net")
    assert len(loaded(architecture, tmp_path / "net")) == 199


def test_modules_that_we_have_not_are_named(tmp_path: Path) -> None:
    nn = torch.nn
    net = nn.Sequential(nn.Linear(8, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 5, bias=False))
    files.save_file(net.state_dict(), tmp_path / "net")
    with pytest.raises(lm.InputError, match=r"unexpected: .*1\.running_mean|missing: 2\.weight, 2\.bias"):
        lm.import_torch(tmp_path / "net", activation="relu", loss="mse")
    eighths = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in nn.Linear(2, 3).state_dict().items()}
    files.save_file(eighths, tmp_path / "net")
    with pytest.raises(lm.InputError, match="is F8_E4M3; known are "):
        lm.import_torch(tmp_path / "net", activation="relu", loss="mse")
