"""Byte sizes, counts and times, between text for people and whole numbers for machines."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import isfinite
from operator import index
from typing import SupportsIndex

from lowmem.errors import InputError, shown

_FACTORS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _FACTORS[f"{_letter}b"] = _FACTORS[_letter] = 1000**_power
    _FACTORS[f"{_letter}ib"] = 1024**_power

MOST = 1e18
"""The largest number before a unit that is told from larger ones; all of them are more than any machine has."""

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-z]*)\s*", re.IGNORECASE)
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
    factor = _FACTORS[match[2].lower()]
    return times(match[1], factor) if float(match[1]) < MOST else int(MOST) * factor


def times(number: str, whole: int) -> int:
    """Return a number times a whole one, rounded down, exactly as its decimal digits say.

    Floats would lose a byte: 32.3 * 10**6 is 32,299,999.99... there.

    number: text that Python reads as a finite float that is not negative.
    """
    digits, _, power = number.strip().lower().replace("_", "").partition("e")
    units, _, decimals = digits.partition(".")
    decimals = decimals[:1000]  # Python reads no more than 4,300 digits at a time
    product, shift = int((units.lstrip("+0") + decimals) or 0) * whole, int(power or 0) - len(decimals)
    up, down = int(10 ** max(shift, 0)), int(10 ** max(-shift, 0))
    return product * up // down


def _index(number: SupportsIndex) -> int | None:
    """Return a whole number as an int, None for what is none; bool is none."""
    try:
        return None if isinstance(number, bool) else index(number)
    except TypeError:
        return None


_thousands = ContextVar("_thousands", default=1024)
"""What the units of sizes in texts are powers of."""

_SUFFIXES = {1024: ("KiB", "MiB", "GiB", "TiB"), 1000: ("kB", "MB", "GB", "TB")}


@contextmanager
def units_of(text: str | None) -> Iterator[None]:
    """Write sizes in units like those that somebody typed: after "24MB" in MB, else in MiB.

    >>> from lowmem.units import format_bytes, units_of
    >>> with units_of("24MB"):
    ...     format_bytes(24_000_000)
    '24.0 MB'
    """
    match = _SIZE.fullmatch(text or "")
    unit = match[2].lower() if match else ""
    token = _thousands.set(1000 if len(unit) == 2 and unit in _FACTORS else 1024)
    try:
        yield
    finally:
        _thousands.reset(token)


def byte_unit(largest: float) -> tuple[str, int]:
    """Return the unit in which `largest` bytes and less are best shown together, and its bytes; see `units_of`."""
    thousand = _thousands.get()
    for power in range(len(_SUFFIXES[thousand]), 0, -1):
        if largest >= 2 * thousand**power:
            return _SUFFIXES[thousand][power - 1], thousand**power
    return "bytes", 1


def format_bytes(size: float) -> str:
    """Write a byte size for people, in binary units with three or four digits: "18.4 MiB"; see `units_of`."""
    thousand = _thousands.get()
    value, unit = float(size), "B"
    for larger in _SUFFIXES[thousand]:
        if abs(value) < thousand:
            break
        value, unit = value / thousand, larger
    return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"


def apart(first: int, second: int) -> tuple[str, str]:
    """Write two sizes for people, with as many decimals as tell them apart; equal ones are written alike."""
    texts = format_bytes(first), format_bytes(second)
    if texts[0] != texts[1] or first == second:
        return texts
    return f"{first:,} B", f"{second:,} B"


def ceil_bytes(size: int) -> str:
    """Write a size so that reading it back gives at least `size`: for budgets people will type."""
    thousand = _thousands.get()
    kilo, mega, giga, _ = _SUFFIXES[thousand]
    for unit, factor in ((giga, thousand**3), (mega, thousand**2), (kilo, thousand)):
        if size >= 10 * factor or (unit == kilo and size >= factor):
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


def format_seconds(seconds: float) -> str:
    """Write a time for people, with three digits: "820 µs", "1.25 ms", "56.8 s", "3.2 min", "25.1 h", "12.4 days"."""
    for unit, size, least in (("days", 86400, 172800), ("h", 3600, 7200), ("min", 60, 120), ("s", 1, 1)):
        if seconds >= least:
            return f"{_three_digits(seconds / size)} {unit}"
    for unit, factor in (("µs", 1e6), ("ms", 1e3)):
        if round(seconds * factor) < 1000:
            return f"{_three_digits(seconds * factor)} {unit}"
    return "1.00 s"


def _three_digits(number: float) -> str:
    """Write a number with three digits and no exponent: "56.8", "1.25", "1,234"."""
    return f"{number:,.0f}" if number >= 99.95 else f"{number:#.3g}".rstrip(".") if number else "0"


_SECONDS = re.compile(
    r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([uµμ]s|ms|s|sec|seconds?|min|minutes?|h|hours?|days?)\s*", re.IGNORECASE
)
_UNITS_OF_TIME = {"us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_seconds(text: str) -> float | None:
    """Read a time in seconds, such as "250ms", "1.5 s", "2min" or what `format_seconds` writes; None if it is none."""
    match = _SECONDS.fullmatch(text)
    if match is None:
        return None
    unit = match[2].lower()
    return float(match[1]) * _UNITS_OF_TIME[unit if unit in _UNITS_OF_TIME else unit[0]]


def format_loss(loss: float) -> str:
    """Write a loss: "0.1234"; in scientific notation where that would hide its digits or be very long."""
    plain = not isfinite(loss) or loss == 0 or 1e-3 <= abs(loss) < 1e5
    return f"{loss:.4f}" if plain else f"{loss:.4e}"
