"""x^(l) = σ(w^(l) x^(l-1) + b^(l)): the plain layer where σ' is a function of the output, so that x is the state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lowmem.network.layers.base import Layer, Reversed, Work, Workspace


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

    @property
    def reversal(self) -> tuple[Reversed, ...]:
        """The state is the input of the product, so nothing is prepared."""
        return ("gradients",) if self.is_first else ("gradients", "finish")

    def _numpy_workspace(self) -> Workspace:
        """In place, the output of a tile is computed beside its input. δ^(l) w of a tile has a matrix of its own."""
        values = 0 if self.is_last else self.sigma.value_scratch
        return Workspace(
            forward=(self.leaving,) * values,
            in_place=(self.leaving,) * (values + 1),
            backward=() if self.is_first else (self.entering,) * (1 + self.sigma.slope_scratch),
        )

    def _native_workspace(self) -> Workspace:
        """In place a tile of the output; in the backward a tile of δ^(l) w."""
        return Workspace(in_place=(self.leaving,), backward=() if self.is_first else (self.entering,))
