"""The command line: what it prints, its exit codes, and one clear line for every bad input."""

import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowmem.cli import main

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--layers", "3", "--width", "8"]
PLAN = {
    *("widths", "activation", "loss", "dtype", "batch_size", "micro_batch", "strategy", "optimizer", "budget"),
    *("bytes", "peak_bytes", "arena_bytes", "store_all_bytes", "forward_runs", "flops", "flop_factor"),
}
REPORT = {
    *("plan", "traced_peak_bytes", "resident_peak_bytes", "seconds_per_step", "steps", "loss", "accuracy"),
}


class Ran:
    """What a command left: its exit code and its two streams."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        try:
            self.code = main(arguments)
        except SystemExit as left:  # argparse's way to end --help
            self.code = int(left.code or 0)
        self.out, self.err = capsys.readouterr()
        still_tracing = tracemalloc.is_tracing()
        tracemalloc.stop()
        assert not still_tracing


# lowmem plan -----------------------------------------------------------------------------------------------------


def test_plan_says_where_every_byte_goes_and_compares(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "plan", "--layers", "100", "--width", "128", "--budget", "25% of activations")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("101 layers (64, 128 x 100, 10), relu, cross_entropy, float32")
    for words in ("parameters", "activation arena", "peak, promised", "of a budget of", "times those of storing"):
        assert words in ran.out
    for row in ("store_all", "sqrt", "recompute_all", "budget 50% of activations", "budget 6% of activations"):
        assert re.search(f"^ {row} ", ran.out, re.MULTILINE)


def test_plan_in_json_has_the_documented_keys(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "plan", *TINY, "--json", "--optimizer", "adam", "--batch", "100", "--micro-batch", "30")
    assert (ran.code, ran.err) == (0, "")
    answer = json.loads(ran.out)
    assert answer.keys() == {"plan", "compared"}
    assert answer["plan"].keys() >= PLAN
    assert sum(answer["plan"]["bytes"].values()) == answer["plan"]["peak_bytes"]
    assert (answer["plan"]["optimizer"], answer["plan"]["micro_batch"]) == ("adam", 30)
    for row in answer["compared"]:
        assert row.keys() >= {"asked", "fits", "minimum_budget"}
        assert row["fits"] == ("plan" in row)
    assert len(ran.out.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "widths"),
    [
        ([], [64, *[128] * 100, 10]),
        (["--layers", "0"], [64, 10]),
        (["--layers", "2", "--width", "5", "--inputs", "7", "--outputs", "3"], [7, 5, 5, 3]),
        (["--widths", "64,8x3,10"], [64, 8, 8, 8, 10]),
        (["--widths", " 4 , 5 x2"], [4, 5, 5]),
        (["--widths", "784,256,256,10"], [784, 256, 256, 10]),
    ],
)
def test_flags_describe_a_network(capsys: pytest.CaptureFixture[str], flags: list[str], widths: list[int]) -> None:
    flags = [flag.replace("5 x2", "5x2") for flag in flags]
    ran = Ran(capsys, "plan", "--json", *flags, "--activation", "gelu", "--loss", "mse", "--dtype", "float64")
    plan = json.loads(ran.out)["plan"]
    assert plan["widths"] == widths
    assert (plan["activation"], plan["loss"], plan["dtype"]) == ("gelu", "mse", "float64")


@pytest.mark.parametrize(
    ("flags", "strategy"),
    [
        (["--strategy", "sqrt"], "sqrt"),
        (["--strategy", "segments", "--segments", "2"], "segments"),
        (["--strategy", "revolve", "--slots", "1"], "revolve"),
        (["--strategy", "recompute_all"], "recompute_all"),
        ([], "store_all"),
    ],
)
def test_flags_choose_a_strategy(capsys: pytest.CaptureFixture[str], flags: list[str], strategy: str) -> None:
    assert json.loads(Ran(capsys, "plan", "--json", *TINY, *flags).out)["plan"]["strategy"] == strategy


# lowmem train ----------------------------------------------------------------------------------------------------


def test_train_learns_the_digits_and_reports(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "train", "--layers", "2", "--width", "32", "--epochs", "3", "--lr", "0.01", "--budget", "2MB")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith("epoch")] == [
        "epoch 1/3",
        "epoch 2/3",
        "epoch 3/3",
    ]
    assert "digits: 1,438 samples to train on, 359 held out" in ran.out
    accuracy = re.search(r"held-out accuracy +([\d.]+)%", ran.out)
    assert accuracy is not None
    assert float(accuracy[1]) > 50
    for words in ("peak memory of training", "budget", "whole process", "FLOPs, times storing everything"):
        assert words in ran.out


def test_train_in_json_has_the_documented_keys_and_talks_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "train", *TINY, "--epochs", "2", "--json", "--strategy", "sqrt", "--seed", "3")
    assert ran.code == 0
    answer = json.loads(ran.out)
    assert answer.keys() >= REPORT
    assert answer["plan"].keys() >= PLAN
    assert answer["plan"]["strategy"] == "sqrt"
    assert answer["steps"] == 2 * 45
    promised = answer["plan"]["peak_bytes"]
    assert answer["traced_peak_bytes"] <= promised + 64 * 1024
    assert "epoch 2/2" in ran.err


def test_the_same_seed_trains_to_the_same_loss(capsys: pytest.CaptureFixture[str]) -> None:
    def loss(*flags: str) -> float:
        return float(json.loads(Ran(capsys, "train", *TINY, "--epochs", "1", "--json", *flags).out)["loss"])

    assert loss() == loss("--strategy", "recompute_all") != loss("--seed", "1")


def test_train_reads_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 5)).astype(np.float32), rng.standard_normal((60, 2))
    np.savez(tmp_path / "both.npz", x=x, y=y)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.arange(60) % 4)
    flags = [*TINY, "--epochs", "1", "--json", "--batch", "16"]
    answer = json.loads(Ran(capsys, "train", "--data", str(tmp_path / "both.npz"), *flags).out)
    assert answer["plan"]["widths"] == [5, 8, 8, 8, 2]
    assert (answer["plan"]["loss"], answer["accuracy"]) == ("mse", None)
    files = ["--data", str(tmp_path / "x.npy"), "--targets", str(tmp_path / "y.npy")]
    answer = json.loads(Ran(capsys, "train", *files, *flags).out)
    assert answer["plan"]["widths"] == [5, 8, 8, 8, 4]
    assert answer["plan"]["loss"] == "cross_entropy"


# Bad input -------------------------------------------------------------------------------------------------------

BOTH = [
    (["--layers", "-1"], "--layers must be a whole number from 0; got -1"),
    (["--layers", "many"], "invalid int value: 'many'"),
    (["--width", "0"], "--width must be a positive whole number; got 0"),
    (["--widths", "64"], "widths needs at least two positive whole numbers"),
    (["--widths", ""], 'Write "64,256x100,10"'),
    (["--widths", "64,a,10"], "cannot read 'a'"),
    (["--widths", "64,8x,-3"], "cannot read '-3'"),
    (["--widths", "64,8x0,10"], "cannot read '8x0'"),
    (["--widths", "64,8x-2,10"], "cannot read '8x-2'"),
    (["--widths", "64,8,10", "--layers", "1"], "--layers does not go with --widths"),
    (["--activation", "reluu"], "Did you mean 'relu'?"),
    (["--loss", "mea"], "unknown loss 'mea'"),
    (["--dtype", "float16"], "unknown dtype 'float16'"),
    (["--batch", "0"], "--batch must be a positive whole number"),
    (["--batch", "1.5"], "invalid int value"),
    (["--budget", "plenty"], "cannot read 'plenty'"),
    (["--budget", "1KiB"], "is less than"),
    (["--budget", "0%"], "cannot read the budget '0%'"),
    (["--strategy", "sqr"], "Did you mean 'sqrt'?"),
    (["--strategy", "segments", "--segments", "0"], "segments must be a positive whole number"),
    (["--strategy", "revolve", "--slots", "-1"], "slots must be a whole number"),
    (["--strategy", "revolve"], "needs --slots (states"),
    (["--strategy", "segments"], "needs --segments (keep"),
    (["--batch", "٣"], "--batch: invalid int value"),
    (["--dropout", "0.٣"], "--dropout: invalid float value"),
    (["--budget", "٣MiB"], "cannot read --budget ٣MiB. Write it with the digits 0 to 9"),
    (["--budget", "٣0%"], "cannot read --budget ٣0%. Write it with the digits 0 to 9"),
    (["--widths", "64,٣,10"], "cannot read '٣'"),
    (["--segments", "3"], "goes with --strategy segments"),
    (["--micro-batch", "1000"], "is more than --batch "),
    (["--optimizer", "adamm"], "Did you mean 'adam'?"),
    (["--unknown"], "has no flag --unknown"),
]
TRAIN = [
    (["--data", "nothing.npz"], "no file or directory 'nothing.npz'"),
    (["--data", "digitz"], "Did you mean 'digits'?"),
    (["--targets", "nothing.npy"], "no file or directory 'nothing.npy'"),
    (["--epochs", "0"], "epochs must be a positive whole number"),
    (["--held-out", "1.5"], "--held-out must be a share between 0 and 1"),
    (["--held-out", "nan"], "--held-out must be a share between 0 and 1"),
    (["--held-out", "0.0001"], "leaves none on one side"),
    (["--lr", "-1"], "lr must be a number of at least 0"),
    (["--lr", "nan"], "lr must be a number of at least 0"),
    (["--weight-decay", "-1"], "--weight-decay must be"),
    (["--seed", "-1"], "seed must be a whole number from 0; got -1"),
    (["--init", "hee"], "unknown initialisation scheme 'hee'"),
    (["--widths", "63,8,10"], "64 features and the network 63 inputs"),
    (["--widths", "64,8,9"], "labels up to 9 and the network 9 outputs"),
    (["--task", "regression", "--loss", "cross_entropy"], "--loss cross_entropy is for classification"),
    (["--task", "classification", "--loss", "mse"], "--loss mse is for regression"),
    (["--task", "sorting"], "unknown task 'sorting'"),
    (["--lr-schedule", ""], "unknown learning rate schedule ''"),
    (["--loss", ""], "unknown loss ''"),
    (["--patience", "1", "--patience-metric", ""], "unknown --patience-metric ''"),
    (["--save", "run", "--save-every", ""], "--save-every '' is neither a number of steps"),
    (["--widths", "63,8,10"], "train a network whose --widths begin with 64"),
    (["--widths", "64,8,9"], "train a network whose --widths end with 10"),
    (["--gain", "2"], "--gain goes with --init orthogonal; got none"),
    (["--lr-schedule", "step"], "--lr-schedule step needs --lr-every N"),
    (["--lr-schedule", "step", "--lr-every", "0"], "--lr-every must be a whole number from 1"),
    (["--lr-schedule", "step", "--lr-every", "1", "--lr-factor", "-1"], "--lr-factor must be a number of at least 0"),
    (["--lr-schedule", "cosine", "--lr-every", "3"], "--lr-every goes with --lr-schedule step"),
    (["--warm-up", "-1"], "--warm-up must be a whole number from 0"),
    (["--clip-twice"], "or leave out --clip-twice."),
    (
        ["--ram", "100MB", "--budget", "1MiB"],
        "give either --budget (what training takes) or --ram (the whole process)",
    ),
    (["--save-every", "5"], "--save-every goes with --save FILE; give that too."),
    (["--patience-metric", "loss"], "--patience-metric goes with --patience N; give that too."),
    (["--min-improvement", "0"], "--min-improvement goes with --patience N; give that too."),
]
OTHER = [
    (["plan", "--inputs", "0"], "widths[0] is 0"),
    (["plan", "--widths", "4,5", "--inputs", "3"], "--inputs and --outputs do not go with --widths"),
    (["plan", "--widths", "4,5", "--inputs", "0"], "--inputs and --outputs do not go with --widths"),
    (["plan", "--ranks", "0"], "--ranks must be a positive whole number; got 0"),
    (["plam"], "unknown command 'plam'. Did you mean 'plan'?"),
    (["--nonsense"], "--nonsense"),
]
BAD = [([command, *flags], words) for flags, words in BOTH for command in ("plan", "train")]
BAD += [(["train", *flags], words) for flags, words in TRAIN] + OTHER


@pytest.mark.parametrize(
    ("arguments", "words"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_input_is_one_clear_line_and_exit_code_two(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    small = [] if {"--layers", "--widths", "--nonsense", "plam"} & set(arguments) else ["--layers", "2"]
    ran = Ran(capsys, *arguments, *small)
    assert ran.code == 2
    assert ran.out == ""
    assert re.fullmatch(r"lowmem: [^\n]+\.\n", ran.err)
    assert words in ran.err
    assert "Traceback" not in ran.err


def test_unreadable_files_are_one_clear_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("x,y\n1,2\n")
    np.savez(tmp_path / "nan.npz", x=np.full((10, 2), np.nan), y=np.zeros(10, int))
    np.savez(tmp_path / "empty.npz", x=np.zeros((0, 2)), y=np.zeros(0, int))
    for name in ("text.npz", "nan.npz", "empty.npz"):
        ran = Ran(capsys, "train", *TINY, "--data", str(tmp_path / name))
        assert ran.code == 2
        assert re.fullmatch(r"lowmem: [^\n]+\n", ran.err), name


def test_a_run_that_fails_is_one_clear_line_and_exit_code_one(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "train", *TINY, "--optimizer", "sgd", "--lr", "1e30", "--epochs", "3")
    assert ran.code == 1
    assert re.fullmatch(r"lowmem: the loss became (nan|inf)[^\n]+smaller learning rate[^\n]+\n", ran.err)


@pytest.mark.parametrize("batch", [str(10**14), str(10**18)])
def test_more_memory_than_there_is_is_one_clear_line(capsys: pytest.CaptureFixture[str], batch: str) -> None:
    ran = Ran(capsys, "train", *TINY, "--batch", batch)
    assert ran.code == 1
    assert re.fullmatch(r"lowmem: this machine cannot give the memory [^\n]+\n", ran.err)


@pytest.mark.parametrize(
    ("flags", "advice"),
    [((), "Free some, or make the network or the batch smaller."), (("--budget", "1MB"), "Lower the budget.")],
)
def test_memory_that_is_refused_without_a_word_is_one_whole_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], advice: str
) -> None:
    def refused(arguments: Any) -> int:
        raise MemoryError

    monkeypatch.setattr("lowmem.cli.plan.run", refused)
    ran = Ran(capsys, "plan", *flags)
    assert (ran.code, ran.err) == (1, f"lowmem: this machine cannot give the memory asked for. {advice}\n")


def test_interrupting_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(arguments: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("lowmem.cli.plan.run", interrupt)
    ran = Ran(capsys, "plan")
    assert (ran.code, ran.err) == (130, "lowmem: interrupted\n")


def test_the_digits_are_the_digits_whatever_lies_in_the_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    network = ("--layers", "1", "--width", "4", "--epochs", "1", "--save", "run")
    assert Ran(capsys, "train", "--data", "digits", *network).code == 0
    for command in ("evaluate", "predict"):
        assert Ran(capsys, command, "run", "--data", "digits").code == 0


# Help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"], ["train", "--help"]], ids=" ".join)
def test_every_command_helps(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    ran = Ran(capsys, *arguments)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("usage: lowmem")
    if len(arguments) > 1:
        for flag in ("--layers", "--width", "--widths", "--activation", "--batch", "--budget", "--strategy", "--json"):
            assert flag in ran.out


def test_without_a_command_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys)
    assert ran.code == 2
    assert "plan" in ran.out
    assert "train" in ran.out


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "--version")
    assert ran.code == 0
    assert re.fullmatch(r"lowmem \S.*\n", ran.out)


def python_m(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "lowmem", *arguments], capture_output=True, text=True, cwd=ROOT)


def test_python_m_lowmem_is_the_same_command() -> None:
    done = python_m("plan", *TINY, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["plan"]["widths"] == [64, 8, 8, 8, 10]
    done = python_m("plan", "--budget", "1KiB")
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"lowmem: [^\n]+\n", done.stderr)


def test_a_reader_that_leaves_early_is_no_crash() -> None:
    code = "import sys; from lowmem.cli import main; sys.exit(main(['plan', '--layers', '3']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
