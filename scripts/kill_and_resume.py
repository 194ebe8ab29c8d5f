"""Kill a training process at random moments, resume it each time, and compare the end with an unbroken run.

Each process gets SIGKILL after a random time; the file it leaves is opened and verified, and the next process goes on
from it. Run from the repository's root: python -m scripts.kill_and_resume [--quick]
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import numpy as np

from lowmem.training.saved_run import open_run
from scripts.measuring import ROOT

FLAGS = ("--layers", "20", "--width", "64", "--batch", "64", "--no-calibrate", "--lr", "0.001")
KINDS: tuple[tuple[str, ...], ...] = (
    ("--budget", "2MB", "--clip-norm", "5"),
    ("--optimizer", "momentum", "--standardise", "--shuffle-rows", "300"),
    ("--engine", "numpy", "--strategy", "sqrt", "--norm", "layer", "--dropout", "0.1"),
    ("--budget", "3MB", "--norm", "batch", "--activation", "gelu", "--lr-schedule", "cosine", "--patience", "100000"),
)
"""Trainings, each with other things that a saved run must hold."""

STREAMED = ("--layers", "16", "--width", "128", "--batch", "64", "--no-calibrate", "--budget", "1800KB")
"""A training whose parameters and moments do not fit its budget."""


@dataclass(frozen=True, slots=True)
class Killed:
    """What came of a training that was killed again and again.

    unsaved: kills before the first save. same: whether the last weights are those of the unbroken run, bit for bit.
    """

    kills: int
    unsaved: int
    steps: int
    same: bool


def main() -> None:
    """Run once unbroken, then with kills, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="5 kills in place of 50")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--disk", type=Path, metavar="FOLDER", help="parameters and moments lie here")
    arguments = parser.parse_args()
    kills, disk = 5 if arguments.quick else 50, arguments.disk
    before = set() if disk is None else {*os.listdir(disk)}
    flags = (*FLAGS, *KINDS[0]) if disk is None else (*STREAMED, "--disk", str(disk))
    result = kill_and_compare(kills, arguments.seed, flags, epochs=30 if disk is None else 10)
    same = "equal" if result.same else "DIFFER"
    print(f"{result.kills} kills, {result.unsaved} of them before the first save, {result.steps:,} steps")
    print(f"final weights {same}")
    left = set() if disk is None else {*os.listdir(disk)} - before
    print(f"files left on the disk: {', '.join(sorted(left)) or 'none'}")
    sys.exit(0 if result.same and result.kills == kills and not left else 1)


def kill_and_compare(kills: int, seed: int, flags: tuple[str, ...], epochs: int = 30) -> Killed:
    """Train unbroken, and once more with so many kills, each of which the training is resumed after.

    epochs: for each kill. Fewer kills are made where the training ends before.
    """
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder, "whole.safetensors"), Path(folder, "broken.safetensors")
        # As many epochs as the kills leave time for; each process lives for some tenths of a second of training.
        fresh: tuple[str, ...] = ("train", *flags, "--epochs", str(epochs * kills), "--save")
        begin = monotonic()
        run(*fresh, str(whole))
        seconds = monotonic() - begin
        done, unsaved = 0, 0
        while done < kills:
            command = ("resume", str(broken)) if broken.exists() else (*fresh, str(broken))
            if not killed(rng, seconds / kills, broken, (*command, "--save-every", "3")):
                break
            done += 1
            unsaved += not broken.exists()
            if broken.exists():
                open_run(broken)  # complete, whenever the process was killed
        if not broken.exists():
            run(*fresh, str(broken))
        elif open_run(broken).position.steps < open_run(whole).position.steps:
            run("resume", str(broken), "--save-every", "1000")
        one, other = (open_run(path) for path in (whole, broken))
        same = np.array_equal(one.network().parameters, other.network().parameters)
        return Killed(done, unsaved, one.position.steps, same and one.position.steps == other.position.steps)


def start(*command: str) -> subprocess.Popen[bytes]:
    """Start a command of lowmem; what it says is dropped, errors are shown."""
    return subprocess.Popen(
        [sys.executable, "-m", "lowmem", *command],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )


def run(*command: str) -> None:
    """Run a command to its end."""
    with start(*command) as process:
        if process.wait():
            raise SystemExit(f"lowmem {' '.join(command)} failed")


def killed(rng: random.Random, span: float, path: Path, command: tuple[str, ...]) -> bool:
    """Start a command and kill it some time after its first save, or before; False if it ended by itself."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    ready = rng.uniform(0, 2) if rng.random() < 0.2 else float("inf")  # some are killed while they start
    begin = monotonic()
    with start(*command) as process:
        while process.poll() is None and (path.stat().st_mtime_ns if path.exists() else 0) == before:
            if monotonic() - begin > ready:
                break
            sleep(0.002)
        else:
            sleep(rng.uniform(0, 0.7 * span))
        if process.poll() is not None:
            return False
        process.kill()
    return True


if __name__ == "__main__":
    main()
