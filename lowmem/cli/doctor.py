"""`lowmem doctor`: what a bug report needs, looked up and measured."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from lowmem.cli.options import add_json
from lowmem.units import format_bytes

if TYPE_CHECKING:
    from lowmem.measure.machine import Machine

HELP = "Show machine, libraries, limits and speeds: what a bug report needs."

DAY = 86_400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Examine the machine, and print what was found."""
    from lowmem.measure.machine import examine

    found = examine(Path.cwd())
    if arguments.json:
        print(json.dumps(found.to_dict()))
        return 0
    print("\n".join(f"{name:<20} {text}" for name, text in _lines(found)))
    return 0


def _lines(found: "Machine") -> list[tuple[str, str]]:
    """Write what was found for people."""
    granted = "" if found.quota is None else f", a control group grants the time of {found.quota:g}"
    limits = ", ".join(f"{name}={value}" for name, value in found.threads.items())
    products = ", ".join(f"{dtype} {rate / 1e9:.1f} GFLOP/s" for dtype, rate in found.products.items())
    ages = ", ".join(f"{dtype} {_age(seconds)}" for dtype, seconds in found.calibrated.items())
    there = ", ".join(f"{name} {text}" for name, text in found.packages.items() if text is not None)
    absent = ", ".join(name for name, text in found.packages.items() if text is None)
    return [
        ("lowmem", found.lowmem),
        ("Python", found.python),
        ("system", found.system),
        ("processor", found.processor),
        ("cores", f"{found.usable} usable of {found.cores}{granted}"),
        *(("BLAS", _library(library)) for library in found.blas),
        ("thread limits set", limits or "none"),
        ("memory", f"{format_bytes(found.memory)}, of which {format_bytes(found.available)} are available"),
        ("memory for ram=auto", f"{format_bytes(found.limit)} (from: {found.limit_source})"),
        ("calibration", ages),
        ("matrix products", products),
        ("memory copied", f"{found.copying / 1e9:.1f} GB/s, read and written"),
        ("disk here", _disk(found)),
        ("packages", there),
        ("not installed", absent or "nothing"),
    ]


def _library(library: dict[str, object]) -> str:
    """Write one BLAS library: its name, version and kind, and its threads."""
    kinds = [str(value) for name, value in library.items() if name != "num_threads"]
    return f"{' '.join(kinds)}, {library.get('num_threads', '?')} threads"


def _age(seconds: float | None) -> str:
    """Write how old a cost model is."""
    if seconds is None:
        return "none for this machine (lowmem calibrate)"
    return "today" if seconds < DAY else f"{seconds / DAY:.0f} days old"


def _disk(found: "Machine") -> str:
    """Write the speed of the disk, or what is wrong with it."""
    disk = found.disk
    if disk.write is None or disk.read is None:
        return disk.problem or "not measured"
    return f"write {disk.write / 1e6:.0f} MB/s, read {disk.read / 1e6:.0f} MB/s"
