"""x^(l) = σ(w^(l) x^(l-1) + b^(l)): the plain layer where σ' is a function of the output, so that x is the state.

On row tiles: the product, then the bias and σ while the tile is in cache. A layer can overwrite its own input, as a
tile's input is used up before its output is written, and δ^(l-1) takes the place of the state l-1, tile by tile.
Products have the same shapes for the same batch, in place or not, stored or recomputed, so every strategy computes the
same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lowmem.network.layers.base import Call, Layer, Reversal, Rooms, Site, Work, numbers

if TYPE_CHECKING:
    from lowmem.network.layers.base import Array, Kernel, Scratch, Tiles


@dataclass(frozen=True, slots=True)
class Postactivation(Layer):
    """A plain layer that ends with σ; the last one has none, as its σ belongs to the loss."""

    @property
    def kind(self) -> Literal["x", "s"]:
        """The last layer leaves s^(L)."""
        return "s" if self.is_last else "x"

    @property
    def forward(self) -> Work:
        """A product, the bias, σ."""
        values = 0 if self.is_last else self.leaving
        return Work(self.entering * self.leaving, values=values, plain=self.leaving)

    @property
    def backward(self) -> Work:
        """The weights' gradient, the bias's, and δ^(l-1)."""
        pairs = self.entering * self.leaving
        if self.is_first:
            return Work(pairs, sums=self.leaving)
        return Work(2 * pairs, sums=self.leaving, slopes=self.entering)

    def forward_rooms(self, *, in_place: bool) -> Rooms:
        """In place, the tile is computed beside its input first."""
        values = 0 if self.is_last else self.facts.value_scratch
        return (self.leaving,) * (values + in_place)

    @property
    def backward_rooms(self) -> Rooms:
        """δ^(l) w of a tile, and what σ' needs."""
        return () if self.is_first else (self.entering,) * (1 + self.facts.slope_scratch)

    def run(self, site: Site, sources: Tiles, outs: Tiles, scratch: Scratch, *, in_place: bool) -> Call:
        """Make x^(l)."""
        w_t, b = site.arrays["weight"].T, site.arrays["bias"]
        value = None if self.is_last else site.sigma.value
        return (advance if in_place else forward), (sources, w_t, b, outs, value, scratch)

    def prepare(self, site: Site, at: Reversal) -> Call | None:
        """Nothing: the state is x^(l-1)."""
        return None

    def finish(self, site: Site, at: Reversal) -> Call:
        """δ^(l-1) = (δ^(l) w) ⊙ σ'."""
        return backward, (at.deltas, site.arrays["weight"], at.states, site.sigma.pull_back, at.scratch)

    def counted(self, call: Call) -> tuple[Literal["forward", "backward"], int] | None:
        """See `Layer.counted`."""
        function, arguments = call
        if function in (forward, advance):
            xs, w_t, _, outs, value, _ = arguments
            values = numbers(outs) * self.facts.value_flops if value is not None else 0
            return "forward", 2 * numbers(xs) * w_t.shape[1] + numbers(outs) + values
        if function is backward:
            deltas, w, xs = arguments[:3]
            return "backward", 2 * numbers(deltas) * w.shape[1] + self.facts.slope_flops * numbers(xs)
        return None


def forward(xs: Tiles, w_t: Array, b: Array, outs: Tiles, value: Kernel | None, scratch: Scratch) -> None:
    """x^(l) = σ(x^(l-1) wᵀ + b), into another place."""
    import numpy as np

    for x, out, tmp in zip(xs, outs, scratch, strict=True):
        np.matmul(x, w_t, out)
        np.add(out, b, out)
        if value is not None:
            value(out, out, tmp)


def advance(xs: Tiles, w_t: Array, b: Array, outs: Tiles, value: Kernel | None, scratch: Scratch) -> None:
    """x^(l) = σ(x^(l-1) wᵀ + b), in the place of x^(l-1)."""
    import numpy as np

    for x, out, (s, *tmp) in zip(xs, outs, scratch, strict=True):
        np.matmul(x, w_t, s)
        np.add(s, b, s)
        if value is None:
            np.copyto(out, s)
        else:
            value(s, out, tmp)


def backward(deltas: Tiles, w: Array, xs: Tiles, pull_back: Kernel, scratch: Scratch) -> None:
    """δ^(l-1) = (δ^(l) w) ⊙ σ'(x^(l-1)), in the place of x^(l-1)."""
    import numpy as np

    for delta, x, (below, *tmp) in zip(deltas, xs, scratch, strict=True):
        np.matmul(delta, w, below)
        pull_back(x, below, tmp)
