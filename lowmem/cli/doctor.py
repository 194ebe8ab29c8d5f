"""`lowmem doctor`: shows what a bug report needs to know of a machine."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from lowmem.cli.options import add_json
from lowmem.units import format_bytes

if TYPE_CHECKING:
    from lowmem.measure.machine import Machine

HELP = "Show what a bug report needs: machine, libraries, limits and speeds."

DAY = 86_400
"""Seconds of a day."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Examine the machine, and print what a bug report needs."""
    from lowmem.measure.machine import examine

    machine = examine(Path.cwd())
    if arguments.json:
        print(json.dumps(machine.to_dict()))
        return 0
    print(f"engine: {machine.engine} ({machine.engine_note})")
    print("\n".join(f"{name:<20} {text}" for name, text in _lines(machine)))
    return 0


def _lines(machine: "Machine") -> list[tuple[str, str]]:
    """Return names and values, for people to read."""
    granted = "" if machine.quota is None else f", a cgroup grants the time of {machine.quota:g}"
    limits = ", ".join(f"{name}={value}" for name, value in machine.threads.items())
    products = ", ".join(f"{dtype} {rate / 1e9:.1f} GFLOP/s" for dtype, rate in machine.products.items())
    ages = ", ".join(f"{dtype} {_age(seconds)}" for dtype, seconds in machine.calibrated.items())
    installed = ", ".join(f"{name} {text}" for name, text in machine.packages.items() if text is not None)
    absent = ", ".join(name for name, text in machine.packages.items() if text is None)
    return [
        ("lowmem", machine.lowmem),
        ("Python", machine.python),
        ("system", machine.system),
        ("processor", machine.processor),
        ("cores", f"{machine.usable} usable of {machine.cores}{granted}"),
        *(("BLAS", _library(library)) for library in machine.blas),
        ("thread limits set", limits or "none"),
        ("memory", f"{format_bytes(machine.memory)}, of which {format_bytes(machine.available)} are available"),
        ("memory for ram=auto", f"{format_bytes(machine.limit)} (from: {machine.limit_source})"),
        ("calibration", ages),
        ("matrix products", products),
        ("memory copied", f"{machine.copying / 1e9:.1f} GB/s, read and written"),
        ("disk here", _disk(machine)),
        ("MPI", machine.mpi or "none (pip install 'lowmem[mpi]')"),
        ("packages", installed),
        ("not installed", absent or "nothing"),
    ]


def _library(library: dict[str, object]) -> str:
    """Return name, version, kind and threads of a BLAS library in a line."""
    kinds = [str(value) for name, value in library.items() if name != "num_threads"]
    return f"{' '.join(kinds)}, {library.get('num_threads', '?')} threads"


def _age(seconds: float | None) -> str:
    """Return the age of a cost model in words. seconds: None if none is stored for this machine."""
    if seconds is None:
        return "none for this machine (lowmem calibrate)"
    return "today" if seconds < DAY else f"{seconds / DAY:.0f} days old"


def _disk(machine: "Machine") -> str:
    """Return the speed of the disk in words, or why it was not measured."""
    disk = machine.disk
    if disk.write is None or disk.read is None:
        return disk.problem or "not measured"
    return f"write {disk.write / 1e6:.0f} MB/s, read {disk.read / 1e6:.0f} MB/s"
