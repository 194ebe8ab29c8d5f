"""Training of a network whose parameters and Adam's arrays outweigh the memory, in a control group of little memory.

One fresh process in a control group of --ram bytes, page cache and all, trains with parameters and moments on the
disk, saves the run after each step and is killed behind the second step. Another one in the same group resumes and
runs the rest. Then a process without a group trains as many steps in memory. The weights of both runs must have the
same bits. That needs the right to make control groups.

Run from the repository's root, on a disk with room for four times the parameters and more:
python -m scripts.measure_streaming FOLDER [--case L,n,B] [--ram SIZE] [--steps N] [--output FILE]
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import lowmem as lm
from lowmem.units import parse_bytes
from scripts.measure_disk import CLASSES, INPUTS, make_group
from scripts.measuring import about


def inside(folder: Path, case: tuple[int, int, int], steps: int, ram: int, kill_at: int) -> None:
    """Train in this process, and print what it took; without `ram` in memory. kill_at: the step that ends it."""
    from lowmem.measure.memory import resident_peak

    layers, width, rows = case
    arch, path = lm.Architecture((INPUTS, *[width] * layers, CLASSES)), folder / f"streaming-{bool(ram)}.safetensors"
    if path.exists():
        trainer = lm.Trainer.resume(path)
    else:
        where: dict[str, Any] = {"ram": ram, "disk": str(folder)} if ram else {}
        mlp = lm.MLP(arch, seed=0, disk=str(folder) if ram else None)
        trainer = lm.Trainer(mlp, lm.Adam(1e-5), batch_size=rows, micro_batch=rows, **where)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((steps * rows, INPUTS)).astype(np.float32)
    y, times = rng.integers(0, CLASSES, steps * rows), [trainer._position.seconds]

    def on_step(done: int, count: int) -> None:
        times.append(trainer._position.seconds)  # of steps alone, without the saves between them
        print(json.dumps({"step": done, "of": count, "seconds": times[-1] - times[-2]}), file=sys.stderr, flush=True)
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    epochs = trainer.epochs((x, y), until=1, on_step=on_step, save_to=path, save_every=1)
    loss = [epoch.loss for epoch in epochs][-1]
    trainer.save(path)
    plan, account = trainer.plan, trainer.plan.account()
    digest = hashlib.sha256()
    for number in trainer.mlp.in_turn():
        digest.update(trainer.mlp.blocks[number - 1].data)
    backprop = trainer._stepper.backprop  # type: ignore[union-attr]
    told = {
        "streams": plan.streams,
        "account": account.to_dict(),
        "parameters_and_moments": 3 * trainer.mlp.parameters.nbytes,
        "disk_bytes": plan.disk_bytes,
        "traffic": plan.disk_traffic,
        "traffic_counted": backprop.disk_traffic,
        "promise": trainer.report().process_promise,
        "resident_peak": resident_peak(),
        "seconds": [later - before for before, later in pairwise(times)],
        "predicted": plan.seconds,
        "loss": loss,
        "sha256": digest.hexdigest(),
    }
    print(json.dumps(told))


def run(folder: Path, case: str, steps: int, ram: int, kill_at: int = 0) -> dict[str, Any]:
    """Train in a fresh process, in a control group of `ram` bytes if that is not 0, and return what it tells."""
    group = make_group(ram) if ram else None
    command = [sys.executable, "-m", "scripts.measure_streaming", str(folder), "--case", case]
    command += ["--inside", f"{steps},{ram},{kill_at}"]
    enter = [] if group is None else ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs")]
    try:
        done = subprocess.run([*enter, *command], stdout=subprocess.PIPE, text=True, check=False)
        if group is not None:
            names = ("memory.max_usage_in_bytes", "memory.peak")
            peak = next((int((group / name).read_text()) for name in names if (group / name).exists()), None)
            return {"exit": done.returncode, "group_peak": peak, **json.loads(done.stdout or "{}")}
        return {"exit": done.returncode, **json.loads(done.stdout or "{}")}
    finally:
        if group is not None:
            group.rmdir()


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--case", default="24,2048,4096", metavar="L,n,B")
    parser.add_argument("--ram", default="256MB", metavar="SIZE")
    parser.add_argument("--steps", type=int, default=4, metavar="N", help="steps in all, at least 3 (default 4)")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path("docs/data/measure_streaming.json"))
    arguments = parser.parse_args()
    if arguments.inside:
        steps, ram, kill_at = map(int, arguments.inside.split(","))
        layers, width, rows = map(int, arguments.case.split(","))
        inside(arguments.folder, (layers, width, rows), steps, ram, kill_at)
        return
    size, steps = parse_bytes(arguments.ram), arguments.steps
    killed = run(arguments.folder, arguments.case, steps, size, kill_at=2)
    resumed = run(arguments.folder, arguments.case, steps, size)
    memory = run(arguments.folder, arguments.case, steps, 0)
    for name in ("True", "False"):
        (arguments.folder / f"streaming-{name}.safetensors").unlink(missing_ok=True)
    found = {
        "case": arguments.case,
        "ram": size,
        "killed": killed,
        "resumed": resumed,
        "in_memory": memory,
        "same_bits": resumed.get("sha256") == memory.get("sha256") is not None,
        "ratio": median(resumed["seconds"]) / median(memory["seconds"]),
    }
    print(json.dumps(found, indent=1))
    arguments.output.write_text(json.dumps(about("measure_streaming FOLDER", [found]), indent=1) + "\n")


if __name__ == "__main__":
    main()
