"""Steps beside PyTorch's: loss, gradients, optimizers, and how many layers checkpointing runs."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import lowmem as lm
from lowmem.network.specs import ACTIVATIONS, LOSSES
from lowmem.nn.optimizers import OPTIMIZERS
from tests.helpers import FIXED, batch, randomised
from tests.peers.test_torch_kernels import LOSS

torch = pytest.importorskip("torch")
F = torch.nn.functional
checkpoint = pytest.importorskip("torch.utils.checkpoint")

Array = NDArray[Any]

ACTIVATION = {
    "identity": torch.nn.Identity,
    "relu": torch.nn.ReLU,
    "leaky_relu": torch.nn.LeakyReLU,
    "elu": torch.nn.ELU,
    "selu": torch.nn.SELU,
    "tanh": torch.nn.Tanh,
    "sigmoid": torch.nn.Sigmoid,
    "softplus": lambda: torch.nn.Softplus(threshold=50),
    "gelu": torch.nn.GELU,
    "gelu_tanh": lambda: torch.nn.GELU(approximate="tanh"),
    "silu": torch.nn.SiLU,
    "mish": torch.nn.Mish,
}
TOLERANCE = {"float32": 1e-4, "float64": 1e-11}


def same_network(mlp: lm.MLP) -> Any:
    """Return an nn.Sequential with copies of a network's weights."""
    parts: list[Any] = []
    for layer, (w, b) in enumerate(zip(mlp.weights, mlp.biases, strict=True), 1):
        linear = torch.nn.Linear(*w.T.shape, dtype=getattr(torch, mlp.architecture.dtype))
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(w.copy()))
            linear.bias.copy_(torch.from_numpy(b.copy()))
        parts.append(linear)
        if layer < mlp.architecture.layers:
            parts.append(ACTIVATION[mlp.architecture.activation]())
    return torch.nn.Sequential(*parts)


def flat(network: Any, part: str) -> Array:
    """Return all parameters, or all their gradients, in one array in our order."""
    parameters = list(network.parameters())
    arrays = [p.grad if part == "grad" else p for p in parameters]
    return np.concatenate([array.detach().numpy().ravel() for array in arrays])


@pytest.mark.parametrize("dtype", sorted(TOLERANCE))
@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_loss_and_gradients_are_those_of_pytorch(activation: str, loss: str, dtype: str) -> None:
    architecture = lm.Architecture((8, 20, 11, 1, 30, 5), activation, loss, dtype)
    mlp = randomised(architecture)
    x, y = batch(architecture, 600)
    network = same_network(mlp)
    theirs = LOSS[loss](network(torch.from_numpy(x)), torch.from_numpy(y))
    theirs.backward()
    expected = flat(network, "grad")
    for strategy, options in FIXED[::3]:
        our_loss, gradients = lm.Backprop(mlp, lm.plan(architecture, 600, strategy=strategy, **options))(x, y)
        pairs = zip(gradients.weights, gradients.biases, strict=True)
        ours = np.concatenate([array.ravel() for pair in pairs for array in pair])
        assert our_loss == pytest.approx(float(theirs.detach()), rel=TOLERANCE[dtype])
        assert np.linalg.norm(ours - expected) <= TOLERANCE[dtype] * np.linalg.norm(expected)


def their_optimizer(name: str, parameters: Any, lr: float, decay: float) -> Any:
    """Return PyTorch's optimizer with the settings of `make_optimizer`."""
    if name in ("adam", "adamw"):
        kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
        return kind(parameters, lr=lr, weight_decay=decay)
    momentum = 0.0 if name == "sgd" else 0.9
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, nesterov=name == "nesterov", weight_decay=decay)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-3)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_ten_steps_are_those_of_pytorch(name: str, decay: float, dtype: str, tolerance: float) -> None:
    architecture = lm.Architecture((6, 15, 15, 4), "tanh", dtype=dtype)
    mlp, optimizer = randomised(architecture), lm.make_optimizer(name, lr=0.02, weight_decay=decay)
    before = mlp.parameters.copy()
    network = same_network(mlp)
    other = their_optimizer(name, network.parameters(), 0.02, decay)
    backprop = lm.Backprop(mlp, lm.plan(architecture, 50, None, name, "sqrt"), optimizer)
    for step in range(10):
        x, y = batch(architecture, 50, step)
        loss, _ = backprop(x, y)
        other.zero_grad()
        theirs = F.cross_entropy(network(torch.from_numpy(x)), torch.from_numpy(y))
        theirs.backward()
        other.step()
        assert loss == pytest.approx(float(theirs.detach()), rel=tolerance)
    moved = np.linalg.norm(mlp.parameters - before)
    assert moved > 0.01
    assert np.linalg.norm(mlp.parameters - flat(network, "data")) < tolerance * moved


def test_a_hundred_layers_run_fewer_forwards_than_checkpoint_sequential() -> None:
    architecture = lm.Architecture((16, *[16] * 99, 4), "tanh")
    mlp = randomised(architecture)
    x, y = batch(architecture, 8)
    network = same_network(mlp)
    stages = [torch.nn.Sequential(*network[n : n + 2]) for n in range(0, len(network), 2)]
    runs = 0

    def count(*_: Any) -> None:
        nonlocal runs
        runs += 1

    for stage in stages:
        stage[0].register_forward_hook(count)
    source = torch.from_numpy(x).requires_grad_()
    outputs = checkpoint.checkpoint_sequential(torch.nn.Sequential(*stages), 10, source, use_reentrant=False)
    F.cross_entropy(outputs, torch.from_numpy(y)).backward()

    plan = lm.plan(architecture, 8, strategy="sqrt")
    assert runs == 190
    assert plan.forward_runs == 181
    assert lm.Backprop(mlp, plan)(x, y)[0] == pytest.approx(
        float(F.cross_entropy(outputs.detach(), torch.from_numpy(y)))
    )
