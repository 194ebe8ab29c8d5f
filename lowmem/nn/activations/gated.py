"""gelu_tanh, silu and mish: s times a smooth gate between 0 and 1."""

import math
from collections.abc import Sequence

import numpy as np

from lowmem.nn.activations.base import Activation, Tile, gathered

# u = s·(κ + κ'·s²) with κ = √(2/π), κ' = 0.044715·κ; beyond |s| = 10, tanh u is ±1 in both dtypes.
_GELU_K = math.sqrt(2.0 / math.pi)
_GELU_K3 = 0.044715 * _GELU_K
_GELU_CLIP = 10.0
# mish: beyond s = 20 the factor tanh(softplus(s)) is 1 in both dtypes, and no product below overflows float32.
_MISH_CLIP = 20.0


def _gelu_tanh(s: Tile, out: Tile, scratch: Sequence[Tile]) -> None:
    """σ = s·(½ + ½·tanh u), u = √(2/π)·(s + 0.044715·s³)."""
    (t,) = scratch
    np.clip(s, -_GELU_CLIP, _GELU_CLIP, out=t)
    np.multiply(t, t, out=t)
    np.multiply(t, _GELU_K3, out=t)
    np.add(t, _GELU_K, out=t)
    np.multiply(t, s, out=t)
    np.tanh(t, out=t)
    np.multiply(t, 0.5, out=t)
    np.add(t, 0.5, out=t)
    np.multiply(s, t, out=out)


def _gelu_tanh_split(s: Tile, out: Tile, scratch: Sequence[Tile]) -> None:
    """σ' = (1 + t)·(½ + (1 - t)·v) with t = tanh u, v = ½·s·u' = 1.5·u - κ·s."""
    u, v = scratch
    np.clip(s, -_GELU_CLIP, _GELU_CLIP, out=v)
    np.multiply(v, v, out=u)
    np.multiply(u, _GELU_K3, out=u)
    np.add(u, _GELU_K, out=u)
    np.multiply(u, v, out=u)
    np.tanh(u, out=out)
    np.multiply(u, 1.5, out=u)
    np.multiply(v, _GELU_K, out=v)
    np.subtract(u, v, out=u)
    np.subtract(1.0, out, out=v)
    np.multiply(u, v, out=u)
    np.add(u, 0.5, out=u)
    np.add(out, 1.0, out=v)
    np.multiply(u, v, out=u)
    np.multiply(out, 0.5, out=out)
    np.add(out, 0.5, out=out)
    np.multiply(s, out, out=out)
    np.copyto(s, u)


def _silu(s: Tile, out: Tile, scratch: Sequence[Tile]) -> None:
    """σ = s·sigmoid(s) = h·(1 + tanh h), h = s/2."""
    (t,) = scratch
    np.multiply(s, 0.5, out=out)
    np.tanh(out, out=t)
    np.add(t, 1.0, out=t)
    np.multiply(out, t, out=out)


def _silu_split(s: Tile, out: Tile, scratch: Sequence[Tile]) -> None:
    """σ' = ½·(t + σ·(2 - t)), t = 1 + tanh(s/2)."""
    (t,) = scratch
    _silu(s, out, scratch)  # leaves t there
    np.subtract(2.0, t, out=s)
    np.multiply(s, out, out=s)
    np.add(s, t, out=s)
    np.multiply(s, 0.5, out=s)


def _mish(s: Tile, out: Tile, scratch: Sequence[Tile]) -> None:
    """σ = s·tanh(ln(1 + e^s)) = s·n/(n + 2), n = e^s·(e^s + 2) (Misra 2019)."""
    n, d = scratch
    np.clip(s, -np.inf, _MISH_CLIP, out=d)
    np.exp(d, out=d)
    np.add(d, 2.0, out=n)
    np.multiply(n, d, out=n)
    np.add(n, 2.0, out=d)
    np.divide(n, d, out=n)
    np.multiply(s, n, out=out)


def _mish_split(s: Tile, out: Tile, scratch: Sequence[Tile]) -> None:
    """σ' = n/d + 4·s·e·(e + 1)/d² with e = e^s, n = e·(e + 2), d = n + 2; and e·(e + 1) = n - e."""
    n, d = scratch
    np.clip(s, -np.inf, _MISH_CLIP, out=out)
    np.exp(out, out=d)
    np.add(d, 2.0, out=n)
    np.multiply(n, d, out=n)
    np.subtract(n, d, out=d)
    np.multiply(out, d, out=out)
    np.multiply(out, 4.0, out=out)
    np.add(n, 2.0, out=d)
    np.divide(out, d, out=out)
    np.divide(out, d, out=out)
    np.divide(n, d, out=n)
    np.add(n, out, out=d)
    np.multiply(s, n, out=out)
    np.copyto(s, d)


KERNELS = gathered(
    Activation("gelu_tanh", _gelu_tanh, split=_gelu_tanh_split),
    Activation("silu", _silu, split=_silu_split),
    Activation("mish", _mish, split=_mish_split),
)
