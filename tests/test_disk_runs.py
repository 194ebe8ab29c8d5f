"""Runs with a disk, from Python and from the shell: trained, saved, killed and resumed to the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.cli import main
from lowmem.common.disk import spill_file
from lowmem.errors import DiskError, InputError
from lowmem.measure import disk_calibration
from lowmem.measure.disk_calibration import disk_rates, rates_path
from lowmem.planning.engines import machine
from lowmem.planning.engines.machine import DiskTier
from lowmem.schedule.disk.transfers import DiskRates
from tests.helpers import batch, model

ARCH = lm.Architecture((40, *[48] * 18, 10), activation="tanh")
FAST = DiskRates((1,), (1e12,), (1e12,))
X, Y = batch(ARCH, 240)
MEASURED = machine.Measurements(lambda dtype, engine: model(dtype=dtype), lambda folder, limit: FAST)


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a machine of one speed and a fast disk for what is measured, as tests shall not depend on either."""
    monkeypatch.setattr(
        machine, "_ask", [machine.Measurements(lambda dtype, engine: model(dtype=dtype), lambda folder, limit: FAST)]
    )


def trainer_of(folder: Path | None, **options: Any) -> lm.Trainer:
    usual: dict[str, Any] = {
        "batch_size": 96,
        "threads": 1,
        "budget": None if folder is None else "50% of activations",
    }
    return lm.Trainer(lm.MLP(ARCH), lm.Adam(0.01), disk=folder, **usual | options)


def trained(folder: Path | None, epochs: int = 3, **options: Any) -> lm.Trainer:
    trainer = trainer_of(folder, **options)
    list(trainer.epochs((X, Y), epochs))
    return trainer


def test_a_run_with_a_disk_has_the_bits_of_one_without(tmp_path: Path) -> None:
    plain, spilled = trained(None), trained(tmp_path)
    assert plain.plan.disk_bytes == 0
    assert spilled.plan.disk_bytes > 0
    np.testing.assert_array_equal(plain.mlp.parameters, spilled.mlp.parameters)
    assert os.listdir(tmp_path) == []


def test_a_saved_run_keeps_its_disk_and_may_get_another_or_none(tmp_path: Path) -> None:
    one, other, path = tmp_path / "one", tmp_path / "other", tmp_path / "run"
    one.mkdir()
    other.mkdir()
    whole = trained(None)
    trainer = trainer_of(one, disk_limit="64MiB")
    list(trainer.epochs((X, Y), 2))
    trainer.save(path)
    changes: list[dict[str, Any]] = [{}, {"disk": other}, {"disk": None, "disk_limit": None, "budget": None}]
    for change in changes:
        resumed = lm.Trainer.resume(path, **change)
        folder = change.get("disk", one)
        assert resumed.plan.disk == (None if folder is None else str(folder))
        list(resumed.epochs((X, Y), 1))
        np.testing.assert_array_equal(resumed.mlp.parameters, whole.mlp.parameters)


def test_a_run_without_a_disk_is_saved_as_ever(tmp_path: Path) -> None:
    trained(None, 1).save(tmp_path / "run")
    assert b"disk" not in (tmp_path / "run").read_bytes()


def test_a_disk_that_fails_ends_a_run_with_the_last_good_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = trained(tmp_path, 1).plan
    transfers = steps.disk_traffic // (48 * 96 * 4 // 4096 * 4096 + 4096 * bool(48 * 96 * 4 % 4096))
    monkeypatch.setenv("LOWMEM_DISK_TEST", f"fail={4 * transfers + 1}")  # the second step of the second epoch
    trainer = trainer_of(tmp_path)
    with pytest.raises(DiskError, match=r"before this step\. The last good save is .*run \(step 3\)") as caught:
        list(trainer.epochs((X, Y), 3, save_to=tmp_path / "run"))
    assert not caught.value.torn
    monkeypatch.delenv("LOWMEM_DISK_TEST")
    resumed = lm.Trainer.resume(tmp_path / "run")
    list(resumed.epochs((X, Y)))
    np.testing.assert_array_equal(resumed.mlp.parameters, trained(None).mlp.parameters)


