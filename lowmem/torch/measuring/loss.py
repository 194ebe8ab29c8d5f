"""The loss, run on its own: what it takes, and what gradient it gives to the model's output."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lowmem.errors import InputError
from lowmem.torch.again import no_autocast
from lowmem.torch.measuring.meter import granule
from lowmem.torch.passes import Box, leaves, record, reverse
from lowmem.torch.stages import bytes_of, why
from lowmem.torch.values import Tensors

Loss = Callable[[Any], torch.Tensor]

Strides = tuple[tuple[int, ...] | None, ...]
"""Of gradients, as they lie in memory; None where there is none."""


@dataclass(frozen=True)
class LossRun:
    """What a loss has left.

    bytes: of its value, and of gradients of the parameters that it uses; of the model's own they wait for those that
    the chain gives. strides: how the gradients of the model's outputs lie in memory.
    """

    bytes: int
    strides: Strides


def run_loss(loss: Loss, outputs: Tensors, flags: Sequence[bool]) -> LossRun:
    """Run and reverse the loss. flags: which outputs have a gradient. Raises `InputError` for what is no loss."""

    def run(given: list[Any]) -> torch.Tensor:
        try:
            value = loss(given.pop())
        except Exception as error:  # the user's code may raise anything
            raise InputError(f"the loss cannot be computed from the model's output: {why(error)}.") from error
        if not isinstance(value, torch.Tensor):
            raise InputError(f"the loss must be a tensor of one number; got {type(value).__name__}.")
        if value.numel() != 1:
            raise InputError(f"the loss must be a tensor of one number; got one of shape {tuple(value.shape)}.")
        return value

    value, tape = record(run, [outputs], flags)
    if tape is None:
        raise InputError("the loss has no gradient; it must be a differentiable function of the output.")
    parameters = list(leaves(tape))
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    with no_autocast(value[0].device):
        inlet = reverse(tape, Box((torch.ones_like(value[0]),)))
    # The value may stay in more than a number's memory: mse_loss gives one in memory of the output's size.
    size = bytes_of([*value, *(parameter.grad for parameter in parameters)], granule(value[0].device))
    for parameter, gradient in zip(parameters, before, strict=True):
        parameter.grad = gradient
    return LossRun(size, strides_of(inlet))


def strides_of(gradients: Box) -> Strides:
    """Say how gradients lie in memory."""
    return tuple(None if gradient is None else gradient.stride() for gradient in gradients.tensors)


def gradients_for(outputs: Tensors, flags: Sequence[bool], strides: Strides | None) -> Box:
    """Return gradients of ones for the outputs that have one, as they lie in memory in a step."""
    chosen = [tensor for tensor, yes in zip(outputs, flags, strict=True) if yes]
    if strides is None or len(strides) != len(chosen):
        return Box(tuple(map(torch.ones_like, chosen)))
    return Box(tuple(None if each is None else _ones(x, each) for x, each in zip(chosen, strides, strict=True)))


def _ones(like: torch.Tensor, strides: tuple[int, ...]) -> torch.Tensor:
    """Return ones of a tensor's shape and type that lie in memory in a given way, expanded ones included."""
    size = 1 + sum((length - 1) * stride for length, stride in zip(like.shape, strides, strict=True))
    return like.new_ones(max(size, 0) if like.numel() else 0).as_strided(like.shape, strides)
