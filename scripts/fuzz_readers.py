"""Mutate saved runs and data files, and open them: each is read or refused with one clear line, and nothing else.

Mutations change, cut, repeat and insert bytes, set numbers to extremes, and make checksums right again where a format
has them; packed files are mutated before and after packing. Anything but an error of lowmem is a finding, and so is
much memory: a process has little. Findings are kept. File number n of a seed is the same file whoever makes it.

Run from the repository's root: python -m scripts.fuzz_readers [--quick] [--files N] [--seed N] [--json FILE]
"""

import argparse
import gzip
import io
import json
import multiprocessing
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
from lowmem.common.tables import Table
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


def samples(folder: Path) -> dict[str, tuple[bytes, Reader]]:
    """Return a good file of each kind, and how it is read. folder: for files beside them, which are not mutated."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 4)).astype(np.float32), rng.integers(0, 3, 40)
    trainer = lm.Trainer(lm.MLP(lm.Architecture((4, 6, 3))), batch_size=8)
    list(trainer.epochs((x, y), 1))
    trainer.save(folder / "run")
    run = (folder / "run").read_bytes()
    lm.export_torch(trainer.mlp, folder / "weights")
    np.save(folder / "targets.npy", y)
    idx = idx_bytes(0x08, "u1")
    (folder / "images-idx3-ubyte").write_bytes(idx)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    npz, npz_packed = archive(np.savez, x=x, y=y), archive(np.savez_compressed, x=x, y=y)
    npz_names, npy = archive(np.savez, x=x, y=names, w=np.arange(40.0)), archive(np.save, x)

    def streamed(path: Path) -> None:
        drained(lm.open_data(path))

    def with_targets(path: Path) -> None:
        drained(lm.open_data(path, folder / "targets.npy"))

    def split(path: Path) -> None:
        drained(lm.open_data(path, task="regression", standardise=True).split(0.3)[0])

    def inputs(path: Path) -> None:
        drained(lm.open_data(path, inputs_only=True, target=-1))

    def used(path: Path) -> None:
        again = lm.Trainer.resume(path)
        list(again.epochs((x, y), 1))

    return {
        "saved run": (run, used),
        "saved run, checksum mended": (run, lambda path: open_run(path).network()),
        "weights of PyTorch": ((folder / "weights").read_bytes(), lm.import_torch),
        "npz streamed": (npz, streamed),
        "npz, packed": (npz_packed, streamed),
        "npz, packed, loaded": (npz_packed, load),
        "npz of names and weights": (npz_names, lambda path: drained(lm.open_data(path, weights="w"))),
        "npz of names, loaded": (npz_names, load),
        "npy": (npy, with_targets),
        "npy, loaded": (npy, lambda path: load(path, folder / "targets.npy")),
        "npy, gzipped": (gzip.compress(npy), with_targets),
        **{f"idx of type {kind:02x}": (idx_bytes(kind, dtype), with_targets) for kind, dtype in IDX.items()},
        "idx, gzipped": (gzip.compress(idx), with_targets),
        "idx, labels of QMNIST": (
            idx_bytes(0x0C, ">i4", (40, 8)),
            lambda path: drained(lm.open_data(folder / "images-idx3-ubyte", path)),
        ),
        **tables(x, y, names, streamed, split),
        "parquet": (parquet_bytes([*x.T, y]), streamed),
        "parquet, split": (parquet_bytes([*x.astype(np.float64).T, x[:, 0]]), split),
        "parquet of names": (parquet_bytes([*x.T, names]), streamed),
        "parquet of categories": (parquet_bytes([*x.T, categories(names)]), streamed),
        "parquet of truth values": (parquet_bytes([x[:, 0] > 0, *x.T[1:], y > 0]), streamed),
        "parquet of small numbers, zstd": (parquet_bytes([*x.astype(np.int8).T, y], compression="zstd"), streamed),
        "parquet, gzip inside": (parquet_bytes([*x.T, names], compression="gzip", use_dictionary=False), inputs),
        "parquet, pages of version 2": (parquet_bytes([*x.T, y], data_page_version="2.0"), streamed),
    }


def tables(
    x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], names: np.ndarray[Any, Any], streamed: Reader, split: Reader
) -> dict[str, tuple[bytes, Reader]]:
    """Return a good file of each kind of table in text, and how it is read."""
    rows = [[*map("{:.7g}".format, row), str(label)] for row, label in zip(x.tolist(), y.tolist(), strict=True)]
    text = "\n".join(map(",".join, [list("abcde"), *rows]))
    named = "\n".join(",".join([*row[:-1], name]) for row, name in zip(rows, names, strict=True))
    quoted = "\r\n".join(",".join(f'"{cell}"' for cell in row) for row in [list("abcde"), *rows])
    index = "\n".join([",a,b,c,d,e", *(",".join([str(n), *row]) for n, row in enumerate(rows))])
    return {
        "csv": (text.encode(), streamed),
        "csv, split": (text.encode(), split),
        "csv, loaded": (text.encode(), load),
        "csv of names": (named.encode(), streamed),
        "csv, gzipped": (gzip.compress(text.encode()), streamed),
        "csv in UTF-16": (named.encode("utf-16"), streamed),
        "csv in UTF-16 without a mark": (text.encode("utf-16-le"), streamed),
        "csv in CP1252": (f"# mesur\xe9\n{named}".encode("cp1252"), streamed),
        "csv with decimal commas": (named.replace(",", ";").replace(".", ",").encode(), streamed),
        "csv, quoted": (quoted.encode(), streamed),
        "csv with an index": (index.encode(), streamed),
        "csv behind comments, CR": (f"# made by hand\n\n{text}".replace("\n", "\r").encode(), streamed),
        "text between blanks": (text.replace(",", "  ").encode(), streamed),
        "text between tabs, trailing": (text.replace(",", "\t").replace("\n", "\t\n").encode(), streamed),
    }


def archive(save: Callable[..., None], *arrays: Any, **named: Any) -> bytes:  # noqa: ANN401 - arrays
    """Return the bytes that NumPy saves."""
    stream = io.BytesIO()
    save(stream, *arrays, **named)
    return stream.getvalue()


def categories(names: np.ndarray[Any, Any]) -> Any:  # noqa: ANN401 - an array of pyarrow
    """Return text as pandas writes categories."""
    import pyarrow as pa

    return pa.array(names).dictionary_encode()


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


Outcomes = dict[str, Counter[str]]
"""Of each kind of file, how many were read, refused, and findings; and the seconds they took."""


def fuzzed(numbers: range, seed: int) -> tuple[Outcomes, list[str]]:
    """Mutate and open files by their numbers, in a process of its own. Return what became of them, and findings."""
    warnings.simplefilter("error")
    outcomes: Outcomes = {}
    findings = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = list(samples(folder).items())
        for kind, (content, read) in kinds:
            (folder / "good").write_bytes(content)
            outcome = outcome_of(read, folder / "good")
            if outcome != "read":
                findings.append(f"{kind}, before any change: {outcome}")
        room = reserved() + ROOM
        resource.setrlimit(resource.RLIMIT_DATA, (room, resource.getrlimit(resource.RLIMIT_DATA)[1]))
        for number in numbers:
            kind, (content, read) = kinds[number % len(kinds)]
            begin, held = monotonic(), outcomes.setdefault(kind, Counter())
            changed = changed_file(kind, content, random.Random(f"{seed} {number}"))
            path = folder / f"file{ {'csv': '.csv', 'par': '.parquet'}.get(kind[:3], '') }"
            path.write_bytes(changed)
            outcome = outcome_of(read, path)
            held[outcome.split(":")[0]] += 1
            held["ms"] += int(1000 * (monotonic() - begin))
            if outcome.startswith("FINDING"):
                kept = Path(tempfile.gettempdir(), f"lowmem_finding_{seed}_{number}")
                kept.write_bytes(changed)
                findings.append(f"{kind}, {outcome}; kept as {kept}")
    return outcomes, findings


def changed_file(kind: str, content: bytes, rng: random.Random) -> bytes:
    """Return a mutated file, half of those that are gzipped mutated inside."""
    if "mended" in kind:
        return mended(mutated(content, rng))
    if "gzipped" in kind and rng.random() < 0.5:
        return gzip.compress(mutated(gzip.decompress(content), rng), 1)
    return mutated(content, rng)


def fuzz(files: int, seed: int, workers: int) -> tuple[Outcomes, list[str]]:
    """Fuzz so many files in several processes."""
    shares = [(range(first, files, workers), seed) for first in range(workers)]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        results = pool.starmap(fuzzed, shares)
    outcomes: Outcomes = {}
    for held, _ in results:
        for kind, counts in held.items():
            outcomes.setdefault(kind, Counter()).update(counts)
    return outcomes, [finding for _, findings in results for finding in findings]


def main() -> None:
    """Fuzz every kind of file, and print what became of each."""
    parser = argparse.ArgumentParser(description="Fuzz the readers of saved runs and of data.")
    parser.add_argument("--quick", action="store_true", help="2,000 files in place of 100,000")
    parser.add_argument("--files", type=int, help="so many files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what became of the files there")
    arguments = parser.parse_args()
    files, begin = arguments.files or (2_000 if arguments.quick else 100_000), monotonic()
    outcomes, findings = fuzz(files, arguments.seed, arguments.workers)
    rows = [
        [kind, *(f"{held[what]:,}" for what in ("read", "refused", "FINDING")), f"{held['ms'] / held_files(held):.1f}"]
        for kind, held in sorted(outcomes.items())
    ]
    said = f"{files:,} files of seed {arguments.seed}, {len(findings)} findings, {monotonic() - begin:.0f} s"
    print(Table("Mutated files", ("kind", "read", "refused", "findings", "ms a file"), rows, said))
    print("\n".join(findings))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"seed": arguments.seed, "files": files, "kinds": outcomes}) + "\n")
    sys.exit(bool(findings))


def held_files(held: Counter[str]) -> int:
    """Return how many files of a kind there were."""
    return held["read"] + held["refused"] + held["FINDING"]


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
