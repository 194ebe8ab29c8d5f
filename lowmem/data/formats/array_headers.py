"""Headers of arrays in files: .npy, members of an .npz, and MNIST's idx, read without pickle and without trust."""

import io
import struct
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from zipfile import ZipFile

Header = tuple[tuple[int, ...], bool, np.dtype[Any]]
"""Shape, whether the array is stored column by column, and dtype."""

_NPY_HEADERS: dict[tuple[int, int], Callable[[Any], Header]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,  # version 3 is for field names, which are no numbers
}


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


IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""The dtypes of idx files by their third byte (Y. LeCun, "The MNIST database")."""

MOST_DIMENSIONS = 8


def idx_header(stream: io.BufferedIOBase) -> Header:
    """Read the header of an idx file: two zeros, the type, the number of dimensions, their sizes (big-endian)."""
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in IDX_TYPES or not 1 <= start[3] <= MOST_DIMENSIONS:
        raise ValueError(
            f"an idx file starts with 00 00, a type such as 08, and a number of dimensions, this one with "
            f"{start.hex(' ')!r}"
        )
    sizes = stream.read(4 * start[3])
    return struct.unpack(f">{start[3]}I", sizes), False, np.dtype(IDX_TYPES[start[2]])


def open_member(archive: "ZipFile", name: str) -> io.BufferedIOBase:
    """Open a member of an .npz. Raises `ValueError` for a compression that NumPy does not write."""
    import zipfile

    if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in a way that NumPy does not use")
    return cast("io.BufferedIOBase", archive.open(name))
