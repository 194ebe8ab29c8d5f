"""The PyTorch chains that scripts measure, and a step of each: by a plan, by checkpoint_sequential, or plain."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint_sequential

import lowmem.torch as lt

CHAINS = ("mlp", "transformer", "convolutions")

LARGE = ("large mlp", "large transformer", "large convolutions")
"""Chains for a GPU: storing everything takes some 30 GiB. They train under autocast to bfloat16."""

Step = Callable[[], Any]

Within = Callable[[], AbstractContextManager[Any]]
"""Makes the context that forward pass and loss run in."""


def chain(name: str, *, quick: bool = False) -> tuple[nn.Sequential, torch.Tensor, Callable[[Any], torch.Tensor]]:
    """Return a model, a batch and a loss, the same in every process; under `torch.device` they are on that device."""
    torch.manual_seed(0)
    match name:
        case "mlp":
            depth, width, batch = (20, 128, 256) if quick else (100, 512, 512)
            return _mlp(depth, width), 1e-3 * torch.randn(batch, width), _square
        case "large mlp":
            depth, width, batch = (12, 128, 256) if quick else (64, 4096, 32768)
            return _mlp(depth, width), 1e-3 * torch.randn(batch, width), _square
        case "transformer":
            depth, batch = (6, 2) if quick else (24, 8)
            layer = [nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True) for _ in range(depth)]
            return nn.Sequential(*layer), torch.randn(batch, 128, 256), _square
        case "large transformer":
            depth, width, batch, tokens = (6, 128, 2, 64) if quick else (24, 2048, 4, 2048)
            encoder = partial(nn.TransformerEncoderLayer, activation="gelu", batch_first=True, norm_first=True)
            layer = [encoder(width, width // 64, 4 * width) for _ in range(depth)]
            return nn.Sequential(*layer), torch.randn(batch, tokens, width), _square
        case "convolutions":
            first, batch, side = (8, 2, 32) if quick else (32, 16, 64)
            return _convolutions(first), torch.randn(batch, 3, side, side), _square
        case "large convolutions":
            first, batch, side = (8, 2, 32) if quick else (64, 256, 224)
            return _convolutions(first), torch.randn(batch, 3, side, side), _square
    raise ValueError(f"unknown chain {name!r}")


def within(name: str, device: str) -> Within:
    """Return the context that a chain trains in: large ones under autocast to bfloat16."""
    return partial(torch.autocast, device, torch.bfloat16) if name in LARGE else nullcontext


def _mlp(depth: int, width: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Sequential(_linear(width), nn.GELU()) for _ in range(depth)))


def _linear(width: int) -> nn.Linear:
    """Return a layer that keeps small numbers at their size: around 0 the slope of gelu is ½.

    By PyTorch's own initialisation they shrink at every layer; beyond the sixtieth or so they cannot be told from 0,
    and products of such numbers take twenty times as long.
    """
    layer = nn.Linear(width, width)
    nn.init.normal_(layer.weight, std=2 * width**-0.5)
    nn.init.zeros_(layer.bias)
    return layer


def _convolutions(first: int) -> nn.Sequential:
    """Return 20 stages, ever smaller. first: channels of the first ones."""
    widths = [3, *(first * 2**stage for stage in range(4) for _ in range(5))]
    return nn.Sequential(*(_convolution(widths[n], widths[n + 1], 2 if n in (5, 10, 15) else 1) for n in range(20)))


def _convolution(entering: int, leaving: int, stride: int) -> nn.Sequential:
    layer = nn.Conv2d(entering, leaving, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(leaving), nn.ReLU(inplace=True))


def _square(output: torch.Tensor) -> torch.Tensor:
    return (output * output).mean()


def plain_step(
    model: nn.Module,
    x: torch.Tensor,
    loss: Callable[[Any], torch.Tensor],
    forward: Callable[[Any], Any] | None = None,
    within: Within = nullcontext,
) -> Step:
    """Return a step that leaves its gradients in the parameters, which have none when it begins.

    forward: how the model runs, where that is not plainly. within: the context of forward pass and loss.
    """

    def step() -> Any:  # noqa: ANN401 - the output and the loss, which a training loop holds until the end
        model.zero_grad(set_to_none=True)
        with within():
            output = (forward or model)(x)
            value = loss(output)
        value.backward()
        return output, value

    return step


def planned_step(
    model: nn.Sequential,
    x: torch.Tensor,
    loss: Callable[[Any], torch.Tensor],
    plan: lt.Plan,
    within: Within = nullcontext,
) -> Step:
    """Return a step of the model by a plan."""
    return plain_step(lt.checkpointed(model, plan), x, loss, within=within)


def sequential_step(
    model: nn.Sequential,
    x: torch.Tensor,
    loss: Callable[[Any], torch.Tensor],
    segments: int,
    within: Within = nullcontext,
) -> Step:
    """Return a step by PyTorch's checkpoint_sequential with so many segments."""

    def forward(batch: torch.Tensor) -> torch.Tensor:
        return checkpoint_sequential(model, segments, batch, use_reentrant=False)

    return plain_step(model, x, loss, forward, within)


def gradients_of(model: nn.Module) -> str:
    """Return a name of all gradients' bits."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(b"" if parameter.grad is None else parameter.grad.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
