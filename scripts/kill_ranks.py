"""Kill one rank of a training at random moments, resume each time with another number of ranks, and compare the bits.

A rank gets SIGKILL: some while it starts, most at a random moment behind a save. Then all ranks must end within 10
seconds, none may be left, and the saved run must open and hold no fewer steps than before. At the end the training
goes on to a full epoch, and its weights are compared with those of one process that was never disturbed. Needs MPI
(`make .venv/.mpi`) and Linux's /proc. Run from the repository's root: python -m scripts.kill_ranks [--kills 30]
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

import numpy as np

from lowmem.training.saved_run import open_run
from scripts.measuring import ROOT

FLAGS = ("--data", "digits", "--layers", "20", "--width", "64", "--shards", "4", "--batch", "128", "--no-calibrate")
STEPS = 12
"""Steps of an epoch of these data."""

SIZES = (2, 4)
"""Numbers of ranks that are killed; one process takes the last epochs."""

SOON = 10.0
"""Seconds in which all must have ended."""

START_UP = 0.2
"""Share of the kills that come while ranks start, before the first save."""

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@dataclass
class Outcome:
    """What came of the kills. slowest: seconds from a kill to the end of all. wrong: what broke, in lines."""

    kills: Counter[int] = field(default_factory=Counter)
    starting: int = 0
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)


def launcher() -> str:
    """Return the command that starts ranks: this environment's, or else the machine's."""
    found = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    if found is None:
        raise SystemExit("no mpiexec; pip install 'lowmem[mpi]' brings one")
    return found


def start(ranks: int, folder: Path, *command: str) -> subprocess.Popen[str]:
    """Start a command of lowmem on so many ranks."""
    whole = [launcher(), "-n", str(ranks), sys.executable, "-m", "lowmem", *command]
    environment = os.environ | ENVIRONMENT
    return subprocess.Popen(
        whole, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )


def ranks_in(folder: Path) -> list[int]:
    """Return the processes of lowmem that work in a folder."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            line = (process / "cmdline").read_bytes()
            if b"-m\0lowmem" in line and b"mpiexec" not in line and (process / "cwd").resolve() == folder:
                found.append(int(process.name))
        except (OSError, ValueError):
            continue
    return sorted(found)


def steps_of(run: Path) -> int:
    """Return the steps that a saved run holds, 0 where there is none. Raises what opening it raises."""
    return open_run(run).position.steps if run.exists() else 0


def kill_one(rng: random.Random, ranks: int, folder: Path, outcome: Outcome) -> None:
    """Start or resume a training on so many ranks, kill one of them, and note what came of it."""
    run = folder / "run"
    before, written = steps_of(run), run.stat().st_mtime_ns if run.exists() else 0
    what = ("resume", "run") if run.exists() else ("train", *FLAGS, "--save", "run")
    starting = rng.random() < START_UP
    with start(ranks, folder, *what, "--epochs", "100000", "--save-every", "5") as process:
        while process.poll() is None and len(ranks_in(folder)) < ranks:
            sleep(0.01)
        while process.poll() is None and not starting and (not run.exists() or run.stat().st_mtime_ns == written):
            sleep(0.01)
        sleep(rng.uniform(0, 2.0 if starting else 1.0))
        alive = ranks_in(folder)
        if process.poll() is not None or not alive:
            process.kill()
            outcome.wrong.append(f"{ranks} ranks ended before the kill: {process.communicate()[1]}")
            return
        os.kill(rng.choice(alive), signal.SIGKILL)
        begin = monotonic()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        while ranks_in(folder) and monotonic() < begin + 60:
            sleep(0.01)
        took = monotonic() - begin
    outcome.kills[ranks] += 1
    outcome.starting += starting
    outcome.slowest = max(outcome.slowest, took)
    if took > SOON:
        outcome.wrong.append(
            f"{ranks} ranks took {took:.1f} s to end, {'while starting' if starting else 'in training'}"
        )
    for left in ranks_in(folder):
        os.kill(left, signal.SIGKILL)
    try:
        if steps_of(run) < before:
            outcome.wrong.append(f"the run has {steps_of(run)} steps, and had {before}")
    except Exception as error:
        outcome.wrong.append(f"the run is lost: {error}")


def finished(folder: Path, ranks: int, command: Sequence[str]) -> Path:
    """Run a command of lowmem to its end, and return the run that it saved."""
    with start(ranks, folder, *command) as process:
        errors = process.communicate()[1]
    if process.returncode:
        raise SystemExit(f"lowmem {' '.join(command)} failed: {errors}")
    return folder / "run"


def kill_ranks(kills: int, seed: int) -> Outcome:
    """Kill ranks of one training so many times, and compare its end with that of one process."""
    rng, outcome = random.Random(seed), Outcome()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for number in range(kills):
            kill_one(rng, SIZES[number % len(SIZES)], folder, outcome)
            if any("lost" in words for words in outcome.wrong):
                return outcome
        epochs = str(steps_of(folder / "run") // STEPS + 2)
        if (folder / "run").exists():
            broken = finished(folder, 1, ("resume", "run", "--epochs", epochs))
            (folder / "straight").mkdir()
            straight = finished(folder / "straight", 1, ("train", *FLAGS, "--save", "run", "--epochs", epochs))
            one, other = (open_run(path).network().parameters for path in (broken, straight))
            if not np.array_equal(one, other):
                outcome.wrong.append(f"after {epochs} epochs the weights differ from those of an unbroken run")
    return outcome


def main() -> None:
    """Kill, resume, compare, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    outcome = kill_ranks(arguments.kills, arguments.seed)
    of_sizes = ", ".join(f"{number} with {ranks} ranks" for ranks, number in sorted(outcome.kills.items()))
    print(f"{outcome.kills.total()} kills ({of_sizes}), {outcome.starting} of them while ranks were starting")
    print(f"all ranks ended within {outcome.slowest:.1f} s of a kill; {len(outcome.wrong)} wrong")
    print("\n".join(outcome.wrong))
    sys.exit(bool(outcome.wrong))


if __name__ == "__main__":
    main()
