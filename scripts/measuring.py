"""What the measuring scripts share: a fresh process for each measurement, the machine's description, the JSON file."""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

from lowmem.network.architecture import Architecture
from lowmem.planning.engines.choice import choose_engine

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "docs" / "data"

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")
"""What BLAS libraries, PyTorch and JAX read."""

Case = dict[str, Any]


KEPT: dict[str, Path] = {}
"""Under "file": where finished cases are kept, if they are."""

ASKED: Counter[str] = Counter()
"""How often each case was asked for in this process: rounds ask for the same ones."""


def in_fresh_process(module: str, case: Case, environment: Mapping[str, str], arguments: Sequence[str] = ()) -> Case:
    """Return what `python -m module ARGUMENTS --case JSON` prints, in a process without a state of earlier cases."""
    return kept([module, case], lambda: _run(module, case, environment, arguments))


def kept(name: object, measure: Callable[[], Case]) -> Case:
    """Return what was measured before under a name, which JSON can hold; else measure, and keep that."""
    file, key = KEPT.get("file"), json.dumps(name, sort_keys=True)
    ASKED[key] += 1
    key += f", round {ASKED[key]}" * (ASKED[key] > 1)  # a case that comes again is measured again
    known: dict[str, Case] = json.loads(file.read_text(encoding="utf-8")) if file and file.exists() else {}
    if key not in known:
        known[key] = measure()
        if file:
            new = file.with_name(f"{file.name}.new")
            new.write_text(json.dumps(known), encoding="utf-8")
            new.replace(file)
    return known[key]


def _run(module: str, case: Case, environment: Mapping[str, str], arguments: Sequence[str]) -> Case:
    """Run one case in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments, "--case", json.dumps(case)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{case} failed:\n{done.stderr}")
    result: Case = json.loads(done.stdout.splitlines()[-1])
    return result


class Timer:
    """Times steps, each inside `with timer:`; the first is a warm-up and does not count.

    Processor time beside elapsed time: with one thread it is what a step takes on a machine that nobody else uses.
    """

    def __init__(self) -> None:
        self._elapsed: list[float] = []
        self._processor: list[float] = []

    def __enter__(self) -> None:
        """Begin a step."""
        self._begin = perf_counter(), process_time()

    def __exit__(self, *error: object) -> None:
        """End a step."""
        self._elapsed.append(perf_counter() - self._begin[0])
        self._processor.append(process_time() - self._begin[1])

    def elapsed(self) -> list[float]:
        """Return the seconds of every step that counts."""
        return self._elapsed[1:]

    def medians(self) -> dict[str, float]:
        """Return the median step, elapsed and in processor time."""
        return {"step_seconds": median(self._elapsed[1:]), "cpu_seconds": median(self._processor[1:])}


def run_script(
    description: str,
    name: str,
    one: Callable[[Case], Case] | None,
    everything: Callable[..., list[Case]],
    packages: tuple[str, ...],
    only: Mapping[str, Any] | None = None,
    *,
    brief: str | None = None,
) -> None:
    """Be a measuring script: measure one case and print it, or all cases and write docs/data/<name>.json.

    one: measures a case, in this process; None where another module does. everything(quick, environment): measures all
    cases, or a few small ones, each in a process of its own with the variables given, and returns the records.
    only: what argparse needs for an option `--only` that chooses among the cases; `everything` then also gets
    `only=` and `threads=`, both None where they were not given.
    brief: what an option `--brief` leaves out; `everything` then also gets `brief=`.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small shapes, to see that it works; printed, not kept")
    parser.add_argument("--output", type=Path, help=f"the JSON file (default docs/data/{name}.json)")
    parser.add_argument(
        "--cases",
        type=Path,
        metavar="FILE",
        help="keep finished cases in FILE; a run that was stopped goes on from it",
    )
    parser.add_argument("--threads", type=int, help="of matrix products (default: all cores)")
    if only is not None:
        parser.add_argument("--only", **only)
    if brief is not None:
        parser.add_argument("--brief", action="store_true", help=f"some minutes in all, kept as well: {brief}")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if one is not None and arguments.case is not None:
        print(json.dumps(one(arguments.case)))
        return
    if arguments.cases is not None:
        KEPT["file"] = arguments.cases
    threads = arguments.threads or os.cpu_count()
    chosen = {} if only is None else {"only": arguments.only, "threads": arguments.threads}
    if brief is not None:
        chosen["brief"] = arguments.brief
    records = everything(arguments.quick, dict.fromkeys(THREADS, str(threads)), **chosen)
    given = "" if arguments.threads is None else f" --threads {threads}"
    given += " --brief" if chosen.get("brief") else ""
    found = about(f"{name}{given}", records, packages, threads)
    part = arguments.quick or chosen.get("only") is not None
    output = arguments.output or (None if part else DATA / f"{name}.json")
    if output is None:
        print(json.dumps(found, indent=1))
        return
    write_data(found, output)


def write_data(found: Mapping[str, Any], output: Path) -> None:
    """Write what was measured, as `about` returns it, to a JSON file."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


MEASURED = ("network", "schedule", "nn", "planning", "runtime", "measure")
"""Folders of `lowmem` whose files decide what a step does and takes."""


def about(
    command: str,
    records: list[Case],
    packages: tuple[str, ...] = ("numpy",),
    threads: int | None = None,
    folders: Sequence[str] = MEASURED,
) -> dict[str, Any]:
    """Return records with what made them.

    command: the script and its arguments. threads: None for all cores. folders: of `lowmem`, that decide the figures.
    """
    return {
        "command": f"python -m scripts.{command}",
        "date": date.today().isoformat(),
        "machine": machine() | {"threads": threads or os.cpu_count()},
        "versions": versions(packages),
        "engine": choose_engine(None, Architecture((1, 1)), None),
        "folders": [*folders],
        "sources": measured_sources(folders),
        "records": records,
    }


def measured_sources(folders: Sequence[str]) -> str:
    """Return a checksum of all sources that figures depend on, so that pages can say that they are older."""
    digest = sha256()
    for folder in folders:
        for path in sorted((ROOT / "lowmem" / folder).rglob("*")):
            if path.suffix in (".py", ".c", ".h", ".inc"):
                digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def is_older(data: Mapping[str, Any]) -> bool:
    """Say whether other sources than those that are here have made data."""
    return bool(data.get("sources") != measured_sources(data.get("folders", MEASURED)))


def machine() -> dict[str, Any]:
    """Describe the machine: processor, cores, memory, system."""
    import psutil

    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        named = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        processor = named[0].partition(":")[2].strip() if named else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def note(text: str) -> None:
    """Say how far the script is; the records alone go to standard output."""
    print(text, file=sys.stderr, flush=True)
