"""Mutate saved runs and data files, and open them: each is read or refused with one clear line, and nothing else.

Mutations change, cut, repeat and insert bytes, set numbers to extremes, and make checksums right again where a format
has them. Anything but an error of lowmem is a finding, and so is much memory: the process has little. Findings are
kept. Run from the repository's root: python -m scripts.fuzz_readers [--quick]
"""

import argparse
import gzip
import io
import json
import random
import resource
import struct
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any
from zlib import crc32

import numpy as np

import lowmem as lm
from lowmem.data.open import load
from lowmem.training.saved_run import open_run

ROOM = 512 << 20
"""Bytes that the process may use beyond what its libraries have reserved."""

IDX = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

Reader = Callable[[Path], object]
EXTREMES = (
    b"\0" * 8,
    b"\xff" * 8,
    b"\x7f" + b"\xff" * 7,
    b"\0" * 7 + b"\x80",
    b"9" * 8,
    b"-1",
    b"1e999",
    b"NaN",
    b"[[[[",
)


def samples() -> dict[str, tuple[bytes, Reader]]:
    """Return a good file of each kind, and how it is read."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 4)).astype(np.float32), rng.integers(0, 3, 40)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run")
        trainer = lm.Trainer(lm.MLP(lm.Architecture((4, 6, 3))), batch_size=8)
        list(trainer.epochs((x, y), 1))
        trainer.save(path)
        run = path.read_bytes()
    plain, packed, npy, text = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.StringIO()
    np.savez(plain, x=x, y=y)
    np.savez_compressed(packed, x=x, y=y)
    np.save(npy, x)
    np.savetxt(text, np.column_stack([x, y]), fmt="%.7g", delimiter=",", header="a,b,c,d,e", comments="")
    idx = bytes([0, 0, 8, 3]) + struct.pack(">3I", 40, 2, 2) + rng.bytes(160)
    images = Path(tempfile.gettempdir(), "lowmem_fuzz_images-idx3-ubyte")
    images.write_bytes(idx)
    targets = Path(tempfile.gettempdir(), "lowmem_fuzz_targets.npy")
    np.save(targets, y)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    lines = [",".join([*map(repr, row), name]) for row, name in zip(x.tolist(), names, strict=True)]
    npy_names = io.BytesIO()
    np.savez(npy_names, x=x, y=names, w=np.arange(40.0))
    streamed: Reader = lambda path: drained(lm.open_data(path))  # noqa: E731
    with_targets: Reader = lambda path: drained(lm.open_data(path, targets))  # noqa: E731
    return {
        "saved run": (run, lambda path: lm.Trainer.resume(path).epochs((x, y), 1)),
        "saved run, checksum mended": (run, lambda path: open_run(path).network()),
        "npz streamed": (plain.getvalue(), streamed),
        "packed npz streamed": (packed.getvalue(), streamed),
        "npy streamed": (npy.getvalue(), with_targets),
        **{f"idx of type {kind:02x} streamed": (idx_bytes(kind, dtype), with_targets) for kind, dtype in IDX.items()},
        "gzipped idx streamed": (gzip.compress(idx), with_targets),
        "gzipped npy streamed": (gzip.compress(npy.getvalue()), with_targets),
        "labels of QMNIST streamed": (
            idx_bytes(0x0C, ">i4", (40, 8)),
            lambda path: drained(lm.open_data(images, path)),
        ),
        "csv streamed": (text.getvalue().encode(), streamed),
        "csv split": (
            text.getvalue().encode(),
            lambda path: drained(lm.open_data(path, task="regression").split(0.3)[0]),
        ),
        "csv of names streamed": ("\n".join(lines).encode(), streamed),
        "gzipped csv streamed": (gzip.compress(text.getvalue().encode()), streamed),
        "csv in UTF-16 streamed": ("\n".join(lines).encode("utf-16"), streamed),
        "csv in UTF-16 without a mark streamed": (text.getvalue().encode("utf-16-le"), streamed),
        "csv with decimal commas streamed": ("\n".join(lines).replace(",", ";").replace(".", ",").encode(), streamed),
        "text between blanks streamed": (text.getvalue().replace(",", "  ").encode(), streamed),
        "npz of names and weights streamed": (
            npy_names.getvalue(),
            lambda path: drained(lm.open_data(path, weights="w")),
        ),
        "npz of names loaded": (npy_names.getvalue(), load),
        "parquet streamed": (parquet_bytes([*x.T, y]), streamed),
        "parquet of names streamed": (parquet_bytes([*x.T, names]), streamed),
        "parquet of categories, inputs alone": (
            parquet_bytes([*x.T, names], compression="gzip", use_dictionary=False),
            lambda path: drained(lm.open_data(path, inputs_only=True, target=-1)),
        ),
        "npz loaded": (packed.getvalue(), load),
        "npy loaded": (npy.getvalue(), lambda path: load(path, targets)),
    }


def idx_bytes(kind: int, dtype: str, shape: tuple[int, ...] = (40, 2, 2)) -> bytes:
    """Return an idx file's bytes."""
    values = np.arange(np.prod(shape)).reshape(shape) % 100
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + values.astype(dtype).tobytes()


