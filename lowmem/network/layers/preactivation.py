"""s^(l) = [s^(l-1) +] c · w^(l) drop(σ(norm(s^(l-1)))) + b^(l): what comes before the product belongs to the layer.

Plain where σ' needs its input (gelu, silu, mish). With a skip it is the residual layer with "identity mappings" of
K. He, X. Zhang, S. Ren, J. Sun, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027 (2016): its backward
needs δ^(l) and the state entering, like that of a plain layer,

    δ^(l-1) = [δ^(l) +] pull back of c · δ^(l) w through drop, σ and norm.

The factor c of a branch is fixed (1/sqrt(L)), or learned from zero as in T. Bachlechner et al., "ReZero is All You
Need", arXiv:2003.04887 (2020). With g = δᵀ x its gradient is the sum of w ⊙ g, so the branch's output is not needed.

The state is s^(l). x^(l-1), the input of the product, is made again elementwise: tile by tile in the forward, whole in
the backward, where the weights' gradient needs it. Where σ' is a function of σ and neither norm nor dropout stand in
between, σ takes the place of the state there, and no whole matrix is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lowmem.network.layers.base import Layer, Reversed, Widths, Work, Workspace
from lowmem.network.layers.dropout import padded
from lowmem.network.layers.norms import Norm
from lowmem.network.native_names import NORMS as NATIVE_NORMS


@dataclass(frozen=True, slots=True)
class Preactivation(Layer):
    """A layer that begins with norm, σ and dropout; the first one begins with the product.

    norm: or None. dropout: the rate. branch: None without a skip; with one the factor c, or "learned".
    """

    norm: Norm | None = None
    dropout: float = 0.0
    branch: float | str | None = None

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """Weight and bias, the norm's vectors, and the factor of a branch if it is learned."""
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.leaving, self.entering), "bias": (self.leaving,)}
        if self.norm is not None:
            shapes |= dict.fromkeys(self.norm.parameters, (self.entering,))
        if self.branch == "learned":
            shapes["scale"] = (1,)
        return shapes

    @property
    def running(self) -> Mapping[str, tuple[int, ...]]:
        """Mean and variance where the norm is over the batch."""
        if self.couples is None:
            return {}
        return {"running_mean": (self.entering,), "running_variance": (self.entering,)}

    @property
    def drops(self) -> bool:
        """Whether dropout has a rate above 0."""
        return self.dropout > 0

    @property
    def couples(self) -> str | None:
        """A norm over the batch makes samples depend on each other."""
        return f'norm="{self.norm.name}"' if self.norm is not None and self.norm.couples else None

    @property
    def keeps_slopes(self) -> bool:
        """Whether `prepare` leaves σ' in the state's place."""
        return self.sigma.state == "s" and self.norm is None

    @property
    def keeps_x(self) -> bool:
        """Whether `prepare` leaves the product's input in the state's place."""
        return self.sigma.state == "x" and self.norm is None and not self.dropout

    @property
    def from_x(self) -> bool:
        """Whether `finish` reads σ from the whole matrix, and pulls back through it."""
        return self.sigma.state == "x" and self.norm is not None and not self.dropout

    @property
    def scaled(self) -> bool:
        """Whether a branch has a factor."""
        return self.branch not in (None, 1.0)

    @property
    def forward(self) -> Work:
        """Norm, σ, dropout, product, bias, factor and skip."""
        n, m = self.entering, self.leaving
        leaving = m * (1 + self.scaled + (self.branch is not None))
        if self.is_first:
            return Work(n * m, plain=leaving)
        norm = 0 if self.norm is None else self.norm.forward_flops + self.norm.affine_flops
        drops = n if self.dropout else 0
        return Work(n * m, values=n, draws=drops, plain=leaving + n * norm + drops)

    @property
    def backward(self) -> Work:
        """Both gradients; then the way in once more, and back."""
        n, m = self.entering, self.leaving
        if self.is_first:
            return Work(n * m, sums=m)
        back = n * (self.scaled + (self.branch is not None))
        if self.norm is None and not self.dropout:
            values = n if self.keeps_x else 0  # with σ' comes σ
            return Work(2 * n * m, sums=m, values=values, slopes=n, plain=back)
        if self.norm is None:
            drawn = 1 if self.keeps_slopes else 2
            values = 0 if self.keeps_slopes else n
            return Work(2 * n * m, sums=m, values=values, slopes=n, draws=drawn * n, plain=back + 2 * n)
        norm = self.norm.forward_flops + self.norm.affine_flops + self.norm.backward_flops
        again = 0 if self.from_x else self.norm.affine_flops
        values = n if self.from_x or self.sigma.state == "s" else 2 * n
        drops = 2 * n if self.dropout else 0
        return Work(2 * n * m, sums=m, values=values, slopes=n, draws=drops, plain=back + n * (norm + again) + drops)

    @property
    def reversal(self) -> tuple[Reversed, ...]:
        """The input of the product is made first; a norm's gradients are added up last."""
        if self.is_first:
            return ("gradients",)
        scale: tuple[Reversed, ...] = ("scale_gradients",) if self.scaled else ()
        gather: tuple[Reversed, ...] = () if self.norm is None else ("gather",)
        return ("prepare", "gradients", *scale, "finish", *gather)

    def _numpy_workspace(self) -> Workspace:
        """x^(l-1) and what σ and norm work in; one matrix holds a product that cannot go to its place at once."""
        if self.is_first:
            return Workspace()
        norm = self.norm
        beside = max(self.sigma.value_scratch, norm is not None)
        sigma = max(self.sigma.slope_scratch, 0 if self.keeps_slopes else self.sigma.value_scratch)
        if self.keeps_slopes:
            backward = sigma
        elif norm is None:
            backward = 1 + sigma
        else:
            backward = 1 + (self.sigma.state == "s") + max(sigma, 1)
        columns = () if norm is None else (1,) * norm.row_columns
        return Workspace(
            forward=self._of_a_tile(1 + beside),
            in_place=self._of_a_tile(1 + max(beside, self.branch is not None)),
            backward=self._of_a_tile(backward),
            whole=() if self.keeps_x else (self.entering, *columns),
            partial_sums=0 if norm is None else len(norm.parameters),
        )

    def _native_workspace(self) -> Workspace | None:
        """x^(l-1) of a tile, and in place the product of a branch; δ^(l) w of a tile, where x^(l-1) is not beside."""
        if self.is_first:
            return Workspace()
        if self.norm is not None and self.norm.name not in NATIVE_NORMS:
            return None
        beside = self.norm is not None or self.sigma.state == "s"
        return Workspace(
            forward=(self.entering,),
            in_place=(self.entering,) if self.branch is None else (self.entering, self.leaving),
            backward=() if beside else (self.entering,),
            whole=() if self.keeps_x else (self.entering,),
        )

    def _of_a_tile(self, matrices: int) -> Widths:
        """Return so many matrices of the input's width, then what the norm and the mask need."""
        columns = 0 if self.norm is None else self.norm.columns
        mask = (padded(self.entering),) if self.dropout else ()
        return (self.entering,) * matrices + (1,) * columns + mask
