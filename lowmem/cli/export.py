"""`lowmem export`: the network of a saved run, for other programs."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from lowmem.cli.options import add_json, check_folder
from lowmem.common.checks import lookup
from lowmem.errors import InputError
from lowmem.units import format_bytes

if TYPE_CHECKING:
    from lowmem.training.saved_run import SavedRun

HELP = "Write the network of a saved run for PyTorch or as ONNX."

FORMATS = {"torch": ".safetensors", "onnx": ".onnx"}
"""The formats, each with the suffix that names it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("run", metavar="RUN", help="the file that lowmem train --save wrote")
    parser.add_argument("file", metavar="FILE", type=Path, help=f"to write: {', '.join(FORMATS.values())}")
    parser.add_argument("--format", metavar="NAME", help=f"one of {', '.join(FORMATS)} (default: by the file's name)")
    group = parser.add_argument_group("ONNX")
    group.add_argument("--probabilities", action="store_true", help="put softmax or sigmoid behind the last layer")
    group.add_argument("--external", action="store_true", help="parameters in FILE.data (default: above 64 MiB)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Export, and say how the file is loaded."""
    from lowmem.training.saved_run import open_run

    kind = _format(arguments)
    check_folder(arguments.file)
    if arguments.file.exists() and arguments.file.samefile(arguments.run):
        raise InputError(f"{arguments.file} is the saved run itself; name another file.")
    if kind != "onnx" and (arguments.probabilities or arguments.external):
        raise InputError("--probabilities and --external go with ONNX; leave them out.")
    saved = open_run(arguments.run)
    how = (_onnx if kind == "onnx" else _torch)(saved, arguments)
    size = arguments.file.stat().st_size
    if arguments.json:
        print(json.dumps({"file": str(arguments.file), "format": kind, "bytes": size, "code": how}))
    else:
        print(f"{arguments.file}: {saved.architecture}, {format_bytes(size)}\n\n{how}")
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


def _torch(saved: "SavedRun", arguments: argparse.Namespace) -> str:
    """Write for PyTorch; return the code that loads it."""
    from lowmem.interchange.torch_weights import export_torch, torch_code

    standardisation = saved.standardisation()
    export_torch(saved.network(), arguments.file, standardisation=standardisation)
    hint = "# inputs: (x - mean) / deviation, which are in the file's metadata as JSON\n"
    return ("" if standardisation is None else hint) + torch_code(saved.architecture, arguments.file)


def _onnx(saved: "SavedRun", arguments: argparse.Namespace) -> str:
    """Write as ONNX; return the code that runs it."""
    from lowmem.interchange.onnx import export_onnx

    export_onnx(
        saved.network(),
        arguments.file,
        probabilities=arguments.probabilities,
        standardisation=saved.standardisation(),
        external=True if arguments.external else None,
    )
    return (
        "import onnxruntime\n\n"
        f"session = onnxruntime.InferenceSession({str(arguments.file)!r})\n"
        f'(y,) = session.run(None, {{"x": x}})  # x: {saved.architecture.dtype}, any number of rows'
    )