def test_clipping_by_norm_has_the_same_bits_with_a_disk(tmp_path: Path) -> None:
    each: list[dict[str, Any]] = [{"clip_norm": 0.5}, {"clip_norm": 0.5, "clip_twice": True}]
    for options in each:
        plain, spilled = trained(None, **options), trained(tmp_path, **options)
        assert spilled.plan.disk_bytes > 0
        np.testing.assert_array_equal(plain.mlp.parameters, spilled.mlp.parameters)


# The shell ---------------------------------------------------------------------------------------------------------

FLAGS = ["--layers", "18", "--width", "48", "--batch", "256", "--threads", "1", "--budget", "60% of activations"]


def test_plan_tells_bytes_on_the_disk_and_traffic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *FLAGS, "--disk", str(tmp_path), "--json", "--no-calibrate"]) == 0
    told = json.loads(capsys.readouterr().out)["plan"]
    assert told["disk"] == str(tmp_path)
    assert told["disk_written"] == told["disk_read"] == told["disk_bytes"] > 0
    assert main(["plan", *FLAGS, "--disk", str(tmp_path), "--no-calibrate"]) == 0
    assert "on the disk" in capsys.readouterr().out


def test_a_folder_is_the_same_wherever_the_process_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spill").mkdir()
    monkeypatch.chdir(tmp_path)
    trainer = trainer_of(Path("spill"))
    monkeypatch.chdir("/")
    list(trainer.epochs((X, Y), 1))
    trainer.save(tmp_path / "run")
    assert lm.Trainer.resume(tmp_path / "run").plan.disk == trainer.plan.disk == str(tmp_path / "spill")


def test_a_saved_run_whose_disk_is_gone_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, run = tmp_path / "spill", tmp_path / "run"
    folder.mkdir()
    flags = ["train", "--data", "digits", *FLAGS, "--no-calibrate", "--epochs", "1"]
    assert main([*flags, "--disk", str(folder), "--save", str(run)]) == 0
    folder.rmdir()
    capsys.readouterr()
    assert main(["resume", str(run), "--more", "1"]) == 2
    text = capsys.readouterr().err
    assert f"'{folder}' does not exist." in text
    assert (
        f"that of the saved run {run}: name another one with --disk ..., or go on in memory with --disk none." in text
    )
    with pytest.raises(InputError, match=r'with disk="\.\.\.", or go on in memory with disk=None\.'):
        lm.Trainer.resume(run)
    assert main(["resume", str(run), "--more", "1", "--disk", "none"]) == 0


def test_train_and_resume_take_a_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, folder = tmp_path / "run", tmp_path / "spill"
    folder.mkdir()
    disk = ["--disk", str(folder), "--disk-limit", "1GiB"]
    common = ["train", "--data", "digits", *FLAGS, "--no-calibrate"]
    assert main([*common, *disk, "--epochs", "1", "--save", str(run)]) == 0
    told = capsys.readouterr().out
    assert "on the disk" in told
    assert "an epoch writes" in told
    assert main(["resume", str(run), "--epochs", "2", "--disk", str(tmp_path)]) == 0
    assert main([*common, "--epochs", "2", "--save", str(tmp_path / "other")]) == 0
    one, other = (lm.Trainer.resume(path).mlp.parameters for path in (run, tmp_path / "other"))
    np.testing.assert_array_equal(one, other)
    assert main(["resume", str(run), "--epochs", "3", "--disk", "none"]) == 0


