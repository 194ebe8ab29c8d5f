"""Training with parameters and moments on a disk: runs, saves, evaluations, and the command line."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.measure.placement import folder_for
from lowmem.training.saved_run import open_run
from tests.helpers import model
from tests.test_streaming import ARCH, tier

ROWS = 64
BUDGET = 1_450_000


def data(samples: int = 200) -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    return rng.standard_normal((samples, ARCH.widths[0])).astype(np.float32), rng.integers(0, 10, samples)


def trainer(folder: Path | None, mlp: lm.MLP | None = None, **options: Any) -> lm.Trainer:
    """Return a trainer on a disk with a budget that asks for it, or one in memory."""
    usual: dict[str, Any] = {"batch_size": ROWS, "costs": model(), "micro_batch": ROWS, "threads": 1}
    if folder is not None:
        usual |= {"disk": tier(folder), "budget": BUDGET}
    mlp = mlp or lm.MLP(ARCH, seed=1, disk=folder)
    return lm.Trainer(mlp, lm.Adam(0.01), **usual | options)


def moments(one: lm.Trainer) -> list[Any]:
    assert one._stepper is not None
    return [array.copy() for array in one._stepper.backprop.optimizer_state]


def same(one: lm.Trainer, other: lm.Trainer) -> None:
    np.testing.assert_array_equal(one.mlp.learned, other.mlp.learned)
    for first, second in zip(moments(one), moments(other), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("engine", ["native", "numpy"])
def test_a_run_on_the_disk_has_the_bits_of_one_in_memory(tmp_path: Path, engine: str) -> None:
    plain, paged = trainer(None, engine=engine), trainer(tmp_path, engine=engine)
    epochs = [[*one.epochs(data(), 3, data(90))] for one in (plain, paged)]
    assert paged.plan.streams == (True, True)
    for first, second in zip(*epochs, strict=True):
        assert first.loss == second.loss
        assert (first.validation_loss, first.accuracy) == (second.validation_loss, second.accuracy)
    same(plain, paged)
    assert plain.evaluate(data(50)) == paged.evaluate(data(50))


def test_a_run_is_saved_and_resumed_on_the_disk_and_off_it(tmp_path: Path) -> None:
    whole, begun = trainer(None), trainer(tmp_path)
    list(whole.epochs(data(), 4))
    list(begun.epochs(data(), 2))
    path = tmp_path / "run.safetensors"
    begun.save(path)
    for changes in ({}, {"budget": None}, {"budget": None, "disk": None}, {"budget": "2500KB"}):
        usual: dict[str, Any] = {"costs": model(), "disk": tier(tmp_path)}
        resumed = lm.Trainer.resume(path, **usual | changes)
        list(resumed.epochs(data(), 2))
        assert (resumed.mlp.paged is not None) == ("disk" not in changes)  # it lived there before
        assert any(resumed.plan.streams) == (changes.get("budget", "") is not None)
        same(whole, resumed)


def test_a_run_in_memory_goes_on_on_the_disk(tmp_path: Path) -> None:
    whole, begun = trainer(None), trainer(None)
    list(whole.epochs(data(), 4))
    list(begun.epochs(data(), 2))
    begun.save(tmp_path / "run.safetensors")
    resumed = lm.Trainer.resume(tmp_path / "run.safetensors", costs=model(), disk=tier(tmp_path), budget=BUDGET)
    list(resumed.epochs(data(), 2))
    assert resumed.plan.streams == (True, True)
    same(whole, resumed)


@pytest.mark.parametrize("clip", [{"clip_value": 0.01}, {"clip_norm": 0.1, "clip_twice": True}], ids=str)
def test_clipping_goes_with_the_disk(tmp_path: Path, clip: dict[str, Any]) -> None:
    plain, paged = trainer(None, **clip), trainer(tmp_path, **clip)
    for one in (plain, paged):
        list(one.epochs(data(), 2))
    assert paged.plan.streams == (True, True)
    same(plain, paged)


def test_gathered_gradients_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(lm.BudgetError, match="clip_twice=True"):
        trainer(tmp_path, clip_norm=0.1)


def test_a_skipped_step_leaves_all_as_it_was(tmp_path: Path) -> None:
    runs = []
    for folder in (None, tmp_path):
        one = trainer(folder, non_finite="skip")
        x, y = data()
        x[5] = 3e38  # overflows
        list(one.epochs((x, y), 3, data(60)))
        runs.append(one)
    assert runs[1].plan.streams == (True, True)
    assert runs[0].epochs_done == runs[1].epochs_done
    same(*runs)


def test_where_parameters_lie_is_decided_by_what_fits(tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": ROWS, "costs": model(), "disk": tier(tmp_path), "micro_batch": ROWS}
    assert folder_for(ARCH, "adam", options | {"budget": BUDGET}) == str(tmp_path)
    assert folder_for(ARCH, "adam", options | {"budget": "1GiB"}) is None
    assert folder_for(ARCH, "adam", options | {"ram": "8GB"}) is None
    assert folder_for(ARCH, "adam", options | {"ram": 1}) == str(tmp_path)
    assert folder_for(ARCH, "adam", options) is None
    assert folder_for(ARCH, "adam", {"batch_size": ROWS, "budget": BUDGET}) is None
    whole = {"budget": lm.plan(ARCH, ROWS, optimizer="adam", costs=model()).peak_bytes * 5 // 4}
    assert folder_for(ARCH, "adam", options | whole) is None
    assert folder_for(ARCH, "adam", options | whole, beside=1_000_000) in (None, str(tmp_path))
    for more in ({"shards": 2}, {"clip_norm": 1.0}, {"strategy": "sqrt"}, {"group": object()}):
        assert folder_for(ARCH, "adam", options | {"budget": BUDGET} | more) is None


def test_a_report_says_what_was_resident_and_what_is_streamed(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    list(one.epochs(data(), 1))
    report = one.report()
    parts = {part.name: part for part in report.memory()}
    kept = parts["parameters"]
    assert kept.measured is not None
    assert kept.promised is not None
    assert kept.measured <= kept.promised < one.mlp.parameters.nbytes / 4
    assert report.to_dict()["plan"]["streamed"]["moments"] is True


def train(*flags: str, folder: Path) -> list[str]:
    """Return the command of a run that needs the disk for its parameters."""
    network = ["--data", "digits", "--layers", "16", "--width", "128", "--batch", "64", "--threads", "1"]
    return [sys.executable, "-m", "lowmem", "train", *network, "--disk", str(folder), *flags]


def test_the_command_puts_the_network_on_the_disk_by_itself(tmp_path: Path) -> None:
    flags = ["--budget", "1800KB", "--epochs", "2", "--json", "--save", str(tmp_path / "run.safetensors")]
    done = subprocess.run(train(*flags, folder=tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["plan"]["streamed"]["parameters"] is True
    assert open_run(tmp_path / "run.safetensors").position.epoch == 2


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    path, whole = tmp_path / "run.safetensors", tmp_path / "whole.safetensors"
    flags = ["--budget", "1800KB", "--micro-batch", "64", "--epochs", "3"]  # weighing passes takes long
    done = subprocess.run(train(*flags, "--save", str(whole), folder=tmp_path), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    killed = subprocess.Popen(
        train(*flags, "--save", str(path), "--save-every", "5", folder=tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not path.exists() and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    resumed = [sys.executable, "-m", "lowmem", "resume", str(path)]
    done = subprocess.run(resumed, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    one, other = (open_run(file).network() for file in (path, whole))
    np.testing.assert_array_equal(one.learned, other.learned)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.safetensors", "whole.safetensors"]
