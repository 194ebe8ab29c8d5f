"""Train for real in little memory, and see that the limit holds: cases of four kinds, each in a fresh process.

deep: 200 x 256, batch 2048, SGD, a data file larger than memory, under 112 MiB, its step beside storing everything.
mnist: a plain network of 60 hidden layers on MNIST, in a process under 96 MB, three seeds: accuracy on the test set,
which is looked at once, at the end.
torch: the first epoch of that training, in turns with PyTorch's; there by its default Adam and by the fused one.
large: a data file of 2 GB in a process under 128 MB.

The settings of mnist were chosen on the last 5,000 samples of its training part (`--choose` runs some candidates
again), not on the test part. Lines of JSON go to standard output, progress and a table to standard error.

The limit is a control group's where one can be made (`--limit group`), else one on the data segment, beyond which the
kernel gives nothing (`--limit data`; what libraries have reserved and not touched is added to it), else the peak is
looked at afterwards (`--limit peak`), as it is in any case.

Run from the repository's root: python -m scripts.train_in_little [--quick] [--only mnist]
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lowmem.common.tables import Table
from lowmem.units import format_bytes
from scripts.measuring import ROOT, THREADS, Case, note

MNIST = Path(os.environ.get("LOWMEM_MNIST", ROOT.parent / "shared" / "data" / "mnist"))
MIB = 1 << 20

UNDER, SEEDS, WANTED, ROUNDS = 96_000_000, 3, 0.975, 2
"""Of mnist: the limit, the seeds, the accuracy that each must reach, rounds beside PyTorch."""

AT_DEPTH = {"activation": "tanh", "initialiser": "orthogonal"}
"""What learns at such depth."""

ON_MNIST: Case = {
    "data": [str(MNIST), None],
    "widths": [784, *[128] * 60, 10],
    "gain": 1.1,  # with 1 the signal fades over 60 layers, and the network with it towards a linear one
    "batch": 128,
    "optimizer": "adam",
    "lr": 2e-4,
    "schedule": "cosine",
    "warm_up": 0.05,
    "epochs": 10,
    **AT_DEPTH,
}

CANDIDATES: tuple[Case, ...] = (
    {},
    {"schedule": "constant"},
    {"gain": 1.0},
    {"schedule": "constant", "warm_up": 0.0, "gain": 1.0, "lr": 3e-4},
    {"lr": 5e-4},
    {"lr": 1e-4},
    {"gain": 1.05},
    {"gain": 1.15},
)
"""Settings in place of those above, compared by `--choose`."""


def deep_cases(folder: Path, quick: bool) -> Iterator[Case]:
    """Yield a deep network's steps, everything stored and under a limit: what a case says, the limit in bytes."""
    features, rows, hidden, steps = (64, 8_192, 20, 4) if quick else (64, 600_000, 200, 6)
    made = made_file(folder, "deep", rows, features)
    deep = {"data": made, "widths": [features, *[256] * hidden, 10], "batch": 2048, "steps": steps} | AT_DEPTH
    deep |= {"optimizer": "sgd", "lr": 1e-3, "shuffle_rows": 2048}
    yield {"name": "deep, storing everything", "limit": None, **deep}
    yield {"name": "deep", "limit": (70 if quick else 112) * MIB, "count": "anonymous", **deep}


def mnist_cases(_: Path, quick: bool) -> Iterator[Case]:
    """Yield the trainings on MNIST, one for each seed."""
    if not has_mnist():
        return
    for seed in range(1 if quick else SEEDS):
        judged = {"steps": 20} if quick else {"test": True, "wanted": WANTED}
        yield {"name": f"mnist, seed {seed}", "limit": UNDER, "seed": seed, **ON_MNIST, **judged}


