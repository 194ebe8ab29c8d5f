"""Checksums of states on a disk: by the compiled library, or by zlib, which takes several times as long.

They tell what is read back from what was written. Other threads run meanwhile.
"""

import os
import zlib
from collections.abc import Callable, Sequence

from lowmem.errors import InputError, shown

VARIABLE = "LOWMEM_DISK_CHECKSUM"
"""Of the environment: "1" for checksums, "0" for none. Unset, the compiled engine has them and NumPy's has none."""

Checksum = Callable[[Sequence[memoryview]], int]
"""Returns the checksum of pieces of memory that can be written to, one behind the other."""


def checksum_for(engine: str) -> Checksum | None:
    """Return the checksum that goes with an engine, "native" or "numpy"; None for no checksums.

    Raises `InputError` for an environment that asks for something else.
    """
    wish = os.environ.get(VARIABLE, "")
    if wish not in ("", "0", "1"):
        raise InputError(f'{VARIABLE}={shown(wish)}: give "1" for checksums or "0" for none, or leave it unset.')
    if wish == "0":
        return None
    if engine == "native" and (compiled := _compiled()) is not None:
        return compiled
    return _by_zlib if wish else None


def _compiled() -> Checksum | None:
    """Return the checksum of the compiled library, None where that cannot be loaded."""
    from ctypes import addressof, c_char

    from lowmem.runtime.engines.native.library import UnusableError, load

    try:
        function = load().functions.lm_checksum
    except UnusableError:
        return None

    def checksum(pieces: Sequence[memoryview]) -> int:
        total = 0
        for piece in pieces:
            total = function(addressof(c_char.from_buffer(piece)), piece.nbytes, total)
        return total

    return checksum


def _by_zlib(pieces: Sequence[memoryview]) -> int:
    """Return the CRC-32 of pieces of memory."""
    total = 0
    for piece in pieces:
        total = zlib.crc32(piece, total)
    return total
