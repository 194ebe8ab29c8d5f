"""tanh, sigmoid and softplus, which is the integral of the sigmoid."""

from collections.abc import Sequence

import numpy as np

from lowmem.nn.activations.base import Activation, Tile, gathered

# e^80 is finite in float32 and ln(1 + e^80) = 80 to the last bit in float64 too.
_EXP_CEILING = 80.0


def _tanh(s: Tile, out: Tile, scratch: Sequence[Tile]) -> None:
    np.tanh(s, out=out)


def _tanh_pull_back(x: Tile, delta: Tile, scratch: Sequence[Tile]) -> None:
    """σ' = 1 - x²."""
    np.multiply(x, x, out=x)
    np.subtract(1.0, x, out=x)
    np.multiply(x, delta, out=x)


def _sigmoid(s: Tile, out: Tile, scratch: Sequence[Tile]) -> None:
    """σ = ½ + ½·tanh(s/2): no overflow on either side; the tail is exact to half an ulp of 1, not of itself."""
    np.multiply(s, 0.5, out=out)
    np.tanh(out, out=out)
    np.multiply(out, 0.5, out=out)
    np.add(out, 0.5, out=out)


def _sigmoid_pull_back(x: Tile, delta: Tile, scratch: Sequence[Tile]) -> None:
    """σ' = x·(1 - x)."""
    np.multiply(delta, x, out=delta)
    np.subtract(1.0, x, out=x)
    np.multiply(x, delta, out=x)


def _softplus(s: Tile, out: Tile, scratch: Sequence[Tile]) -> None:
    """σ = ln(1 + e^s), computed for s up to a ceiling beyond which it is s: max(s, ·) joins the two."""
    (e,) = scratch
    np.clip(s, -np.inf, _EXP_CEILING, out=e)
    np.exp(e, out=e)
    np.log1p(e, out=e)
    np.maximum(s, e, out=out)


def _softplus_pull_back(x: Tile, delta: Tile, scratch: Sequence[Tile]) -> None:
    """σ' = 1 - e^(-x)."""
    np.negative(x, out=x)
    np.expm1(x, out=x)
    np.multiply(x, delta, out=x)
    np.negative(x, out=x)


KERNELS = gathered(
    Activation("tanh", _tanh, _tanh_pull_back),
    Activation("sigmoid", _sigmoid, _sigmoid_pull_back),
    Activation("softplus", _softplus, _softplus_pull_back),
)
