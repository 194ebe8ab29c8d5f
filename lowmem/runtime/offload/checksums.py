"""Checksums of states on a disk: by the compiled library, or by zlib, which takes several times as long.

They tell what is read back from what was written. Other threads run meanwhile, but a checksum takes a core as long as
memory takes to be read. So by default plans have them whose steps they do not lengthen.
"""

import os
import zlib
from collections.abc import Callable, Sequence

from lowmem.errors import InputError, shown
from lowmem.planning.plan import Plan

VARIABLE = "LOWMEM_DISK_CHECKSUM"
"""Of the environment: "1" for checksums, "0" for none. Unset, a plan has them where they cost little."""

LITTLE = 0.02
"""The most that checksums may lengthen a step by default."""

RATES = {"native": 10e9, "numpy": 1.5e9}
"""Bytes a second of a checksum, by engine: of states that are in no cache."""

Checksum = Callable[[Sequence[memoryview]], int]
"""Returns the checksum of pieces of memory that can be written to, one behind the other."""


def checksum_of(plan: Plan) -> Checksum | None:
    """Return the checksum of a plan's states on the disk; None for no checksums.

    Raises `InputError` for an environment that asks for something else.
    """
    wish = os.environ.get(VARIABLE, "")
    if wish not in ("", "0", "1"):
        raise InputError(f'{VARIABLE}={shown(wish)}: give "1" for checksums or "0" for none, or leave it unset.')
    if wish == "0" or (not wish and checksum_share(plan) > LITTLE):
        return None
    return checksum_by(plan.engine)


def checksum_share(plan: Plan) -> float:
    """Return by which share of a step's time checksums lengthen it at most, as predicted.

    A core that is taken from one lane makes the others wait for it.
    """
    if plan.seconds is None:
        return 1.0
    return plan.disk_traffic / RATES[plan.engine] / plan.seconds


def checksum_by(engine: str) -> Checksum:
    """Return the checksum that goes with an engine, "native" or "numpy"."""
    if engine == "numpy":
        return _by_zlib
    from ctypes import addressof, c_char

    from lowmem.runtime.engines.native.library import load

    function = load().functions.lm_checksum

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
