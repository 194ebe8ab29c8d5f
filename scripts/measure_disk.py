"""Time of a step whose activations go to a disk, against storing everything and against recomputation.

Each case is a fresh process with measurements of its own of machine and disk, made right before: four plans of one
network, in turns of a few steps each (A A A, a pause, B B B, ...; the first step of a turn is not counted). They are
storing everything, recomputation, and the disk with and without checksums of what is read back. Some cases throttle
the store to so many bytes a second in each direction, and measure the disk as such. Others train in a memory control
group, page cache and all, and tell the peaks of process and group; they need the right to make such groups.

Run from the repository's root, on a disk with room; a case takes one to two minutes:
python -m scripts.measure_disk FOLDER [--only NAME ...] [--cases FILE] [--output FILE] [--list]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np

import lowmem as lm
from lowmem.common.disk.conditions import VARIABLE
from lowmem.measure.disk_calibration import disk_rates
from lowmem.runtime.offload import checksums
from lowmem.units import parse_bytes
from scripts.measuring import DATA, KEPT, Case, about, in_fresh_process, kept

SHAPES = ((200, 256, 2048, 6), (200, 256, 2048, 3), (50, 1024, 1024, 6))
"""Hidden layers, their width, rows of a batch, budget in percent of the activations of storing everything. For 50
layers of 1024, 6 % is the least."""

THROTTLES = ("", "200MB", "20MB")
GROUPED = ((200, 256, 2048, "128MB"), (50, 1024, 1024, "340MB"))
"""Networks that train in a control group of so many bytes."""

TURNS, STEPS, PAUSE = 3, 3, 1.0
INPUTS, CLASSES = 64, 10
GROUPS = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
"""Where control groups of memory are made: of the first version, and of the second."""


def cases() -> dict[str, Case]:
    """Return all cases by name."""
    found: dict[str, Case] = {}
    for throttle in THROTTLES:
        for shape in SHAPES:
            found[",".join(map(str, (*shape, *filter(None, (throttle,)))))] = {"case": shape, "throttle": throttle}
    for *network, ram in GROUPED:
        found[",".join(map(str, (*network, "group", ram)))] = {"case": network, "ram": parse_bytes(str(ram))}
    return found


def measure(folder: str, case: Case) -> Case:
    """Time the plans of one network in this process."""
    layers, width, rows, share = case["case"]
    arch = lm.Architecture((INPUTS, *[width] * layers, CLASSES))
    costs, rng = lm.calibrated(), np.random.default_rng(0)
    x, y = rng.standard_normal((rows, INPUTS)).astype(np.float32), rng.integers(0, CLASSES, rows)
    common: dict[str, Any] = {"batch_size": rows, "micro_batch": rows, "costs": costs, "optimizer": "sgd"}
    budget = f"{share}% of activations"
    disk = lm.plan(arch, budget=budget, disk=folder, **common)
    plans = {
        "everything stored": lm.plan(arch, **common),
        "recomputation": lm.plan(arch, budget=budget, **common),
        "disk, checksums": disk,
        "disk, no checksums": disk,
    }
    steps = {}
    for name, plan in plans.items():
        os.environ[checksums.VARIABLE] = str(int(name == "disk, checksums"))
        steps[name] = lm.Backprop(lm.MLP(arch, seed=0), plan, lm.SGD(lr=1e-6))
        steps[name](x, y)
    same = all(np.array_equal(steps["recomputation"].mlp.parameters, one.mlp.parameters) for one in steps.values())
    seconds: dict[str, list[float]] = {name: [] for name in plans}
    for _ in range(TURNS):
        for name, step in steps.items():
            sleep(PAUSE)
            for number in range(STEPS + 1):
                start = perf_counter()
                step(x, y)
                if number:
                    seconds[name].append(perf_counter() - start)
    base = median(seconds["everything stored"])
    rates = disk_rates(folder)
    return case | {
        "engine": disk.engine,
        "lanes": disk.lanes,
        "same_bits": same,
        "checksums": checksums.checksum_share(disk) <= checksums.LITTLE,
        "rates": [rates.write, rates.read],
        "plans": {
            name: {
                "strategy": plan.strategy,
                "arena_bytes": plan.arena_bytes,
                "disk_bytes": plan.disk_bytes,
                "traffic": plan.disk_traffic,
                "traffic_counted": steps[name].disk_traffic,
                "flop_factor": plan.flop_factor,
                "predicted": plan.seconds,
                "seconds": seconds[name],
                "ratio": median(seconds[name]) / base,
            }
            for name, plan in plans.items()
        },
    }


# In a control group ------------------------------------------------------------------------------------------------


def in_group(folder: str, case: Case, environment: dict[str, str]) -> Case:
    """Train in a fresh process in a control group of the case's bytes, and return what it and the group tell."""
    calibrate(folder, environment)
    with memory_group(case["ram"]) as group:
        command = [sys.executable, "-m", "scripts.measure_disk", folder, "--case", json.dumps(case)]
        done = subprocess.run(
            [*entering(group), *command], stdout=subprocess.PIPE, text=True, env=os.environ | environment, check=False
        )
        told = json.loads(done.stdout) if done.returncode == 0 else {}
        return case | {"exit": done.returncode, "group_peak": group_peak(group), **told}


