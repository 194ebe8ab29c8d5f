"""A penalty of the weights alone, as scikit-learn has it; and which optimizers have a rule of their own."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lowmem.nn.optimizers import SGD, Adam, AdamW, Optimizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]

LEAST_PENALTY = 1e-20
"""A smaller λ counts as 0: g / λ would overflow in float32."""


class Spans:
    """Where weights lie in memory: it tells weights from biases in a chunk of the parameters."""

    def __init__(self, weights: Sequence[Array]) -> None:
        spans = sorted((_address(w), w.nbytes) for w in weights)
        self._starts = [start for start, _ in spans]
        self._stops = [start + size for start, size in spans]

    def within(self, chunk: Array) -> slice:
        """Return the part of a chunk that holds weights. chunk: parameters of one layer."""
        start, item = _address(chunk), chunk.itemsize
        place = bisect_right(self._starts, start + chunk.nbytes - 1) - 1
        if place < 0:
            return slice(0, 0)
        first, last = max(self._starts[place], start), min(self._stops[place], start + chunk.nbytes)
        return slice((first - start) // item, max(last - start, first - start) // item)


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


class Penalised(Optimizer):
    """An optimizer that adds λ w to the gradient of weights, and nothing to that of biases.

    One whose decay is decoupled shrinks weights by η λ w beside its step instead. The penalty comes after clipping. It
    is added to a chunk just before its update, so that it takes no array and no pass of its own.

    penalty: λ, set before each step.
    weights: where the weights lie; None adds nothing with the NumPy engine. The compiled engine knows where they are.
    """

    penalty: float = 0.0
    weights: Spans | None = None

    def rule(self, w: Array, g: Array, states: tuple[Array, ...], scratch: tuple[Array, ...]) -> None:
        """Update a chunk; see `Optimizer.rule`."""
        if self.weights is not None and self.penalty > LEAST_PENALTY:
            part = self.weights.within(w)
            self._penalise(w[part], g[part])
        super().rule(w, g, states, scratch)  # type: ignore[safe-super]  # that of the class beside this one

    def _penalise(self, w: Array, g: Array) -> None:
        """Add the penalty to weights, or to their gradient: g + λ w as (g / λ + w) λ, without a working array."""
        import numpy as np

        if getattr(self, "decoupled", False):
            np.multiply(w, 1.0 - self.lr * self.penalty, out=w)
            return
        np.divide(g, self.penalty, out=g)
        np.add(g, w, out=g)
        np.multiply(g, self.penalty, out=g)


_COMPILED = (Optimizer, SGD, Adam, AdamW, Penalised)
"""Classes whose rules the compiled engine has, too."""


def own_rule(optimizer: object) -> str | None:
    """Return the name of the class that gives an optimizer a rule which is not compiled; None if there is none.

    Such an optimizer runs with the NumPy engine, which calls it, whatever its name.
    """
    for owner in (optimizer, *type(optimizer).__mro__):
        if owner not in _COMPILED and {"update", "rule", "_penalise"} & getattr(owner, "__dict__", {}).keys():
            return type(optimizer).__name__
    return None
