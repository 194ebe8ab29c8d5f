"""Files that a command or a trainer writes are told apart from each other, and from those that it reads."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import lowmem as lm
from lowmem.common.files import check_apart, same_file
from lowmem.data.open import load
from lowmem.data.samples import Samples
from tests.test_cli import Ran
from tests.test_cli_runs import Capture

TRAIN = ("train", "--epochs", "1", "--layers", "1", "--width", "4", "--batch", "8", "--no-calibrate")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a table, a run and its journal."""
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{n * 7 % 10},{n * 3 % 8},{n % 2}\n" for n in range(40))
    (tmp_path / "t.csv").write_text(f"a,b,y\n{rows}")
    trainer = lm.Trainer(lm.MLP(lm.Architecture((2, 4, 2))), batch_size=8)
    list(trainer.epochs(lm.open_data("t.csv"), 1, save_to="k.sft", journal="k.jsonl"))
    return tmp_path


def held(folder: Path) -> dict[str, bytes]:
    """Return what the files of a folder hold."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--save new.sft --journal ./new.sft", "--save new.sft and --journal new.sft are the same file"),
        ("--save a.html --html a.html", "--save a.html and --html a.html are the same file"),
        ("--save k.sft --journal link", "--save k.sft and --journal link are the same file"),
        ("--save k.sft --journal hard", "--save k.sft and --journal hard are the same file"),
        ("--data t.csv --journal t.csv", "--journal t.csv would overwrite data of this run"),
        ("--data t.csv --save t.csv --force", "--save t.csv would overwrite data of this run"),
        ("--data t.csv --validation v.csv --journal v.csv", "--journal v.csv would overwrite data of this run"),
        ("--data x.npy --targets y.npy --journal y.npy", "--journal y.npy would overwrite data of this run"),
        ("--config run.toml --journal run.toml", "--journal run.toml would overwrite the flags of --config"),
        ("--journal notes.txt", "the journal 'notes.txt' is there already, and is no journal. Name another file."),
    ],
)
def test_train_refuses_one_file_for_two_things(capsys: Capture, folder: Path, flags: str, told: str) -> None:
    (folder / "link").symlink_to("k.sft")
    os.link(folder / "k.sft", folder / "hard")
    (folder / "v.csv").write_bytes((folder / "t.csv").read_bytes())
    (folder / "run.toml").write_text("seed = 1\n")
    (folder / "notes.txt").write_text("what I must not lose\n")
    np.save(folder / "x.npy", np.random.default_rng(0).random((40, 2)))
    np.save(folder / "y.npy", np.arange(40) % 2)
    before = held(folder)
    ran = Ran(capsys, *TRAIN, *flags.split())
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert told in ran.err
    assert held(folder) == before


def test_a_run_is_resumed_to_its_own_file_and_never_journaled_there(capsys: Capture, folder: Path) -> None:
    assert Ran(capsys, *TRAIN, "--data", "t.csv", "--save", "r", "--journal", "r.jsonl").code == 0
    for flags in (["--more", "1"], ["--more", "1", "--save", "r"], ["--more", "1", "--save", "./r"]):
        assert Ran(capsys, "resume", "r", *flags).code == 0
    before = held(folder)
    ran = Ran(capsys, "resume", "r", "--more", "1", "--save", "s", "--journal", "./r")
    assert (ran.code, held(folder)) == (2, before)
    assert "--journal r would overwrite the run that goes on" in ran.err


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("predict k.sft --data p.csv --output p.csv", "--output p.csv would overwrite the data"),
        ("predict k --data p.csv --output k", "--output k would overwrite the saved run"),
        ("predict k --data p.csv --output other.txt", "other.txt is there already, and is a saved run"),
        ("export k.sft t.csv --format onnx", "t.csv is there already, and is a table of samples"),
        ("export k.sft k.sft --format torch", "FILE k.sft would overwrite the saved run"),
        ("export k.sft k --format torch", "FILE k would overwrite the saved run"),
        ("export k.sft m.safetensors", "m.safetensors is there already, and is a saved run"),
        ("export k.onnx.data k.onnx", "FILE.data k.onnx.data would overwrite the saved run"),
        ("import net.safetensors net.safetensors", "RUN net.safetensors would overwrite the file that is read"),
        ("plot j.svg", "--output j.svg would overwrite the journal"),
        ("profile --plot p.svg --html p.html", "--plot p.svg and --html p.html are the same file"),
    ],
)
def test_commands_refuse_to_replace_what_they_read(capsys: Capture, folder: Path, command: str, told: str) -> None:
    (folder / "p.csv").write_text("a,b\n1,2\n3,4\n")
    (folder / "k").symlink_to("k.sft")
    for copy in ("m.safetensors", "k.onnx.data", "other.txt"):
        (folder / copy).write_bytes((folder / "k.sft").read_bytes())
    lm.export_torch(lm.MLP(lm.Architecture((2, 4, 2))), "net.safetensors")
    (folder / "j.svg").write_bytes((folder / "k.jsonl").read_bytes())
    (folder / "p.svg").touch()
    os.link(folder / "p.svg", folder / "p.html")
    before = held(folder)
    ran = Ran(capsys, *command.split())
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert told in ran.err
    assert held(folder) == before


def test_the_data_that_a_run_remembers_are_not_replaced_by_an_export(capsys: Capture, folder: Path) -> None:
    (folder / "packed.gz").write_bytes(gzip.compress((folder / "t.csv").read_bytes()))
    assert Ran(capsys, *TRAIN, "--data", "packed.gz", "--save", "r").code == 0
    before = held(folder)
    ran = Ran(capsys, "export", "r", "packed.gz", "--format", "torch")
    assert (ran.code, held(folder)) == (2, before)
    assert "FILE packed.gz would overwrite data of the run" in ran.err


def test_networks_are_exported_to_the_same_file_again(capsys: Capture, folder: Path) -> None:
    for _ in range(2):
        assert Ran(capsys, "export", "k.sft", "n.safetensors").code == 0


@pytest.mark.parametrize("opened", [lm.open_data, load])
def test_a_trainer_refuses_one_file_for_two_things(folder: Path, opened: Callable[[str], Samples]) -> None:
    data, before = opened("t.csv"), held(folder)
    trainer = lm.Trainer(lm.MLP(lm.Architecture((2, 4, 2))), batch_size=8)
    with pytest.raises(lm.InputError, match=r'save_to="n\.sft" and journal="n\.sft" are the same file\. Give each'):
        trainer.epochs(data, 1, save_to="n.sft", journal="./n.sft")
    with pytest.raises(lm.InputError, match=r'save_to="t\.csv" would overwrite data of this run\. Name another file'):
        trainer.epochs(data, 1, save_to="t.csv")
    kept, rest = data.split(0.5)
    with pytest.raises(lm.InputError, match=r'journal="t\.csv" would overwrite data of this run'):
        trainer.epochs((np.zeros((8, 2)), np.zeros(8, int)), 1, rest, journal="t.csv")
    with pytest.raises(lm.InputError, match="is there already, and is no journal"):
        trainer.epochs(kept, 1, journal="k.sft")
    assert held(folder) == before


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (b"", True),
        (b'{"event": "epoch", "loss', True),  # of a process that was killed
        (b'{"ev', True),
        (b'{"event": "epoch", "loss\n', True),
        (b"\n", True),
        (b"a,b\n", False),
        (b'{"x": 1}\n', False),
        (b"1,2", False),
        (b'{"event": "' + b"x" * 200_000, True),
    ],
)
def test_a_journal_goes_on_only_where_a_journal_ends(folder: Path, end: bytes, told: bool) -> None:
    path = folder / "k.jsonl"
    path.write_bytes(path.read_bytes() + end)
    before = path.read_bytes()
    trainer = lm.Trainer(lm.MLP(lm.Architecture((2, 4, 2))), batch_size=8)
    if told:
        list(trainer.epochs(lm.open_data("t.csv"), 1, journal=path))
        assert path.read_bytes().startswith(before.rstrip(b"\n") + b"\n")
        return
    with pytest.raises(lm.InputError, match="is no journal"):
        trainer.epochs(lm.open_data("t.csv"), 1, journal=path)
    assert path.read_bytes() == before


def test_files_are_the_same_by_name_and_by_link(tmp_path: Path) -> None:
    there = tmp_path / "a"
    there.touch()
    os.link(there, tmp_path / "hard")
    (tmp_path / "soft").symlink_to("a")
    (tmp_path / "round").symlink_to("round")
    assert all(same_file(there, tmp_path / other) for other in ("a", "hard", "soft", "./a"))
    assert same_file(tmp_path / "new", f"{tmp_path}/x/../new")
    assert not any(same_file(there, tmp_path / other) for other in ("b", "round", "a\0"))
    check_apart({"save_to": there, "journal": None, "html": tmp_path / "b"}, {"data": [None, tmp_path / "c"]})
