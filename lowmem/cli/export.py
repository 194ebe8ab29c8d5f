"""`lowmem export`: writes the network of a saved run to a file of PyTorch or ONNX."""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowmem.cli.options import add_json, add_network_disk
from lowmem.cli.outputs import check_output, input_file, output_file
from lowmem.common.checks import one_of
from lowmem.common.files import check_apart
from lowmem.common.kinds import ARRAYS, RUN, TABLE, kind_of
from lowmem.errors import InputError
from lowmem.units import format_bytes

if TYPE_CHECKING:
    from lowmem.training.saved_run import SavedRun

HELP = "Write the network of a saved run to a file for PyTorch or ONNX."

FORMATS = {"torch": ".safetensors", "onnx": ".onnx"}
"""The formats, each with the ending of its files."""

DATA = ("data", "targets", "validation", "weights")
"""The flags of a run that may name files of its data."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("run", type=input_file, metavar="RUN", help="the saved run, as lowmem train --save writes it")
    parser.add_argument(
        "file", metavar="FILE", type=output_file, help=f"the file to write, ending in {' or '.join(FORMATS.values())}"
    )
    parser.add_argument("--format", metavar="NAME", help=f"{' or '.join(FORMATS)} (default: by FILE's ending)")
    group = parser.add_argument_group("ONNX")
    group.add_argument(
        "--probabilities", action="store_true", help="let the model return probabilities, by softmax or sigmoid"
    )
    group.add_argument(
        "--external", action="store_true", help="write parameters to FILE.data (default: if above 64 MiB)"
    )
    add_network_disk(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Export a network, and print the code that loads it."""
    from lowmem.training.saved_run import open_run

    kind = _format(arguments)
    check_output(arguments.file, "the network")
    if kind != "onnx" and (arguments.probabilities or arguments.external):
        raise InputError("--probabilities and --external go with ONNX; leave them out.")
    saved = open_run(arguments.run)
    _check_file(arguments.file, saved, kind)
    code = (_onnx if kind == "onnx" else _torch)(saved, arguments)
    if saved.architecture.loss_facts.logarithm:
        code += "\n# Outputs are logarithms of what is predicted: take their exp."
    size = arguments.file.stat().st_size
    if arguments.json:
        print(json.dumps({"file": str(arguments.file), "format": kind, "bytes": size, "code": code}))
    else:
        print(f"{arguments.file}: {saved.architecture}, {format_bytes(size)}\n\n{code}")
    return 0


def _format(arguments: argparse.Namespace) -> str:
    """Return the format of --format, else the format whose ending the file has."""
    if arguments.format is not None:
        return one_of("format", arguments.format, FORMATS)
    for name, suffix in FORMATS.items():
        if arguments.file.suffix.lower() == suffix:
            return name
    endings = " or ".join(FORMATS.values())
    raise InputError(f"{arguments.file.name!r} tells no format; let it end in {endings}, or give --format.")


def _check_file(file: Path, saved: "SavedRun", kind: str) -> None:
    """Refuse to replace a saved run, or samples, by a network: there is no way back from it. Raises `InputError`."""
    flags = saved.notes.get("flags")
    sources = [flags.get(name) for name in DATA] if isinstance(flags, dict) else []
    beside = file.with_name(f"{file.name}.data") if kind == "onnx" else None
    data = [source for source in sources if isinstance(source, str)]
    check_apart({"FILE": file, "FILE.data": beside}, {"the saved run": [saved.path], "data of the run": data})
    for path in (file, beside):
        held = None if path is None else kind_of(path)
        if held in (RUN, TABLE, ARRAYS):
            raise InputError(f"{path} is there already, and is {held}. Name another file.")


def _torch(saved: "SavedRun", arguments: argparse.Namespace) -> str:
    """Write a file for PyTorch, and return the code that loads it."""
    from lowmem.interchange.torch_modules import torch_code
    from lowmem.interchange.torch_weights import export_torch

    standardisation, scale = saved.standardisation(), _scale(saved)
    facts: dict[str, Any] = {"class_names": saved.class_names, "columns": saved.columns}
    export_torch(saved.network(arguments.disk), arguments.file, standardisation=standardisation, scale=scale, **facts)
    standardised = standardisation is not None
    return torch_code(saved.architecture, arguments.file, standardised=standardised, scale=scale)


def _scale(saved: "SavedRun") -> float:
    """Return what a run multiplies its inputs by; a run of an earlier version knows it by where its data came from."""
    if saved.scale is not None:
        return saved.scale
    flags = saved.notes.get("flags")
    source = flags.get("data") if isinstance(flags, dict) else None
    if source == "digits":
        return 1 / 16
    if isinstance(source, str) and (os.path.isdir(source) or "idx" in Path(source).name):
        return 1 / 255
    return 1.0


def _onnx(saved: "SavedRun", arguments: argparse.Namespace) -> str:
    """Write an ONNX model, and return the code that runs it."""
    from lowmem.interchange.onnx import export_onnx

    export_onnx(
        saved.network(arguments.disk),
        arguments.file,
        probabilities=arguments.probabilities,
        standardisation=saved.standardisation(),
        scale=_scale(saved),
        class_names=saved.class_names,
        columns=saved.columns,
        external=True if arguments.external else None,
    )
    return (
        "import onnxruntime\n\n"
        f"session = onnxruntime.InferenceSession({str(arguments.file)!r})\n"
        f'(y,) = session.run(None, {{"x": x}})  # x: {saved.architecture.dtype}, any number of rows'
    )
