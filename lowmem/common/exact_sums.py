"""Sums without rounding, so that neither their order nor who adds up which part matters.

J. R. Shewchuk, "Adaptive Precision Floating-Point Arithmetic and Fast Robust Geometric Predicates", Discrete and
Computational Geometry 18 (1997): a sum is kept as numbers that do not overlap.
"""

from collections.abc import Iterable
from math import isfinite, nan

PARTIALS = 41
"""The most numbers that an exact sum takes: the exponents of float64 reach over 2,098 bits, of which each has 53."""


def exact_sum(numbers: Iterable[float]) -> list[float]:
    """Return at most `PARTIALS` numbers with the same sum, exactly; a NaN where a number or their sum is not finite.

    `math.fsum` of the numbers of several such sums is that of all that went into them.

    >>> exact_sum([1e16, 1.0, 1.0])
    [1.0000000000000002e+16]
    >>> exact_sum([1e16, 1.0])
    [1.0, 1e+16]
    """
    partials: list[float] = []
    for number in numbers:
        high, kept = number, 0
        for partial in partials:
            large, small = (high, partial) if abs(high) >= abs(partial) else (partial, high)
            high = large + small
            low = small - (high - large)
            if low:
                partials[kept] = low
                kept += 1
        if not isfinite(high):
            return [nan]
        partials[kept:] = [high]
    return partials
