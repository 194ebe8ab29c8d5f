"""`lowmem train --save`, `resume`, `evaluate`, `predict` and `run.toml`, as a shell sees them."""

import argparse
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.cli.progress import Progress
from lowmem.cli.train import _choose
from lowmem.common.disk.paged_array import PagedArray
from lowmem.training.loop import Loop
from lowmem.training.saved_run import open_run
from tests.test_cli import ROOT, Ran
from tests.test_saved_run import rewritten
from tests.test_streams import X, Y

SMALL = ["--layers", "2", "--width", "16", "--batch", "64", "--epochs", "3", "--lr", "0.005", "--json"]
Capture = pytest.CaptureFixture[str]


def parameters(path: Path) -> Any:
    return open_run(path).network().parameters


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write a small data set as .npz."""
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    return tmp_path / "data.npz"


# train and resume ------------------------------------------------------------------------------------------------


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    flags = ["train", *SMALL, "--clip-norm", "1", "--lr-schedule", "cosine", "--warm-up", "5"]
    assert Ran(capsys, *flags, "--save", str(whole)).code == 0
    step, left = Loop._step, [30]

    def interrupted(*arguments: Any) -> None:
        left[0] -= 1
        if not left[0]:
            signal.raise_signal(signal.SIGTERM)
        step(*arguments)

    monkeypatch.setattr(Loop, "_step", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    ran = Ran(capsys, *flags, "--save", str(broken))
    assert ran.code == 128 + signal.SIGTERM
    told = rf"lowmem: stopped by SIGTERM\. The run is in .* \(step 30\); go on with: lowmem resume {broken}"
    assert re.search(told, ran.err)
    assert signal.getsignal(signal.SIGTERM) == before
    ran = Ran(capsys, "resume", str(broken), "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["steps"] == 69
    assert np.array_equal(parameters(broken), parameters(whole))
    ran = Ran(capsys, "resume", str(broken))
    assert ran.code == 2
    assert "has all of its 3 epochs; --epochs 4 or more goes on" in ran.err
    ran = Ran(capsys, "resume", str(broken), "--epochs", "4")
    assert ran.code == 2
    assert (
        "falls to 0 at step 69, and its last steps, up to 92, would learn nothing. Resume it with --lr 0.0" in ran.err
    )
    more = ("--epochs", "4", "--strategy", "recompute_all", "--lr", "0.01", "--engine", "numpy", "--threads", "1")
    assert Ran(capsys, "resume", str(broken), *more).code == 0
    assert open_run(broken).position.epoch == 4
    assert not np.array_equal(parameters(broken), parameters(whole))
    assert Ran(capsys, "resume", str(broken), "--more", "2").code == 0
    assert open_run(broken).position.epoch == 6
    assert "give one" in Ran(capsys, "resume", str(broken), "--more", "2", "--epochs", "9").err
    assert "--lr must be a number" in Ran(capsys, "resume", str(broken), "--more", "2", "--lr", "nan").err


def test_save_replaces_no_run_of_another_network_without_force(capsys: Capture, tmp_path: Path, data: Path) -> None:
    run, other = tmp_path / "run.safetensors", tmp_path / "other.safetensors"
    flags = ["train", "--layers", "1", "--epochs", "1", "--no-calibrate", "--data", str(data)]
    assert Ran(capsys, *flags, "--width", "8", "--save", str(run)).code == 0
    assert Ran(capsys, *flags, "--width", "8", "--lr", "0.1", "--save", str(run)).code == 0  # the same again
    before = run.read_bytes()
    np.savez(tmp_path / "more.npz", x=-X, y=Y)
    more = ["--data", str(tmp_path / "more.npz")]
    for given, words in (
        (["--width", "9"], "has the run of another network: 2 layers (5, 8, 3)"),
        (more, "on other data"),
    ):
        ran = Ran(capsys, *flags, "--width", "8", *given, "--save", str(run))
        assert ran.code == 2
        assert f"lowmem: {run} has" in ran.err
        assert words in ran.err
        assert "Name another file, or replace it with --force." in ran.err
        assert run.read_bytes() == before
    assert Ran(capsys, *flags, "--width", "9", "--save", str(other)).code == 0
    assert "another network" in Ran(capsys, "resume", str(other), "--epochs", "2", "--save", str(run)).err
    assert Ran(capsys, "resume", str(other), "--epochs", "2", *more).code == 0  # its own file
    assert "is no saved run" in Ran(capsys, *flags, "--save", str(tmp_path / "more.npz")).err
    assert Ran(capsys, *flags, "--width", "9", "--save", str(run), "--force").code == 0
    assert open_run(run).architecture.widths == (5, 9, 3)


def test_patience_keeps_the_best_network(capsys: Capture, tmp_path: Path, data: Path) -> None:
    run = str(tmp_path / "run.safetensors")
    flags = ["--data", str(data), "--layers", "1", "--width", "16", "--lr", "0.05", "--epochs", "30", "--save", run]
    waits = ["--patience", "3", "--patience-metric", "accuracy", "--min-improvement", "0.01"]
    ran = Ran(capsys, "train", *flags, *waits, "--json")
    assert ran.code == 0
    told = json.loads(ran.out)
    assert told["epochs_done"] < 30
    assert told["best_epoch"] < told["epochs_done"]
    assert f"the network has the weights of epoch {told['best_epoch']}, the best of {told['epochs_done']}" in ran.err
    assert open_run(run).position.aside
    assert Ran(capsys, "resume", run, "--more", "1").code == 0  # patience as before
    ran = Ran(capsys, "train", *flags, "--patience-metric", "accuracy")
    assert ran.code == 2
    assert "--patience-metric goes with --patience N" in ran.err


def test_interrupting_saves_and_has_the_usual_exit_code(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("lowmem.cli.session.Progress.step", interrupt)
    ran = Ran(capsys, "train", *SMALL, "--save", str(tmp_path / "run"))
    assert ran.code == 130
    assert "stopped by SIGINT. The run is in" in ran.err
    ran = Ran(capsys, "train", *SMALL)
    assert ran.code == 130
    assert "stopped by SIGINT. Nothing was saved." in ran.err


ENDING = [signal.Signals[name] for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that end a process. Windows has no SIGHUP."""


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_between_two_epochs_saves_as_well(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr("lowmem.cli.session.epoch_line", lambda *arguments: signal.raise_signal(number))
    before = signal.signal(number, signal.SIG_DFL)  # nohup may have these tests ignore SIGHUP
    try:
        ran = Ran(capsys, "train", *SMALL, "--save", str(tmp_path / "run"), "--save-every", "1000")
    finally:
        signal.signal(number, before)
    assert ran.code == 128 + number
    assert open_run(tmp_path / "run").position.epoch == 1


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_that_the_process_ignores_ends_no_command(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def ended(*arguments: object) -> str:
        signal.raise_signal(number)
        return "an epoch"

    monkeypatch.setattr("lowmem.cli.session.epoch_line", ended)
    before = signal.signal(number, signal.SIG_IGN)  # as under nohup
    try:
        assert Ran(capsys, "train", *SMALL, "--epochs", "2").code == 0
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "No space left"), BrokenPipeError(errno.EPIPE, "no pipe")])
def test_an_output_that_fails_between_two_epochs_saves_first(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: OSError
) -> None:
    path, flags = tmp_path / "run", ["train", *SMALL[:-1], "--epochs", "2"]

    def ran_with(*more: str) -> Ran:
        def fail(*arguments: object) -> str:
            def write(text: str) -> int:
                raise problem

            patched.setattr(sys.stdout._stream, "write", write)  # type: ignore[union-attr]
            return "an epoch"

        with monkeypatch.context() as patched:
            patched.setattr("lowmem.cli.session.epoch_line", fail)
            return Ran(capsys, *flags, *more)

    ran, alone = ran_with("--save", str(path), "--save-every", "1h"), ran_with()
    assert (ran.code, alone.code) == (1, 1)
    assert ran.err.startswith("lowmem: the standard output cannot be written: ")
    assert f"The run is in {path}" in ran.err
    assert f"go on with: lowmem resume {path}\n" in ran.err
    assert open_run(path).position.epoch == 1
    assert alone.err.endswith(". Nothing was saved.\n")


