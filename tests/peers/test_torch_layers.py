"""Residual layers, norms, dropout and label smoothing beside PyTorch's modules and its autograd."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.interchange.torch_modules import tensors, torch_code
from lowmem.network.layers.dropout import padded
from lowmem.nn.layers.dropout import Philox
from tests.helpers import FIXED, KINDS, batch, names, stirred

torch = pytest.importorskip("torch")
F = torch.nn.functional

TOLERANCE = {"float32": 2e-4, "float64": 1e-9}


def there(mlp: lm.MLP, folder: Path) -> Any:
    """Return the network in PyTorch, in training, made by the code that we print."""
    lm.export_torch(mlp, folder / "net.safetensors")
    made: dict[str, Any] = {}
    exec(torch_code(mlp.architecture, folder / "net.safetensors"), made)
    return made["net"].train()


def drop_by_our_numbers(net: Any, architecture: lm.Architecture) -> None:
    """Give the dropout modules of a network the masks of our first step."""
    layer = 2

    def bind(module: Any, number: int) -> None:
        def forward(x: Any) -> Any:
            source, rate = Philox(0), architecture.option(number, "dropout")
            source.step = 1
            drawn = np.empty((len(x), padded(x.shape[1])), architecture.dtype)
            source.draw(number, 0, drawn)
            kept = ((drawn[:, : x.shape[1]] >= rate) / (1 - rate)).astype(architecture.dtype)
            return x * torch.from_numpy(kept)

        module.forward = forward

    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            bind(module, layer)
            layer += 1


@pytest.mark.parametrize("dtype", sorted(TOLERANCE))
@pytest.mark.parametrize("kind", KINDS, ids=names)
def test_a_step_is_that_of_pytorch(tmp_path: Path, kind: dict[str, Any], dtype: str) -> None:
    architecture = lm.Architecture((8, 20, 20, 11, 30, 30, 5), "gelu", dtype=dtype, label_smoothing=0.1, **kind)
    mlp = stirred(architecture)
    net = there(mlp, tmp_path)
    drop_by_our_numbers(net, architecture)
    x, y = batch(architecture, 600)
    theirs = F.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(y), label_smoothing=0.1)
    theirs.backward()
    for strategy, options in FIXED[::4]:
        running = mlp.running.copy()
        loss, gradients = lm.Backprop(mlp, lm.plan(architecture, 600, strategy=strategy, **options))(x, y)
        assert loss == pytest.approx(float(theirs.detach()), rel=TOLERANCE[dtype])
        state = {name: value for name, value in net.named_buffers()}
        grads = {name: value.grad for name, value in net.named_parameters()}
        shadow = lm.MLP.empty(architecture)
        for number, its in enumerate(gradients.arrays):
            for name, g in its.items():
                shadow.arrays[number][name][:] = g
        shadow.running[:] = mlp.running
        for name, ours in tensors(shadow).items():
            expected = (state[name] if "running" in name else grads[name]).numpy()
            # A bias before a norm over the batch has the gradient 0, and both have the rounding of its terms, which
            # are as large as those of the weights' gradient.
            scale = float(np.linalg.norm(expected))
            if name.endswith("bias") and scale < 1e-6:
                scale = float(np.linalg.norm(grads[name.replace("bias", "weight")]))
            allowed = TOLERANCE[dtype] * (scale + 1e-3)
            assert np.linalg.norm(ours - expected) <= allowed, name
        mlp.running[:] = running


@pytest.mark.parametrize("kind", KINDS, ids=names)
def test_a_network_goes_there_and_comes_back(tmp_path: Path, kind: dict[str, Any]) -> None:
    files = pytest.importorskip("safetensors.torch")
    architecture = lm.Architecture((8, 20, 20, 11, 11, 5), "silu", **kind)
    mlp = stirred(architecture)
    x, _ = batch(architecture, 100)
    net = there(mlp, tmp_path).eval()
    with torch.no_grad():
        np.testing.assert_allclose(net(torch.from_numpy(x)).numpy(), mlp.predict(x), rtol=1e-4, atol=1e-5)
        for parameter in net.parameters():
            parameter += 0.01
    files.save_file(net.state_dict(), tmp_path / "back.safetensors")
    back = lm.import_torch(tmp_path / "back.safetensors", architecture)
    with torch.no_grad():
        np.testing.assert_allclose(back.predict(x), net(torch.from_numpy(x)).numpy(), rtol=1e-4, atol=1e-5)