def torch_cases(_: Path, quick: bool) -> Iterator[Case]:
    """Yield the first epoch of that training (or a few steps) in turns with PyTorch's."""
    if not has_mnist():
        return
    first = {"steps": 20} if quick else {"epochs_run": 1}
    torch = {"limit": None, "module": "scripts.torch_training"}
    for turn in range(1, 1 + (1 if quick else ROUNDS)):
        yield {"name": f"mnist, first epoch, round {turn}", "limit": UNDER, **ON_MNIST, **first}
        for name, fused in (("PyTorch", False), ("PyTorch, fused Adam", True))[quick:]:
            yield {"name": f"the same, {name}", "fused": fused, **torch, **ON_MNIST, **first}


def large_cases(folder: Path, quick: bool) -> Iterator[Case]:
    """Yield an epoch over a file that is far larger than the limit."""
    rows = 8_000 if quick else 500_000
    large = {"data": made_file(folder, "large", rows, 1000), "widths": [1000, *[256] * 10, 10], "optimizer": "sgd"}
    yield {"name": "large", "limit": 128_000_000, "batch": 256, "epochs": 1, **large}


def candidates(_: Path, quick: bool) -> Iterator[Case]:
    """Yield the settings among which mnist's were chosen, each judged on the samples that are held out."""
    if not has_mnist():
        return
    for given in CANDIDATES[: 2 if quick else None]:
        name = ", ".join(f"{key} {value}" for key, value in given.items()) or "as chosen"
        judged = {"held_out": 1 / 12, **({"steps": 20} if quick else {})}
        yield {"name": name, "limit": None, **ON_MNIST, **given, **judged}


def has_mnist() -> bool:
    """Say whether MNIST is there; if not, tell where it would be."""
    if not MNIST.is_dir():
        note(f"mnist left out: there is no {MNIST}; set LOWMEM_MNIST to its folder")
    return MNIST.is_dir()


CASES = {"deep": deep_cases, "mnist": mnist_cases, "torch": torch_cases, "large": large_cases}
"""What yields the cases of each kind; files are made where they are asked for."""


def made_file(folder: Path, name: str, rows: int, features: int) -> list[str]:
    """Write a data file, a block at a time: classes are told by a direction in the inputs each."""
    rng = np.random.default_rng(0)
    x_path, y_path = folder / f"{name}_x.npy", folder / f"{name}_y.npy"
    directions = rng.standard_normal((10, features), np.float32)
    y = rng.integers(0, 10, rows).astype(np.uint8)
    np.save(y_path, y)
    with x_path.open("wb") as out:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, features)}
        np.lib.format.write_array_header_1_0(out, header)
        for start in range(0, rows, 4096):
            part = y[start : start + 4096]
            out.write((directions[part] + rng.standard_normal((len(part), features), np.float32)).tobytes())
    return [str(x_path), str(y_path)]


@contextmanager
def group_of(limit: int) -> Iterator[Path | None]:
    """Make a control group for a child below this process's own, where that is allowed; None elsewhere."""
    made = None
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        base = "/sys/fs/cgroup" if not controllers else "/sys/fs/cgroup/memory"
        file = "memory.max" if not controllers else "memory.limit_in_bytes"
        if controllers in ("", "memory") and Path(f"{base}{path}", file).exists():
            made = Path(f"{base}{path}", f"lowmem-{os.getpid()}")
            try:
                made.mkdir()
                (made / file).write_text(str(limit))
                break
            except OSError:
                made = None
    try:
        yield made
    finally:
        if made is not None:
            made.rmdir()


def limited(case: Case, how: str) -> Case:
    """Run a case in a process of its own under its limit."""
    limit, held = case["limit"], "data" if how == "auto" else how
    if limit and how in ("auto", "group"):
        with group_of(limit) as group:
            if group is not None:
                join = group / "cgroup.procs"
                return one(case | {"how": "group"}, lambda: join.write_text(str(os.getpid())))
        if how == "group":
            raise SystemExit("no control group can be made here; try --limit data")
    return one(case | {"how": held if limit else "none"}, None)


