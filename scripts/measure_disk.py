"""Time of a step whose activations go to a disk, against storing everything and against recomputation.

For each network and budget: three plans of one network in one process, in turns of a few steps each (A A A, a pause,
B B B, ...; the first step of a turn is not counted), the median of all counted steps, and the predicted seconds beside
it. With --throttle, the store moves no more than so many bytes a second in each direction, and the disk is measured
as such. With --ram, one fresh process for each network trains by Adam in a memory control group of that size, page
cache and all, and tells the peaks of process and group; that needs the right to make control groups.

Run from the repository's root, on a disk with room:
python -m scripts.measure_disk FOLDER [--only L,n,B,SHARE] [--throttle SIZE] [--ram L,n,B,SIZE] [--output FILE]
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np

import lowmem as lm
from lowmem.common.disk.conditions import VARIABLE
from lowmem.common.tables import Table
from lowmem.measure.disk_calibration import disk_rates
from lowmem.units import format_bytes, parse_bytes
from scripts.measuring import about

CASES = ((200, 256, 2048, 6), (200, 256, 2048, 3), (50, 1024, 1024, 12), (50, 1024, 1024, 6))
"""Hidden layers, their width, rows of a batch, budget in percent of the activations of storing everything."""

TURNS, STEPS, PAUSE = 2, 3, 1.0
INPUTS, CLASSES = 64, 10
GROUPS = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
"""Where control groups of memory are made: of the first version, and of the second."""


def measure(folder: str, layers: int, width: int, rows: int, share: int) -> dict[str, Any]:
    """Time the three plans of one network."""
    arch = lm.Architecture((INPUTS, *[width] * layers, CLASSES))
    costs, rng = lm.calibrated(), np.random.default_rng(0)
    x, y = rng.standard_normal((rows, INPUTS)).astype(np.float32), rng.integers(0, CLASSES, rows)
    common: dict[str, Any] = {"batch_size": rows, "micro_batch": rows, "costs": costs, "optimizer": "sgd"}
    budget = f"{share}% of activations"
    plans = {
        "everything stored": lm.plan(arch, **common),
        "recomputation": lm.plan(arch, budget=budget, **common),
        "disk": lm.plan(arch, budget=budget, disk=folder, **common),
    }
    steps = {}
    for name, plan in plans.items():
        optimizer = lm.SGD(lr=1e-6)
        steps[name] = lm.Backprop(lm.MLP(arch, seed=0), plan, optimizer)
        steps[name](x, y)
    same = all(np.array_equal(steps["disk"].mlp.parameters, one.mlp.parameters) for one in steps.values())
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
    return {
        "case": [layers, width, rows, share],
        "engine": plans["disk"].engine,
        "lanes": plans["disk"].lanes,
        "same_bits": same,
        "rates": [disk_rates(folder).write, disk_rates(folder).read],
        "throttle": os.environ.get(VARIABLE, ""),
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


def table(found: dict[str, Any]) -> Table:
    """Show one measurement."""
    rows = [
        [
            name,
            one["strategy"],
            format_bytes(one["arena_bytes"]),
            format_bytes(one["disk_bytes"]),
            format_bytes(one["traffic_counted"]),
            f"{one['flop_factor']:.3f}",
            f"{median(one['seconds']):.3f} s",
            f"{one['predicted']:.3f} s ({one['predicted'] / median(one['seconds']) - 1:+.0%})",
            f"{one['ratio']:.2f}",
            f"{(max(one['seconds']) - min(one['seconds'])) / median(one['seconds']):.0%}",
        ]
        for name, one in found["plans"].items()
    ]
    layers, width, batch, share = found["case"]
    columns = ["", "strategy", "arena", "on disk", "moved", "FLOPs", "step", "predicted", "of storing all", "spread"]
    note = f"same bits: {found['same_bits']}; {found['engine']} engine, {found['lanes']} lanes; {found['throttle']}"
    return Table(f"{layers} x {width}, batch {batch}, {share}% of activations", columns, rows, note)


# In a control group ------------------------------------------------------------------------------------------------


def in_group(folder: str, layers: int, width: int, rows: int, ram: str) -> dict[str, Any]:
    """Train in a fresh process in a control group of `ram` bytes, and return what it and the group tell."""
    size, group = parse_bytes(ram), make_group(parse_bytes(ram))
    command = [sys.executable, "-m", "scripts.measure_disk", folder, "--inside", f"{layers},{width},{rows},{size}"]
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: (group / "cgroup.procs").write_text("0")
        )
        told = process.communicate()[0]
        names = ("memory.max_usage_in_bytes", "memory.peak")
        peak = next((int((group / name).read_text()) for name in names if (group / name).exists()), None)
        return {"ram": size, "exit": process.returncode, "group_peak": peak, **json.loads(told or "{}")}
    finally:
        group.rmdir()


def make_group(size: int) -> Path:
    """Make a control group for so many bytes, swap included."""
    root = GROUPS[0] if GROUPS[0].is_dir() else GROUPS[1]
    group = root / f"lowmem-measure-{os.getpid()}"
    group.mkdir()
    limit = "memory.limit_in_bytes" if GROUPS[0].is_dir() else "memory.max"
    (group / limit).write_text(str(size))
    return group


def inside(folder: str, layers: int, width: int, rows: int, size: int) -> None:
    """Train in this process, which stays within `size` bytes, and print what it took."""
    from lowmem.measure.memory import resident_peak

    arch = lm.Architecture((INPUTS, *[width] * layers, CLASSES))
    trainer = lm.Trainer(lm.MLP(arch, seed=0), lm.Adam(1e-5), batch_size=rows, ram=size, disk=folder)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4 * rows, INPUTS)).astype(np.float32), rng.integers(0, CLASSES, 4 * rows)
    epochs = list(trainer.epochs((x, y), 2))
    plan = trainer.plan
    told = {
        "strategy": plan.strategy,
        "disk_bytes": plan.disk_bytes,
        "store_all": plan.store_all_bytes,
        "promise": trainer.report().process_promise,
        "resident_peak": resident_peak(),
        "seconds": epochs[-1].seconds / 4,
        "predicted": plan.seconds,
    }
    print(json.dumps(told))


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--only", metavar="L,n,B,SHARE")
    parser.add_argument("--throttle", metavar="SIZE")
    parser.add_argument("--ram", metavar="L,n,B,SIZE")
    parser.add_argument("--inside", metavar="L,n,B,BYTES", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path("docs/data/measure_disk.json"))
    arguments = parser.parse_args()
    if arguments.throttle:
        os.environ[VARIABLE] = f"throttle={arguments.throttle}"
    if arguments.inside:
        layers, width, rows, size = map(int, arguments.inside.split(","))
        inside(arguments.folder, layers, width, rows, size)
        return
    kept = json.loads(arguments.output.read_text())["records"] if arguments.output.exists() else []
    found: list[dict[str, Any]] = []
    if arguments.ram:
        shape, _, ram = arguments.ram.rpartition(",")
        layers, width, rows = map(int, shape.split(","))
        found.append(
            {"case": [layers, width, rows], "throttle": ""} | in_group(arguments.folder, layers, width, rows, ram)
        )
        print(json.dumps(found[-1], indent=1))
    else:
        cases = CASES if not arguments.only else (tuple(map(int, arguments.only.split(","))),)
        for case in cases:
            found.append(measure(arguments.folder, *case))
            print(table(found[-1]))
    names = [(one["case"], one["throttle"]) for one in found]
    data = about("measure_disk FOLDER", [one for one in kept if (one["case"], one["throttle"]) not in names] + found)
    arguments.output.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
