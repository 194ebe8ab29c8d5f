"""Training of a network whose parameters and Adam's arrays outweigh the memory, in a control group of little memory.

Two runs of the same steps take turns, an epoch of --epoch steps each: one in a control group of --ram bytes, page
cache and all, with parameters and moments on the disk; one without a group, in memory. Each epoch is a fresh process
that resumes what the one before has saved, and is killed in the first step behind its own save; before each, machine
and disk are measured anew. In the end the weights of both runs must have the same bits. That needs the right to make
control groups.

A run that was stopped goes on with --cases FILE, and the saved runs in FOLDER. The disk needs room for ten times the
parameters. From the repository's root:
python -m scripts.measure_streaming FOLDER [--case L,n,B] [--ram SIZE] [--steps N] [--epoch N] [--cases FILE]
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import lowmem as lm
from lowmem.units import parse_bytes
from scripts.measure_disk import CLASSES, INPUTS, calibrate, entering, group_peak, memory_group
from scripts.measuring import DATA, KEPT, Case, about, kept


def saved_to(folder: Path, ram: int) -> Path:
    """Return where one of the two runs is saved."""
    return folder / f"streaming-{'disk' if ram else 'memory'}.safetensors"


def inside(folder: Path, case: Case) -> None:
    """Train one epoch in this process and a step more, print what it took, and die; behind the last one, just end."""
    layers, width, rows = case["network"]
    ram, number = case["ram"], case["epoch"]
    arch, path = lm.Architecture((INPUTS, *[width] * layers, CLASSES)), saved_to(folder, ram)
    if number:
        trainer = lm.Trainer.resume(path)
    else:
        where: dict[str, Any] = {"ram": ram, "disk": str(folder)} if ram else {}
        mlp = lm.MLP(arch, seed=0, disk=str(folder) if ram else None)
        trainer = lm.Trainer(mlp, lm.Adam(1e-5), batch_size=rows, micro_batch=rows, **where)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((case["steps"] * rows, INPUTS)).astype(np.float32)
    y, behind = rng.integers(0, CLASSES, case["steps"] * rows), (number + 1) * case["steps"]
    ends, seconds = [0.0], list[float]()

    def on_step(done: int, count: int) -> None:
        ends.append(trainer._position.seconds)  # of the epoch's steps alone, without saves
        seconds.append(ends[-1] - ends[-2] if done > 1 else ends[-1])
        if trainer._position.steps > behind:
            show(trainer, seconds)
            os.kill(os.getpid(), signal.SIGKILL)

    losses = [epoch.loss for epoch in trainer.epochs((x, y), until=case["epochs"], on_step=on_step, save_to=path)]
    digest = hashlib.sha256()
    for layer in trainer.mlp.in_turn():
        digest.update(trainer.mlp.blocks[layer - 1].data)
    show(trainer, seconds, loss=losses[-1], sha256=digest.hexdigest())


def show(trainer: lm.Trainer, seconds: list[float], **more: Any) -> None:  # noqa: ANN401 - for JSON
    """Print what a process took. seconds: of each step."""
    from lowmem.measure.memory import resident_peak

    plan = trainer.plan
    backprop = trainer._stepper.backprop  # type: ignore[union-attr]
    told = {
        "streams": plan.streams,
        "account": plan.account().to_dict(),
        "parameters_and_moments": 3 * trainer.mlp.parameters.nbytes,
        "disk_bytes": plan.disk_bytes,
        "traffic": plan.disk_traffic,
        "traffic_counted": backprop.disk_traffic,
        "promise": trainer.report().process_promise,
        "resident_peak": resident_peak(),
        "seconds": seconds,
        "predicted": plan.seconds,
    }
    print(json.dumps(told | more), flush=True)


def run(folder: Path, case: Case) -> Case:
    """Run an epoch in a fresh process, in a control group of the case's bytes if these are not 0."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {"LOWMEM_CACHE_DIR": cache}
        calibrate(str(folder), environment)
        with memory_group(case["ram"]) if case["ram"] else nullcontext() as group:
            command = [sys.executable, "-m", "scripts.measure_streaming", str(folder), "--inside", json.dumps(case)]
            command = [*entering(group), *command] if group else command
            done = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, env=os.environ | environment, check=False
            )
            ends = 0 if case["epoch"] + 1 == case["epochs"] else -signal.SIGKILL
            if done.returncode != ends:
                raise SystemExit(f"{case} ended with {done.returncode}, and not with {ends}")
            peak = group_peak(group) if group else None
            return case | {"exit": done.returncode, "group_peak": peak, **json.loads(done.stdout)}


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--case", default="24,2048,4096", metavar="L,n,B")
    parser.add_argument("--ram", default="256MB", metavar="SIZE")
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="steps of each run, about (default 100)")
    parser.add_argument("--epoch", type=int, default=5, metavar="N", help="steps of a process (default 5)")
    parser.add_argument("--cases", type=Path, metavar="FILE", help="keep finished epochs; a later run goes on from it")
    parser.add_argument("--inside", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=DATA / "measure_streaming.json")
    arguments = parser.parse_args()
    if arguments.inside:
        inside(arguments.folder, arguments.inside)
        return
    if arguments.cases:
        KEPT["file"] = arguments.cases
    ram, epochs = parse_bytes(arguments.ram), max(round(arguments.steps / arguments.epoch), 2)
    common = {"network": [*map(int, arguments.case.split(","))], "steps": arguments.epoch, "epochs": epochs}
    pairs = []
    for number in range(epochs):
        pair = [common | {"epoch": number, "ram": size} for size in (ram, 0)]
        pairs.append([kept(case, lambda case=case: run(arguments.folder, case)) for case in pair])  # type: ignore[misc]
        middles = [median(one["seconds"][1:]) for one in pairs[-1]]
        print(f"epoch {number}: {middles[0]:.2f} s a step on the disk, {middles[1]:.2f} s in memory", flush=True)
    found = record(arguments.case, ram, pairs)
    for size in (ram, 0):
        saved_to(arguments.folder, size).unlink(missing_ok=True)
    print(json.dumps({name: found[name] for name in ("same_bits", "ratio", "predicted_over_measured")}, indent=1))
    arguments.output.write_text(json.dumps(about("measure_streaming FOLDER", [found]), indent=1) + "\n")


def record(case: str, ram: int, pairs: list[list[Case]]) -> Case:
    """Return what is told of both runs. pairs: their epochs, on the disk and in memory."""
    disk, memory = ([pair[side] for pair in pairs] for side in (0, 1))
    ratios = [median(one["seconds"][1:]) / median(other["seconds"][1:]) for one, other in pairs]
    return {
        "case": case,
        "ram": ram,
        "steps": sum(one["steps"] for one in disk),
        "kills": sum(one["exit"] != 0 for one in disk),
        "disk": disk,
        "memory": memory,
        "same_bits": disk[-1]["sha256"] == memory[-1]["sha256"],
        "ratios": ratios,
        "ratio": median(ratios),
        "predicted_over_measured": median(one["predicted"] / median(one["seconds"][1:]) for one in disk),
        "resident_peak": max(one["resident_peak"] for one in disk),
        "group_peak": max(one["group_peak"] or 0 for one in disk),
        "promise": max(one["promise"] for one in disk),
    }


if __name__ == "__main__":
    main()
