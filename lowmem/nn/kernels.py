"""One layer forward and backward, on row tiles, into memory that the caller gives. Nothing here allocates an array.

A tile is a run of rows of a batch. Per tile: the product, then the bias and σ while the tile is still in cache. Two
things follow. A layer can overwrite its own input, as a tile's input is used up before its output is written. And
δ^(l-1) takes the place of the state l-1, tile by tile. Products always have the same shapes for the same batch, in
place or not, stored or recomputed, so every strategy computes the same bits.

Names as in the formulas: x, s, δ, w, b; `w_t` is the transposed view of w. `tmp` are working arrays of a tile.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.nn.activations import Activation

Array = NDArray[np.floating[Any]]
Tiles = Sequence[Array]
Scratch = Sequence[tuple[Array, ...]]


def forward_x(xs: Tiles, w_t: Array, b: Array, outs: Tiles, sigma: Activation, scratch: Scratch) -> None:
    """x^(l) = σ(x^(l-1) wᵀ + b), into another place."""
    value = sigma.value
    for x, out, tmp in zip(xs, outs, scratch, strict=True):
        np.matmul(x, w_t, out)
        np.add(out, b, out)
        value(out, out, tmp)


def advance_x(xs: Tiles, w_t: Array, b: Array, outs: Tiles, sigma: Activation, scratch: Scratch) -> None:
    """x^(l) = σ(x^(l-1) wᵀ + b), in the place of x^(l-1)."""
    value = sigma.value
    for x, out, (s, *tmp) in zip(xs, outs, scratch, strict=True):
        np.matmul(x, w_t, s)
        np.add(s, b, s)
        value(s, out, tmp)


def forward_s(states: Tiles, w_t: Array, b: Array, outs: Tiles, sigma: Activation, scratch: Scratch) -> None:
    """s^(l) = σ(s^(l-1)) wᵀ + b, into another place or that of s^(l-1)."""
    value = sigma.value
    for s, out, (x, *tmp) in zip(states, outs, scratch, strict=True):
        value(s, x, tmp)
        np.matmul(x, w_t, out)
        np.add(out, b, out)


def gradients(delta: Array, x: Array, ones: Array, g_w: Array, g_b: Array) -> None:
    """∂ℓ/∂w = δᵀ x and ∂ℓ/∂b = the sum of δ over the batch, as a product with ones."""
    np.matmul(delta.T, x, g_w)
    np.matmul(ones, delta, g_b)


def backward_x(deltas: Tiles, w: Array, xs: Tiles, sigma: Activation, scratch: Scratch) -> None:
    """δ^(l-1) = (δ^(l) w) ⊙ σ'(x^(l-1)), in the place of x^(l-1)."""
    pull_back = sigma.pull_back
    assert pull_back is not None
    for delta, x, (below, *tmp) in zip(deltas, xs, scratch, strict=True):
        np.matmul(delta, w, below)
        pull_back(x, below, tmp)


def split(states: Tiles, xs: Tiles, sigma: Activation, scratch: Scratch) -> None:
    """X = σ(s) into another place, and σ'(s) in the place of s: the state is not needed beyond them."""
    assert sigma.split is not None
    for s, x, tmp in zip(states, xs, scratch, strict=True):
        sigma.split(s, x, tmp)


def backward_s(deltas: Tiles, w: Array, slopes: Tiles, belows: Tiles) -> None:
    """δ^(l-1) = (δ^(l) w) ⊙ σ'(s^(l-1)), in the place of σ'; `belows` is working memory of the whole batch."""
    for delta, slope, below in zip(deltas, slopes, belows, strict=True):
        np.matmul(delta, w, below)
        np.multiply(slope, below, slope)
