"""The activations σ and their slopes σ', as kernels that work in place on one tile and allocate nothing.

A tile is a C-contiguous array small enough for the CPU's cache, so what a kernel costs is the number of NumPy
passes it makes; each pass is one line below. Formulas were chosen by measured time among those that neither
overflow nor lose a NaN: `tanh` is the fastest transcendental and saturates by itself, so the sigmoid family is
written with it; `np.clip` is three times as fast as `np.maximum` with a scalar; comparisons write 0.0 and 1.0
straight into a float tile, which is faster than a product with a bool mask.

Where σ' is a function of the output the state of a layer is x = σ(s), else s: see `specs.ACTIVATIONS`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Tile: TypeAlias = NDArray[np.floating[Any]]
Kernel: TypeAlias = Callable[[Tile, Tile, Sequence[Tile]], None]


@dataclass(frozen=True, slots=True)
class Activation:
    """One activation σ, elementwise.

    value: `value(s, out, scratch)` writes σ(s) to `out`. `out` may be `s` itself; if it is not, s stays intact.
    pull_back: where the state is x, `pull_back(x, delta, scratch)` overwrites x = σ(s) with delta ⊙ σ'. `delta` may be
        destroyed.
    split: where the state is s, `split(s, out, scratch)` writes σ(s), the very bits of `value`, to `out` (another
        array) and overwrites s with σ'(s): both share what is dear in them.

    All arrays of one call have the same shape and dtype (float32 or float64) and `scratch` holds as many as
    `value_scratch` or `slope_scratch` in that table; none may overlap another, but for `out` being `s`.
    """

    name: str
    value: Kernel
    pull_back: Kernel | None = None
    split: Kernel | None = None


# identity, relu and leaky relu ---------------------------------------------------------------------------------

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


# elu and selu --------------------------------------------------------------------------------------------------

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


# tanh, sigmoid and softplus ------------------------------------------------------------------------------------

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


# gelu ----------------------------------------------------------------------------------------------------------

# float32. Φ(s) = ½ + ½·tanh(s·P(s²)/2), P of degree 6, lowest power first: s·P approximates ln(Φ / (1 - Φ)).
# Coefficients by Lawson's iteratively reweighted least squares, 3000 rounds on 4001 points of 0.001 <= s <= 7,
# minimising the largest |error of Φ|·max(s, 1): 6.8e-8. s·P rises on all of [-12, 12] and its tanh at the ends is
# ±1, so that clipping there changes nothing.
_LOGIT_CLIP = 12.0
_HALF_LOGIT = tuple(
    0.5 * c
    for c in (
        1.5957689853275476,
        0.07266782268697465,
        -6.590952823623322e-05,
        -0.00011055588006692588,
        7.946225904281919e-06,
        -2.67293703071211e-07,
        3.6187258025772184e-09,
    )
)

# float64. The Mills ratio of the normal tail, Q(z)·e^(z²/2) = ½·erfcx(z/√2) with Q = 1 - Φ and z >= 0, as a
# polynomial of degree 20 in v = 12/(z + 6) - 1, lowest power first (a change of variable as in Shepherd and
# Laframboise 1981).
# Coefficients: Chebyshev interpolation at 80 nodes in 60 digits, cut after T_20, rewritten in powers of v.
# Relative error of the ratio: 1.0e-14 for 0 <= z <= 37.
_MILLS_SHIFT = 6.0
_MILLS = (
    0.06477931432444672,
    0.12319673345702224,
    0.10583149345050065,
    0.08190603979895826,
    0.05682315263356577,
    0.03505453983069592,
    0.018987678996770885,
    0.00884643587988532,
    0.003417927858506499,
    0.0010134524360472304,
    0.00018037366577120984,
    -1.2375130751797667e-05,
    -2.0511539187460607e-05,
    -5.4836919581625875e-06,
    4.809094893043373e-07,
    7.137494094009506e-07,
    1.0895128651654226e-07,
    -5.948869334362588e-08,
    -2.109181935364703e-08,
    3.159385086083747e-09,
    1.8406693735569936e-09,
)
_INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)


def _horner(variable: Tile, coefficients: Sequence[float], out: Tile) -> None:
    """Write the polynomial with these coefficients, lowest power first, to `out` (not `variable`)."""
    np.multiply(variable, coefficients[-1], out=out)
    for c in coefficients[-2:0:-1]:
        np.add(out, c, out=out)
        np.multiply(out, variable, out=out)
    np.add(out, coefficients[0], out=out)


def _normal_below(s: Tile, phi: Tile, square: Tile) -> None:
    """float32: write Φ(s) to `phi`; `square` holds the square of s clipped to [-12, 12]."""
    _horner(square, _HALF_LOGIT, out=phi)
    np.multiply(phi, s, out=phi)
    np.tanh(phi, out=phi)
    np.multiply(phi, 0.5, out=phi)
    np.add(phi, 0.5, out=phi)


def _normal_tail(s: Tile, q: Tile, bell: Tile) -> None:
    """float64: write Q(|s|) to `q` and e^(-s²/2) to `bell`."""
    np.absolute(s, out=bell)
    np.add(bell, _MILLS_SHIFT, out=bell)
    np.divide(2.0 * _MILLS_SHIFT, bell, out=bell)
    np.subtract(bell, 1.0, out=bell)
    _horner(bell, _MILLS, out=q)
    np.multiply(s, s, out=bell)
    np.multiply(bell, -0.5, out=bell)
    np.exp(bell, out=bell)
    np.multiply(q, bell, out=q)


def _gelu(s: Tile, out: Tile, scratch: Sequence[Tile]) -> None:
    """σ = s·Φ(s), Φ the normal distribution function (Hendrycks and Gimpel 2016); NumPy has no erf.

    Largest error measured against math.erfc, as |error|/max(1, |σ|), for |s| <= 38: float32 1.8e-7 (σ' 2e-7),
    float64 5e-16 (σ' 1e-15). In float32 that is rounding, not the polynomial; Abramowitz and Stegun's formula
    7.1.26 reaches 4e-7.
    """
    a, b = scratch
    if s.dtype == np.float32:
        np.clip(s, -_LOGIT_CLIP, _LOGIT_CLIP, out=b)
        np.multiply(b, b, out=b)
        _normal_below(s, a, b)
        np.multiply(s, a, out=out)
        return
    _normal_tail(s, a, b)  # max(s, 0) - |s|·Q(|s|) keeps the digits of the left tail
    np.absolute(s, out=b)
    np.multiply(a, b, out=a)
    np.clip(s, 0.0, np.inf, out=out)
    np.subtract(out, a, out=out)


def _gelu_split(s: Tile, out: Tile, scratch: Sequence[Tile]) -> None:
    """σ' = Φ(s) + s·φ(s), φ(s) = e^(-s²/2)/√(2π)."""
    phi, bell = scratch
    if s.dtype == np.float32:
        np.clip(s, -_LOGIT_CLIP, _LOGIT_CLIP, out=bell)
        np.multiply(bell, bell, out=bell)
        _normal_below(s, phi, bell)
        np.multiply(s, phi, out=out)
        np.multiply(bell, -0.5, out=bell)
        np.exp(bell, out=bell)
        np.multiply(bell, _INV_SQRT_2PI, out=bell)
        np.clip(s, -_LOGIT_CLIP, _LOGIT_CLIP, out=s)  # s·φ must vanish where φ does, and never become inf·0
        np.multiply(s, bell, out=s)
        np.add(s, phi, out=s)
        return
    _normal_tail(s, phi, bell)
    np.absolute(s, out=out)
    np.multiply(phi, out, out=out)
    np.subtract(0.5, phi, out=phi)
    np.copysign(phi, s, out=phi)
    np.add(phi, 0.5, out=phi)
    np.multiply(bell, _INV_SQRT_2PI, out=bell)
    np.multiply(s, bell, out=bell)
    np.add(bell, phi, out=bell)
    np.clip(s, 0.0, np.inf, out=phi)
    np.subtract(phi, out, out=out)
    np.copyto(s, bell)


# gelu_tanh, silu and mish --------------------------------------------------------------------------------------

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


KERNELS: Mapping[str, Activation] = MappingProxyType(
    {
        activation.name: activation
        for activation in (
            Activation("identity", _identity, _identity_pull_back),
            Activation("relu", _relu, _relu_pull_back),
            Activation("leaky_relu", _leaky_relu, _leaky_relu_pull_back),
            Activation("elu", _elu, _elu_pull_back),
            Activation("selu", _selu, _selu_pull_back),
            Activation("tanh", _tanh, _tanh_pull_back),
            Activation("sigmoid", _sigmoid, _sigmoid_pull_back),
            Activation("softplus", _softplus, _softplus_pull_back),
            Activation("gelu", _gelu, split=_gelu_split),
            Activation("gelu_tanh", _gelu_tanh, split=_gelu_tanh_split),
            Activation("silu", _silu, split=_silu_split),
            Activation("mish", _mish, split=_mish_split),
        )
    }
)
