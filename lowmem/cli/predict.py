"""`lowmem predict`: what a saved run makes of samples, read and written in blocks."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from lowmem.cli.options import check_folder
from lowmem.errors import InputError, RunError

if TYPE_CHECKING:
    from lowmem.saved_run import SavedRun
    from lowmem.streams import Stream

HELP = "Write what a saved run makes of samples: class numbers, or outputs."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("run", metavar="RUN", help="the file that lowmem train --save wrote")
    parser.add_argument("--data", metavar="WHAT", help="samples: .npy, .npz, .csv, idx; targets are left aside")
    parser.add_argument("--outputs", action="store_true", help="the network's outputs, not the class numbers")
    parser.add_argument("--output", type=Path, metavar="FILE", help=".npy, or text (default: text, printed)")


def run(arguments: argparse.Namespace) -> int:
    """Predict, a block at a time."""
    from lowmem.inference import Inference
    from lowmem.saved_run import open_run

    if arguments.data is None:
        raise InputError("--data is needed: a file of samples.")
    check_folder(arguments.output)
    saved = open_run(arguments.run)
    stream = _stream(arguments.data, saved)
    if stream.features != saved.architecture.widths[0]:
        raise InputError(
            f"{stream.name} has {stream.features} features and the network {saved.architecture.widths[0]} inputs."
        )
    inference = Inference(saved.network())
    classes = saved.architecture.loss_facts.labels and not arguments.outputs
    blocks = inference.outputs(stream.batches(min(inference.rows, len(stream)), saved.architecture, None))
    found = (block.argmax(axis=1) if classes else block for block in blocks)
    shape = (len(stream),) if classes else (len(stream), saved.architecture.widths[-1])
    try:
        if arguments.output is not None and arguments.output.suffix == ".npy":
            _write_npy(arguments.output, found, shape, "<i8" if classes else f"<f{saved.architecture.item_bytes}")
        else:
            with _text(arguments.output) as out:
                for block in found:
                    rows = block.tolist()
                    out.writelines(f"{row if classes else ','.join(map(repr, row))}\n" for row in rows)
    except OSError as problem:
        if isinstance(problem, BrokenPipeError):
            raise
        raise RunError(f"{arguments.output} cannot be written: {problem.strerror or problem}.") from None
    return 0


def _stream(source: str, saved: "SavedRun") -> "Stream":
    """Open samples with or without targets beside them."""
    from lowmem.streams import open_data

    standard = saved.standardisation() or False
    suffix = Path(source).suffix.lower()
    if source == "digits" or suffix in (".npz", ".parquet") or Path(source).is_dir():
        return open_data(source, part="test" if Path(source).is_dir() else "train", standardise=standard)
    if suffix in (".csv", ".tsv"):
        bare = open_data(source, inputs_only=True)
        if bare.features == saved.architecture.widths[0] + 1:
            return open_data(source, standardise=standard)
    return open_data(source, inputs_only=True, standardise=standard)


@contextmanager
def _text(path: Path | None) -> Iterator[TextIO]:
    """Open a file for text, or the standard output."""
    if path is None:
        yield sys.stdout
        return
    with path.open("w", encoding="utf-8") as out:
        yield out


def _write_npy(path: Path, blocks: Iterator[Any], shape: tuple[int, ...], dtype: str) -> None:
    """Write an .npy whose rows come in blocks."""
    from numpy.lib.format import write_array_header_1_0

    with path.open("wb") as out:
        write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
        for block in blocks:
            out.write(block.astype(dtype, copy=False).tobytes())
