"""The PyTorch chains that scripts measure, and a step of each: by a plan, by checkpoint_sequential, or plain."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint_sequential

import lowmem.torch as lt

CHAINS = ("mlp", "transformer", "convolutions")

MIB = 2**20

Step = Callable[[], Any]


def chain(name: str, *, quick: bool = False) -> tuple[nn.Sequential, torch.Tensor, Callable[[Any], torch.Tensor]]:
    """Return a model, a batch and a loss, the same in every process."""
    torch.manual_seed(0)
    match name:
        case "mlp":
            depth, width, batch = (20, 128, 256) if quick else (100, 512, 512)
            layers = [nn.Sequential(_linear(width), nn.GELU()) for _ in range(depth)]
            return nn.Sequential(*layers), 1e-3 * torch.randn(batch, width), _square
        case "transformer":
            depth, batch = (6, 2) if quick else (24, 8)
            layer = [nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True) for _ in range(depth)]
            return nn.Sequential(*layer), torch.randn(batch, 128, 256), _square
        case "convolutions":
            first, batch, side = (8, 2, 32) if quick else (32, 16, 64)
            widths = [3, *(first * 2**stage for stage in range(4) for _ in range(5))]  # 20 stages, ever smaller
            stages = [_convolution(widths[n], widths[n + 1], 2 if n in (5, 10, 15) else 1) for n in range(20)]
            return nn.Sequential(*stages), torch.randn(batch, 3, side, side), _square
    raise ValueError(f"unknown chain {name!r}")


def _linear(width: int) -> nn.Linear:
    """Return a layer that keeps small numbers at their size: around 0 the slope of gelu is ½.

    By PyTorch's own initialisation they shrink at every layer; beyond the sixtieth or so they cannot be told from 0,
    and products of such numbers take twenty times as long.
    """
    layer = nn.Linear(width, width)
    nn.init.normal_(layer.weight, std=2 * width**-0.5)
    nn.init.zeros_(layer.bias)
    return layer


def _convolution(entering: int, leaving: int, stride: int) -> nn.Sequential:
    layer = nn.Conv2d(entering, leaving, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(leaving), nn.ReLU(inplace=True))


def _square(output: torch.Tensor) -> torch.Tensor:
    return (output * output).mean()


def plain_step(
    model: nn.Module, x: torch.Tensor, loss: Callable[[Any], torch.Tensor], forward: Callable[[Any], Any] | None = None
) -> Step:
    """Return a step that leaves its gradients in the parameters, which have none when it begins.

    forward: how the model runs, where that is not plainly.
    """

    def step() -> Any:  # noqa: ANN401 - the output and the loss, which a training loop holds until the end
        model.zero_grad(set_to_none=True)
        output = (forward or model)(x)
        value = loss(output)
        value.backward()
        return output, value

    return step


def planned_step(model: nn.Sequential, x: torch.Tensor, loss: Callable[[Any], torch.Tensor], plan: lt.Plan) -> Step:
    """Return a step of the model by a plan."""
    return plain_step(lt.checkpointed(model, plan), x, loss)


def sequential_step(model: nn.Sequential, x: torch.Tensor, loss: Callable[[Any], torch.Tensor], segments: int) -> Step:
    """Return a step by PyTorch's checkpoint_sequential with so many segments."""

    def forward(batch: torch.Tensor) -> torch.Tensor:
        return checkpoint_sequential(model, segments, batch, use_reentrant=False)

    return plain_step(model, x, loss, forward)


def gradients_of(model: nn.Module) -> str:
    """Return a name of all gradients' bits."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(b"" if parameter.grad is None else parameter.grad.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
