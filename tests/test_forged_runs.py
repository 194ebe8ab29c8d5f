"""Saved runs whose settings are forged and whose checksum is right: a result or one line, never a traceback."""

import copy
import json
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.cli import main
from lowmem.interchange.safetensors import read_header
from lowmem.training.saved_run import open_run
from tests.test_saved_run import rewritten

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((20, 4)).astype(np.float32), np.arange(20) % 3

JUNK: list[Any] = [
    *(None, True, False, 0, 1, -1, 7, 3.0, 2**31, 2**62, 2**70, 10**400, 1.5, -2.5, 1e300, 1e-320),
    *("", "x", "adam", "cosine", "1MiB", "50%", "-5%", "auto", "native", "\ud800", "é" * 50, "9" * 5000),
    *([], [1], [[]], ["a", "b", "c"], [1e308] * 3, [None], [True], [0] * 2000),
    *({}, {"a": 1}, {"lr": 0.1}, {"kind": "step"}),
]
ADDED = ("zz", "lr", "budget", "ram", "segments", "schedule", "engine", "columns", "patience")


def settings_of(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        metadata, _, _ = read_header(stream)
    read: dict[str, Any] = json.loads(metadata["settings"])
    return read


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value inside another one."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:6]) if isinstance(value, list) else ()
    for key, one in inside:
        yield (*at, key)
        yield from places(one, (*at, key))


def forged(rng: random.Random, settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with one to three values replaced, left out or added."""
    changed = copy.deepcopy(settings)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        place = rng.choice(list(places(changed)))
        holder: Any = changed
        for key in place[:-1]:
            holder = holder[key]
        chance = rng.random()
        if chance < 0.7:
            holder[place[-1]] = copy.deepcopy(rng.choice(JUNK))
        elif chance < 0.85:
            del holder[place[-1]]
        elif isinstance(holder, dict):
            holder[rng.choice(ADDED)] = copy.deepcopy(rng.choice(JUNK))
    return changed


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return saved runs of several kinds, the last one by a command."""
    folder = tmp_path_factory.mktemp("runs")
    rate = lm.LearningRate(0.1, "cosine", steps=9)
    plain = lm.Architecture((4, 5, 3))
    rich = lm.Architecture((4, 5, 5, 1), "tanh", "mse", norm="batch", dropout=0.1, residual="learned")
    whole: list[tuple[Any, Any, dict[str, Any]]] = [
        (plain, Y, {"class_weights": [1, 2, 1], "schedule": rate, "clip_norm": 1.0}),
        (rich, Y[:, None].astype(np.float32), {"optimizer": lm.SGD(0.1, momentum=0.5), "budget": "1MiB"}),
        (plain, np.array(["u", "v", "w"])[Y], {"ram": "4GB", "engine": "numpy"}),
    ]
    paths = []
    for number, (architecture, y, options) in enumerate(whole):
        trainer = lm.Trainer(lm.MLP(architecture), batch_size=8, **options)
        next(trainer.epochs((X, y), 3, (X, y)))
        paths.append(folder / f"run{number}")
        trainer.save(paths[-1])
    np.savez(folder / "data.npz", x=X, y=Y)
    flags = ["--data", str(folder / "data.npz"), "--layers", "1", "--width", "5", "--epochs", "2", "--batch", "8"]
    paths.append(folder / "command")
    assert main(["train", *flags, "--standardise", "--save", str(paths[-1])]) == 0
    return paths


def go_on(path: Path) -> None:
    """Resume a run in Python for up to two epochs, and save it."""
    trainer = lm.Trainer.resume(path)
    y = Y if trainer.mlp.architecture.loss_facts.labels else Y[:, None].astype(np.float32)
    more = trainer.epochs_planned > trainer.epochs_done
    for number, _ in enumerate(trainer.epochs((X, y), None if more else 1)):
        if number:
            break
    trainer.save(path.with_name("again"))


def test_forged_settings_end_in_a_result_or_one_line(
    tmp_path: Path, runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    rng, path, data = random.Random(0), tmp_path / "run", str(runs[0].with_name("data.npz"))
    for _ in range(150):
        source = rng.choice(runs)
        settings = forged(rng, settings_of(source))
        path.write_bytes(source.read_bytes())
        rewritten(path, lambda header, inside, settings=settings: (inside.clear(), inside.update(settings)))  # type: ignore[misc]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for use in (open_run, go_on):
                try:
                    use(path)
                except lm.LowmemError as error:
                    assert "\n" not in str(error)
        capsys.readouterr()
        commands = [["evaluate", str(path), "--data", data], ["predict", str(path), "--data", data]]
        position = settings.get("position")
        until = position.get("until") if isinstance(position, dict) else None
        if not isinstance(until, int) or until < 9:
            commands.append(["resume", str(path)])
        for command in commands:
            code = main(command)
            told = capsys.readouterr().err.strip().splitlines()
            assert code in (0, 1, 2)
            assert code == 0 or told[-1].startswith("lowmem: ")


@pytest.mark.parametrize("rows", [2**45, 2**63, 2**70])
def test_a_batch_beyond_counting_is_refused_in_one_line(tmp_path: Path, runs: list[Path], rows: int) -> None:
    path = tmp_path / "run"
    path.write_bytes(runs[0].read_bytes())
    changes = {"batch_size": rows, "micro_batch": 8, "clip_norm": None}
    rewritten(path, lambda header, inside: inside["options"].update(changes))
    with pytest.raises(lm.LowmemError, match="this machine cannot give the memory that the plan needs"):
        lm.Trainer.resume(path).epochs((X, Y))


@pytest.mark.parametrize(("flag", "value"), [("ignore", 0.5), ("features", {}), ("html", []), ("one_hot", "x")])
def test_flags_of_other_types_are_refused_in_one_line(
    tmp_path: Path, runs: list[Path], capsys: pytest.CaptureFixture[str], flag: str, value: Any
) -> None:
    path = tmp_path / "run"
    path.write_bytes(runs[-1].read_bytes())
    rewritten(path, lambda header, inside: inside["notes"]["flags"].update({flag: value}))
    assert main(["resume", str(path), "--more", "1"]) == 2
    assert "was not saved by lowmem train" in capsys.readouterr().err
