"""`mpiexec -n R lowmem train --shards S`: saved runs are compared byte for byte."""

import json
from pathlib import Path

import numpy as np
import pytest

import lowmem as lm
from lowmem.planning.engines.choice import why_not_native
from tests.mpi.conftest import Run

ENGINES = ["numpy", *(["native"] if why_not_native() is None else [])]
FLAGS = ["--layers", "5", "--width", "40", "--activation", "tanh", "--no-calibrate", "--save", "run"]


def trained(ranks: Run, folder: Path, size: int, *flags: str) -> bytes:
    """Train on so many ranks in a folder of its own, and return the saved run."""
    folder.mkdir()
    done = ranks(size, "-m", "lowmem", "train", *FLAGS, *flags, cwd=folder)
    assert done.returncode == 0, done.stderr
    return (folder / "run").read_bytes()


@pytest.mark.parametrize("engine", ENGINES)
def test_one_two_and_four_ranks_save_the_same_bytes(ranks: Run, tmp_path: Path, engine: str) -> None:
    flags = [
        "--data",
        "digits",
        "--epochs",
        "2",
        "--batch",
        "128",
        "--shards",
        "4",
        "--engine",
        engine,
        "--dropout",
        "0.1",
    ]
    runs = [trained(ranks, tmp_path / str(size), size, *flags) for size in (1, 2, 4)]
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("engine", ENGINES)
def test_clipping_by_norm_saves_the_same_bytes_on_any_number_of_ranks(ranks: Run, tmp_path: Path, engine: str) -> None:
    flags = ["--data", "digits", "--epochs", "2", "--batch", "128", "--shards", "4", "--engine", engine]
    runs = [trained(ranks, tmp_path / str(size), size, *flags, "--clip-norm", "0.5") for size in (1, 2, 4)]
    assert runs[0] == runs[1] == runs[2]
    assert runs[0] != trained(ranks, tmp_path / "unclipped", 1, *flags)


def test_ranks_read_rows_of_a_file_in_the_order_of_one_process(ranks: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((700, 9)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=(x[:, 0] > 0).astype(np.int64), weights=rng.random(700))
    flags = ["--data", str(tmp_path / "data.npz"), "--weights", "weights", "--stream", "--shuffle-rows", "150"]
    flags += ["--epochs", "2", "--shards", "6", "--batch", "64", "--standardise"]
    runs = [trained(ranks, tmp_path / str(size), size, *flags) for size in (1, 2, 3)]
    assert runs[0] == runs[1] == runs[2]


def test_a_run_goes_on_with_another_number_of_ranks_to_the_same_bytes(ranks: Run, tmp_path: Path) -> None:
    flags = ["--data", "digits", "--shards", "4", "--batch", "100"]
    straight = trained(ranks, tmp_path / "straight", 1, *flags, "--epochs", "3")
    trained(ranks, tmp_path / "cut", 2, *flags, "--epochs", "1")
    for size, epochs in ((4, "2"), (1, "3")):
        done = ranks(size, "-m", "lowmem", "resume", "run", "--epochs", epochs, cwd=tmp_path / "cut")
        assert done.returncode == 0, done.stderr
    runs = [lm.Trainer.resume(tmp_path / name / "run") for name in ("straight", "cut")]
    assert (runs[0].mlp.parameters == runs[1].mlp.parameters).all()
    tail = len(straight) // 2  # the optimizer's arrays; settings before them tell how many epochs were asked for
    assert (tmp_path / "cut" / "run").read_bytes()[-tail:] == straight[-tail:]


def test_one_rank_prints_and_the_plan_says_the_bytes_of_one(ranks: Run, tmp_path: Path) -> None:
    flags = ["train", *FLAGS, "--data", "digits", "--epochs", "1", "--batch", "128", "--shards", "4", "--json"]
    done = ranks(4, "-m", "lowmem", *flags, cwd=tmp_path)
    report = json.loads(done.stdout)
    assert report["plan"]["ranks"] == 4
    assert done.stderr.count("epoch 1/1") == 1
    one = lm.plan((64, *[40] * 5, 10), 128, optimizer="adam", shards=4)
    assert report["plan"]["bytes"]["optimizer"] == pytest.approx(one.optimizer_bytes / 4, rel=0.05)


def test_ranks_that_do_not_divide_the_shards_are_refused_in_one_line(ranks: Run, tmp_path: Path) -> None:
    done = ranks(3, "-m", "lowmem", "train", *FLAGS, "--shards", "4", cwd=tmp_path)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "lowmem" in line] == [
        "lowmem: 3 ranks do not divide --shards 4: every rank must have as many shards. Run 1, 2 or 4 ranks, or give "
        "--shards 6, which changes the bits of the results."
    ]
