"""Where and when something was measured: machine, versions and date, as a report shows them."""

import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from lowmem.common.cores import usable_cores
from lowmem.measure.calibration import processor
from lowmem.units import format_bytes


@dataclass(frozen=True, slots=True)
class Provenance:
    """A machine, the versions of what ran on it, and the time. Nothing here identifies the user.

    date: UTC, as ISO 8601 to the minute.
    processor, system: names.
    cores: cores that the process may use. memory: bytes of the machine, None if unknown.
    versions: by name, of lowmem, Python and NumPy.
    """

    date: str
    processor: str
    cores: int
    memory: int | None
    system: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """Say all of it in a line."""
        memory = [] if self.memory is None else [format_bytes(self.memory)]
        parts = [self.processor, f"{self.cores} cores", *memory, self.system]
        parts += [f"{name} {version}" for name, version in self.versions.items()]
        return f"Measured {self.date.replace('T', ' ')} UTC on {', '.join(parts)}."


def here_and_now() -> Provenance:
    """Return the provenance of what is measured in this process now. It imports nothing heavy."""
    import numpy as np

    from lowmem import __version__

    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on this system
        memory = None
    return Provenance(
        date=f"{datetime.now(UTC):%Y-%m-%dT%H:%M}",
        processor=processor(),
        cores=usable_cores(),
        memory=memory,
        system=f"{platform.system()} {platform.machine()}",
        versions={"lowmem": __version__, "Python": platform.python_version(), "NumPy": np.__version__},
    )
