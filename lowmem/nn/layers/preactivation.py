"""s^(l) = [s^(l-1) +] c · w^(l) drop(σ(norm(s^(l-1)))) + b^(l): what comes before the product belongs to the layer.

The state is s^(l). x^(l-1), the input of the product, is made again elementwise: tile by tile in the forward, whole in
the backward, where the weights' gradient needs it. See `lowmem.network.layers.preactivation` for the papers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lowmem.network.layers.preactivation import Preactivation
from lowmem.network.tiles import TILE_ROWS
from lowmem.nn.activations import Activation
from lowmem.nn.layers.base import Array, Arrays, Context, LayerKernels, Reversal, Scratch, Tiles, counts, numbers
from lowmem.nn.layers.norms import KERNELS as NORM_KERNELS


class Work(NamedTuple):
    """The working memory of a tile: matrices for anything, then what the norm and the mask need."""

    matrices: Sequence[Array]
    columns: Sequence[Array]
    mask: Array | None


def _forward_flops(kernels: LayerKernels, context: Context, sources: Tiles, outs: Tiles, scratch: Scratch) -> int:
    """Count the products by their shapes, and all else for each row."""
    work = kernels.layer.forward
    beside = work.flops(kernels.layer.sigma) - 2 * work.products
    return 2 * numbers(sources) * len(context.arrays["weight"]) + sum(map(len, sources)) * beside


def _finish_flops(kernels: LayerKernels, context: Context, at: Reversal) -> int:
    """Count the products by their shapes, and all else of the backward, `prepare` and `gather` included, by row."""
    work = kernels.layer.backward
    beside = work.flops(kernels.layer.sigma) - 2 * (work.products + work.sums)
    products: int = 2 * numbers(at.deltas) * context.arrays["weight"].shape[1]
    return products + sum(map(len, at.deltas)) * beside


class PreactivationKernels(LayerKernels):
    """The kernels of `lowmem.network.layers.preactivation.Preactivation`."""

    layer: Preactivation

    def __init__(self, layer: Preactivation, sigma: Activation) -> None:
        super().__init__(layer, sigma)
        self.norm = None if layer.norm is None else NORM_KERNELS[layer.norm.name]

    # Forward -------------------------------------------------------------------------------------------------------

    @counts(_forward_flops)
    def forward(self, context: Context, sources: Tiles, outs: Tiles, scratch: Scratch) -> None:
        """Make s^(l) beside s^(l-1)."""
        if self.layer.is_first:
            for x, out in zip(sources, outs, strict=True):
                np.matmul(x, context.arrays["weight"].T, out)
                np.add(out, context.arrays["bias"], out)
            return
        self._observe(context, sources, scratch)
        for n, (s, out, work) in enumerate(zip(sources, outs, scratch, strict=True)):
            self._run(context, n, s, out, self._work(work), in_place=False)

    @counts(_forward_flops)
    def advance(self, context: Context, sources: Tiles, outs: Tiles, scratch: Scratch) -> None:
        """Make s^(l) in the place of s^(l-1)."""
        self._observe(context, sources, scratch)
        for n, s, out, work in self.in_safe_order(sources, outs, scratch):
            self._run(context, n, s, out, self._work(work), in_place=True)

    def _observe(self, context: Context, states: Tiles, scratch: Scratch) -> None:
        if self.norm is not None and self.norm.norm.couples:
            self.norm.observe(context, states, [work[0] for work in scratch])

    def _run(self, context: Context, n: int, s: Array, out: Array, work: Work, *, in_place: bool) -> None:
        """Make tile n of s^(l) from that of s^(l-1)."""
        skips = self.layer.branch is not None
        x, *others = work.matrices
        self._enter(context, n, s, x, others, work)
        product = others[0] if skips and in_place else out
        np.matmul(x, context.arrays["weight"].T, product)
        self._scale(context, product)
        np.add(product, context.arrays["bias"], product)
        if skips:
            np.add(product, s, out)

    def _enter(self, context: Context, n: int, s: Array, x: Array, others: Sequence[Array], work: Work) -> None:
        """X = drop(σ(norm(s))) of tile n, s stays."""
        if self.norm is not None:
            self.norm.normalise(context, s, x, others[0], work.columns, None)
            self.norm.affine(context.arrays, x, x)
            s = x
        self._value(s, x, others)
        mask = self._mask(context, n, work)
        if mask is not None:
            np.multiply(x, mask, x)

    def _work(self, scratch: Sequence[Array]) -> Work:
        """Tell the working memory of a tile apart."""
        if self.norm is None and not self.layer.dropout:
            return Work(scratch, (), None)
        end = len(scratch) - bool(self.layer.dropout)
        middle = end - (0 if self.norm is None else self.norm.norm.columns)
        return Work(scratch[:middle], scratch[middle:end], scratch[end] if self.layer.dropout else None)

    def _mask(self, context: Context, n: int, work: Work) -> Array | None:
        """Return what tile n is multiplied with: 0 or 1/(1 - rate); None where nothing is dropped."""
        if context.masks is None or work.mask is None:
            return None
        rate = self.layer.dropout
        context.masks.draw(context.layer, n * TILE_ROWS, work.mask)
        np.greater_equal(work.mask, rate, out=work.mask)
        np.multiply(work.mask, 1 / (1 - rate), work.mask)
        return work.mask[:, : self.layer.entering]

    def _scale(self, context: Context, product: Array) -> None:
        """Multiply by the factor of the branch."""
        branch = self.layer.branch
        if branch == "learned":
            np.multiply(product, context.arrays["scale"], product)
        elif isinstance(branch, float) and self.layer.scaled:
            np.multiply(product, branch, product)

    def _value(self, s: Array, out: Array, work: Sequence[Array]) -> None:
        self.sigma.value(s, out, work[: self.layer.sigma.value_scratch])

    # Backward ------------------------------------------------------------------------------------------------------

    def prepare(self, context: Context, at: Reversal) -> None:
        """Make the product's input whole; x̂, σ' or σ takes the place of the state, which is not needed any more."""
        layer = self.layer
        xs = at.states if layer.keeps_x else at.whole[0]
        for n, (s, x, scratch) in enumerate(zip(at.states, xs, at.scratch, strict=True)):
            work = self._work(scratch)
            if self.norm is not None:
                inverse = at.whole[1][n] if self.norm.norm.row_columns else None
                self.norm.normalise(context, s, s, work.matrices[-1], work.columns, inverse)
                self.norm.affine(context.arrays, s, x)
                self._value(x, x, work.matrices[1:])
            elif layer.keeps_slopes:
                self._split(s, x, work.matrices)
            else:
                self._value(s, s, work.matrices[1:])
            mask = self._mask(context, n, work)
            if mask is None:
                continue
            if self.norm is None and not layer.keeps_slopes:
                np.multiply(s, mask, x)
                continue
            np.multiply(x, mask, x)
            if layer.keeps_slopes:
                np.multiply(s, mask, s)

    def scale_gradients(self, context: Context, into: Arrays) -> None:
        """Multiply by the factor c of the branch. If c is learned, ∂ℓ/∂c = Σ w ⊙ g is taken first, with g = δᵀ x."""
        if self.layer.branch == "learned":
            g, w = into["weight"].reshape(-1), context.arrays["weight"].reshape(-1)
            into["scale"][0] = np.dot(w, g)
        self._scale(context, into["weight"])

    @counts(_finish_flops)
    def finish(self, context: Context, at: Reversal) -> None:
        """Make δ^(l-1) in the place of the state; where a norm couples samples, `gather` ends that."""
        for n, (delta, s) in enumerate(zip(at.deltas, at.states, strict=True)):
            work = self._work(at.scratch[n])
            if self.norm is None:
                self._back(context, n, delta, s, at, work)
                continue
            self._back_through_norm(context, n, delta, s, at, work)

    def _back(self, context: Context, n: int, delta: Array, s: Array, at: Reversal, work: Work) -> None:
        """Pull δ^(l) w back through dropout and σ."""
        slopes = self.layer.keeps_slopes
        below = at.whole[0][n] if slopes else work.matrices[0]
        np.matmul(delta, context.arrays["weight"], below)
        self._scale(context, below)
        if slopes:
            np.multiply(s, below, s)
        else:
            mask = self._mask(context, n, work)
            if mask is not None:
                np.multiply(below, mask, below)
            self._pull_back(s, below, work.matrices[1:])
        if self.layer.branch is not None:
            np.add(s, delta, s)

    def _back_through_norm(self, context: Context, n: int, delta: Array, x: Array, at: Reversal, work: Work) -> None:
        """Pull δ^(l) w back through dropout, σ and the norm; where that couples samples, only to the norm."""
        norm = self.norm
        assert norm is not None
        dy = self._back_to_norm(context, n, delta, x, at.whole[0][n], work)
        norm.sums(context.ones, x, dy, work.matrices[-1], at.partial_sums[n])
        if norm.norm.couples:
            if dy is not at.whole[0][n]:
                np.copyto(at.whole[0][n], dy)
            return
        norm.pull_back(context, x, dy, work.matrices[-1], work.columns, at.whole[1][n])
        if self.layer.branch is not None:
            np.add(x, delta, x)

    def _back_to_norm(self, context: Context, n: int, delta: Array, x: Array, whole: Array, work: Work) -> Array:
        """Return dy, made in `whole` or the first matrix: δ^(l) w pulled back through dropout and σ of y = γ x̂ + β."""
        first, *others = work.matrices
        if self.layer.from_x:
            np.matmul(delta, context.arrays["weight"], first)
            self._scale(context, first)
            self._pull_back(whole, first, others)
            return whole
        np.matmul(delta, context.arrays["weight"], whole)
        self._scale(context, whole)
        mask = self._mask(context, n, work)
        if mask is not None:
            np.multiply(whole, mask, whole)
        assert self.norm is not None
        self.norm.affine(context.arrays, x, first)
        if self.layer.sigma.state == "s":
            self._split(first, others[0], others[1:])
            np.multiply(first, whole, whole)
            return whole
        self._value(first, first, others)
        self._pull_back(first, whole, others)
        return first

    def _pull_back(self, x: Array, delta: Array, work: Sequence[Array]) -> None:
        assert self.sigma.pull_back is not None
        self.sigma.pull_back(x, delta, work[: self.layer.sigma.slope_scratch])

    def _split(self, s: Array, out: Array, work: Sequence[Array]) -> None:
        assert self.sigma.split is not None
        self.sigma.split(s, out, work[: self.layer.sigma.slope_scratch])

    def gather(self, context: Context, at: Reversal, into: Arrays) -> None:
        """Add up the norm's gradients over all tiles; where samples are coupled, finish δ^(l-1) with them."""
        norm = self.norm
        assert norm is not None
        for k, name in enumerate(norm.norm.parameters):
            np.add.reduce(at.partial_sums[:, k], axis=0, out=into[name])
        if not norm.norm.couples:
            return
        norm.couple(context, at.states, at.whole[0], into)
        if self.layer.branch is not None:
            for x, delta in zip(at.states, at.deltas, strict=True):
                np.add(x, delta, x)
