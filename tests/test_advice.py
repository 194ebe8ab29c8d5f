"""What errors advise: it works, it speaks the language of who asked, and files in the wrong place are recognised."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.cli import main
from lowmem.cli.wording import in_flags
from lowmem.common.kinds import kind_of
from lowmem.errors import Advice, nearest
from lowmem.units import apart

ARCH = lm.Architecture((5, 8, 3))
Capture = pytest.CaptureFixture[str]


def told(capsys: Capture, *arguments: str) -> str:
    """Return the one line of a command that is refused."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


# Names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("trian",), "unknown command 'trian'. Did you mean 'train'?"),
        (("evalute", "run"), "Did you mean 'evaluate'?"),
        (("train", "--lrate", "0.1"), "train has no flag --lrate. Did you mean --lr? See lowmem train --help."),
        (("train", "--optimiser=adam"), "train has no flag --optimiser. Did you mean --optimizer?"),
        (("train", "--batch_size", "3"), "train has no flag --batch_size. Did you mean --batch?"),
        (("plan", "--epochs", "3"), "plan has no flag --epochs. --epochs is a flag of lowmem train and"),
        (("evaluate", "run", "data.csv"), "evaluate takes no argument 'data.csv'. See lowmem evaluate --help."),
        (("--verbose",), "lowmem has no flag --verbose"),
        (("plan", "--layers", "many"), "plan: argument --layers: invalid int value: 'many'"),
    ],
)
def test_unknown_names_get_the_nearest(capsys: Capture, arguments: tuple[str, ...], words: str) -> None:
    assert words in told(capsys, *arguments)


KEYS = [("lrate", "lr"), ("batch-size", "batch"), ("epoch", "epochs"), ("Save", "save")]


@pytest.mark.parametrize(("key", "near"), KEYS)
def test_unknown_keys_of_a_file_get_the_nearest(capsys: Capture, tmp_path: Path, key: str, near: str) -> None:
    (tmp_path / "run.toml").write_text(f"{key} = 1\n")
    error = told(capsys, "train", "--config", str(tmp_path / "run.toml"))
    assert f"for lowmem train {key!r}. Did you mean {near!r}?" in error


def test_nearest_prefers_what_begins_alike_and_knows_when_nothing_is_near() -> None:
    assert nearest("lrate", ["strategy", "lr", "threads"]) == "lr"
    assert nearest("zzzz", ["strategy", "lr"]) is None
    assert nearest(7, ["strategy"]) is None


# The language of who asked ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("plan", "--batch", "0"), "lowmem: --batch must be a positive whole number; got 0."),
        (("plan", "--segments", "4"), "--segments 4 goes with --strategy segments"),
        (("plan", "--micro-batch", "300"), "--micro-batch 300 is more than --batch 128"),
        (("plan", "--micro-batch", "50", "--norm", "batch"), "leave --micro-batch out"),
        (("plan", "--budget", "1KiB", "--optimizer", "adam"), "MiB or --optimizer sgd."),
        (("plan", "--budget", "1% of activations", "--optimizer", "sgd"), 'Try --budget "'),
        (("plan", "--budget", "300%"), "--budget 300% is more than storing everything takes"),
    ],
)
def test_commands_are_advised_in_flags(capsys: Capture, arguments: tuple[str, ...], words: str) -> None:
    error = told(capsys, *arguments, "--no-calibrate")
    assert words in error
    assert "batch_size" not in error
    assert "micro_batch" not in error


def test_words_and_paths_are_left_alone() -> None:
    text = 'the file /tmp/batch_size=3/micro_batch.csv holds "budget=3"; loss is a word, and lowmem.Adam(lr=0.1) code.'
    assert in_flags(lm.InputError(text)) == text
    error = lm.InputError("one ", Advice("batch_size", 3), " two ", Advice("budget", "25% of activations"), ".")
    assert in_flags(error) == 'one --batch 3 two --budget "25% of activations".'
    assert str(error) == 'one batch_size=3 two budget="25% of activations".'