@pytest.mark.parametrize("flags", [["--stream"], ["--shuffle-rows", "20"], ["--standardise"], ["--ram", "2GB"]])
def test_streamed_runs_are_resumed_too(capsys: Capture, tmp_path: Path, data: Path, flags: list[str]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    common = ["train", *SMALL, "--batch", "10", "--data", str(data), *flags]
    assert Ran(capsys, *common, "--save", str(first)).code == 0
    assert Ran(capsys, *common, "--epochs", "2", "--save", str(second)).code == 0
    # Without --ram now: the data are streamed as before.
    assert Ran(capsys, "resume", str(second), "--epochs", "3", "--save-every", "4", "--json").code == 0
    assert np.array_equal(parameters(first), parameters(second))


def test_a_last_save_that_fails_is_exit_code_one_and_the_earlier_file_stands(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    assert Ran(capsys, "train", *SMALL, "--save", str(path)).code == 0
    earlier = path.read_bytes()

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lowmem.common.files.os.fsync", full)
    ran = Ran(capsys, "train", *SMALL, "--save", str(path))
    assert ran.code == 1
    assert ran.err.count("lowmem: warning: ") == 3
    assert ran.err.splitlines()[-1].endswith("No space left on device. The file that was there is unchanged.")
    assert path.read_bytes() == earlier


@pytest.mark.parametrize("number", ENDING)
def test_a_real_process_ends_by_a_signal_with_its_run_saved(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "run"
    command = [sys.executable, "-m", "lowmem", "train", *SMALL, "--epochs", "100000", "--save", str(path)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    options: dict[str, Any] = {"cwd": ROOT, "stderr": -1, "stdout": -1, "text": True, "env": environment}
    if os.name == "posix":  # under nohup these tests ignore SIGHUP, which processes inherit
        options["preexec_fn"] = lambda: signal.signal(number, signal.SIG_DFL)
    with subprocess.Popen([*command, "--save-every", "5"], **options) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch"):
                process.send_signal(number)
                break
        rest = process.stderr.read()
        assert process.wait(30) == 128 + number
    assert "go on with: lowmem resume" in rest
    assert "Traceback" not in rest
    assert open_run(path).position.steps >= 23


def test_a_cap_for_the_process_is_reported(capsys: Capture) -> None:
    ran = Ran(capsys, "train", *SMALL[:-1], "--ram", "1GB")
    assert ran.code == 0
    assert re.search(r"whole process +[\d.]+ MB +[\d.]+ MB", ran.out)
    assert "after the first step" in ran.out
    ran = Ran(capsys, "train", *SMALL, "--ram", "1MB")
    assert ran.code == 2
    assert "less than the process takes before any training" in ran.err
    assert "open_data" not in ran.err  # a command reads in blocks whatever can be


def test_a_journal_can_be_kept(capsys: Capture, tmp_path: Path) -> None:
    assert Ran(capsys, "train", *SMALL, "--journal", str(tmp_path / "j")).code == 0
    assert [json.loads(line)["event"] for line in (tmp_path / "j").read_text().splitlines()] == [
        *("begin", "epoch", "epoch", "epoch", "end")
    ]


# run.toml --------------------------------------------------------------------------------------------------------


def test_a_file_of_flags_is_the_same_as_the_flags(capsys: Capture, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    (tmp_path / "run.toml").write_text(
        f'widths = [64, 16, 16, 10]\nseed = 4\n[training]\nepochs = 9\nheld_out = 0.25\n"lr" = 0.01\n'
        f'no-calibrate = true\nstream = false\n[files]\nsave = "{one}"\n'
    )
    assert Ran(capsys, "train", "--epochs", "2", "--config", str(tmp_path / "run.toml")).code == 0
    flags = ["--widths", "64,16,16,10", "--seed", "4", "--epochs", "2", "--held-out", "0.25", "--lr", "0.01"]
    assert Ran(capsys, "train", *flags, "--save", str(two)).code == 0
    assert np.array_equal(parameters(one), parameters(two))
    kept = open_run(one).notes["flags"]
    assert (kept["seed"], kept["epochs"], kept["held_out"], kept["batch"]) == (4, 2, 0.25, 32)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochz = 3", r"unknown key in .*run.toml .*'epochz'\. Did you mean 'epochs'\?"),
        ("[a]\nwidht = 3", "Did you mean 'width'"),
        ("epochs = ", "is no TOML"),
        ("epochs = 2020-01-01", "is no number, text, list or truth value"),
        ('epochs = "many"', "invalid int value: 'many'"),
        ("config = 'other.toml'", "unknown key"),
    ],
)
def test_a_file_of_flags_that_is_wrong_is_one_clear_line(
    capsys: Capture, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "run.toml").write_text(text)
    ran = Ran(capsys, "train", "--config", str(tmp_path / "run.toml"))
    assert (ran.code, ran.out) == (2, "")
    assert re.search(words, ran.err)
    assert re.fullmatch(r"lowmem: [^\n]+\n", ran.err)
    assert "cannot read" in Ran(capsys, "train", "--config", str(tmp_path / "none.toml")).err


# evaluate and predict --------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, data: Path, capsys: Capture) -> Path:
    """Train on standardised data."""
    path = tmp_path / "run"
    flags = ["--data", str(data), "--standardise", "--batch", "10", "--layers", "1", "--width", "8"]
    assert Ran(capsys, "train", *flags, "--save", str(path)).code == 0
    return path


def expected(path: Path) -> Any:
    """Return the outputs of a saved run for all samples."""
    saved = open_run(path)
    standard = saved.standardisation()
    assert standard is not None
    x = ((X - standard.mean.astype(np.float32)) * (1 / standard.deviation).astype(np.float32)).astype(np.float32)
    return saved.network().predict(x)


def test_evaluate_says_loss_and_accuracy_of_the_standardised_data(capsys: Capture, run: Path, data: Path) -> None:
    ran = Ran(capsys, "evaluate", str(run), "--data", str(data), "--json")
    assert (ran.code, ran.err) == (0, "")
    told, outputs = json.loads(ran.out), expected(run).astype(float)
    assert told["samples"] == 103
    assert told["accuracy"] == np.mean(outputs.argmax(axis=1) == Y)
    losses = np.log(np.exp(outputs).sum(axis=1)) - outputs[np.arange(103), Y]
    assert told["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert "103 samples  loss" in Ran(capsys, "evaluate", str(run), "--data", str(data)).out


def test_the_test_part_of_an_archive_is_evaluated_unless_another_is_named(
    capsys: Capture, run: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "parts.npz", x_train=X, y_train=Y, x_test=X[:7], y_test=Y[:7])
    for flags, samples in (([], 7), (["--part", "test"], 7), (["--part", "train"], 103)):
        common = [str(run), "--data", str(tmp_path / "parts.npz"), *flags]
        ran = Ran(capsys, "evaluate", *common, "--json")
        assert (ran.code, json.loads(ran.out)["samples"]) == (0, samples)
        assert re.search(r"note: .*x_t\w+ and y_t\w+ are read; left out: x_t", ran.err)
        ran = Ran(capsys, "predict", *common)
        assert (ran.code, ran.out.count("\n")) == (0, samples)
    trained = Ran(capsys, "train", *SMALL, "--data", str(tmp_path / "parts.npz"))
    assert "note: x_train and y_train are read; left out: x_test, y_test\n" in trained.err


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_part_is_one_that_there_is(capsys: Capture, run: Path, tmp_path: Path, command: str) -> None:
    table = tmp_path / "table.csv"
    table.write_text("1,2,3,4,5,0\n")
    for data, part, words in (
        (table, "trian", "unknown part 'trian'. Did you mean 'train'?"),
        (table, "train", "has no parts; leave out --part train, which needs a directory"),
        ("digits", "test", "has no parts; leave out --part test, which needs a directory"),
        (tmp_path / "data.npz", "train", "has no parts; leave out --part train, which needs a directory"),
    ):
        ran = Ran(capsys, command, str(run), "--data", str(data), "--part", part)
        assert (ran.code, ran.out) == (2, "")
        assert words in ran.err


@pytest.mark.parametrize(
    "name", ["x.npy", "x.csv", "both.csv", "data.npz", "x.npz", "any.npz", "x.parquet", "both.parquet"]
)
def test_predict_writes_classes_or_outputs(capsys: Capture, run: Path, tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "x.npy", X)
    np.savetxt(tmp_path / "x.csv", X, fmt="%.9g", delimiter=",")
    np.savetxt(tmp_path / "both.csv", np.column_stack([X, Y]), fmt="%.9g", delimiter=",")
    np.savez(tmp_path / "x.npz", x=X, more=X[:3])
    np.savez_compressed(tmp_path / "any.npz", samples=X)
    if name.endswith("parquet"):
        import pyarrow as pa
        from pyarrow import parquet

        columns = dict(zip("abcdef", [*X.T, Y][: 5 + (name == "both.parquet")], strict=False))
        parquet.write_table(pa.table(columns), tmp_path / name)
    outputs = expected(run)
    ran = Ran(capsys, "predict", str(run), "--data", str(tmp_path / name))
    assert (ran.code, ran.err) == (0, "")
    assert [int(line) for line in ran.out.split()] == outputs.argmax(axis=1).tolist()
    npy = ["--output", str(tmp_path / "found.npy")]
    assert Ran(capsys, "predict", str(run), "--data", str(tmp_path / name), "--outputs", *npy).code == 0
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), outputs, rtol=1e-5, atol=1e-6)
    text = ["--output", str(tmp_path / "found.csv")]
    assert Ran(capsys, "predict", str(run), "--data", str(tmp_path / name), "--outputs", *text).code == 0
    np.testing.assert_allclose(np.loadtxt(tmp_path / "found.csv", delimiter=","), outputs, rtol=1e-5, atol=1e-6)


def test_a_network_on_the_disk_says_and_writes_the_same(
    capsys: Capture, run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    on_disk: list[Path] = []
    settle = PagedArray.settle

    def noted(self: PagedArray) -> None:
        on_disk.append(run)
        settle(self)

    monkeypatch.setattr(PagedArray, "settle", noted)
    flags = ["--disk", str(tmp_path / "disk")]
    for command in ("evaluate", "predict"):
        line = [command, str(run), "--data", str(data)]
        without = Ran(capsys, *line)
        assert not on_disk
        there = Ran(capsys, *line, *flags)
        assert (there.code, there.out, there.err) == (0, without.out, "")
        assert on_disk
        on_disk.clear()
        refused = Ran(capsys, *line, "--disk", str(tmp_path / "nowhere"))
        assert (refused.code, refused.err.count("\n")) == (2, 1)
    for name, more in (("memory", []), ("there", flags)):
        assert Ran(capsys, "export", str(run), str(tmp_path / f"{name}.safetensors"), *more).code == 0
        assert bool(on_disk) == bool(more)
        on_disk.clear()
        assert Ran(capsys, "import", str(tmp_path / f"{name}.safetensors"), str(tmp_path / name), *more).code == 0
        assert bool(on_disk) == bool(more)
    exported = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("memory", "there")]
    assert exported[0] == exported[1]
    assert (tmp_path / "memory").read_bytes() == (tmp_path / "there").read_bytes()
    assert os.listdir(tmp_path / "disk") == []


@pytest.mark.parametrize("command", ["evaluate", "predict", "resume"])
def test_what_is_no_run_is_one_clear_line(capsys: Capture, tmp_path: Path, data: Path, command: str) -> None:
    (tmp_path / "text").write_text("not a run")
    flags = [] if command == "resume" else ["--data", str(data)]
    for path in (tmp_path / "text", tmp_path / "none", data):
        ran = Ran(capsys, command, str(path), *flags)
        assert (ran.code, ran.out) == (2, "")
        assert re.fullmatch(r"lowmem: [^\n]+\n", ran.err)


def test_data_that_do_not_fit_the_run_are_refused(capsys: Capture, run: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "wide.npz", x=np.zeros((9, 7)), y=np.zeros(9, int))
    for command in ("evaluate", "predict"):
        ran = Ran(capsys, command, str(run), "--data", str(tmp_path / "wide.npz"))
        assert ran.code == 2
        assert "7 features" in ran.err or "the standardisation is for 5" in ran.err
        assert "--data is needed" in Ran(capsys, command, str(run)).err
    y = Y.copy()
    y[50] = 3
    np.savez(tmp_path / "more.npz", x=X, y=y)
    assert "in row 50 labels up to 3" in Ran(capsys, "evaluate", str(run), "--data", str(tmp_path / "more.npz")).err


def test_an_id_that_is_no_column_is_refused_by_its_flag(capsys: Capture, run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,c,d,e,name\n1,2,3,4,5,x\n")
    ran = Ran(capsys, "predict", str(run), "--data", str(tmp_path / "a.csv"), "--id", "nope")
    assert (ran.code, ran.out) == (2, "")
    assert "has no column 'nope' to be that of --id; it has 'a', 'b', 'c', 'd', 'e', 'name'." in ran.err
    ran = Ran(capsys, "predict", str(run), "--data", str(tmp_path / "a.csv"), "--id", "name", "--ignore", "none")
    assert "has no column 'none' to be ignored" in ran.err
    ran = Ran(capsys, "predict", str(run), "--data", str(tmp_path / "data.npz"), "--id", "x")
    assert ran.code == 2
    assert "data.npz is no table with columns; leave out --id x." in ran.err
    ran = Ran(capsys, "predict", str(run), "--data", str(tmp_path / "a.csv"), "--id", "")
    assert (ran.code, ran.err) == (2, "lowmem: --id must be the name or number of a column; got ''.\n")


def test_a_table_for_predictions_may_have_its_target_anywhere(capsys: Capture, run: Path, tmp_path: Path) -> None:
    table = np.column_stack([Y, np.zeros(103), X])
    names: dict[str, Any] = {"header": "class,a,b,c,d,e", "comments": ""}
    np.savetxt(tmp_path / "a.csv", table[:, [0, *range(2, 7)]], fmt="%.9g", delimiter=",", **names)
    np.savetxt(tmp_path / "b.csv", table, fmt="%.9g", delimiter=",")
    expected_numbers = expected(run).argmax(axis=1).tolist()
    for name, flags in (("a.csv", ["--target", "class"]), ("b.csv", ["--target", "0", "--weights", "1"])):
        ran = Ran(capsys, "predict", str(run), "--data", str(tmp_path / name), *flags)
        assert (ran.err, [int(line) for line in ran.out.split()]) == ("", expected_numbers)
    ran = Ran(capsys, "predict", str(run), "--data", str(tmp_path / "a.csv"), "--target", "kind")
    assert (ran.code, "has no column 'kind' to be the target; it has 'class', 'a'" in ran.err) == (2, True)
    for name in ("none.csv", "none.parquet"):
        ran = Ran(capsys, "predict", str(run), "--data", str(tmp_path / name))
        assert (ran.code, "there is no file or directory" in ran.err) == (2, True)


def test_class_weights_are_read(capsys: Capture, tmp_path: Path, data: Path) -> None:
    flags = ["train", *SMALL, "--batch", "10", "--data", str(data), "--class-weights"]
    assert Ran(capsys, *flags, "1,2,0.5", "--save", str(tmp_path / "run")).code == 0
    assert open_run(tmp_path / "run").options["class_weights"] == [1, 2, 0.5]
    for wrong in ("1,2", "1,x,2", "", "0=1,1=2,2=1,0=9"):
        ran = Ran(capsys, *flags, wrong)
        assert ran.code == 2
        assert "class" in ran.err


def test_flags_in_a_run_that_are_none_are_refused(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert Ran(capsys, "train", *SMALL, "--save", str(path)).code == 0
    rewritten(path, lambda header, inside: inside["notes"]["flags"].update(held_out="0.2"))
    assert "was not saved by lowmem train" in Ran(capsys, "resume", str(path)).err


def test_a_run_of_the_library_is_no_run_of_the_command(capsys: Capture, tmp_path: Path) -> None:
    trainer = lm.Trainer(lm.MLP(lm.Architecture((5, 3))), batch_size=10)
    list(trainer.epochs((X, Y), 1))
    trainer.save(tmp_path / "run")
    assert "was not saved by lowmem train" in Ran(capsys, "resume", str(tmp_path / "run")).err


# Progress --------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_with_the_time_left_and_a_file_nothing() -> None:
    clock = iter(range(100))
    shown = Terminal()
    progress = Progress(shown, lambda: float(next(clock)))
    for done in range(1, 5):
        progress.step(done, 4)
    assert "2/4 steps, 2 s left" in shown.getvalue()
    progress.evaluation(1, 2)
    progress.evaluation(2, 2)
    assert "2/2 held-out batches, 0 s left" in shown.getvalue()
    progress.clear()
    assert shown.getvalue().endswith(" \r")
    with progress:
        progress.step(4, 4)
    assert shown.getvalue().endswith(" \r")  # what is told of the error has a line of its own
    plain = io.StringIO()
    progress = Progress(plain)
    progress.step(1, 2)
    progress.clear()
    assert plain.getvalue() == ""


# What is chosen where no flag says it -----------------------------------------------------------------------------


def test_defaults_learn_and_are_said(capsys: Capture, tmp_path: Path) -> None:
    ran = Ran(capsys, "train", "--data", "digits", "--epochs", "3", "--json")
    assert json.loads(ran.out)["accuracy"] > 0.9
    assert "chosen: 2 hidden layers of 256 (--layers, --width), batches of 32 (--batch)\n" in ran.err
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 150)
    x = np.column_stack([rng.normal(1000 + 3 * y, 1), rng.normal(0, 1e-3, 150), rng.normal(-y, 0.5)])
    rows = [f"{a!r},{b!r},{c!r},{'abc'[k]}" for (a, b, c), k in zip(x.tolist(), y, strict=True)]
    (tmp_path / "table.csv").write_text("one,two,three,kind\n" + "\n".join(rows) + "\n")
    run = str(tmp_path / "run")
    ran = Ran(capsys, "train", "--data", str(tmp_path / "table.csv"), "--json", "--save", run)
    assert json.loads(ran.out)["accuracy"] > 0.8
    assert "batches of 8 (--batch), 67 epochs (--epochs)" in ran.err
    assert open_run(run).standardisation() is not None
    ran = Ran(capsys, "resume", run, "--more", "1")
    assert ran.code == 0
    ran = Ran(
        capsys, "train", "--data", str(tmp_path / "table.csv"), "--epochs", "1", "--no-standardise", "--save", run
    )
    assert ran.code == 0
    assert open_run(run).standardisation() is None
    (tmp_path / "run.toml").write_text(f"data = '{tmp_path / 'table.csv'}'\nepochs = 1\nstandardise = false\n")
    assert Ran(capsys, "train", "--config", str(tmp_path / "run.toml"), "--save", run, "--force").code == 0
    assert open_run(run).standardisation() is None
    ran = Ran(capsys, "train", "--standardise", "--no-standardise")
    assert "contradict each other" in ran.err


@pytest.mark.parametrize(("flags", "width"), [(["--layers", "3"], 128), (["--width", "7"], 7), ([], 256)])
def test_what_a_flag_says_is_not_chosen(capsys: Capture, tmp_path: Path, flags: list[str], width: int) -> None:
    run = tmp_path / "run"
    assert Ran(capsys, "train", "--epochs", "1", "--batch", "500", *flags, "--save", str(run)).code == 0
    layers = 3 if "--layers" in flags else 2
    assert open_run(run).architecture.widths == (64, *[width] * layers, 10)


@pytest.mark.parametrize(("samples", "batch"), [(1, 8), (300, 8), (512, 16), (1437, 32), (4096, 128), (10**6, 128)])
def test_batches_are_a_share_of_the_samples(samples: int, batch: int) -> None:
    flags = argparse.Namespace(widths="1,2", layers=None, width=None, batch=None, epochs=None)
    _choose(flags, samples)
    assert flags.batch == batch
    assert 10 <= flags.epochs <= 100
    assert flags.epochs in (10, 100) or flags.epochs * -(-samples // batch) >= 1000


def test_counts_are_predicted_by_poisson_and_said_in_exports(capsys: Capture, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 3))
    np.savez(tmp_path / "data.npz", x=x, y=rng.poisson(np.exp(1 + x[:, 0]), 400).astype(float))
    data, run = ["--data", str(tmp_path / "data.npz")], str(tmp_path / "run")
    assert Ran(capsys, "train", *data, "--loss", "poisson", "--epochs", "10", "--save", run).code == 0
    counts = [float(line) for line in Ran(capsys, "predict", run, *data).out.split()]
    logarithms = [float(line) for line in Ran(capsys, "predict", run, *data, "--outputs").out.split()]
    np.testing.assert_allclose(counts, np.exp(logarithms), rtol=1e-5)
    assert np.corrcoef(counts, np.exp(1 + x[:, 0]))[0, 1] > 0.7
    ran = Ran(capsys, "export", run, str(tmp_path / "net.safetensors"))
    assert "# Outputs are logarithms of what is predicted: take their exp." in ran.out
    np.savez(tmp_path / "below.npz", x=x, y=x[:, 0])
    ran = Ran(capsys, "train", "--data", str(tmp_path / "below.npz"), "--loss", "poisson")
    assert "poisson needs them from 0 on. Use the loss mse." in ran.err
