"""Train under a cap of the whole process, `--ram`, on files of every format; see that cap and promise are kept.

For each file, `lowmem train` first gets a cap of 1 MB, and refuses it with the least cap that works. It then trains
with that cap, and with more, each time in a control group whose limit is the cap, where one can be made. The cap that
the first refusal names must work. The peak of the process must not pass the cap; it is compared with the peak that was
promised. Lines of JSON go to standard output, a table to standard error.

Run from the repository's root: python -m scripts.try_caps [--quick] [--only parquet] [--output FILE]
"""

import argparse
import gzip
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from lowmem.common.tables import Table
from lowmem.units import format_bytes, parse_bytes
from scripts.measuring import ROOT, THREADS, about, note, write_data
from scripts.train_in_little import group_of

FLAGS = ("--layers", "4", "--width", "64", "--batch", "512", "--epochs", "2", "--optimizer", "adam", "--no-calibrate")

WITHIN = 0.02
"""Share of the promise by which the measured peak of the process may differ."""

MORE = 1.25
"""Times the least cap that works, of the second training."""

Array = np.ndarray[Any, Any]


def arrays(rows: int, features: int, dtype: str = "float32", *, alike: bool = False) -> tuple[Array, Array]:
    """Return inputs and labels; alike: of few different values, which files pack well."""
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind in "iu" or alike:
        x = rng.integers(0, 7 if alike else 100, (rows, features)).astype(dtype)
    else:
        x = rng.standard_normal((rows, features)).astype(dtype)
    return x, rng.integers(0, 5, rows)


def npz(path: Path, x: Array, y: Array, *, packed: bool = False) -> None:
    """Write an .npz."""
    (np.savez_compressed if packed else np.savez)(path, x=x, y=y)


def csv(path: Path, x: Array, y: Array, *, delimiter: str = ",", packed: bool = False, names: bool = False) -> None:
    """Write a table in text."""
    labels = np.array(["no", "so", "all", "few", "one"])[y] if names else y
    lines = [delimiter.join([*(f"x{n}" for n in range(x.shape[1])), "label"])]
    lines += [delimiter.join([*map(repr, row), str(label)]) for row, label in zip(x.tolist(), labels, strict=True)]
    text = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(text, 1) if packed else text)


