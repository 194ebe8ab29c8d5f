"""identity, relu and leaky_relu: straight on each side of 0."""

from collections.abc import Sequence

import numpy as np

from lowmem.nn.activations.base import Activation, Tile, gathered

LEAKY_SLOPE = 0.01


def _identity(s: Tile, out: Tile, scratch: Sequence[Tile]) -> None:
    if out is not s:
        np.copyto(out, s)


def _identity_pull_back(x: Tile, delta: Tile, scratch: Sequence[Tile]) -> None:
    np.copyto(x, delta)


def _relu(s: Tile, out: Tile, scratch: Sequence[Tile]) -> None:
    np.clip(s, 0.0, np.inf, out=out)


def _relu_pull_back(x: Tile, delta: Tile, scratch: Sequence[Tile]) -> None:
    """σ' = [x > 0], so 0 at 0."""
    np.greater(x, 0.0, out=x)
    np.multiply(x, delta, out=x)


def _leaky_relu(s: Tile, out: Tile, scratch: Sequence[Tile]) -> None:
    (small,) = scratch
    np.multiply(s, LEAKY_SLOPE, out=small)
    np.maximum(s, small, out=out)


def _leaky_relu_pull_back(x: Tile, delta: Tile, scratch: Sequence[Tile]) -> None:
    """σ' = 1 where x > 0, else the slope (at 0 too)."""
    np.greater(x, 0.0, out=x)
    np.clip(x, LEAKY_SLOPE, 1.0, out=x)
    np.multiply(x, delta, out=x)


KERNELS = gathered(
    Activation("identity", _identity, _identity_pull_back),
    Activation("relu", _relu, _relu_pull_back),
    Activation("leaky_relu", _leaky_relu, _leaky_relu_pull_back),
)
