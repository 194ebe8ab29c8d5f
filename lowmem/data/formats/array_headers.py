"""Files of arrays: .npz, .npy and MNIST's idx, gzipped or not, read without pickle and without trust.

A file's first bytes say what it is, and a header is believed only after the bytes that it announces were counted.
"""

import contextlib
import gzip
import io
import math
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import NUMBER_KINDS, TEXT_KINDS
from lowmem.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from zipfile import ZipFile

KINDS_OF_PAIR = NUMBER_KINDS, NUMBER_KINDS + TEXT_KINDS  # of x and y: labels may be text
Header = tuple[tuple[int, ...], bool, np.dtype[Any]]  # shape, Fortran order, dtype


PARTS = {"train": ("train",), "test": ("t10k", "test")}
_NPY_HEADERS: dict[tuple[int, int], Callable[[Any], Header]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,  # version 3 is for field names, which are no numbers
}


def _damage() -> tuple[type[Exception], ...]:
    """Return what readers raise on a damaged file."""
    import zipfile  # 1 MiB, for those who read archives, here and below

    return (
        gzip.BadGzipFile,
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        ValueError,
        KeyError,
        IndexError,
        OverflowError,
        RuntimeError,  # an encrypted archive; NotImplementedError is one too
    )


def existing(source: str | os.PathLike[str], names: Sequence[str] = ()) -> Path:
    """Return the path of an existing file or directory, or say what was meant: a path, or one of `names`."""
    if not isinstance(source, str | os.PathLike):
        raise InputError(
            f"load() got data of type {type(source).__name__}; it needs a path or the name 'digits'. "
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


@contextlib.contextmanager
def damage_is_input_error(path: Path) -> Iterator[None]:
    """Turn what a reader raises on a damaged file into one clear line."""
    try:
        yield
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path} does not fit into memory. Keep fewer samples or a narrower dtype.") from None
    except _damage() as problem:
        reason = " ".join(str(problem).split())[:200] or type(problem).__name__
        raise InputError(
            f"{path} cannot be read: {reason}. It is truncated, damaged or something else; save or fetch it again."
        ) from None
    except OSError as problem:
        raise InputError(f"{path} cannot be read: {problem}. Check that it can be opened.") from None


def kind_of(path: Path) -> str:
    """Return "npz", "npy" or "idx" by the file's first bytes."""
    with damage_is_input_error(path), path.open("rb") as stream:
        start = stream.read(6)
    for kind, magics in (
        ("npz", (b"PK\x03\x04", b"PK\x05\x06")),
        ("npy", (b"\x93NUMPY",)),
        ("idx", (b"\x1f\x8b", b"\0\0\x08")),
    ):
        if start.startswith(magics):
            return kind
    raise InputError(
        f"{path} {f'starts with {start!r}' if start else 'is empty'}; an .npz, .npy or MNIST idx file (gzipped or "
        "not) is needed. Save arrays with numpy.savez(path, x=x, y=y)."
    )


def read_array(path: Path, *, text: bool = False) -> NDArray[Any]:
    """Read the one array of an .npy or idx file; text: it may hold text, which labels may be."""
    kind = kind_of(path)
    if kind == "npz":
        raise InputError(f"{path} is an .npz with arrays of its own; one array is needed here, .npy or idx.")
    kinds = NUMBER_KINDS + TEXT_KINDS * text
    with damage_is_input_error(path):
        with path.open("rb") as stream:
            zipped = stream.read(2) == b"\x1f\x8b"
        read_header = npy_header if kind == "npy" else idx_header
        return _counted_read(lambda: gzip.GzipFile(path) if zipped else path.open("rb"), read_header, str(path), kinds)


