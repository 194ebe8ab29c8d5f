"""What planning asks of the machine where the caller does not say: how fast it computes, and how fast a disk is.

Planning measures nothing itself: measurements are made on a floor above it. `lowmem` says here, when it is imported,
who makes them.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike, fspath
from typing import TYPE_CHECKING

from lowmem.errors import Advice, InputError, shown
from lowmem.schedule.disk.transfers import DiskRates
from lowmem.units import parse_bytes

if TYPE_CHECKING:
    from lowmem.planning.cost_model import CostModel


@dataclass(frozen=True, slots=True)
class DiskTier:
    """A disk that a plan may use.

    folder: where the files are made. rates: how fast the disk is. limit: bytes that the files may take, None for as
    many as are free when they are made. parameters: whether those of a network may lie there, if it is not made yet.
    beside: bytes of files that lie there whatever the plan, such as the second network that patience keeps.
    states: whether states may go there; all places of the arena are whole pages then.
    """

    folder: str
    rates: DiskRates
    limit: int | None = None
    parameters: bool = True
    beside: int = 0
    states: bool = True


@dataclass(slots=True)
class Measurements:
    """Who measures: the cost model of a dtype and an engine, and the rates of the disk that a folder lies on.

    rates: of the folder, in so many bytes of the disk at most.
    """

    costs: Callable[[str, str], "CostModel"]
    rates: Callable[[str, int | None], DiskRates]


_ask: list[Measurements] = []


def measured_by(measurements: Measurements) -> None:
    """Say who measures."""
    _ask[:] = [measurements]


def measured_costs(dtype: str, engine: str) -> "CostModel":
    """Return the cost model of this machine, measured now if it never was."""
    return _ask[0].costs(dtype, engine)


def disk_tier(disk: str | PathLike[str] | DiskTier | None, disk_limit: int | str | None = None) -> DiskTier | None:
    """Return the disk that `disk=` and `disk_limit=` stand for, its rates measured now if they never were.

    Raises `InputError` for what is no folder, and for a limit without a disk.
    """
    limit = None if disk_limit is None else parse_bytes(disk_limit)
    if disk is None:
        if limit is not None:
            one = Advice("disk", "/tmp")
            raise InputError(f"disk_limit={shown(disk_limit)} goes with ", one, ", or another folder on a disk.")
        return None
    if isinstance(disk, DiskTier):
        return disk if limit is None else replace(disk, limit=limit)
    try:
        folder = fspath(disk)
    except TypeError:
        raise InputError(f'disk must be a folder, such as disk="/tmp"; got {shown(disk)}.') from None
    if not isinstance(folder, str) or not folder:
        raise InputError(f'disk must be a folder, such as disk="/tmp"; got {shown(disk)}.')
    rates = _ask[0].rates(folder, limit)
    return DiskTier(os.path.abspath(folder), rates, limit)  # the same folder wherever the process goes
