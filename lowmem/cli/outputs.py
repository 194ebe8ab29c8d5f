"""Files that commands write: their places are checked before any work, and a file appears when it is complete."""

import stat
from argparse import ArgumentTypeError
from collections.abc import Collection
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from lowmem.common.checks import as_path
from lowmem.common.files import check_place, reason, replacing, same_file, unchanged, write_all
from lowmem.common.kinds import RUN, kind_of
from lowmem.common.places import status
from lowmem.errors import InputError, RunError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lowmem.data.samples import Samples
    from lowmem.network.architecture import Architecture

FIGURES = (".svg", ".png", ".pdf")
"""The endings of figures, which name their formats."""

PAGES = (".html", ".htm")


def output_file(text: str) -> Path:
    """Return the path of a file to write, for argparse. Raises its error for what is no path or means a folder."""
    try:
        return as_path("it", text)
    except InputError as error:
        raise ArgumentTypeError(str(error).removesuffix(".")) from None


def input_file(text: str) -> str:
    """Return the name of a file to read, for argparse. Raises its error as `output_file` does."""
    output_file(text)
    return text


def check_output(path: Path | None, what: str, endings: Collection[str] = ()) -> None:
    """Refuse a file that could not be written in the end. Raises `InputError`.

    path: the file; None is none.
    what: what will be written, such as "the figure".
    endings: those that the file may have; any if there are none.
    """
    if path is None:
        return
    if endings and path.suffix.lower() not in endings:
        known = ", ".join(ending or "no ending" for ending in endings)
        raise InputError(f"{what} cannot be written as {path.name!r}, whose ending is none of: {known}. Rename it.")
    check_place(path, what)


def check_replaced(
    path: str | Path | None,
    architecture: "Architecture",
    train: "Samples | None",
    *,
    force: bool,
    own: str | Path | None = None,
) -> None:
    """Refuse to replace anything but an earlier run of the same network and data. Raises `InputError`.

    path: where a run will be saved; None is nowhere.
    train: the samples that it will be trained on, None if there are none.
    force: whether anything may be replaced. own: the run that is continued, which may be replaced.
    """
    from lowmem.training.saved_run import open_run

    there = None if path is None or force else status(path)
    if path is None or there is None or not stat.S_ISREG(there.st_mode) or not there.st_size:
        return
    if own is not None and same_file(path, own):
        return
    go_on = "Name another file, or replace it with --force."
    if kind_of(Path(path)) != RUN:
        raise InputError(f"{path} is there already, and is no saved run. {go_on}")
    earlier = open_run(path)
    if earlier.architecture != architecture:
        raise InputError(f"{path} has the run of another network: {earlier.architecture}. {go_on}")
    before = earlier.data.get("fingerprint")
    if train is not None and before != train.fingerprint():
        raise InputError(f"{path} has a run of this network on other data. {go_on}")


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure to a file, in the format that the ending of the file names."""
    drawn = BytesIO()
    figure.savefig(drawn, format=path.suffix[1:].lower())
    write_output(path, drawn.getbuffer())


def write_output(path: Path, content: bytes | memoryview) -> None:
    """Write a file in one step. Raises `RunError` if that fails; an earlier file is unchanged then."""
    try:
        with replacing(path) as (stream,):
            write_all(stream, content)
    except OSError as problem:
        raise not_written(path, problem) from None


def not_written(path: Path, problem: OSError) -> RunError:
    """Return the error of a file that could not be written."""
    return RunError(f"{path} cannot be written: {reason(problem)}. {unchanged(path)}")
