"""elu and selu: straight above 0, an exponential below."""

from collections.abc import Sequence

import numpy as np

from lowmem.nn.activations.base import Activation, Tile, gathered

SELU_ALPHA = 1.6732632423543772
SELU_LAMBDA = 1.0507009873554805


def _elu(s: Tile, out: Tile, scratch: Sequence[Tile]) -> None:
    """σ = max(s, e^min(s,0) - 1), since e^s - 1 >= s everywhere."""
    (e,) = scratch
    np.clip(s, -np.inf, 0.0, out=e)
    np.expm1(e, out=e)
    np.maximum(s, e, out=out)


def _elu_pull_back(x: Tile, delta: Tile, scratch: Sequence[Tile]) -> None:
    """σ' = 1 where x > 0, else x + 1."""
    np.clip(x, -np.inf, 0.0, out=x)
    np.add(x, 1.0, out=x)
    np.multiply(x, delta, out=x)


def _selu(s: Tile, out: Tile, scratch: Sequence[Tile]) -> None:
    """σ = λ·max(s, 0) + λα·(e^min(s,0) - 1)."""
    (e,) = scratch
    np.clip(s, -np.inf, 0.0, out=e)
    np.expm1(e, out=e)
    np.multiply(e, SELU_LAMBDA * SELU_ALPHA, out=e)
    np.clip(s, 0.0, np.inf, out=out)
    np.multiply(out, SELU_LAMBDA, out=out)
    np.add(out, e, out=out)


def _selu_pull_back(x: Tile, delta: Tile, scratch: Sequence[Tile]) -> None:
    """σ' = λ + [x <= 0]·(x + λα - λ)."""
    (not_positive,) = scratch
    np.less_equal(x, 0.0, out=not_positive)
    np.add(x, SELU_LAMBDA * SELU_ALPHA - SELU_LAMBDA, out=x)
    np.multiply(x, not_positive, out=x)
    np.add(x, SELU_LAMBDA, out=x)
    np.multiply(x, delta, out=x)


KERNELS = gathered(
    Activation("elu", _elu, _elu_pull_back),
    Activation("selu", _selu, _selu_pull_back),
)
