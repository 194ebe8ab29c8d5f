"""`lowmem predict`: writes what a saved run predicts for samples, which are read in blocks."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from lowmem.cli.options import check_folder
from lowmem.cli.samples import FILES, add_columns, options_of_run, say_remarks
from lowmem.errors import InputError, RunError

if TYPE_CHECKING:
    from lowmem.data.stream import Stream
    from lowmem.training.saved_run import SavedRun

HELP = "Write the classes, or the outputs, that a saved run predicts for samples."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("run", metavar="RUN", help="the saved run, as lowmem train --save writes it")
    parser.add_argument("--data", metavar="WHAT", help=f"the samples: {FILES}; targets in it are not used")
    parser.add_argument(
        "--target", metavar="NAME", help="column of a table that holds targets, not inputs (default: as in training)"
    )
    parser.add_argument(
        "--weights", metavar="NAME", help="column of a table that holds weights, not inputs (default: as in training)"
    )
    add_columns(parser)
    parser.add_argument("--outputs", action="store_true", help="write the outputs of the network instead of classes")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write to FILE, a .npy or text (default: print text)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Predict for the samples, block by block."""
    import numpy as np

    from lowmem.runtime.inference import Inference
    from lowmem.training.saved_run import open_run

    if arguments.data is None:
        raise InputError("--data is needed: a file of samples.")
    check_folder(arguments.output)
    saved = open_run(arguments.run)
    stream = _stream(arguments, saved)
    if stream.features != saved.architecture.widths[0]:
        inputs = saved.architecture.widths[0]
        raise InputError(
            f"{stream.name} has {stream.features} features and the network {inputs} inputs. Give samples with the "
            "features of the training data."
        )
    inference = Inference(saved.network())
    blocks = inference.outputs(stream.batches(min(inference.rows, len(stream)), saved.architecture, None))
    width, names = saved.architecture.widths[-1], saved.class_names
    if arguments.outputs or not saved.architecture.loss_facts.labels:
        _write(arguments.output, blocks, (len(stream), width), f"<f{saved.architecture.item_bytes}")
    elif names is None:
        _write(arguments.output, (block.argmax(axis=1) for block in blocks), (len(stream),), "<i8")
    else:
        table = np.array(names)
        named = (table[block[:, : len(table)].argmax(axis=1)] for block in blocks)
        _write(arguments.output, named, (len(stream),), table.dtype.newbyteorder("<").str)
    return 0


def _stream(arguments: argparse.Namespace, saved: "SavedRun") -> "Stream":
    """Open samples; a table may hold columns of targets and weights beside the inputs."""
    from lowmem.data.open import open_data

    options: dict[str, Any] = options_of_run(arguments, saved, inputs_only=True)
    stream = open_data(arguments.data, part="test" if Path(arguments.data).is_dir() else "train", **options)
    say_remarks(stream)
    return stream


def _write(path: Path | None, blocks: Iterator[Any], shape: tuple[int, ...], dtype: str) -> None:
    """Write blocks of rows to an .npy file, or as text with a line for each row.

    path: the file; None prints text.
    shape, dtype: of all blocks together.
    """
    try:
        if path is not None and path.suffix == ".npy":
            _write_npy(path, blocks, shape, dtype)
            return
        with _text(path) as out:
            for block in blocks:
                rows = block.tolist()
                out.writelines(f"{row if len(shape) == 1 else ','.join(map(repr, row))}\n" for row in rows)
    except (OSError, UnicodeEncodeError) as problem:
        if isinstance(problem, BrokenPipeError):
            raise
        reason = getattr(problem, "strerror", None) or problem
        raise RunError(f"{'the output' if path is None else path} cannot be written: {reason}.") from None


@contextmanager
def _text(path: Path | None) -> Iterator[TextIO]:
    """Open a file for text; None is the standard output."""
    if path is None:
        yield sys.stdout
        return
    with path.open("w", encoding="utf-8") as out:
        yield out


def _write_npy(path: Path, blocks: Iterator[Any], shape: tuple[int, ...], dtype: str) -> None:
    """Write an .npy file whose rows come in blocks."""
    from numpy.lib.format import write_array_header_1_0

    with path.open("wb") as out:
        write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
        for block in blocks:
            out.write(block.astype(dtype, copy=False).tobytes())
