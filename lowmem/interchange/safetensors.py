"""The safetensors format, streamed: arrays go from memory to the file and back without a copy on the way.

A file is 8 bytes with the length of the header, the header (JSON: for each tensor its dtype, shape and place, and a
map of text named __metadata__), then the tensors one behind the other (https://github.com/huggingface/safetensors).
Files written here are read by that library and the other way round. Nothing in a file is believed before it was
compared with the file's size and with what the reader wants; nothing is unpickled or run.
"""

import contextlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from lowmem.errors import InputError

DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "I64": np.dtype("<i8")}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

LONGEST_HEADER = 16 << 20
"""Bytes of a header that are read at most: room for some 90,000 layers."""

BLOCK = 1 << 20
"""Bytes of tensors that are written and read at a time."""

SMALL_BLOCK = 1 << 14
"""And of a header that is only compared."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies: its dtype, shape, and the offsets of its first byte and of the byte behind it."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    stop: int


Tensors = Callable[[], Iterable[tuple[str, NDArray[Any]]]]
"""Gives names and arrays, anew at each call: a dictionary of all would outweigh a layer of a deep network."""


def checksum(tensors: Tensors, start: int = 0) -> int:
    """Return the CRC-32 of the bytes of all tensors in their order, going on from `start`."""
    for _, array in tensors():
        for block in _blocks(array):
            start = crc32(block, start)
    return start


def write(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """Replace the file at `path` by one with these tensors (C-contiguous), or leave it as it was.

    The new file is written beside it, brought to the disk, and takes its name in one step. Raises `OSError` if that
    fails; no half of a file is left then.
    """
    text = json.dumps(metadata, separators=(",", ":"))
    length = sum(map(len, _header(tensors, text)))
    blanks = -length % 8  # tensors begin at a multiple of 8
    if length + blanks > LONGEST_HEADER:
        raise InputError(f"a file of so many tensors needs a header of {length:,} bytes; too many.")
    with replacing(path) as stream:
        write_all(stream, memoryview(struct.pack("<Q", length + blanks)))
        for part in _header(tensors, text):
            write_all(stream, memoryview(part))
        write_all(stream, memoryview(b" " * blanks))
        for _, array in tensors():
            write_array(stream, array)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the name `path` in one step once all is written and on the disk, or is taken away.

    Raises `OSError` if that fails; an earlier file stands then.
    """
    path = Path(os.path.realpath(path))
    beside = path.with_name(path.name + ".part")
    try:
        with beside.open("wb", buffering=0) as stream:
            yield stream
            os.fsync(stream.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_array(stream: BinaryIO, array: NDArray[Any]) -> None:
    """Write an array's bytes, block by block."""
    for block in _blocks(array):
        write_all(stream, block)


def _header(tensors: Tensors, metadata: str) -> Iterator[bytes]:
    """Yield the header's JSON piece by piece."""
    yield f'{{"__metadata__":{metadata}'.encode()
    place = 0
    for name, array in tensors():
        facts = {
            "dtype": _NAMES[array.dtype.newbyteorder("<")],
            "shape": list(array.shape),
            "data_offsets": [place, place + array.nbytes],
        }
        yield f",{json.dumps(name)}:{json.dumps(facts, separators=(',', ':'))}".encode()
        place += array.nbytes
    yield b"}"


def _blocks(array: NDArray[Any]) -> Iterator[memoryview]:
    """Yield an array's bytes as little-endian machines hold them, in blocks."""
    flat = array.reshape(-1).view(np.uint8).data
    for start in range(0, len(flat), BLOCK):
        yield flat[start : start + BLOCK]


def write_all(stream: BinaryIO, block: memoryview) -> None:
    """Write a block to an unbuffered file, however many calls the system takes for it."""
    while block:
        block = block[stream.write(block) :]


def _sync_folder(folder: Path) -> None:
    """Bring a new name to the disk, where the system lets folders be opened (Windows does not)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_header(stream: BinaryIO, size: int) -> tuple[dict[str, str], dict[str, Entry], int]:
    """Return metadata, tensors by name, and the place of the first tensor's first byte, of a file of `size` bytes.

    Raises `ValueError`, saying what is wrong, for a header that is none, and for tensors that overlap, leave holes,
    or do not fill the file exactly.
    """
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
    """Return the CRC-32 of what comes before the first tensor's first byte."""
    stream.seek(0)
    code = 0
    while begin and (block := stream.read(min(begin, SMALL_BLOCK))):
        code, begin = crc32(block, code), begin - len(block)
    return code


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dictionary of a JSON object whose names are all different."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("its header has a name twice")
    return made


def _no_number(text: str) -> float:
    raise ValueError(f"its header holds {text}")


def _entry(name: str, value: Any) -> Entry:  # noqa: ANN401 - whatever JSON held
    """Check what a header says of one tensor."""
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
    """Say whether a value is a list of whole numbers that files can have."""
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 1 << 62 for number in value)


def read_into(stream: BinaryIO, place: int, array: NDArray[Any]) -> None:
    """Fill an array with the bytes from `place` on. Raises `EOFError` if the file ends before."""
    stream.seek(place)
    for block in _blocks(array):
        filled = 0
        while filled < len(block):
            got = stream.readinto(block[filled:])  # type: ignore[attr-defined]
            if not got:
                raise EOFError("it ended while it was read")
            filled += got
