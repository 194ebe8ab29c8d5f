"""`lowmem export`: the network of a saved run, for other programs."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from lowmem.architecture import lookup
from lowmem.cli.options import add_json, check_folder
from lowmem.errors import InputError
from lowmem.units import format_bytes

if TYPE_CHECKING:
    from lowmem.saved_run import SavedRun

HELP = "Write the network of a saved run for PyTorch."

FORMATS = {"torch": ".safetensors"}
"""The formats, each with the suffix that names it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("run", metavar="RUN", help="the file that lowmem train --save wrote")
    parser.add_argument("file", metavar="FILE", type=Path, help=f"to write: {', '.join(FORMATS.values())}")
    parser.add_argument("--format", metavar="NAME", help=f"one of {', '.join(FORMATS)} (default: by the file's name)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Export, and say how the file is loaded."""
    from lowmem.saved_run import open_run

    kind = _format(arguments)
    check_folder(arguments.file)
    if arguments.file.exists() and arguments.file.samefile(arguments.run):
        raise InputError(f"{arguments.file} is the saved run itself; name another file.")
    saved = open_run(arguments.run)
    code = _torch(saved, arguments.file)
    size = arguments.file.stat().st_size
    if arguments.json:
        print(json.dumps({"file": str(arguments.file), "format": kind, "bytes": size, "code": code}))
        return 0
    print(f"{arguments.file}: {saved.architecture}, {format_bytes(size)}\n\n{code}")
    if saved.standardisation() is not None:
        print("\nIts inputs are standardised: mean and deviation are in the file's metadata, as JSON.")
    return 0


def _format(arguments: argparse.Namespace) -> str:
    """Return the format that was asked for, or that the file's name asks for."""
    if arguments.format is not None:
        lookup("format", arguments.format, FORMATS)
        return str(arguments.format)
    for name, suffix in FORMATS.items():
        if arguments.file.suffix.lower() == suffix:
            return name
    raise InputError(f"{arguments.file.name!r} tells no format; name it {' or '.join(FORMATS.values())}, or --format.")


def _torch(saved: "SavedRun", path: Path) -> str:
    """Write for PyTorch; return the code that loads it."""
    from lowmem.interchange import export_torch, torch_code

    export_torch(saved.network(), path, standardisation=saved.standardisation())
    return torch_code(saved.architecture, path)
