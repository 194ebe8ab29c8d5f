"""Activations and losses beside PyTorch's. Run apart from the other tests: PyTorch is large."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lowmem.network.specs import ACTIVATIONS, LOSSES
from lowmem.nn import activations, losses

torch = pytest.importorskip("torch")
F = torch.nn.functional

Array = NDArray[Any]

ACTIVATION = {
    "identity": lambda s: s * 1.0,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": lambda s: F.softplus(s, threshold=50),
    "gelu": F.gelu,
    "gelu_tanh": lambda s: F.gelu(s, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
}
LOSS = {
    "mse": F.mse_loss,
    "cross_entropy": F.cross_entropy,
    "bce": F.binary_cross_entropy_with_logits,
    "huber": F.huber_loss,
    "mae": F.l1_loss,
    "quantile": lambda s, y: F.l1_loss(s, y) / 2,
    "poisson": F.poisson_nll_loss,
}
RTOL = {"float32": 2e-6, "float64": 1e-12}
ATOL = {"float32": 3e-6, "float64": 1e-14}


@pytest.mark.parametrize("dtype", sorted(RTOL))
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activation_and_slope_are_those_of_pytorch(name: str, dtype: str) -> None:
    facts, kernel = ACTIVATIONS[name], activations.KERNELS[name]
    s = np.concatenate([np.linspace(-15, 15, 4095), [0.0]]).astype(dtype).reshape(64, 64)
    delta = np.random.default_rng(0).standard_normal(s.shape).astype(dtype)
    theirs = torch.from_numpy(s.copy()).requires_grad_()
    their_value = ACTIVATION[name](theirs)
    their_value.backward(torch.from_numpy(delta.copy()))

    value = np.empty_like(s)
    kernel.value(s, value, [np.empty_like(s) for _ in range(facts.value_scratch)])
    np.testing.assert_allclose(value, their_value.detach().numpy(), rtol=RTOL[dtype], atol=ATOL[dtype])
    state = value if facts.state == "x" else s
    scratch = [np.empty_like(s) for _ in range(facts.slope_scratch)]
    if kernel.pull_back is not None:
        kernel.pull_back(state, delta, scratch)
    else:
        assert kernel.split is not None
        kernel.split(state, value, scratch)
        state *= delta
    np.testing.assert_allclose(state, theirs.grad.numpy(), rtol=RTOL[dtype], atol=ATOL[dtype])


@pytest.mark.parametrize("dtype", sorted(RTOL))
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_loss_and_delta_are_those_of_pytorch(name: str, dtype: str) -> None:
    rng, rows, outputs = np.random.default_rng(0), 128, 10
    s = (4 * rng.standard_normal((rows, outputs))).astype(dtype)
    y: Array = rng.integers(0, outputs, rows) if LOSSES[name].labels else rng.random(s.shape).astype(dtype)
    theirs = torch.from_numpy(s.copy()).requires_grad_()
    their_loss = LOSS[name](theirs, torch.from_numpy(y))
    their_loss.backward()

    scratch = losses.LossScratch(
        tiles=tuple(np.empty_like(s) for _ in range(LOSSES[name].scratch)),
        rows=tuple(np.empty(rows, dtype) for _ in range(LOSSES[name].row_scratch)),
        index=np.empty(rows, np.intp),
        starts=np.arange(rows) * outputs,
    )
    scale = losses.loss_scale(name, rows, outputs)
    loss = losses.KERNELS[name].fold(s, y, scale, scratch) * scale
    assert loss == pytest.approx(their_loss.item(), rel=RTOL[dtype])
    np.testing.assert_allclose(s, theirs.grad.numpy(), rtol=RTOL[dtype], atol=ATOL[dtype])
