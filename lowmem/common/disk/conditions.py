"""What tests and measurements ask of the disk: that it be slow, or that it fail."""

import os
from dataclasses import dataclass

from lowmem.errors import InputError
from lowmem.units import parse_bytes

VARIABLE = "LOWMEM_DISK_TEST"
"""Of the environment, such as "throttle=200MB" (a second, in each direction) or "fail=17" (the 17th transfer)."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a store does beside its work.

    throttle: bytes a second that each direction moves at most, None for no limit.
    fail: number of the transfer, from 1, that fails as if the disk had reported an error; None for none.
    """

    throttle: int | None = None
    fail: int | None = None

    @property
    def name(self) -> str:
        """Text that tells measurements under these conditions from others."""
        return "" if self.throttle is None else f"-{self.throttle}"


def conditions() -> Conditions:
    """Return what the environment asks for. Raises `InputError` for what cannot be read."""
    throttle = fail = None
    for part in filter(None, os.environ.get(VARIABLE, "").split(",")):
        name, _, value = part.partition("=")
        if name == "throttle":
            throttle = parse_bytes(value)
        elif name == "fail" and value.isdigit():
            fail = int(value)
        else:
            raise InputError(f"{VARIABLE} takes throttle=SIZE and fail=NUMBER; got {part!r}.")
    return Conditions(throttle, fail)