def calibrate(folder: str, environment: dict[str, str]) -> None:
    """Measure machine and disk in a process of its own: it takes memory that a small group does not have."""
    command = [sys.executable, "-m", "lowmem", "calibrate", "--disk", folder]
    subprocess.run(command, stdout=subprocess.DEVNULL, env=os.environ | environment, check=True)


@contextmanager
def memory_group(size: int) -> Iterator[Path]:
    """Make a control group for so many bytes, and remove it when its processes have ended."""
    root = GROUPS[0] if GROUPS[0].is_dir() else GROUPS[1]
    group = root / f"lowmem-measure-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if GROUPS[0].is_dir() else "memory.max")).write_text(str(size))
        yield group
    finally:
        group.rmdir()


def entering(group: Path) -> list[str]:
    """Return the words before a command that is run in a control group."""
    return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs")]


def group_peak(group: Path) -> int | None:
    """Return the most bytes that a control group has held, None where the system does not tell."""
    names = ("memory.max_usage_in_bytes", "memory.peak")
    return next((int((group / name).read_text()) for name in names if (group / name).exists()), None)


def inside(folder: str, case: Case) -> Case:
    """Train in this process, which stays within the case's bytes, and return what it took."""
    from lowmem.measure.memory import resident_peak

    layers, width, rows = case["case"]
    arch = lm.Architecture((INPUTS, *[width] * layers, CLASSES))
    trainer = lm.Trainer(lm.MLP(arch, seed=0), lm.SGD(1e-5), batch_size=rows, ram=case["ram"], disk=folder)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4 * rows, INPUTS)).astype(np.float32), rng.integers(0, CLASSES, 4 * rows)
    epochs = list(trainer.epochs((x, y), 3))
    plan = trainer.plan
    return {
        "strategy": plan.strategy,
        "disk_bytes": plan.disk_bytes,
        "store_all": plan.store_all_bytes,
        "promise": trainer.report().process_promise,
        "resident_peak": resident_peak(),
        "seconds": epochs[-1].seconds / 4,
        "predicted": plan.seconds,
    }


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="a folder on the disk")
    parser.add_argument("--only", nargs="+", choices=[*cases()], metavar="NAME", help="some cases; see --list")
    parser.add_argument("--list", action="store_true", help="print the names of all cases")
    parser.add_argument("--cases", type=Path, metavar="FILE", help="keep finished cases; a later run goes on from it")
    parser.add_argument("--output", type=Path, default=DATA / "measure_disk.json")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(cases()))
        return
    if arguments.folder is None:
        parser.error("a FOLDER on a disk is needed")
    if arguments.case:
        one = inside if "ram" in arguments.case else measure
        print(json.dumps(one(arguments.folder, arguments.case)))
        return
    if arguments.cases:
        KEPT["file"] = arguments.cases
    records = []
    for name, case in cases().items():
        if arguments.only and name not in arguments.only:
            continue
        with tempfile.TemporaryDirectory() as cache:
            environment = {"LOWMEM_CACHE_DIR": cache}
            if case.get("throttle"):
                environment[VARIABLE] = f"throttle={case['throttle']}"
            records.append(measured(arguments.folder, name, case, environment))
        print(name, told(records[-1]), flush=True)
    arguments.output.write_text(json.dumps(about("measure_disk FOLDER", records), indent=1) + "\n")


def measured(folder: str, name: str, case: Case, environment: dict[str, str]) -> Case:
    """Measure one case, unless that was done before."""
    if "ram" in case:
        return kept(["measure_disk", name], lambda: in_group(folder, case, environment))
    return in_fresh_process("scripts.measure_disk", case, environment, (folder,))


def told(record: Case) -> str:
    """Say in a line what came of a case."""
    if "ram" in record:
        return ", ".join(f"{name} {record.get(name)}" for name in ("exit", "resident_peak", "promise", "group_peak"))
    plans = record["plans"]
    ratios = [
        f"{name} {one['ratio']:.2f} ({one['strategy']}, predicted {one['predicted'] / median(one['seconds']):.2f})"
        for name, one in plans.items()
    ]
    return f"{'; '.join(ratios)}; same bits: {record['same_bits']}"


if __name__ == "__main__":
    main()
