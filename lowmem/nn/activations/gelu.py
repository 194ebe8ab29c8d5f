"""gelu, by polynomials, as NumPy has no erf."""

import math
from collections.abc import Sequence

import numpy as np

from lowmem.nn.activations.base import Activation, Tile, gathered

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


KERNELS = gathered(
    Activation("gelu", _gelu, split=_gelu_split),
)
