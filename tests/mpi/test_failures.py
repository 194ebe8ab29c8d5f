"""Ranks that fail: all end soon, one line says which rank and why, and the run goes on from its last save."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import lowmem as lm
from scripts.kill_ranks import kill_ranks, ranks_in
from tests.mpi.conftest import ENVIRONMENT, Run, mpiexec

FLAGS = ["--data", "digits", "--layers", "20", "--width", "64", "--shards", "4", "--batch", "128"]
FLAGS += ["--no-calibrate", "--save", "run"]


def lines_of_lowmem(text: str) -> list[str]:
    """Return what lowmem wrote; launchers write lines of their own beside it."""
    return [line for line in text.splitlines() if line.startswith("lowmem:")]


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds ranks by /proc")
@pytest.mark.parametrize("after", [0.2, 0.7])
def test_a_killed_rank_ends_all_and_another_number_of_ranks_resumes(ranks: Run, tmp_path: Path, after: float) -> None:
    command = [mpiexec(), "-n", "2", sys.executable, "-m", "lowmem", "train", *FLAGS, "--epochs", "400"]
    command += ["--save-every", "5"]
    started = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | ENVIRONMENT,
    )
    end = time.monotonic() + 60
    while not (tmp_path / "run").exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(after)
    killed = ranks_in(tmp_path)[-1]
    os.kill(killed, signal.SIGKILL)
    _, errors = started.communicate(timeout=10)
    (line,) = lines_of_lowmem(errors)
    assert f"(process {killed} on " in line
    assert "The last good save is run (step " in line
    assert ranks_in(tmp_path) == []
    steps = lm.Trainer.resume(tmp_path / "run")._position.steps
    epochs = str(steps // 12 + 2)
    done = ranks(4, "-m", "lowmem", "resume", "run", "--epochs", epochs, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "straight").mkdir()
    straight = ["-m", "lowmem", "train", *FLAGS, "--epochs", epochs]
    assert ranks(1, *straight, cwd=tmp_path / "straight").returncode == 0
    one, other = (lm.Trainer.resume(tmp_path / name) for name in ("run", "straight/run"))
    assert (one.mlp.parameters == other.mlp.parameters).all()


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds ranks by /proc")
def test_kills_at_random_moments_lose_no_run_and_no_bit() -> None:
    outcome = kill_ranks(3, seed=5)
    assert outcome.wrong == []
    assert outcome.kills.total() == 3


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds ranks by /proc")
def test_a_signal_to_one_rank_lets_all_finish_the_step_and_saves_once(ranks: Run, tmp_path: Path) -> None:
    command = [mpiexec(), "-n", "2", sys.executable, "-m", "lowmem", "train", *FLAGS, "--epochs", "4000"]
    started = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | ENVIRONMENT,
    )
    end = time.monotonic() + 60
    while not (tmp_path / "run").exists() and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(ranks_in(tmp_path)[-1], signal.SIGTERM)
    _, errors = started.communicate(timeout=30)
    (line,) = lines_of_lowmem(errors)
    assert line.startswith("lowmem: stopped by SIGTERM. The run is in run (step ")
    assert lm.Trainer.resume(tmp_path / "run").plan.shards == 4


def test_a_loss_that_overflows_ends_all_with_one_line_that_names_a_rank(ranks: Run, tmp_path: Path) -> None:
    flags = ["--optimizer", "sgd", "--lr", "1e25", "--epochs", "3"]
    done = ranks(2, "-m", "lowmem", "train", *FLAGS, *flags, cwd=tmp_path)
    (line,) = lines_of_lowmem(done.stderr)
    assert done.returncode == 1
    assert "the loss became" in line
    assert "on rank 0" in line
    assert "Nothing was saved." in line


def test_other_data_on_a_rank_are_found_before_the_first_step(ranks: Run, tmp_path: Path) -> None:
    for rank in range(2):
        x = np.random.default_rng(rank).standard_normal((100, 9)).astype(np.float32)
        np.savez(tmp_path / f"{rank}.npz", x=x, y=np.arange(100) % 3)
    script = tmp_path / "script.py"
    script.write_text(
        "import lowmem as lm\n"
        "from lowmem.distributed import mpi\n"
        "group = mpi()\n"
        "data = lm.open_data(f'{group.rank}.npz')\n"
        "trainer = lm.Trainer(lm.MLP((9, 16, 3)), batch_size=20, shards=2, group=group)\n"
        "trainer.epochs(data, 1)\n",
        encoding="utf-8",
    )
    done = ranks(2, str(script), cwd=tmp_path)
    (line,) = lines_of_lowmem(done.stderr)
    assert "ranks do not agree on the data: rank 1 has" in line
    assert "Start all of them with the same code, data and arguments." in line


def test_a_rank_that_fails_alone_ends_the_others(ranks: Run, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np, lowmem as lm\n"
        "from lowmem.distributed import mpi\n"
        "group = mpi()\n"
        "def fail(done, of):\n"
        "    if group.rank == 1 and done == 2:\n"
        "        raise MemoryError('no memory')\n"
        "trainer = lm.Trainer(lm.MLP((9, 16, 3)), batch_size=20, shards=2, group=group)\n"
        "data = np.ones((100, 9), np.float32), np.arange(100) % 3\n"
        "for epoch in trainer.epochs(data, 1000, on_step=fail): pass\n",
        encoding="utf-8",
    )
    done = ranks(2, str(script), cwd=tmp_path)
    assert done.returncode != 0
    assert lines_of_lowmem(done.stderr) == ["lowmem: rank 1: no memory"]
