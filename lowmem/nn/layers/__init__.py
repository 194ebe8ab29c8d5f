"""The NumPy kernels of layers: for each file of `lowmem.network.layers` one of the same name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from lowmem.network.architecture import Architecture
from lowmem.network.layers import Layer
from lowmem.network.layers.postactivation import Postactivation
from lowmem.network.layers.preactivation import Preactivation
from lowmem.nn.activations import KERNELS as SIGMA
from lowmem.nn.activations import Activation
from lowmem.nn.layers.base import LayerKernels
from lowmem.nn.layers.postactivation import PostactivationKernels
from lowmem.nn.layers.preactivation import PreactivationKernels

__all__ = ["KERNELS", "kernels_of"]

KERNELS: Mapping[type[Layer], Callable[[Any, Activation], LayerKernels]] = MappingProxyType(
    {Postactivation: PostactivationKernels, Preactivation: PreactivationKernels}
)
"""The kernels of every kind of layer."""


def kernels_of(architecture: Architecture) -> list[LayerKernels]:
    """Return the kernels of layers 1..L of a network; equal layers share theirs."""
    by_layer: dict[int, LayerKernels] = {}
    for layer in architecture.each_layer:
        if id(layer) not in by_layer:
            by_layer[id(layer)] = KERNELS[type(layer)](layer, SIGMA[layer.activation])
    return [by_layer[id(layer)] for layer in architecture.each_layer]