def test_profile_measures_a_plan_with_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spill").mkdir()
    monkeypatch.setenv("LOWMEM_CACHE_DIR", str(tmp_path / "cache"))  # from which the measuring process reads
    monkeypatch.setattr(machine, "_ask", [machine.Measurements(lm._costs, lambda folder, limit: FAST)])
    assert disk_calibration.store_rates(tmp_path / "spill", FAST) is None
    flags = ["--layers", "12", "--width", "64", "--batch", "600", "--threads", "1", "--strategies", "store_all"]
    flags += ["--budget", "50% of activations", "--disk", str(tmp_path / "spill"), "--steps", "1", "--json"]
    assert main(["profile", *flags]) == 0
    first, second = json.loads(capsys.readouterr().out)["rows"]
    assert first["report"]["plan"]["disk_bytes"] == 0
    assert (second["strategy"], second["report"]["plan"]["strategy"]) == ("disk", "disk")
    assert "disk" in [phase["name"] for phase in second["report"]["phases"]]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--disk-limit", "1GiB"], "--disk-limit"),
        (["--disk", "/nowhere"], "does not exist"),
        (["--disk", "/dev/null"], "is no folder"),
        (["--disk", "/tmp", "--disk-limit", "much"], "much"),
    ],
)
def test_a_disk_that_cannot_be_had_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    monkeypatch.setattr(machine, "_ask", [machine.Measurements(lambda dtype, engine: model(), disk_rates)])
    assert main(["plan", *FLAGS, *flags, "--no-calibrate"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert words in told.err
    assert len(told.err.strip().splitlines()) == 1


def test_compare_has_each_budget_without_a_disk_and_with_it(tmp_path: Path) -> None:
    comparison = lm.compare(ARCH, 400, ["30% of activations"], disk=DiskTier(str(tmp_path), FAST), threads=1)
    without, with_disk = comparison.answers[-2:]
    assert (without.asked, with_disk.asked) == ("budget 30% of activations", "budget 30% of activations and disk")
    assert without.plan is not None
    assert with_disk.plan is not None
    assert without.plan.disk_bytes == 0 < with_disk.plan.disk_bytes
    assert with_disk.plan.cost < without.plan.cost
    assert "on disk" in str(comparison)
    assert "on disk" not in str(lm.compare(ARCH, 400, ["30% of activations"], threads=1))
    lm.plots.frontier(comparison)


def test_a_killed_run_leaves_no_file_and_resumes(tmp_path: Path) -> None:
    """Kill a training process a few times at moments of chance; what it had saved goes on to the same bits."""
    folder, run = tmp_path / "spill", tmp_path / "run"
    folder.mkdir()
    code = (
        "import sys, lowmem as lm; from tests.test_disk_runs import *\n"
        "machine._ask[:] = [MEASURED]\n"
        "from pathlib import Path; folder, run = map(Path, sys.argv[1:])\n"
        "trainer = lm.Trainer.resume(run) if run.exists() else trainer_of(folder)\n"
        "print('ready', flush=True)\n"
        "left = 12 - trainer.epochs_done\n"
        "list(trainer.epochs((X, Y), left, save_to=run, save_every=1)) if left else 0"
    )
    root = Path(__file__).parent.parent
    moments = np.random.default_rng(0).uniform(0, 0.2, 3)
    for moment in [*moments, None]:
        arguments = [sys.executable, "-c", code, str(folder), str(run)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=root) as process:
            assert process.stdout is not None
            process.stdout.readline()
            if moment is not None:
                time.sleep(moment)
                process.send_signal(signal.SIGKILL)
        assert process.returncode in (0, -signal.SIGKILL)
        assert os.listdir(folder) == []
    np.testing.assert_array_equal(lm.Trainer.resume(run).mlp.parameters, trained(None, 12).mlp.parameters)


# Measuring a disk --------------------------------------------------------------------------------------------------


def test_rates_are_measured_once_for_a_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWMEM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(disk_calibration, "SECONDS", 0.001)
    rates = disk_rates(tmp_path)
    assert all(rate > 0 for rate in (*rates.write, *rates.read))
    assert 0.25 <= rates.shared <= 1
    monkeypatch.setattr(disk_calibration, "measure_disk", lambda folder, limit: pytest.fail("measured again"))
    assert disk_rates(tmp_path) == rates
    rates_path(tmp_path).write_text("{}")
    monkeypatch.setattr(disk_calibration, "measure_disk", lambda folder, limit: FAST)
    assert disk_rates(tmp_path) == FAST
    assert disk_rates(tmp_path, again=True) == FAST
    assert [path for path in os.listdir(tmp_path) if path != "cache"] == []


def test_a_throttled_disk_is_measured_as_such_and_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWMEM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(disk_calibration, "SECONDS", 0.001)
    usual = rates_path(tmp_path)
    monkeypatch.setenv("LOWMEM_DISK_TEST", "throttle=400MB")
    rates = disk_rates(tmp_path)
    assert rates_path(tmp_path) != usual
    assert rates.write[-1] <= 400e6
    assert rates.read[-1] <= 400e6


@pytest.mark.parametrize(("free", "limit", "sizes"), [(16 << 20, None, 3), (5 << 20, "300KiB", 1), (100_000, None, 1)])
def test_a_disk_with_little_room_is_measured_in_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, limit: str | None, sizes: int
) -> None:
    """It is measured anew once there is more, as larger transfers are quicker."""
    monkeypatch.setenv("LOWMEM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(disk_calibration, "SECONDS", 0.001)
    monkeypatch.setattr(machine, "_ask", [machine.Measurements(lambda dtype, engine: model(), disk_rates)])
    with monkeypatch.context() as less:
        less.setattr(spill_file, "free_bytes", lambda folder: free)
        less.setattr(disk_calibration, "free_bytes", lambda folder: free)
        tier = machine.disk_tier(tmp_path, limit)
        assert tier is not None
        assert len(tier.rates.sizes) == sizes
        assert machine.disk_tier(tmp_path, limit) == tier
    assert 4 * tier.rates.sizes[-1] <= free
    assert disk_rates(tmp_path).sizes == disk_calibration.SIZES


def test_a_file_system_that_gives_less_than_it_calls_free_is_measured_in_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_calibration, "SECONDS", 0.001)
    monkeypatch.setattr(spill_file, "free_bytes", lambda folder: 3 << 20)
    assert disk_calibration.measure_disk(tmp_path).sizes == disk_calibration.SIZES[:2]


@pytest.mark.parametrize(
    ("free", "limit", "words"), [(9000, None, "8.8 KiB are free. Make"), (1 << 30, "1KiB", "1.0 KiB allows less")]
)
def test_a_disk_without_room_for_measuring_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, limit: str | None, words: str
) -> None:
    monkeypatch.setenv("LOWMEM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(disk_calibration, "free_bytes", lambda folder: free)
    monkeypatch.setattr(machine, "_ask", [machine.Measurements(lambda dtype, engine: model(), disk_rates)])
    with pytest.raises(lm.InputError, match=f"measuring the disk needs 16.0 KiB .*{words}"):
        machine.disk_tier(tmp_path, limit)


def test_calibrate_measures_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lowmem.measure import calibration

    monkeypatch.setenv("LOWMEM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(disk_calibration, "SECONDS", 0.001)
    monkeypatch.setattr(calibration, "measure", lambda dtype: model())
    assert main(["calibrate", "--disk", str(tmp_path)]) == 0
    assert "MB/s by the size of a transfer" in capsys.readouterr().out
    assert rates_path(tmp_path).exists()
    assert main(["calibrate", "--disk", str(tmp_path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["disk"]["write"]) == 4
    assert main(["calibrate", "--disk", str(tmp_path / "nowhere")]) == 2


def test_what_planning_may_not_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder"):
        lm.Trainer(lm.MLP(ARCH), batch_size=96, disk=7)  # type: ignore[arg-type]