def parquet(path: Path, x: Array, y: Array, group: int = 1 << 20, *, names: bool = False, **options: Any) -> None:  # noqa: ANN401 - keywords of write_table
    """Write a Parquet file; group: rows of a row group."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    labels = np.array(["no", "so", "all", "few", "one"])[y] if names else y
    columns = {f"x{n}": pa.array(np.ascontiguousarray(column)) for n, column in enumerate(x.T)} | {"label": labels}
    pq.write_table(pa.table(columns), path, row_group_size=group, **options)


def idx(path: Path, x: Array, y: Array, *, packed: bool = False) -> None:
    """Write images and labels as MNIST is distributed, in a folder."""
    path.mkdir()
    side = int(x.shape[1] ** 0.5)
    for part, rows in (("train", slice(0, len(x))), ("t10k", slice(0, len(x) // 5))):
        images, labels = x[rows].astype(np.uint8), y[rows].astype(np.uint8)
        for name, kind, array in (
            ("images-idx3", struct.pack(">2xBB3I", 8, 3, len(images), side, side), images),
            ("labels-idx1", struct.pack(">2xBBI", 8, 1, len(labels)), labels),
        ):
            content = kind + array.tobytes()
            packing: Callable[..., bytes] = gzip.compress
            file = path / f"{part}-{name}-ubyte{'.gz' * packed}"
            file.write_bytes(packing(content, 1) if packed else content)


def cases(folder: Path) -> Iterator[tuple[str, Callable[[], Path], list[str]]]:
    """Yield files: what each is, a function that writes it and returns its path, and flags that it needs."""

    def made(name: str, ending: str, write: Callable[..., None], x: Array, y: Array, **how: Any) -> Any:  # noqa: ANN401
        def written() -> Path:
            path = folder / f"file{ending}"
            write(path, x, y, **how)
            return path

        return name, written, []

    tall, wide, square = (120_000, 12), (2_000, 1500), (20_000, 196)
    for shape in (tall, wide):
        x, y = arrays(*shape)
        size = f"{shape[0]:,} x {shape[1]:,}"
        yield made(f"npz, {size}", ".npz", npz, x, y)
        yield made(f"packed npz, {size}", ".npz", npz, x, y, packed=True)
        yield made(f"csv, {size}", ".csv", csv, x[:40_000], y[:40_000])
        yield made(
            f"csv between semicolons, of names, {size}", ".txt", csv, x[:9_000], y[:9_000], delimiter=";", names=True
        )
        yield made(f"gzipped csv, {size}", ".csv.gz", csv, x[:20_000], y[:20_000], packed=True)
        for group in (1 << 20, 1000):
            yield made(f"Parquet, groups of {group:,}, {size}", ".parquet", parquet, x, y, group=group)
        yield made(f"Parquet of names, {size}", ".pq", parquet, x, y, names=True)
    x, y = arrays(300_000, 20)
    yield made("Parquet, one group, 300,000 x 20", ".parquet", parquet, x, y)
    yield made("Parquet, groups of 20,000, 300,000 x 20", ".parquet", parquet, x, y, group=20_000)
    yield made("Parquet, zstd, no dictionaries", ".parquet", parquet, x, y, compression="zstd", use_dictionary=False)
    yield made(
        "Parquet, not packed, large pages", ".parquet", parquet, x, y, compression="none", data_page_size=1 << 23
    )
    yield made("Parquet of float64", ".parquet", parquet, x[:100_000].astype(np.float64), y[:100_000])
    x, y = arrays(200_000, 20, "int16", alike=True)
    yield made("Parquet of few values", ".parquet", parquet, x, y)
    yield made("npz of int16", ".npz", npz, x, y)
    x, y = arrays(60_000, 40, "float64")
    yield made("npz of float64", ".npz", npz, x, y)
    name, written, _ = made("npy of float64, targets beside it", "_x.npy", lambda path, x, y: np.save(path, x), x, y)
    np.save(folder / "file_y.npy", y)
    yield name, written, ["--targets", str(folder / "file_y.npy")]
    x, y = arrays(*square, "uint8")
    yield made("folder of idx", "_idx", idx, x, y)
    yield made("folder of gzipped idx", "_idx.gz", idx, x, y, packed=True)
    x, y = arrays(20_000, 30)
    yield *made("csv, standardised", ".csv", csv, x, y)[:2], ["--standardise"]
    yield *made("Parquet, weights, clipping", ".parquet", parquet, x, y)[:2], ["--clip-norm", "1", "--held-out", "0"]
    yield *made("npz, float64 network", ".npz", npz, x, y)[:2], ["--dtype", "float64"]
    yield *made("npz, gelu, LayerNorm", ".npz", npz, x, y)[:2], ["--activation", "gelu", "--norm", "layer"]
    x, y = arrays(*wide)
    yield made("Parquet of names, wide, groups of 1,000", ".parquet", parquet, x, y, group=1000, names=True)
    parquet(folder / "other.parquet", x, y)
    beside = ["--validation", str(folder / "other.parquet")]
    yield *made("npz, validated on a wide Parquet file", ".npz", npz, x[:500], y[:500])[:2], beside
    yield *made("csv of names, patience", ".csv", csv, *arrays(9_000, 12), names=True)[:2], ["--patience", "2"]
    more = ["--patience", "2", "--layers", "20", "--width", "256"]
    yield *made("npz of float64, patience, a large network", ".npz", npz, *arrays(5_000, 40, "float64"))[:2], more
    yield *made("Parquet, a step of all rows", ".parquet", parquet, *arrays(9_000, 60))[:2], ["--batch", "10000"]
    yield made("Parquet, 20,000 x 1,500, groups of 1,000", ".parquet", parquet, *arrays(20_000, 1500), group=1000)


def trained(path: Path, flags: list[str], cap: int, how: str) -> dict[str, Any]:
    """Train under a cap, in a control group if one can be made, and return what came of it."""
    with group_of(cap) if how == "group" else nullcontext() as group:
        join = None if group is None else (lambda: (group / "cgroup.procs").write_text(str(os.getpid())) and None)
        command = [sys.executable, "-m", "lowmem", "train", "--data", str(path), *FLAGS, *flags]
        done = subprocess.run(
            [*command, "--ram", str(cap), "--json"],
            cwd=ROOT,
            env=os.environ | dict.fromkeys(THREADS, "1"),
            capture_output=True,
            text=True,
            preexec_fn=join,
            check=False,
        )
        held = "group" if group is not None else "nothing"
    if done.returncode:
        return {"held by": held, "failed": done.stderr.strip()[-600:] or f"ended by signal {-done.returncode}"}
    report = json.loads(done.stdout)
    promise, peak = report["process_promise_bytes"], report["resident_peak_bytes"]
    return {"held by": held, "promise": promise, "peak": peak, "over": peak > cap, "off": peak / promise - 1}


def least(path: Path, flags: list[str]) -> tuple[int, int, str]:
    """Follow the advice of refusals. Return a cap that works, how many were refused, and what came instead of one.

    More than one refusal breaks a promise: the first names a cap that works.
    """
    cap = 1_000_000
    for refused in range(9):
        failed = trained(path, flags, cap, "free").get("failed")
        if failed is None:
            return cap, refused, ""
        found = re.search(r"(?:Give|With ram,) ([\d.]+ ?[KMG]?i?B)", failed)
        if found is None:
            return 0, refused, failed
        cap = parse_bytes(found[1]) + 1
    return 0, refused, "no end of refusals"


def main() -> None:
    """Try all files, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="every tenth file")
    parser.add_argument("--only", default="", metavar="TEXT", help="files whose description holds this text")
    parser.add_argument("--from", type=int, default=0, dest="first", help="number of the first file, from 0")
    parser.add_argument("--to", type=int, default=1 << 30, help="number of the file to stop before")
    parser.add_argument("--folder", type=Path, help="where files are made (a temporary folder)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="a JSON file for the figures, as in docs/data")
    arguments = parser.parse_args()
    records: list[dict[str, Any]] = []
    wrong = 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for number, (name, write, flags) in enumerate(cases(Path(folder))):
            chosen = arguments.first <= number < arguments.to and arguments.only.lower() in name.lower()
            if not chosen or (arguments.quick and number % 10):
                continue
            path = write()
            cap, refused, failed = least(path, flags)
            for factor in (1.0, MORE):
                result: dict[str, Any] = {"refused": refused, "cap": int(cap * factor), "failed": failed}
                if cap:
                    del result["failed"]
                    result |= trained(path, flags, int(cap * factor), "group")
                bad = refused > 1 or "failed" in result or result["over"] or abs(result["off"]) > WITHIN
                wrong += bad
                records.append({"file": name, **result})
                print(json.dumps(records[-1]), flush=True)
    columns = ("file", "refused", "cap", "promised", "peak", "peak / promise", "held by")
    note(str(Table("Caps", columns, [line(one.pop("file"), one) for one in map(dict, records)])))
    if arguments.output is not None:
        write_data(about("try_caps", records, ("numpy", "pyarrow")), arguments.output)
    note(f"{len(records)} trainings, {wrong} refused twice, failed, over the cap or {WITHIN:.0%} off their promise")
    sys.exit(bool(wrong))


def line(name: str, result: dict[str, Any]) -> list[str]:
    """Write a row of the table."""
    if "failed" in result:
        return [name, str(result["refused"]), format_bytes(result["cap"]), "", "", result["failed"][:60], ""]
    sizes = [format_bytes(result[key]) for key in ("cap", "promise", "peak")]
    return [name, str(result["refused"]), *sizes, f"{1 + result['off']:.4f}", result["held by"]]


if __name__ == "__main__":
    main()