def parquet_bytes(columns: list[Any], **options: Any) -> bytes:  # noqa: ANN401 - keywords of write_table
    """Return a Parquet file's bytes, in several row groups."""
    import pyarrow as pa
    from pyarrow import parquet

    stream = io.BytesIO()
    table = pa.table([pa.array(column) for column in columns], names=list("abcde"))
    parquet.write_table(table, stream, row_group_size=16, **options)
    return stream.getvalue()


def drained(stream: lm.Stream) -> None:
    """Go through an epoch."""
    architecture = lm.Architecture((stream.features, 1), loss="mse")
    if stream.features * len(stream) < 1 << 20:
        for _ in stream.batches(min(8, len(stream)), architecture, 0).epoch(0):
            pass


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return a file with one to four changes, most of them near the start, where headers are."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = rng.randrange(len(data) + 1) if rng.random() < 0.4 else rng.randrange(min(len(data), 600) + 1)
        match rng.randrange(6):
            case 0 if place < len(data):
                data[place] ^= 1 << rng.randrange(8)
            case 1:
                data[place : place + rng.choice((1, 8))] = rng.choice(EXTREMES)
            case 2:
                del data[place:]
            case 3:
                del data[place : place + rng.randrange(1, 20)]
            case 4:
                data[place:place] = data[rng.randrange(len(data) + 1) :][: rng.randrange(64)]
            case _:
                data[place:place] = rng.randbytes(rng.randrange(1, 20))
    return bytes(data)


def mended(content: bytes) -> bytes:
    """Return a saved run with the checksum that its content has, if it still has a header."""
    try:
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        text = header["__metadata__"]["settings"]
        header["__metadata__"]["crc32"] = f"{crc32(content[8 + length :], crc32(text.encode())):08x}"
        new = json.dumps(header).encode()
    except Exception:  # whatever a broken header leads to
        return content
    return struct.pack("<Q", len(new)) + new + content[8 + length :]


def reserved() -> int:
    """Return the bytes of data that the process has reserved; pyarrow alone takes some hundred MiB of addresses."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmData"))) << 10


def main() -> None:
    """Fuzz every kind of file, and print what became of each."""
    parser = argparse.ArgumentParser(description="Fuzz the readers of saved runs and of data.")
    parser.add_argument("--quick", action="store_true", help="2,000 files in place of 100,000")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, found = random.Random(arguments.seed), 0
    warnings.simplefilter("error")
    kinds = samples()
    resource.setrlimit(resource.RLIMIT_DATA, (reserved() + ROOM, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    each = (2_000 if arguments.quick else 100_000) // len(kinds) + 1
    with tempfile.TemporaryDirectory() as folder:
        for name, (content, read) in kinds.items():
            ending = {"csv": ".csv", "parquet": ".parquet"}.get(name.split()[0], "")
            path = Path(folder, f"file{ending}")
            outcomes: Counter[str] = Counter()
            begin = monotonic()
            for number in range(each):
                changed = mutated(content, rng)
                path.write_bytes(mended(changed) if "mended" in name else changed)
                outcome = outcome_of(read, path)
                outcomes[outcome.split(":")[0]] += 1
                if outcome.startswith("FINDING"):
                    found += 1
                    kept = Path(tempfile.gettempdir(), f"lowmem_finding_{name.replace(' ', '_')}_{number}")
                    kept.write_bytes(path.read_bytes())
                    print(f"{outcome}; kept as {kept}", flush=True)
            print(f"{name}: {dict(outcomes)} in {monotonic() - begin:.1f} s", flush=True)
    print(f"{each * len(kinds):,} files, {found} findings")
    sys.exit(bool(found))


def outcome_of(read: Reader, path: Path) -> str:
    """Read a file, and say what came of it."""
    try:
        read(path)
    except lm.LowmemError as error:
        if "\n" in str(error) or len(str(error)) > 1000:
            return f"FINDING: no single line: {str(error)[:300]!r}"
        return "refused"
    except BaseException as error:
        return f"FINDING: {type(error).__name__}: {str(error)[:200]}"
    return "read"


if __name__ == "__main__":
    main()
