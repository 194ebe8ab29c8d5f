"""What a layer is before anything runs: its parameters, what it costs, and the memory it works in. No NumPy.

The kernels of a layer lie under the same file name in `lowmem.nn.layers`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

from lowmem.network.specs import ACTIVATIONS, ActivationFacts

Widths: TypeAlias = tuple[int, ...]
"""Matrices, each named by its width; how many rows they have depends on where they are used."""

Reversed: TypeAlias = Literal["prepare", "gradients", "scale_gradients", "finish", "gather"]
"""A step of a layer's backward; see `Layer.reversal`."""

DRAW_FLOPS = 2
"""To compare a random number with the rate of dropout, and to scale; making it takes integers only."""

STATISTICS = 4
"""Vectors that a normalisation over the batch keeps of a step."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a layer does for each row, in numbers.

    products: pairs multiplied and added in matrix products.
    sums: numbers added up over the batch, by products with ones.
    values: evaluations of σ.
    slopes: evaluations of σ', each with its product.
    draws: random numbers.
    plain: all other operations.
    """

    products: int
    sums: int = 0
    values: int = 0
    slopes: int = 0
    draws: int = 0
    plain: int = 0

    def flops(self, sigma: ActivationFacts) -> int:
        """Return the FLOPs for each row."""
        activation = self.values * sigma.value_flops + self.slopes * sigma.slope_flops
        return 2 * (self.products + self.sums) + activation + DRAW_FLOPS * self.draws + self.plain


@dataclass(frozen=True, slots=True)
class Workspace:
    """The memory that the kernels of one engine work in, for one layer.

    forward: matrices with the rows of a tile, to make state l in another place than state l-1.
    in_place: matrices with the rows of a tile, to make state l in the place of state l-1.
    backward: matrices with the rows of a tile, to reverse the layer.
    whole: matrices with all rows of a pass, from the first call of a backward to its last; the first of them holds
        the input of the layer's product.
    partial_sums: sums over the rows of a tile that are kept for each tile and each entering number.
    """

    forward: Widths = ()
    in_place: Widths = ()
    backward: Widths = ()
    whole: Widths = ()
    partial_sums: int = 0


@dataclass(frozen=True, slots=True)
class Layer(ABC):
    """One layer: `entering` numbers become `leaving` numbers, l = 1..L.

    activation: σ, a key of `specs.ACTIVATIONS`. item_bytes: of one number.
    """

    entering: int
    leaving: int
    activation: str
    item_bytes: int
    is_first: bool
    is_last: bool

    @property
    def sigma(self) -> ActivationFacts:
        """What is known of σ."""
        return ACTIVATIONS[self.activation]

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the parameters, in the order in which they lie in memory."""
        return {"weight": (self.leaving, self.entering), "bias": (self.leaving,)}

    @property
    def size(self) -> int:
        """The number of its parameters."""
        return sum(map(prod, self.parameters.values()))

    @property
    def running(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of what is learnt by averaging over steps and not by gradients."""
        return {}

    @property
    def kind(self) -> Literal["x", "s"]:
        """Whether the state it leaves is x^(l) or s^(l)."""
        return "s"

    @property
    def drops(self) -> bool:
        """Whether training needs random numbers."""
        return False

    @property
    def couples(self) -> str | None:
        """What makes samples of a batch depend on each other, if anything does."""
        return None

    @property
    @abstractmethod
    def forward(self) -> Work:
        """What making state l from state l-1 takes."""

    @property
    @abstractmethod
    def backward(self) -> Work:
        """What both gradients and, for l > 1, δ^(l-1) take."""

    @property
    @abstractmethod
    def reversal(self) -> tuple[Reversed, ...]:
        """The calls of the layer's backward, in their order.

        prepare: makes the input of the layer's product, unless the state is that.
        gradients: ∂ℓ/∂w = δᵀ x and ∂ℓ/∂b; every layer has it.
        scale_gradients: multiplies ∂ℓ/∂w by a factor of the layer.
        finish: turns state l-1 into δ^(l-1).
        gather: adds up what `finish` has summed for each tile.
        """

    def forward_flops(self, rows: int) -> int:
        """Return the FLOPs of making state l on `rows` samples."""
        return rows * self.forward.flops(self.sigma)

    def backward_flops(self, rows: int) -> int:
        """Return the FLOPs of reversing the layer on `rows` samples; what is done to parameters is not counted."""
        return rows * self.backward.flops(self.sigma)

    def workspace(self, engine: str = "numpy") -> Workspace:
        """Return the memory that an engine works in: "numpy" or "native".

        Raises `ValueError` for "native" where the compiled engine has no kernels for this kind of layer.
        """
        if engine != "native":
            return self._numpy_workspace()
        workspace = self._native_workspace() if self.is_native else None
        if workspace is None:
            raise ValueError(f"the compiled engine has no kernels for {type(self).__name__}")
        return workspace

    @property
    def is_native(self) -> bool:
        """Whether the compiled engine has kernels for this kind of layer.

        Its own class must say so: a kind that is derived from another computes something else.
        """
        return "_native_workspace" in vars(type(self)) and self._native_workspace() is not None

    @abstractmethod
    def _numpy_workspace(self) -> Workspace:
        """Return the memory that the kernels of `lowmem.nn.layers` work in."""

    def _native_workspace(self) -> Workspace | None:
        """Return the memory that a lane of the compiled engine works in; None if it has no kernels for the layer."""
        return None
