"""Normalisation on the way into a layer: y = γ ⊙ x̂ + β, one record for each kind.

x̂ is the state less its mean, over its deviation. What the kinds differ in is over which numbers: over a row (layer,
rms), or over a column of the whole batch (batch).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

EPSILON = 1e-5
"""Added to the variance, as PyTorch does."""


@dataclass(frozen=True, slots=True)
class Norm:
    """One kind of normalisation, with a learned gain γ and, if `shifts`, a learned shift β.

    forward_flops: operations for each number to make x̂.
    backward_flops: operations for each number to go back; what is done once a step counts here, too.
    shifts: whether there is a shift.
    couples: whether samples of a batch depend on each other.
    columns: working columns of a tile, a number for each row.
    row_columns: columns that the backward of a whole pass keeps, a number for each row.
    """

    name: str
    forward_flops: int
    backward_flops: int
    shifts: bool = True
    couples: bool = False
    columns: int = 1
    row_columns: int = 1

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the learned vectors, as wide as the state."""
        return ("gain", "shift") if self.shifts else ("gain",)

    @property
    def affine_flops(self) -> int:
        """Operations for each number to make y of x̂."""
        return 2 if self.shifts else 1


NORMS: Mapping[str, Norm] = MappingProxyType(
    {
        norm.name: norm
        for norm in (
            Norm("layer", forward_flops=5, backward_flops=13, columns=2),
            Norm("rms", forward_flops=3, backward_flops=9, shifts=False),
            # Back: the sums, what follows them, and the statistics, once.
            Norm("batch", forward_flops=2, backward_flops=5 + 4 + 6, couples=True, columns=0, row_columns=0),
        )
    }
)
"""Every normalisation by name; its kernels lie in `lowmem.nn.layers.norms`."""
