"""What a file is, by its first bytes: for errors that say what to do with a file given to the wrong command."""

import json
import struct
from pathlib import Path

RUN, TORCH_NETWORK, PICKLE, TABLE, ARRAYS, ONNX = (
    *("a saved run", "a network in safetensors", "a pickle of PyTorch", "a table of samples"),
    *("arrays of samples", "an ONNX model"),
)

LONGEST = 1 << 20
"""Bytes of a header that are read."""

WHAT_TO_DO = {
    RUN: "It is a saved run: use it with lowmem evaluate, predict, resume or export.",
    TORCH_NETWORK: "It is a network in safetensors: make a run of it with lowmem import FILE RUN.",
    PICKLE: (
        "It is a pickle of PyTorch, which is not read as it could run code. In PyTorch, write "
        'safetensors.torch.save_file(net.state_dict(), "net.safetensors"), and then lowmem import net.safetensors RUN.'
    ),
    TABLE: "It is a table of samples: give it as --data.",
    ARRAYS: "It holds arrays of samples: give it as --data.",
    ONNX: "It is an ONNX model, which is not read. Import the network from PyTorch.",
}
"""What to do with a file of each kind."""


def kind_of(path: Path) -> str | None:
    """Return what a file is, None if that is not known or it cannot be read."""
    try:
        with path.open("rb") as stream:
            begin = stream.read(LONGEST)
    except OSError:
        return None
    if begin[:4] == b"PK\x03\x04":
        return PICKLE if b"data.pkl" in begin[:200] else ARRAYS if b".npy" in begin[:200] else None
    if begin[:2] == b"\x80\x02":
        return PICKLE
    if begin[:6] == b"\x93NUMPY":
        return ARRAYS
    if begin[:4] == b"PAR1":
        return TABLE
    if begin[8:9] == b"{" and struct.unpack("<Q", begin[:8])[0] < 1 << 32:
        return RUN if _is_run(begin) else TORCH_NETWORK
    if path.suffix.lower() == ".onnx":
        return ONNX
    return TABLE if _is_table(begin) else None


def what_to_do(path: Path) -> str | None:
    """Return what to do with a file, as a sentence; None if it is not known what the file is."""
    kind = kind_of(path)
    return None if kind is None else WHAT_TO_DO[kind].replace("FILE", str(path))


def _is_run(begin: bytes) -> bool:
    """Say whether the first bytes of a safetensors file are those of a saved run."""
    (length,) = struct.unpack("<Q", begin[:8])
    text = begin[8 : 8 + length]
    try:
        return str(json.loads(text)["__metadata__"]["format"]).startswith("lowmem run")
    except (ValueError, KeyError, TypeError, RecursionError):
        return b'"format":"lowmem run' in text  # longer than what was read


def _is_table(begin: bytes) -> bool:
    """Say whether bytes are text with lines of several values."""
    try:
        lines = begin[:4096].decode().splitlines()[:3]
    except UnicodeDecodeError as problem:
        if problem.start < 4000:
            return False
        lines = begin[: problem.start].decode().splitlines()[:3]
    return len(lines) > 1 and all(any(mark in line for mark in ",;\t") for line in lines)