def test_sizes_in_a_refusal_differ_where_the_numbers_do() -> None:
    assert apart(5_138_023, 5_138_024) == ("5,138,023 B", "5,138,024 B")
    assert apart(1 << 20, 2 << 20) == ("1.0 MiB", "2.0 MiB")
    least = lm.minimum_budget(lm.Architecture((64, *[128] * 60, 10)), 512)
    with pytest.raises(lm.BudgetError) as error:
        lm.plan(lm.Architecture((64, *[128] * 60, 10)), 512, least - 1)
    assert f"{least - 1:,} B is less than the {least:,} B" in str(error.value)


# Files in the wrong place -----------------------------------------------------------------------------------------


def safetensors(path: Path, tensors: dict[str, tuple[str, Any]], metadata: dict[str, str] | None = None) -> Path:
    """Write a safetensors file. tensors: dtype and array by name."""
    header: dict[str, Any] = {"__metadata__": metadata or {"format": "pt"}}
    data = b""
    for name, (dtype, array) in tensors.items():
        place = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": place}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """Return files of every kind."""
    trainer = lm.Trainer(lm.MLP(ARCH), batch_size=10)
    x, y = np.random.default_rng(0).random((30, 5)), np.arange(30) % 3
    list(trainer.epochs((x, y), 1, save_to=tmp_path / "run.safetensors"))
    lm.export_torch(trainer.mlp, tmp_path / "net.safetensors")
    np.savetxt(tmp_path / "data.csv", np.column_stack([x, y]), delimiter=",")
    np.savez(tmp_path / "data.npz", x=x, y=y)
    np.save(tmp_path / "data.npy", x)
    (tmp_path / "net.pt").write_bytes(b"PK\x03\x04" + b"\0" * 26 + b"net/data.pkl" + b"\0" * 50)
    (tmp_path / "old.pth").write_bytes(b"\x80\x02}q\x00.")
    return {path.name: path for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("net.safetensors", "It is a network in safetensors: make a run of it with lowmem import"),
        ("net.pt", "It is a pickle of PyTorch, which is not read"),
        ("old.pth", "It is a pickle of PyTorch, which is not read"),
        ("data.csv", "It is a table of samples: give it as --data."),
        ("data.npz", "It holds arrays of samples: give it as --data."),
        ("data.npy", "It holds arrays of samples: give it as --data."),
    ],
)
def test_what_is_no_run_is_told_what_to_do(capsys: Capture, places: dict[str, Path], name: str, words: str) -> None:
    for command in (["evaluate", str(places[name]), "--data", "digits"], ["resume", str(places[name])]):
        assert words in told(capsys, *command)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("run.safetensors", "It is a saved run: use it with lowmem evaluate, predict, resume or export."),
        ("data.csv", "It is a table of samples"),
        ("net.pt", "It is a pickle of PyTorch"),
        ("data.npz", "It holds arrays of samples"),
    ],
)
def test_what_cannot_be_imported_is_told_what_to_do(
    capsys: Capture, places: dict[str, Path], tmp_path: Path, name: str, words: str
) -> None:
    assert words in told(capsys, "import", str(places[name]), str(tmp_path / "imported"))
    assert not (tmp_path / "imported").exists()


def test_kinds_of_damaged_files_are_unknown_or_none(places: dict[str, Path], tmp_path: Path) -> None:
    for path in places.values():
        content = path.read_bytes()
        for cut in (0, 1, 5, 9, 20):
            (tmp_path / "cut").write_bytes(content[:cut])
            kind_of(tmp_path / "cut")


# Prefixes and halves in import ------------------------------------------------------------------------------------


def tensors_of(mlp: lm.MLP) -> dict[str, Any]:
    return {
        "0.weight": np.array(mlp.weights[0]),
        "0.bias": np.array(mlp.biases[0]),
        "2.weight": np.array(mlp.weights[1]),
        "2.bias": np.array(mlp.biases[1]),
    }


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "net.", "_orig_mod.module.", "model.layers.", "a.b.c.d."])
def test_prefixes_of_names_are_taken_off(tmp_path: Path, prefix: str) -> None:
    mlp = lm.MLP(ARCH)
    named = {f"{prefix}{name}": ("F32", array) for name, array in tensors_of(mlp).items()}
    path = safetensors(tmp_path / "net.safetensors", named)
    again = lm.import_torch(path, activation="relu", loss="cross_entropy")
    assert again.architecture == ARCH
    assert np.array_equal(again.parameters, mlp.parameters)


def test_different_prefixes_are_refused(tmp_path: Path) -> None:
    arrays = tensors_of(lm.MLP(ARCH))
    named = {f"{'ab'[name[0] == '2']}.{name}": ("F32", array) for name, array in arrays.items()}
    path = safetensors(tmp_path / "net.safetensors", named)
    with pytest.raises(lm.InputError, match=r"holds no '0\.weight'"):
        lm.import_torch(path, activation="relu", loss="cross_entropy")


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@pytest.mark.parametrize("wide", ["float32", "float64"])
def test_halves_are_widened_without_loss(tmp_path: Path, dtype: str, wide: str) -> None:
    architecture = lm.Architecture((5, 8, 3), dtype=wide)
    mlp = lm.MLP(ARCH)
    if dtype == "F16":
        halves = {name: array.astype(np.float16) for name, array in tensors_of(mlp).items()}
        whole = {name: array.astype(wide) for name, array in halves.items()}
    else:
        halves = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in tensors_of(mlp).items()}
        whole = {name: (array.astype(np.uint32) << 16).view(np.float32).astype(wide) for name, array in halves.items()}
    path = safetensors(tmp_path / "net.safetensors", {name: (dtype, array) for name, array in halves.items()})
    again = lm.import_torch(path, architecture)
    for name, array in tensors_of(again).items():
        assert np.array_equal(array, whole[name])
    assert lm.import_torch(path, activation="relu", loss="cross_entropy").architecture == ARCH


# Resuming ---------------------------------------------------------------------------------------------------------


def test_a_disk_limit_without_a_disk_is_told_in_flags(capsys: Capture) -> None:
    text = told(capsys, "train", "--data", "digits", "--layers", "2", "--disk-limit", "1MiB", "--no-calibrate")
    assert text.startswith("lowmem: --disk-limit 1MiB goes with --disk /tmp, or another folder")


def test_a_resumed_run_is_advised_what_resume_takes(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "run"
    flags = ["--layers", "12", "--width", "32", "--batch", "256", "--no-calibrate", "--clip-norm", "1"]
    assert main(["train", *flags, "--epochs", "1", "--budget", "1MiB", "--save", str(path)]) == 0
    capsys.readouterr()
    text = told(capsys, "resume", str(path), "--more", "1", "--budget", "450KiB")
    assert re.search(r"Try --budget [\d.]+KiB\.$", text.strip())
    with pytest.raises(lm.BudgetError) as refused:
        lm.Trainer.resume(path, budget="250KiB")
    assert [one.keyword for one in refused.value.advice if isinstance(one, Advice)] == ["budget"]
    lm.Trainer.resume(path, budget=refused.value.minimum)


def test_what_resume_does_not_take_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    trainer = lm.Trainer(lm.MLP((4, 8, 2)), "sgd", batch_size=8)
    list(trainer.epochs((np.zeros((8, 4)), np.zeros(8, int)), 1))
    trainer.save(tmp_path / "run")
    with pytest.raises(lm.InputError, match=r"takes no optimizer: a saved run goes on with its own optimizer"):
        lm.Trainer.resume(tmp_path / "run", optimizer="sgd")
    with pytest.raises(lm.InputError, match=r"unknown keyword of Trainer.resume 'bugdet'. Did you mean 'budget'"):
        lm.Trainer.resume(tmp_path / "run", bugdet=3)


def test_resume_says_how_many_epochs_go_on(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "run"
    flags = ["--layers", "1", "--width", "8", "--no-calibrate", "--epochs", "4"]
    assert main(["train", *flags, "--save", str(path)]) == 0
    capsys.readouterr()
    assert "has all of its 4 epochs; --epochs 5 or more goes on." in told(capsys, "resume", str(path), "--epochs", "3")
    assert "has all of its 4 epochs; --epochs 5 or more goes on." in told(capsys, "resume", str(path))
    assert main(["resume", str(path), "--epochs", "5"]) == 0
