"""Files that commands write: their places are checked before any work, and a file appears when it is complete."""

from collections.abc import Collection
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from lowmem.common.files import check_place, reason, replacing, unchanged, write_all
from lowmem.errors import InputError, RunError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = (".svg", ".png", ".pdf")
"""The endings of figures, which name their formats."""

PAGES = (".html", ".htm")


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
