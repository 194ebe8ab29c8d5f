"""Finding files: by name, by the first bytes that tell a format, and the labels that belong to images."""

import os
from collections.abc import Sequence
from pathlib import Path

from lowmem.common.damage import damage_is_input_error
from lowmem.errors import InputError, UnknownNameError

PARTS = {"train": ("train",), "test": ("t10k", "test")}
"""The parts of a data set, and how the names of MNIST's files call them."""

TABLES = {"csv": "csv", "tsv": "csv", "parquet": "parquet"}
"""The formats of tables, by how the names of files end."""

GZIP = b"\x1f\x8b"
_FIRST_BYTES = (
    ("npz", (b"PK\x03\x04", b"PK\x05\x06")),
    ("npy", (b"\x93NUMPY",)),
    ("idx", (GZIP, b"\0\0\x08")),
)


def existing(source: str | os.PathLike[str], names: Sequence[str] = ()) -> Path:
    """Return the path of an existing file or folder.

    names: words that would have done as well, for the message.

    Raises `InputError`, with the nearest name that there is, if there is no such file.
    """
    if not isinstance(source, str | os.PathLike):
        raise InputError(
            f"data of type {type(source).__name__} cannot be opened; a path or the name 'digits' is needed. "
            "Arrays go to from_arrays()."
        )
    path = Path(source)
    if path.is_file() or path.is_dir():
        return path
    siblings = os.listdir(path.parent) if os.access(path.parent, os.R_OK) and path.parent.is_dir() else []
    if path.name in siblings:
        raise InputError(f"{path} is neither a file nor a directory that can be read. Check the path.")
    import difflib  # only on the way to an error

    known = names if path.name == str(source) and not path.suffix else ()
    near = difflib.get_close_matches(path.name, [*known, *siblings], n=1)
    if known and (not near or near[0] in known):
        raise UnknownNameError("data set or file", str(source), names)
    hint = f"Did you mean {str(path.with_name(near[0]))!r}?" if near else "Check the path."
    raise InputError(f"there is no file or directory {str(path)!r}. {hint}")


def format_of(path: Path) -> str:
    """Return the format of a file: "csv" or "parquet" by its name, else "npz", "npy" or "idx" by its first bytes.

    Raises `InputError` if it is none of them.
    """
    table = TABLES.get(path.suffix.lower().lstrip("."))
    if table is not None:
        return table
    with damage_is_input_error(path), path.open("rb") as stream:
        start = stream.read(6)
    for name, first_bytes in _FIRST_BYTES:
        if start.startswith(first_bytes):
            return name
    raise InputError(
        f"{path} {f'starts with {start!r}' if start else 'is empty'}; an .npz, .npy or MNIST idx file (gzipped or "
        "not) is needed. Save arrays with numpy.savez(path, x=x, y=y)."
    )


def idx_images(directory: Path, part: str) -> Path:
    """Find the images of one part in a directory as MNIST is distributed."""
    names = [f"{prefix}-images{mark}idx3-ubyte{end}" for prefix in PARTS[part] for mark in "-." for end in ("", ".gz")]
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise InputError(f"directory {directory} has no {names[0]} or {names[1]}. Put them there, or name a file.")


def idx_labels(images: Path) -> Path:
    """Find the labels that belong to a file of images."""
    name = images.name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    if "images" not in images.name:
        raise InputError(
            f"{images} is not named like images (train-images-idx3-ubyte), so its labels cannot be found by name. "
            "Give the file of the images, or that of the labels as targets=."
        )
    for candidate in (images.with_name(name), images.with_name(f"{name}.gz")):
        if candidate.is_file():
            return candidate
    raise InputError(f"the labels of {images} were not found. Put {name} beside it, or give targets=.")
