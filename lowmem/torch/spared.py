"""Products that need not be taken: those whose result nobody looks at.

The backward of a linear layer or a convolution needs what entered the layer, its weight and the gradient of its
output, but not the output. So where such a stage is recorded for its tape alone, its product is left out: PyTorch
builds the same graph around memory that is never read. `measure` sees for every stage whether gradients keep their
bits by this, and what it spares.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import TorchDispatchMode

from lowmem.torch.stages import Group, forward_of, hooked

_aten = torch.ops.aten

PRODUCTS = frozenset({_aten.addmm.default, _aten.mm.default, _aten.bmm.default, _aten.convolution.default})
"""Operations whose backward does not look at their result."""

LAYERS = frozenset(
    layer.forward
    for layer in (
        *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
        *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    )
)
"""Modules that take one product, and do nothing with its result."""


def spares(group: Group) -> bool:
    """Say whether a stage may be one product."""
    if len(group.children) > 1:
        return False
    module = group.children[0].module
    return forward_of(module) in LAYERS and not hooked(module) and not is_parametrized(module)


class NoProducts(TorchDispatchMode):
    """A context in which products are not taken: they give memory of the right shape with anything in it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Carry out an operation, or leave it out."""
        if func not in PRODUCTS:
            return func(*args, **(kwargs or {}))
        like = func(*(_shape_of(each) for each in args), **(kwargs or {}))
        sample = next(each for each in args if isinstance(each, torch.Tensor))
        return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=sample.device)


def _shape_of(value: Any) -> Any:  # noqa: ANN401 - an argument of an operation
    """Return a tensor's shape as a tensor without memory, and anything else as it is."""
    return value.to("meta") if isinstance(value, torch.Tensor) else value
