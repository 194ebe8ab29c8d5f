"""Byte sizes and counts, between text for people and whole numbers for machines."""

import re
from operator import index
from typing import SupportsIndex

from lowmem.errors import InputError, shown

_FACTORS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _FACTORS[f"{_letter}b"] = _FACTORS[_letter] = 1000**_power
    _FACTORS[f"{_letter}ib"] = 1024**_power

MOST = 1e18
"""The largest number before a unit that is told from larger ones; all of them are more than any machine has."""

_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", re.IGNORECASE)
_EXAMPLES = 'such as 25165824, "24MiB" (1024-based) or "24MB" (1000-based)'


def parse_bytes(size: SupportsIndex | str) -> int:
    """Read a byte size: a whole number, Python's or NumPy's, or text such as "24MiB", "24MB" or "1.5 GiB".

    Returns the size in bytes, rounded down. Raises `InputError` for anything else.
    """
    number = _bytes_of(size) if isinstance(size, str) else _index(size)
    if number is None:
        raise InputError(f"a size in bytes was expected, {_EXAMPLES}; got {shown(size)}.")
    if number <= 0:
        raise InputError(f"a size in bytes must be positive, {_EXAMPLES}; got {shown(size)}.")
    return number


def _bytes_of(text: str) -> int:
    """Read a size with its unit."""
    match = _SIZE.fullmatch(text)
    if match is None or match[2].lower() not in _FACTORS:
        raise InputError(f"cannot read {shown(text)} as a size in bytes. Write one {_EXAMPLES}.")
    return int(min(float(match[1]), MOST) * _FACTORS[match[2].lower()])


def _index(number: SupportsIndex) -> int | None:
    """Return a whole number as an int, None for what is none; bool is none."""
    try:
        return None if isinstance(number, bool) else index(number)
    except TypeError:
        return None


def format_bytes(size: float) -> str:
    """Write a byte size for people, in binary units with three or four digits: "18.4 MiB"."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"


def apart(first: int, second: int) -> tuple[str, str]:
    """Write two sizes for people, with as many decimals as tell them apart; equal ones are written alike."""
    texts = format_bytes(first), format_bytes(second)
    if texts[0] != texts[1] or first == second:
        return texts
    return f"{first:,} B", f"{second:,} B"


def ceil_bytes(size: int) -> str:
    """Write a size so that reading it back gives at least `size`: for budgets people will type."""
    for unit, factor in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if size >= 10 * factor or (unit == "KiB" and size >= factor):
            tenths = -(-size * 10 // factor)
            return f"{tenths / 10:.1f}{unit}"
    return f"{size}B"


def format_count(number: float) -> str:
    """Write a large count with an SI prefix: "6.53 M", "1.20 G"."""
    value, prefix = float(number), ""
    for larger in ("k", "M", "G", "T", "P"):
        if abs(value) < 1000:
            break
        value, prefix = value / 1000, larger
    return f"{value:.0f}" if not prefix else f"{value:.3g} {prefix}"
