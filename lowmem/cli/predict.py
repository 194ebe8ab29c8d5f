"""`lowmem predict`: writes what a saved run predicts for samples, which are read in blocks."""

import argparse
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from lowmem.cli.console import strictly_encoded
from lowmem.cli.options import add_network_disk
from lowmem.cli.outputs import check_output, input_file, not_written, output_file
from lowmem.cli.samples import FILES, add_columns, add_part, is_table, options_of_run, say_remarks
from lowmem.common.files import check_apart, reason, replacing, write_all
from lowmem.common.kinds import RUN, kind_of
from lowmem.common.places import status
from lowmem.errors import InputError, RunError, UnknownColumnError

if TYPE_CHECKING:
    from lowmem.data.stream import Stream
    from lowmem.training.saved_run import SavedRun

ENDINGS = (".npy", ".csv", ".tsv", ".txt", "")
"""The endings of files of predictions: an array, or text with commas or tabs between outputs."""

HELP = "Write the classes, probabilities or outputs that a saved run predicts for samples."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("run", type=input_file, metavar="RUN", help="the saved run, as lowmem train --save writes it")
    parser.add_argument("--data", metavar="WHAT", help=f"the samples: {FILES}; targets in it are not used")
    parser.add_argument(
        "--target", metavar="NAME", help="column of a table that holds targets, not inputs (default: as in training)"
    )
    parser.add_argument(
        "--weights", metavar="NAME", help="column of a table that holds weights, not inputs (default: as in training)"
    )
    add_columns(parser)
    add_part(parser)
    parser.add_argument("--outputs", action="store_true", help="write the outputs of the network instead of classes")
    parser.add_argument(
        "--probabilities", action="store_true", help="write the probability of each class instead of classes"
    )
    parser.add_argument(
        "--with-header",
        action="store_true",
        help="write text with a line of names first, and the number of each sample, from 1, in front of it",
    )
    parser.add_argument(
        "--id",
        metavar="NAME",
        help="as --with-header, with this column of a table in place of numbers; it is no input of the network",
    )
    parser.add_argument(
        "--output", type=output_file, metavar="FILE", help="write to FILE, a .npy or text (default: print text)"
    )
    add_network_disk(parser)


def run(arguments: argparse.Namespace) -> int:
    """Predict for the samples, block by block."""
    from lowmem.runtime.inference import Inference
    from lowmem.training.saved_run import open_run

    if arguments.data is None:
        raise InputError("--data is needed: a file of samples.")
    if arguments.output is None or _is_file(arguments.output):
        check_output(arguments.output, "the predictions", ENDINGS)
    saved = open_run(arguments.run)
    _check_kind(arguments, saved.architecture.loss)
    stream = _stream(arguments, saved)
    check_apart({"output": arguments.output}, {"the saved run": [arguments.run], "the data": stream.files})
    if arguments.output is not None and _is_file(arguments.output) and kind_of(arguments.output) == RUN:
        raise InputError(f"{arguments.output} is there already, and is a saved run. Name another file.")
    if stream.features != saved.architecture.widths[0]:
        inputs = saved.architecture.widths[0]
        raise InputError(
            f"{stream.name} has {stream.features} features and the network {inputs} inputs. Give samples with the "
            "features of the training data."
        )
    inference = Inference(saved.network(arguments.disk))
    blocks = inference.outputs(stream.batches(min(inference.rows, len(stream)), saved.architecture, None))
    predicted = _predicted(arguments, saved, blocks, len(stream))
    if arguments.with_header or arguments.id is not None:
        ids = map(str, range(1, len(stream) + 1)) if arguments.id is None else stream.rows.texts(arguments.id)
        lines = _with_header(predicted, arguments.id or "sample", ids, _between(arguments.output))
    else:
        lines = _lines(predicted, _between(arguments.output))
    _write(arguments.output, predicted, lines)
    return 0


@dataclass(frozen=True, slots=True)
class Predicted:
    """Predictions, block by block. shape, dtype: of all blocks together. names: of what each row holds."""

    blocks: Iterator[Any]
    shape: tuple[int, ...]
    dtype: str
    names: Sequence[str]


def _check_kind(arguments: argparse.Namespace, loss: str) -> None:
    """Refuse flags that do not go together, or not with the network's loss. Raises `InputError`."""
    if arguments.outputs and arguments.probabilities:
        raise InputError("--outputs and --probabilities are two things to write; leave one out.")
    if arguments.probabilities and loss not in ("cross_entropy", "bce"):
        raise InputError(f"--probabilities needs a network of classes; the loss of this one is {loss}.")
    named = "--with-header" if arguments.with_header else "--id"
    if (arguments.with_header or arguments.id is not None) and _is_array(arguments.output):
        raise InputError(f"{named} goes with text; {str(arguments.output)!r} is an array. Name a .csv.")


