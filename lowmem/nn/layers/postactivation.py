"""x^(l) = σ(w^(l) x^(l-1) + b^(l)): the plain layer where σ' is a function of the output, so that x is the state.

On row tiles: the product, then the bias and σ while the tile is in cache. A layer can overwrite its own input, as a
tile's input is used up before its output is written, and δ^(l-1) takes the place of the state l-1, tile by tile.
Products have the same shapes for the same batch, in place or not, stored or recomputed, so every strategy computes the
same bits.
"""

import numpy as np

from lowmem.nn.layers.base import Array, Context, LayerKernels, Reversal, Scratch, Tiles, counts, numbers


def _forward_flops(kernels: LayerKernels, context: Context, xs: Tiles, outs: Tiles, scratch: Scratch) -> int:
    """Count the products, the bias and σ."""
    sigma = 0 if kernels.layer.is_last else kernels.layer.sigma.value_flops
    return 2 * numbers(xs) * len(context.arrays["weight"]) + numbers(outs) * (1 + sigma)


def _finish_flops(kernels: LayerKernels, context: Context, at: Reversal) -> int:
    """Count the products, and σ' with its product."""
    products: int = 2 * numbers(at.deltas) * context.arrays["weight"].shape[1]
    return products + kernels.layer.sigma.slope_flops * numbers(at.states)


class PostactivationKernels(LayerKernels):
    """The kernels of `lowmem.network.layers.postactivation.Postactivation`."""

    @counts(_forward_flops)
    def forward(self, context: Context, sources: Tiles, outs: Tiles, scratch: Scratch) -> None:
        """x^(l) = σ(x^(l-1) wᵀ + b), into another place."""
        w, b = context.arrays["weight"], context.arrays["bias"]
        for x, out, work in zip(sources, outs, scratch, strict=True):
            np.matmul(x, w.T, out)
            np.add(out, b, out)
            self._activate(out, out, work)

    @counts(_forward_flops)
    def advance(self, context: Context, sources: Tiles, outs: Tiles, scratch: Scratch) -> None:
        """x^(l) = σ(x^(l-1) wᵀ + b), in the place of x^(l-1)."""
        w, b = context.arrays["weight"], context.arrays["bias"]
        for _, x, out, (s, *work) in self.in_safe_order(sources, outs, scratch):
            np.matmul(x, w.T, s)
            np.add(s, b, s)
            self._activate(s, out, work)

    def _activate(self, s: Array, out: Array, work: Tiles) -> None:
        """Write σ(s) to `out`; behind the last layer it is s itself, as σ belongs to the loss."""
        if not self.layer.is_last:
            self.sigma.value(s, out, work)
        elif out is not s:
            np.copyto(out, s)

    @counts(_finish_flops)
    def finish(self, context: Context, at: Reversal) -> None:
        """δ^(l-1) = (δ^(l) w) ⊙ σ'(x^(l-1)), in the place of x^(l-1)."""
        assert self.sigma.pull_back is not None
        w = context.arrays["weight"]
        for delta, x, (below, *work) in zip(at.deltas, at.states, at.scratch, strict=True):
            np.matmul(delta, w, below)
            self.sigma.pull_back(x, below, work)