def one(case: Case, before: Any) -> Case:  # noqa: ANN401 - what the child does first
    """Run a case in a fresh process and return what it prints."""
    command = [sys.executable, "-m", "scripts.train_in_little", "--case", json.dumps(case)]
    environment = os.environ | dict.fromkeys(THREADS, os.environ.get("OPENBLAS_NUM_THREADS", "1"))
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=before, check=False
    )
    if done.returncode:
        return {"held": case["how"], "failed": done.returncode}
    result: Case = json.loads(done.stdout.splitlines()[-1])
    return {"held": case["how"], **result}


def judged(case: Case, result: Case) -> Case:
    """Return the result with what was asked of it: the limit kept, the accuracy reached."""
    if "failed" in result or "skipped" in result:
        return result
    if case["limit"]:
        result["within"] = result["anonymous_bytes" if case.get("count") else "peak_bytes"] <= case["limit"]
    if "wanted" in case:
        result["reached"] = result["accuracy"] >= case["wanted"]
    return result


COLUMNS = ("", "limit", "peak", "above floor", "epoch s", "CPU s", "step ms", "CPU ms", "loss", "accuracy", "")


def cells(case: Case, result: Case) -> list[str]:
    """Write a row of the table."""

    def shown(name: str, form: str, factor: float = 1.0) -> str:
        return "" if result.get(name) is None else format(factor * result[name], form)

    went = "failed" if "failed" in result else result.get("skipped", "")
    missed = [
        word
        for word, name in (("over the limit", "within"), ("too few right", "reached"))
        if not result.get(name, True)
    ]
    peak = result.get("peak_bytes")
    return [
        case["name"],
        format_bytes(case["limit"]) if case["limit"] else "",
        "" if peak is None else format_bytes(peak),
        "" if peak is None else format_bytes(peak - result["floor_bytes"]),
        shown("epoch_seconds", ".1f"),
        shown("epoch_cpu_seconds", ".1f"),
        shown("step_seconds", ".4g", 1e3),
        shown("step_cpu_seconds", ".4g", 1e3),
        shown("loss", ".4f"),
        shown("accuracy", ".2%"),
        went or ", ".join(missed),
    ]


def run(listed: Iterable[Case], how: str) -> bool:
    """Run cases, print each and a table of all; say whether any failed."""
    rows, failed, base = [], False, None
    for case in listed:
        result = judged(case, limited(case, how))
        failed |= "failed" in result or not (result.get("within", True) and result.get("reached", True))
        if case["name"].startswith("deep") and "failed" not in result:
            base = base or result["step_seconds"]
            result["times_storing_everything"] = result["step_seconds"] / base
        print(json.dumps({"case": case["name"], "limit": case["limit"], **result}), flush=True)
        rows.append(cells(case, result))
    note(str(Table("Training in little memory", COLUMNS, rows)))
    return failed


def main() -> None:
    """Run all cases, or one in this process."""
    parser = argparse.ArgumentParser(description="Train for real in little memory.")
    parser.add_argument("--quick", action="store_true", help="small data and networks, to see that it works")
    parser.add_argument("--only", choices=tuple(CASES), help="one kind of cases")
    parser.add_argument("--choose", action="store_true", help="compare settings of mnist on samples held out")
    parser.add_argument("--limit", default="auto", choices=("auto", "group", "data", "peak"), help="how it is held")
    parser.add_argument("--folder", type=Path, help="where data files are made (a temporary folder)")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        module = importlib.import_module(arguments.case.get("module", "scripts.trainings"))
        print(json.dumps(module.train(arguments.case)))
        return
    kinds = [CASES[arguments.only]] if arguments.only else list(CASES.values())
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        made = [candidates] if arguments.choose else kinds
        listed = (case for kind in made for case in kind(Path(folder), arguments.quick))
        failed = run(listed, arguments.limit)
    sys.exit(failed)


if __name__ == "__main__":
    main()