def _predicted(arguments: argparse.Namespace, saved: "SavedRun", blocks: Iterator[Any], samples: int) -> Predicted:
    """Return what the flags ask for of the outputs of a network."""
    import numpy as np

    from lowmem.runtime.scores import probabilities

    network, names = saved.architecture, saved.class_names
    width, shape = network.widths[-1], (samples, network.widths[-1])
    classes = network.loss_facts.labels
    if arguments.probabilities:
        known = list(names or map(str, range(width))) if classes else _numbered("yes", width)
        shares = (probabilities(block, network.loss) for block in blocks)
        return Predicted(shares, shape, "<f8", known[:width] + [str(n) for n in range(len(known), width)])
    if network.loss_facts.logarithm and not arguments.outputs:
        blocks = map(np.exp, blocks)
    if arguments.outputs or not classes:
        return Predicted(blocks, shape, f"<f{network.item_bytes}", _numbered("output", width))
    if names is None:
        return Predicted((block.argmax(axis=1) for block in blocks), (samples,), "<i8", ["class"])
    table = np.array(names)
    named = (table[block[:, : len(table)].argmax(axis=1)] for block in blocks)
    return Predicted(named, (samples,), table.dtype.newbyteorder("<").str, ["class"])


def _numbered(name: str, count: int) -> list[str]:
    """Return a name for each of several columns."""
    return [name] if count == 1 else [f"{name} {number}" for number in range(count)]


def _stream(arguments: argparse.Namespace, saved: "SavedRun") -> "Stream":
    """Open samples; a table may hold columns of targets and weights beside the inputs."""
    from lowmem.data.open import open_data, part_to_use

    options: dict[str, Any] = options_of_run(arguments, saved, inputs_only=True)
    if arguments.id is not None:
        if not arguments.id:
            raise InputError("--id must be the name or number of a column; got ''.")
        if not is_table(arguments.data):
            raise InputError(f"{arguments.data} is no table with columns; leave out --id {arguments.id}.")
        options["ignore"] = _with_id(options.get("ignore"), arguments.id)
    try:
        stream = open_data(arguments.data, part=part_to_use(arguments.data, arguments.part), **options)
    except UnknownColumnError as error:
        if error.column == arguments.id:
            error.what = "that of --id"
        raise
    say_remarks(stream)
    return stream


def _with_id(ignored: object, name: str) -> list[str]:
    """Return the columns that are left out, with that of the ids among them."""
    already = ignored.split(",") if isinstance(ignored, str) else []
    return list(dict.fromkeys([*(each.strip() for each in already if each.strip()), name]))


def _write(path: Path | None, predicted: Predicted, lines: Iterator[str]) -> None:
    """Write predictions to an .npy file, or their lines as text. path: the file; None prints text."""
    try:
        if path is None or not _is_file(path):
            with _text(path) as out:
                out.writelines(lines)
            return
        with replacing(path) as (stream,):
            for piece in _npy(predicted) if _is_array(path) else map(str.encode, lines):
                write_all(stream, piece)
    except (OSError, UnicodeEncodeError) as problem:
        if isinstance(problem, BrokenPipeError):
            raise
        if path is not None and isinstance(problem, OSError):
            raise not_written(path, problem) from None
        raise RunError(f"the output cannot be written: {reason(problem)}.") from None


def _is_array(path: Path | None) -> bool:
    """Say whether predictions are written as an array, and not as text."""
    return path is not None and path.suffix.lower() == ".npy" and _is_file(path)


def _is_file(path: Path) -> bool:
    """Say whether a path is that of a file, there or not. Devices and pipes are none; text may be written to them."""
    there = status(path)
    return there is None or stat.S_ISREG(there.st_mode)


@contextmanager
def _text(path: Path | None) -> Iterator[TextIO]:
    """Open a device or a pipe for text; None is the standard output, as it encodes text strictly."""
    if path is not None:
        with path.open("w", encoding="utf-8") as out:
            yield out
    else:
        with strictly_encoded(sys.stdout) as out:
            yield out


def _between(path: Path | None) -> str:
    """Return what stands between the values of a line."""
    return "\t" if path is not None and path.suffix.lower() == ".tsv" else ","


def _lines(predicted: Predicted, between: str) -> Iterator[str]:
    """Yield rows as lines of text, block by block."""
    for block in predicted.blocks:
        rows = block.tolist()
        alone = len(predicted.shape) == 1
        yield "".join(f"{row if alone else between.join(map(repr, row))}\n" for row in rows)


def _with_header(predicted: Predicted, id_name: str, ids: Iterator[str], between: str) -> Iterator[str]:
    """Yield a line of names and then rows as lines of text, block by block; what needs quotes gets them.

    id_name, ids: name and values of the first column.
    """
    import csv

    text = StringIO()
    writer = csv.writer(text, delimiter=between, lineterminator="\n")
    writer.writerow([id_name, *predicted.names])
    for block in predicted.blocks:
        rows = block.tolist()
        writer.writerows([next(ids), *(row if isinstance(row, list) else [row])] for row in rows)
        yield text.getvalue()
        text.seek(0)
        text.truncate()


def _npy(predicted: Predicted) -> Iterator[bytes]:
    """Yield the bytes of an .npy file whose rows come in blocks."""
    from numpy.lib.format import write_array_header_1_0

    header, dtype = BytesIO(), predicted.dtype
    write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": predicted.shape})
    yield header.getvalue()
    for block in predicted.blocks:
        yield block.astype(dtype, copy=False).tobytes()
