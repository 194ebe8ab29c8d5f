"""The activations σ and their slopes σ', as kernels that work in place on one tile and allocate nothing.

A tile is a C-contiguous array small enough for the CPU's cache, so what a kernel costs is the number of NumPy
passes it makes; each pass is one line. Formulas were chosen by measured time among those that neither overflow nor
lose a NaN: `tanh` is the fastest transcendental and saturates by itself, so the sigmoid family is written with it;
`np.clip` is three times as fast as `np.maximum` with a scalar; comparisons write 0.0 and 1.0 straight into a float
tile, which is faster than a product with a bool mask.

Where σ' is a function of the output the state of a layer is x = σ(s), else s: see `specs.ACTIVATIONS`, where the
record of an activation also names the file of this folder that holds its kernels.
"""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from lowmem.network.specs import ACTIVATIONS
from lowmem.nn.activations.base import Activation

__all__ = ["KERNELS", "Activation"]

KERNELS: Mapping[str, Activation] = MappingProxyType(
    {name: import_module(f"{__name__}.{spec.kernels}").KERNELS[name] for name, spec in ACTIVATIONS.items()}
)
"""The kernels of every activation by name."""
