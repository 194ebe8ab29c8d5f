"""The safetensors format, streamed: arrays go from memory to the file and back without a copy.

A file holds the length of the header in 8 bytes; the header in JSON, which gives dtype, shape and place of each tensor
and a map of text named __metadata__; and the tensors, one after the other
(https://github.com/huggingface/safetensors). The library of that name reads the files written here, and its files are
read here. A header is checked against the size of the file and the tensors that the reader wants before anything is
allocated; nothing in a file is unpickled or run.
"""

import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from lowmem.common.files import replacing, write_all
from lowmem.errors import InputError

if TYPE_CHECKING:
    from lowmem.common.disk.paged_array import PagedArray
    from lowmem.common.disk.parts import Part

BFLOAT = np.dtype("V2")
"""The upper half of a float32, which NumPy has no dtype for."""

HALVES = (np.dtype("<f2"), BFLOAT)
"""Dtypes of 16 bits: they are read and never written."""

DTYPES: dict[str, np.dtype[Any]] = {
    **{"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "I64": np.dtype("<i8")},
    **dict(zip(("F16", "BF16"), HALVES, strict=True)),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

LONGEST_HEADER = 16 << 20
"""The most bytes of a header that is read: enough for some 90,000 layers."""

BLOCK = 1 << 20
"""Bytes of tensors that are written and read at a time."""

SMALL_BLOCK = 1 << 14
"""Bytes of a header that are read at a time for its checksum."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor in a file: its dtype and shape, and where it lies.

    start, stop: offsets of its first byte and of the byte after its last, counted from the first tensor.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    stop: int


class InPieces(Protocol):
    """A tensor that is not in memory as a whole: pieces, flat, one behind the other."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of every piece."""

    @property
    def nbytes(self) -> int:
        """Bytes of the whole."""

    def pieces(self) -> Iterator[NDArray[Any]]:
        """Yield the pieces, each valid until the next one is asked for."""


Tensor: TypeAlias = NDArray[Any] | InPieces
"""What is written as one tensor."""

Target: TypeAlias = "NDArray[Any] | PagedArray | Part"
"""What a tensor of a file is read into."""

Tensors = Callable[[], Iterable[tuple[str, Tensor]]]
"""A function that yields names and arrays. A dictionary of all of them would take more than a layer of a deep
network."""


def checksum(tensors: Tensors, start: int = 0, check: Callable[[str, NDArray[Any]], None] | None = None) -> int:
    """Return the CRC-32 of the bytes of all tensors in their order.

    start: the CRC-32 of what comes before them. check: gets the name and each piece of a tensor, to refuse it.
    """
    for name, tensor in tensors():
        for array in pieces_of(tensor):
            if check is not None:
                check(name, array)
            for block in _blocks(array):
                start = crc32(block, start)
    return start


def pieces_to_fill(target: Target) -> Iterator[NDArray[Any]]:
    """Yield the pieces of what will be overwritten; an array is one piece."""
    if isinstance(target, np.ndarray):
        return iter((target,))
    return target.pieces(changed=True, fetched=False)


def pieces_of(tensor: Tensor) -> Iterator[NDArray[Any]]:
    """Yield the pieces of a tensor; an array is one piece."""
    return iter((tensor,)) if isinstance(tensor, np.ndarray) else tensor.pieces()


def write(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """Write a file of tensors (C-contiguous); an earlier file at `path` is replaced when the new one is complete.

    Raises `OSError` if the file cannot be written. The earlier file is unchanged then, and the new one is removed.
    """
    text = json.dumps(metadata, separators=(",", ":"))
    length = sum(map(len, _header(tensors, text)))
    blanks = -length % 8  # tensors begin at a multiple of 8
    if length + blanks > LONGEST_HEADER:
        raise InputError(
            f"a file of so many tensors needs a header of {length:,} bytes; {LONGEST_HEADER:,} can be read."
        )
    with replacing(path) as (stream,):
        write_all(stream, memoryview(struct.pack("<Q", length + blanks)))
        for part in _header(tensors, text):
            write_all(stream, memoryview(part))
        write_all(stream, memoryview(b" " * blanks))
        for _, tensor in tensors():
            for array in pieces_of(tensor):
                write_array(stream, array)


def write_array(stream: BinaryIO, array: NDArray[Any]) -> None:
    """Write the bytes of an array, block by block."""
    for block in _blocks(array):
        write_all(stream, block)


def _header(tensors: Tensors, metadata: str) -> Iterator[bytes]:
    """Yield the header's JSON piece by piece."""
    yield f'{{"__metadata__":{metadata}'.encode()
    place = 0
    for name, array in tensors():
        entry = {
            "dtype": _NAMES[array.dtype.newbyteorder("<")],
            "shape": list(array.shape),
            "data_offsets": [place, place + array.nbytes],
        }
        yield f",{json.dumps(name)}:{json.dumps(entry, separators=(',', ':'))}".encode()
        place += array.nbytes
    yield b"}"


def _blocks(array: NDArray[Any]) -> Iterator[memoryview]:
    """Yield the bytes of an array in blocks, as they lie in memory (little-endian)."""
    flat = array.reshape(-1).view(np.uint8).data
    for start in range(0, len(flat), BLOCK):
        yield flat[start : start + BLOCK]


def read_header(stream: BinaryIO) -> tuple[dict[str, str], dict[str, Entry], int]:
    """Return the metadata, the tensors by name, and the offset of the first tensor of a file.

    The file's size is asked of the open file: another one may have taken its name since. Raises `ValueError` for a
    header that is not one, and for tensors that overlap, leave gaps, or do not fill the file exactly.
    """
    size = os.fstat(stream.fileno()).st_size
    start = stream.read(8)
    if len(start) < 8:
        raise ValueError(f"it has {size:,} bytes")
    (length,) = struct.unpack("<Q", start)
    if not 2 <= length <= min(size - 8, LONGEST_HEADER):
        raise ValueError(f"it announces a header of {length:,} bytes")
    text = stream.read(length)
    if len(text) < length or not text.startswith(b"{"):
        raise ValueError("its header is no JSON object")
    try:
        header = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("its header is nested without end") from None
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are no map of text")
    entries = {name: _entry(name, value) for name, value in header.items()}
    place = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != place:
            raise ValueError(f"tensor {name[:60]!r} begins at {entry.start:,} and the one before it ends at {place:,}")
        place = entry.stop
    if 8 + length + place != size:
        raise ValueError(f"its tensors end at byte {8 + length + place:,} and the file has {size:,}")
    return metadata, entries, 8 + length


def header_code(stream: BinaryIO, begin: int) -> int:
    """Return the CRC-32 of the first `begin` bytes of a file: of all that comes before the first tensor."""
    stream.seek(0)
    code = 0
    while begin and (block := stream.read(min(begin, SMALL_BLOCK))):
        code, begin = crc32(block, code), begin - len(block)
    return code


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dictionary. Raises `ValueError` if a name occurs twice."""
    named = dict(pairs)
    if len(named) < len(pairs):
        raise ValueError("its header has a name twice")
    return named


def _no_number(text: str) -> float:
    """Refuse NaN and Infinity, which Python reads as JSON."""
    raise ValueError(f"its header holds {text}")


def _entry(name: str, value: Any) -> Entry:  # noqa: ANN401 - whatever JSON held
    """Return what a header says of one tensor. Raises `ValueError` if that is not understood."""
    wrong = ValueError(f"its header describes tensor {name[:60]!r} in a way that is not understood")
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise wrong
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or not _counts(shape) or not _counts(offsets):
        raise wrong
    if dtype not in DTYPES:
        raise ValueError(f"tensor {name[:60]!r} is {dtype[:20]}; known are {', '.join(DTYPES)}")
    if len(offsets) != 2 or len(shape) > 8 or offsets[1] - offsets[0] != prod(shape) * DTYPES[dtype].itemsize:
        raise wrong
    return Entry(DTYPES[dtype], tuple(shape), *offsets)


def _counts(value: object) -> bool:
    """Say whether a value is a list of sizes or offsets that a file can have."""
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 1 << 62 for number in value)


def read_into(stream: BinaryIO, place: int, target: Target) -> None:
    """Fill an array with the bytes of a file from the offset `place` on. Raises `EOFError` if the file ends before."""
    for array in pieces_to_fill(target):
        stream.seek(place)
        place += array.nbytes
        for block in _blocks(array):
            filled = 0
            while filled < len(block):
                got = stream.readinto(block[filled:])  # type: ignore[attr-defined]
                if not got:
                    raise EOFError("it ended while it was read")
                filled += got


def read_widened(stream: BinaryIO, place: int, dtype: np.dtype[Any], array: NDArray[Any]) -> int:
    """Fill an array with numbers of its own dtype or of 16 bits, which every wider dtype holds exactly.

    place: offset in the file of the first number. dtype: of the numbers in the file.

    Returns the offset behind the last number.
    """
    end = place + array.size * dtype.itemsize
    if dtype not in HALVES:
        read_into(stream, place, array)
        return end
    flat = array.reshape(-1)
    halves = np.empty(min(len(flat), BLOCK // 2), np.uint16)
    for start in range(0, len(flat), len(halves)):
        target = flat[start : start + len(halves)]
        block = halves[: len(target)]
        read_into(stream, place + 2 * start, block)
        if dtype == BFLOAT:
            target[:] = (block.astype(np.uint32) << 16).view(np.float32)
        else:
            target[:] = block.view(np.float16)
    return end
