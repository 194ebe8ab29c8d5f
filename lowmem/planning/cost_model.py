"""How long the pieces of a step take: a small cost model. `lowmem.measure.calibration` measures it.

Planning by FLOPs alone supposes that a narrow layer is as quick as a wide one, and that elementwise passes cost
nothing. In this model matrix products have a rate that depends on their shape, and elementwise kernels and the sum of
gradients take a time for each number.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

from lowmem.network.architecture import Architecture
from lowmem.network.layers import Layer
from lowmem.network.layers.base import DRAW_FLOPS, Work

ROWS = (16, 64, 256, 512, 2048)
WIDTHS = (16, 64, 128, 256, 512, 1024)
"""The grid: products of a (rows, width) by a (width, width) matrix."""

DRAW_SECONDS = 3e-9
"""Seconds of a random number by Philox on one machine. It is small beside all that is measured, so it is not."""


Grid = tuple[tuple[float, ...], ...]
"""Seconds per FLOP for each of `ROWS` and `WIDTHS`."""


@dataclass(frozen=True, slots=True)
class CostModel:
    """Seconds of the pieces of a step, for one dtype and engine.

    machine: what was measured, as text. dtype: of the numbers. engine: what carried out the step.
    products: for each of `ROWS` and `WIDTHS`, seconds per FLOP of x wᵀ, as the forward and δ^(l-1) need it.
    gradients: for each of `ROWS` and `WIDTHS`, seconds per FLOP of δᵀ x.
    value, slope: seconds per number of σ and of multiplying by σ', by the activation's name.
    bias: seconds per number of adding the bias.
    accumulate: seconds per parameter of summing up gradients.
    kept: seconds per byte of a state that leaves the cache before its layer is reversed, beyond all else.
    cache: bytes of states that do not leave it.
    """

    machine: str
    dtype: str
    products: Grid
    gradients: Grid
    value: dict[str, float]
    slope: dict[str, float]
    bias: float
    accumulate: float
    engine: str = "numpy"
    kept: float = 0.0
    cache: int = 0

    def forward(self, architecture: Architecture, layer: int, rows: int) -> float:
        """Return the seconds of making state `layer` from the one before on `rows` samples."""
        one = architecture.layer(layer)
        seconds = self._product(self.products, rows, one.entering, one.leaving)
        return seconds + rows * self._elementwise(one, one.forward)

    def backward(self, architecture: Architecture, layer: int, rows: int) -> float:
        """Return the seconds of reversing `layer` on `rows` samples."""
        one = architecture.layer(layer)
        seconds = self._product(self.gradients, rows, one.entering, one.leaving)
        if not one.is_first:
            seconds += self._product(self.products, rows, one.leaving, one.entering)
        return seconds + rows * self._elementwise(one, one.backward)

    def keeping(self, architecture: Architecture, rows: int) -> float:
        """Return the seconds that each number of a state takes because it leaves the cache before it is used again.

        In the backward pass the last state comes first, so as many states as the cache holds are still there. Which
        states a plan keeps makes little difference: what is made again is kept until its layer is reversed too.
        """
        whole = rows * sum(architecture.widths[1:]) * architecture.item_bytes
        return self.kept * architecture.item_bytes * max(1 - self.cache / whole, 0.0)

    def _elementwise(self, layer: Layer, work: Work) -> float:
        """Return the seconds for each row of all that is no product; a plain pass takes as long as adding a bias."""
        sigma = work.values * self.value[layer.activation] + work.slopes * self.slope[layer.activation]
        return sigma + work.plain * self.bias + work.draws * (DRAW_SECONDS + DRAW_FLOPS * self.bias)

    def _product(self, grid: Sequence[Sequence[float]], rows: int, entering: int, leaving: int) -> float:
        """Return the seconds of a product, its rate interpolated in rows and mean width, all on logarithmic scales."""
        width = (entering * leaving) ** 0.5
        low, high, share = _between(ROWS, rows)
        left, right, part = _between(WIDTHS, width)
        first, second = (_mean(grid[row][left], grid[row][right], part) for row in (low, high))
        return 2.0 * rows * entering * leaving * _mean(first, second, share)


def _between(grid: Sequence[int], number: float) -> tuple[int, int, float]:
    """Return the grid points around a number and how far it is between them; beyond the ends, the end."""
    if number <= grid[0]:
        return 0, 0, 0.0
    if number >= grid[-1]:
        return len(grid) - 1, len(grid) - 1, 0.0
    high = bisect_right(grid, number)
    low = high - 1
    return low, high, (log2(number) - log2(grid[low])) / (log2(grid[high]) - log2(grid[low]))


def _mean(one: float, other: float, share: float) -> float:
    """Return a number between two, by its share of the way on a logarithmic scale."""
    return one if one == other else one ** (1 - share) * other**share
