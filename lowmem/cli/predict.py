"""`lowmem predict`: writes what a saved run predicts for samples, which are read in blocks."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from lowmem.cli.console import strictly_encoded
from lowmem.cli.outputs import check_output, not_written
from lowmem.cli.samples import FILES, add_columns, options_of_run, say_remarks
from lowmem.common.files import reason, replacing, write_all
from lowmem.errors import InputError, RunError

if TYPE_CHECKING:
    from lowmem.data.stream import Stream
    from lowmem.training.saved_run import SavedRun

ENDINGS = (".npy", ".csv", ".tsv", ".txt", "")
"""The endings of files of predictions: an array, or text with commas or tabs between outputs."""

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
    if arguments.output is None or _is_file(arguments.output):
        check_output(arguments.output, "the predictions", ENDINGS)
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
    facts = saved.architecture.loss_facts
    if facts.logarithm and not arguments.outputs:
        blocks = map(np.exp, blocks)
    if arguments.outputs or not facts.labels:
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
        if path is None or not _is_file(path):
            with _text(path) as out:
                out.writelines(_lines(blocks, shape, path))
            return
        with replacing(path) as (stream,):
            array = path.suffix.lower() == ".npy"
            text = map(str.encode, _lines(blocks, shape, path))
            for piece in _npy(blocks, shape, dtype) if array else text:
                write_all(stream, piece)
    except (OSError, UnicodeEncodeError) as problem:
        if isinstance(problem, BrokenPipeError):
            raise
        if path is not None and isinstance(problem, OSError):
            raise not_written(path, problem) from None
        raise RunError(f"the output cannot be written: {reason(problem)}.") from None


def _is_file(path: Path) -> bool:
    """Say whether a path is that of a file, there or not. Devices and pipes are none; text may be written to them."""
    return path.is_file() or not path.exists()


@contextmanager
def _text(path: Path | None) -> Iterator[TextIO]:
    """Open a device or a pipe for text; None is the standard output, as it encodes text strictly."""
    if path is not None:
        with path.open("w", encoding="utf-8") as out:
            yield out
    else:
        with strictly_encoded(sys.stdout) as out:
            yield out


def _lines(blocks: Iterator[Any], shape: tuple[int, ...], path: Path | None) -> Iterator[str]:
    """Yield rows as lines of text, block by block."""
    between = "\t" if path is not None and path.suffix.lower() == ".tsv" else ","
    for block in blocks:
        rows = block.tolist()
        yield "".join(f"{row if len(shape) == 1 else between.join(map(repr, row))}\n" for row in rows)


def _npy(blocks: Iterator[Any], shape: tuple[int, ...], dtype: str) -> Iterator[bytes]:
    """Yield the bytes of an .npy file whose rows come in blocks."""
    from numpy.lib.format import write_array_header_1_0

    header = BytesIO()
    write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    yield header.getvalue()
    for block in blocks:
        yield block.astype(dtype, copy=False).tobytes()