def read_pair(path: Path, part: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read x and y of an .npz."""
    import zipfile

    with damage_is_input_error(path), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        x, y = (
            _counted_read(partial(open_member, archive, f"{name}.npy"), npy_header, f"{name} in {path}", kinds)
            for name, kinds in zip(pair_names(names, part, path), KINDS_OF_PAIR, strict=True)
        )
        return x, y


def open_member(archive: "ZipFile", name: str) -> io.BufferedIOBase:
    """Open an array in an .npz; NumPy writes no other compression than these two."""
    import zipfile

    if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in a way that NumPy does not use")
    return cast(io.BufferedIOBase, archive.open(name))


def x_name(names: Sequence[str], part: str, path: Path) -> str:
    """Choose the array that is x among the names in an .npz: a pair's, or the only one."""
    for name in (f"x_{part}", *("x", "X", "images", "data")[: 4 * (part == "train")]):
        if name in names:
            return name
    if len(names) == 1 and part == "train":
        return names[0]
    held = ", ".join(names) or "none"
    raise InputError(f"{path} holds the arrays {held}; x, or a single one, is needed. Name it so in numpy.savez().")


def pair_names(names: Sequence[str], part: str, path: Path) -> tuple[str, str]:
    """Choose the arrays that are x and y among the names in an .npz."""
    pairs = [(f"x_{part}", f"y_{part}")]
    if part == "train":
        pairs += [("x", "y"), ("X", "Y"), ("X", "y")]
        pairs += [("images", "labels"), ("data", "target")] if len(names) == 2 else []
    for pair in pairs:
        if set(pair) <= set(names):
            return pair
    need = "x and y" if part == "train" else f"x_{part} and y_{part}"
    held = ", ".join(names) or "none"
    raise InputError(f"{path} holds the arrays {held}; {need} are needed. Name them so in numpy.savez().")


def _counted_read(
    open_stream: Callable[[], io.BufferedIOBase],
    read_header: Callable[[io.BufferedIOBase], Header],
    what: str,
    kinds: str,
) -> NDArray[Any]:
    """Read an array whose header is believed only after the bytes behind it were counted: two passes."""
    with open_stream() as stream:
        shape, fortran, dtype = read_header(stream)
        if dtype.kind not in kinds or not dtype.itemsize:
            raise InputError(f"{what} holds {dtype} values; numbers are needed. Convert and save it again.")
        wanted = math.prod(shape) * dtype.itemsize
        held = _bytes_left(stream, wanted + 1)
    if held != wanted:
        raise InputError(
            f"{what} announces shape {shape}, which is {wanted:,} bytes, and holds "
            f"{'more' if held > wanted else f'{held:,}'}. It is truncated or damaged; save or fetch it again."
        )
    flat = np.empty(math.prod(shape), dtype)
    with open_stream() as stream:
        read_header(stream)
        target, filled = flat.view(np.uint8).data, 0
        while filled < wanted:
            got = stream.readinto(target[filled : filled + 2**16])
            if not got:
                raise EOFError("it ended while it was read")
            filled += got
    # Rows that lie together are gathered fast in every batch; a copy once is cheaper.
    return np.ascontiguousarray(flat.reshape(shape[::-1]).T) if fortran else flat.reshape(shape)


def _bytes_left(stream: io.BufferedIOBase, limit: int) -> int:
    """Count the bytes left in a stream, up to `limit`: a plain file tells, a compressed one has to be unpacked."""
    if isinstance(stream, io.BufferedReader):
        here = stream.tell()
        return stream.seek(0, os.SEEK_END) - here
    count = 0
    while count < limit and (block := stream.read(min(2**16, limit - count))):
        count += len(block)
    return count


def npy_header(stream: io.BufferedIOBase) -> Header:
    """Read the header of an .npy: its text is parsed by NumPy as a literal, never run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy warns of files from Python 2, which are fine
            version = np.lib.format.read_magic(stream)
            shape, fortran, dtype = _NPY_HEADERS[version](stream)
    except Exception as problem:  # parsers of text raise anything, from MemoryError to TokenError
        raise ValueError(f"no header of an .npy file ({type(problem).__name__})") from None
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"its header has the shape {shape}")
    return shape, fortran, dtype


def idx_header(stream: io.BufferedIOBase) -> Header:
    """Read the header of an idx file: two zeros, the type (8 is uint8), the number of dimensions, their sizes."""
    start = stream.read(4)
    if len(start) < 4 or start[:3] != b"\0\0\x08" or not 1 <= start[3] <= 4:
        raise ValueError(f"an idx file of bytes starts with 00 00 08 and 01 to 04, this one with {start.hex(' ')!r}")
    sizes = stream.read(4 * start[3])
    return struct.unpack(f">{start[3]}I", sizes), False, np.dtype(np.uint8)


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
