"""What the kernels of an activation are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Tile: TypeAlias = NDArray[np.floating[Any]]
Kernel: TypeAlias = Callable[[Tile, Tile, Sequence[Tile]], None]


@dataclass(frozen=True, slots=True)
class Activation:
    """One activation σ, elementwise.

    value: `value(s, out, scratch)` writes σ(s) to `out`. `out` may be `s` itself; if it is not, s stays intact.
    pull_back: where the state is x, `pull_back(x, delta, scratch)` overwrites x = σ(s) with delta ⊙ σ'. `delta` may be
        destroyed.
    split: where the state is s, `split(s, out, scratch)` writes σ(s), the very bits of `value`, to `out` (another
        array) and overwrites s with σ'(s): both share what is dear in them.

    All arrays of one call have the same shape and dtype (float32 or float64) and `scratch` holds as many as
    `value_scratch` or `slope_scratch` of the activation's record; none may overlap another, but for `out` being `s`.
    """

    name: str
    value: Kernel
    pull_back: Kernel | None = None
    split: Kernel | None = None


def gathered(*activations: Activation) -> Mapping[str, Activation]:
    """Return the activations of a file by name."""
    return MappingProxyType({activation.name: activation for activation in activations})
