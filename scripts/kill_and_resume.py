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
from pathlib import Path
from time import monotonic, sleep

import numpy as np

from lowmem.training.saved_run import open_run
from scripts.measuring import ROOT

FLAGS = ("--layers", "20", "--width", "64", "--batch", "64", "--no-calibrate", "--budget", "2MB", "--clip-norm", "5")


def main() -> None:
    """Run once unbroken, then with kills, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="5 kills in place of 50")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    kills = 5 if arguments.quick else 50
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder, "whole.safetensors"), Path(folder, "broken.safetensors")
        # As many epochs as the kills leave time for; each process lives for some tenths of a second of training.
        epochs = str(30 * kills)
        begin = monotonic()
        run("train", *FLAGS, "--epochs", epochs, "--save", str(whole))
        seconds = monotonic() - begin
        print(f"unbroken: {open_run(whole).position.steps:,} steps in {seconds:.1f} s", flush=True)
        done, unsaved = 0, 0
        while done < kills:
            command: tuple[str, ...]
            if broken.exists():
                command = ("resume", str(broken), "--save-every", "3")
            else:
                command = ("train", *FLAGS, "--epochs", epochs, "--save", str(broken), "--save-every", "3")
            if not killed(rng, seconds / kills, broken, command):
                break
            done += 1
            if broken.exists():
                print(f"kill {done}: {open_run(broken).position.steps:,} steps are saved", flush=True)
            else:
                unsaved += 1
        run("resume", str(broken), "--save-every", "1000")
        same = np.array_equal(open_run(whole).network().parameters, open_run(broken).network().parameters)
        print(f"{done} kills, {unsaved} of them before the first save; final weights {'equal' if same else 'DIFFER'}")
        sys.exit(0 if same and done == kills else 1)


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
    """Start a command and kill it some time after its first save; False if it ended by itself."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    with start(*command) as process:
        while process.poll() is None and (path.stat().st_mtime_ns if path.exists() else 0) == before:
            if rng.random() < 0.002:
                break  # also while it starts
            sleep(0.002)
        sleep(rng.uniform(0, 0.7 * span))
        if process.poll() is not None:
            return False
        process.kill()
    return True


if __name__ == "__main__":
    main()
