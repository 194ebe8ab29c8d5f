"""Finding files: by name, by the first bytes that tell a format, and the labels that belong to images."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from lowmem.common.damage import damage_is_input_error
from lowmem.common.places import advice_on, is_file, is_folder
from lowmem.data.formats.array_headers import IDX_TYPES
from lowmem.data.formats.text_lines import GZIP, is_text
from lowmem.errors import Advice, InputError, UnknownNameError

PARTS = {"train": ("train",), "test": ("t10k", "test")}
"""The parts of a data set, and how the names of MNIST's files call them."""

TABLES = ("csv", "parquet")
"""The formats of tables."""

_FIRST_BYTES = (
    ("npz", (b"PK\x03\x04", b"PK\x05\x06")),
    ("npy", (b"\x93NUMPY",)),
    ("parquet", (b"PAR1",)),
)
_ENDINGS = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet", ".npz": "npz", ".npy": "npy"}
"""Formats by how a file's name ends, for content that tells none."""

_OTHER_KINDS = (
    (b"BZh", "compressed by bzip2", "Unpack it"),
    (b"\xfd7zXZ", "compressed by xz", "Unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "Unpack it"),
    (b"7z\xbc\xaf", "a 7z archive", "Unpack it"),
    (b"\x89HDF", "HDF5", "Save the table as CSV or Parquet"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook", "Save the sheet as CSV"),
    (b"ARROW1", "Arrow or Feather", "Save the table as Parquet"),
    (b"Obj\x01", "Avro", "Save the table as Parquet"),
    (b"ORC", "ORC", "Save the table as Parquet"),
    (b"SQLite format 3", "an SQLite database", "Save the table as CSV"),
    (b"\x80\x02", "a pickle, which is never opened here", "Save the arrays with numpy.savez(path, x=x, y=y)"),
    (b"\x80\x03", "a pickle, which is never opened here", "Save the arrays with numpy.savez(path, x=x, y=y)"),
    (b"\x80\x04", "a pickle, which is never opened here", "Save the arrays with numpy.savez(path, x=x, y=y)"),
    (b"\x80\x05", "a pickle, which is never opened here", "Save the arrays with numpy.savez(path, x=x, y=y)"),
    (b"MATLAB 5.0", "a MATLAB file", "Save the arrays with numpy.savez(path, x=x, y=y)"),
    (b"\x89PNG", "an image", "Save pixels with numpy.savez(path, x=x, y=y)"),
    (b"\xff\xd8\xff", "an image", "Save pixels with numpy.savez(path, x=x, y=y)"),
    (b"%PDF", "a PDF", "Give the file of the samples"),
)


def existing(source: str | os.PathLike[str], names: Sequence[str] = (), what: str = "data") -> Path:
    """Return the path of an existing file or folder.

    names: words that would have done as well. what: the argument's name. Both are for the message.

    Raises `InputError`, with the nearest name that there is, if there is no such file.
    """
    if not isinstance(source, str | os.PathLike):
        raise InputError(
            f"data of type {type(source).__name__} cannot be opened; a path or the name 'digits' is needed. "
            "Arrays go to from_arrays()."
        )
    if not os.fspath(source):  # which a `Path` takes for the current folder
        words = "".join(f", or {name!r}" for name in names)
        raise InputError(f"{what} must be the path of a file or folder{words}; got ''.")
    path = Path(source)
    if is_file(path) or is_folder(path):
        return path
    siblings = os.listdir(path.parent) if os.access(path.parent, os.R_OK) and is_folder(path.parent) else []
    if path.name in siblings:
        raise InputError(f"{path} is neither a file nor a directory that can be read. Check the path.")
    import difflib  # only on the way to an error

    known = names if path.name == str(source) and not path.suffix else ()
    near = difflib.get_close_matches(path.name, [*known, *siblings], n=1)
    if known and (not near or near[0] in known):
        raise UnknownNameError("data set or file", str(source), names)
    hint = f"Did you mean {str(path.with_name(near[0]))!r}?" if near else advice_on(path)
    raise InputError(f"there is no file or directory {str(path)!r}. {hint}")


def format_of(path: Path) -> str:
    """Return the format of a file: "npz", "npy", "idx", "parquet" or "csv", which is any table in text.

    The content decides, unpacked if it is gzipped; the name does where the content tells no format.

    Raises `InputError` if it is none of them.
    """
    with damage_is_input_error(path), path.open("rb") as stream:
        start = stream.read(4096)
        packed = start.startswith(GZIP)
        if packed:
            import gzip

            with gzip.open(path) as unpacked:
                start = unpacked.read(4096)
            if start.startswith(GZIP):
                raise InputError(f"{path} is gzipped twice. Unpack it: gunzip {path.name}.")
    if not start:
        raise InputError(
            f"{path} is empty; a table (CSV, Parquet), an .npz, .npy or MNIST idx file (gzipped or not) is needed. "
            "Save arrays with numpy.savez(path, x=x, y=y)."
        )
    kind = _format(path, start)
    if packed and kind in ("npz", "parquet"):
        raise InputError(f"{path} is {kind} inside gzip, which cannot be read by rows. Unpack it: gunzip {path.name}.")
    return kind


def _format(path: Path, start: bytes) -> str:
    """Return the format that the first bytes of a file tell, else the one that its name does."""
    for name, first_bytes in _FIRST_BYTES:
        if start.startswith(first_bytes):
            return name
    if len(start) >= 4 and start[:2] == b"\0\0" and start[2] in IDX_TYPES and 1 <= start[3] <= 8:
        return "idx"
    for begin, what, advice in _OTHER_KINDS:
        if start.startswith(begin):
            raise InputError(f"{path} is {what}; no data are read from that. {advice}.")
    name = path.name.lower().removesuffix(".gz")
    if re.search(r"[-.]idx\d", name):
        return "idx"
    if is_text(start):
        return "csv"
    by_ending = _ENDINGS.get(Path(name).suffix)
    if by_ending is not None:
        return by_ending
    raise InputError(
        f"{path} starts with {start[:6]!r}; a table (CSV, Parquet), an .npz, .npy or MNIST idx file (gzipped or not) "
        "is needed. Save arrays with numpy.savez(path, x=x, y=y)."
    )


def idx_images(directory: Path, part: str) -> Path:
    """Find the images of one part in a directory as MNIST and its relatives are distributed.

    Raises `InputError` if there are none, or those of several data sets.
    """
    names = [f"{prefix}-images{mark}idx3-ubyte{end}" for prefix in PARTS[part] for mark in "-." for end in ("", ".gz")]
    for name in names:
        if is_file(directory / name):
            return directory / name
    like = re.compile(rf"(.*[-_.])?({'|'.join(PARTS[part])})[-_.]images[-_.]idx3[-_.]\w+(\.gz)?")
    with damage_is_input_error(directory):
        inside = sorted(directory.iterdir(), reverse=True)
    held = {path.name.removesuffix(".gz"): path for path in inside}
    others = [path for name, path in sorted(held.items()) if like.fullmatch(name) and is_file(path)]
    if len(others) == 1:
        return others[0]
    if others:
        raise InputError(
            f"directory {directory} has {', '.join(path.name for path in others)[:200]}. Name one of them."
        )
    raise InputError(f"directory {directory} has no {names[0]} or {names[1]}. Put them there, or name a file.")


def no_parts(path: Path, part: str) -> InputError:
    """Return the error of a part that was asked for of data that have no parts."""
    return InputError(
        f"{path} has no parts; leave out ",
        Advice("part", part),
        ", which needs a directory of idx files, or an .npz with arrays such as x_test and y_test.",
    )


def has_part(directory: Path, part: str) -> bool:
    """Say whether a directory holds the images of a part."""
    try:
        idx_images(directory, part)
    except InputError:
        return False
    return True


def idx_labels(images: Path) -> Path:
    """Find the labels that belong to a file of images.

    QMNIST's labels have eight columns of whole numbers, and its names say so: "labels-idx2-int".
    """
    name = images.name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    if "images" not in images.name:
        raise InputError(
            f"{images} is not named like images (train-images-idx3-ubyte), so its labels cannot be found by name. "
            "Give the file of the images, or that of the labels as ",
            Advice("targets", "..."),
            ".",
        )
    for candidate in (name, name.replace("idx1", "idx2").replace("ubyte", "int")):
        for end in ("", ".gz"):
            if is_file(images.with_name(candidate + end)):
                return images.with_name(candidate + end)
    raise InputError(
        f"the labels of {images} were not found. Put {name} beside it, or give ", Advice("targets", "..."), "."
    )
