"""What the task is: decided by the values of y, alike for every format and route; said where they do not say it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import lowmem as lm
from lowmem.data.dataset import from_arrays
from lowmem.data.open import load
from lowmem.data.samples import Samples
from tests.test_cli import Ran
from tests.test_streams import collected

Array = NDArray[Any]
Capture = pytest.CaptureFixture[str]
RNG = np.random.default_rng(3)
N = 100
X = RNG.standard_normal((N, 4))


def npz(folder: Path, y: Array) -> Path:
    np.savez(folder / "a.npz", x=X, y=y)
    return folder / "a.npz"


def csv(folder: Path, y: Array) -> Path:
    rows = [",".join(map(repr, row)) for row in X.tolist()]
    path = folder / "a.csv"
    path.write_text("a,b,c,d,y\n" + "\n".join(f"{row},{value}" for row, value in zip(rows, y.tolist(), strict=True)))
    return path


def parquet(folder: Path, y: Array) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    values = y.tolist() if y.dtype.kind in "US" else y
    parquet.write_table(pa.table([*X.T, pa.array(values)], names=[*"abcdy"]), folder / "a.parquet")
    return folder / "a.parquet"


Open = Callable[..., Samples]
WRITERS = {"npz": npz, "csv": csv, "parquet": parquet}


def stream(write: Any) -> Open:
    return lambda folder, y, **options: lm.open_data(write(folder, y), **options)


def memory(write: Any) -> Open:
    return lambda folder, y, **options: load(write(folder, y), **options)


ROUTES: dict[str, Open] = {f"{name} streamed": stream(write) for name, write in WRITERS.items()}
ROUTES |= {f"{name} loaded": memory(write) for name, write in WRITERS.items()}
ROUTES["arrays"] = lambda folder, y, **options: from_arrays(X, y, **options)
every_route = pytest.mark.parametrize("route", ROUTES)


@every_route
@pytest.mark.parametrize(
    ("y", "task", "classes", "names"),
    [
        (np.arange(N) % 3, "classification", 3, None),
        ((np.arange(N) % 3).astype(float), "classification", 3, None),  # floats that are classes
        (np.arange(N) % 20, "classification", 20, None),  # a fifth of the samples
        (np.where(np.arange(N) % 2, 1, -1), "classification", 2, ("-1", "1")),
        (np.where(np.arange(N) % 2, 1.0, -1.0), "classification", 2, ("-1", "1")),
        (np.arange(N) % 3 - 1, "classification", 3, ("-1", "0", "1")),
        (np.arange(N) % 3 > 1, "classification", 2, None),
        (np.array(["no", "yes"])[np.arange(N) % 2], "classification", 2, ("no", "yes")),
        (np.arange(N) % 3 + 0.5, "regression", 1, None),
        (X[:, 0], "regression", 1, None),
        (RNG.integers(25, 346, N).astype(float), "regression", 1, None),  # of more values than classes have
        (RNG.integers(-50, 50, N).astype(float), "regression", 1, None),
    ],
    ids=str,
)
def test_values_say_what_y_is(
    tmp_path: Path, route: str, y: Array, task: str, classes: int, names: tuple[str, ...] | None
) -> None:
    samples = ROUTES[route](tmp_path, y)
    assert (samples.task, samples.classes, samples.class_names) == (task, classes, names)
    assert any(note.startswith(f"task: {task}") for note in samples.notes)


@every_route
@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.arange(N) % 21, "0 to 20 in 100 samples: 21 classes are more than a fifth"),
        (RNG.integers(25, 346, N), "classes are more than a fifth"),
        (np.arange(N) % 9 - 4, "whole numbers from -4 to 4"),
        (np.array([f"person {n % 50}" for n in range(N)]), "50 different texts in 100 samples"),
    ],
)
def test_what_is_not_certain_is_refused_with_what_to_say(tmp_path: Path, route: str, y: Array, words: str) -> None:
    with pytest.raises(lm.InputError) as error:
        ROUTES[route](tmp_path, y)
    assert words in str(error.value)
    assert 'task="classification"' in str(error.value)
    for task in ("classification", "regression"):
        if y.dtype.kind != "U" or task == "classification":
            assert ROUTES[route](tmp_path, y, task=task).task == task


@every_route
def test_a_task_may_be_set(tmp_path: Path, route: str) -> None:
    whole = ROUTES[route](tmp_path, np.arange(N) % 3, task="regression")
    assert (whole.labels, whole.classes, whole.targets.columns) == (False, 1, 1)
    batches = whole.batches(N, lm.Architecture((4, 1), loss="mse"), None)
    np.testing.assert_array_equal(collected(batches)[1][:, 0], np.arange(N) % 3)
    with pytest.raises(lm.InputError, match=r"y\[1\] is no whole number; labels are whole numbers from 0 or text"):
        ROUTES[route](tmp_path, np.where(np.arange(N) == 1, 0.5, 0), task="classification")
    with pytest.raises(lm.InputError, match="y is text, which can only be labels; regression needs numbers"):
        ROUTES[route](tmp_path, np.full(N, "a"), task="regression")
    with pytest.raises(lm.InputError, match="unknown task 'regresion'. Did you mean 'regression'?"):
        ROUTES[route](tmp_path, np.arange(N) % 3, task="regresion")


@every_route
def test_minus_one_and_one_are_classes_that_keep_their_names(tmp_path: Path, route: str) -> None:
    y = np.where(RNG.random(N) < 0.5, -1, 1)
    samples = ROUTES[route](tmp_path, y)
    batches = samples.batches(N, lm.Architecture((4, 2)), None)
    np.testing.assert_array_equal(collected(batches)[1], (y + 1) // 2)
    assert samples.class_counts(2).tolist() == [np.sum(y < 0), np.sum(y > 0)]
    again = ROUTES[route](tmp_path, np.ones(N, int), class_names=("-1", "1"))
    assert collected(again.batches(N, lm.Architecture((4, 2)), None))[1].tolist() == [1] * N
    with pytest.raises(lm.InputError, match=r"the label 2 is none of the 2 known classes \(-1, 1\)"):
        ROUTES[route](tmp_path, np.where(np.arange(N) == 40, 2, y), class_names=("-1", "1"))


@pytest.mark.parametrize("columns", [1, 3])
def test_a_column_of_labels_is_labels_and_several_are_targets(tmp_path: Path, columns: int) -> None:
    y = np.tile((np.arange(N) % 3)[:, None], (1, columns))
    for samples in (stream(npz)(tmp_path, y), memory(npz)(tmp_path, y), from_arrays(X, y)):
        assert (samples.labels, samples.classes) == ((True, 3) if columns == 1 else (False, 3))
    if columns > 1:
        with pytest.raises(lm.InputError, match="labels are one whole number for each sample. One-hot rows"):
            lm.open_data(npz(tmp_path, y), task="classification")


def test_other_ways_to_say_the_task_go_on_to_work(tmp_path: Path) -> None:
    path = npz(tmp_path, np.arange(N) % 30)
    assert lm.open_data(path, labels=True).labels
    assert not lm.open_data(path, labels=False).labels
    with pytest.raises(lm.InputError, match="contradict each other"):
        lm.open_data(path, labels=True, task="regression")


# In Python the loss says it --------------------------------------------------------------------------------------


@pytest.mark.parametrize("y", [np.arange(N) * 3, np.arange(N) * 3.0, np.where(np.arange(N) % 2, 1, -1)])
def test_a_loss_of_numbers_takes_whole_numbers(y: Array) -> None:
    ends = []
    for targets in (y, y.astype(np.float32)[:, None]):
        trainer = lm.Trainer(lm.MLP(lm.Architecture((4, 8, 1), loss="mse")), batch_size=20)
        list(trainer.epochs((X, targets), 2))
        ends.append(trainer.mlp.parameters)
    assert np.array_equal(ends[0], ends[1])


def test_a_loss_of_labels_takes_floats_and_negative_numbers() -> None:
    ends = []
    y = np.arange(N) % 2
    for targets in (y, y.astype(float), 2 * y - 1, (2 * y - 1).astype(float), y[:, None]):
        trainer = lm.Trainer(lm.MLP(lm.Architecture((4, 8, 2))), batch_size=20)
        list(trainer.epochs((X, targets), 2, (X, targets)))
        ends.append((trainer.mlp.parameters.tobytes(), trainer.evaluate((X, targets))))
    assert len(set(ends)) == 1


# Commands --------------------------------------------------------------------------------------------------------

FLAGS = ["--layers", "1", "--width", "8", "--batch", "20", "--epochs", "2", "--no-calibrate"]


@pytest.mark.parametrize("write", WRITERS.values())
@pytest.mark.parametrize("stored", [[], ["--ram", "4GB"], ["--stream"]])
def test_the_command_says_and_takes_the_task(capsys: Capture, tmp_path: Path, write: Any, stored: list[str]) -> None:
    data = ["--data", str(write(tmp_path, RNG.integers(25, 346, N)))]
    ran = Ran(capsys, "train", *data, *FLAGS, *stored)
    assert (ran.code, "--task classification or --task regression" in ran.err) == (2, True)
    for flag in (["--task", "regression"], ["--loss", "mse"], ["--loss", "huber"]):
        ran = Ran(capsys, "train", *data, *FLAGS, *stored, *flag)
        assert (ran.code, ran.err) == (0, "")
        assert "task: regression of one number" in ran.out
        assert "accuracy" not in ran.out
    ran = Ran(capsys, "train", *data, *FLAGS, *stored, "--task", "classification")
    assert (ran.code, "task: classification" in ran.out) == (0, True)


@pytest.mark.parametrize("stored", [[], ["--stream"]])
def test_large_targets_of_regression_are_remarked_on_before_training(
    capsys: Capture, tmp_path: Path, stored: list[str]
) -> None:
    run, prices = str(tmp_path / "run"), RNG.random(N) * 4e5 + 1e5
    words = "a network learns such large ones slowly"
    for y, large in ((prices, True), (-prices, True), (prices / 1e5, False)):
        data = ["--data", str(npz(tmp_path, y)), "--save", run, "--force"]
        ran = Ran(capsys, "train", *data, *FLAGS, *stored)
        assert (ran.code, words in ran.out.partition("\nepoch ")[0]) == (0, large)
    for whole, task in ((np.arange(N) % 3 * 200, "classification"), (np.arange(N) * 5, "regression")):
        data = ["--data", str(npz(tmp_path, whole)), "--save", run, "--force", "--task", task]
        ran = Ran(capsys, "train", *data, *FLAGS, *stored)
        assert (ran.code, words in ran.out) == (0, task == "regression")
    assert words not in Ran(capsys, "resume", run, "--epochs", "3").out


def test_binary_cross_entropy_takes_labels(capsys: Capture, tmp_path: Path) -> None:
    for y, outputs in ((np.arange(N) % 2, 1), (np.array(["n", "y"])[np.arange(N) % 2], 1), (np.arange(N) % 3, 3)):
        run = str(tmp_path / "run")
        ran = Ran(capsys, "train", "--data", str(csv(tmp_path, y)), *FLAGS, "--loss", "bce", "--save", run, "--force")
        assert (ran.code, f", {outputs}), relu, bce" in ran.out) == (0, True)
        assert Ran(capsys, "resume", run, "--epochs", "3").code == 0


@pytest.mark.parametrize("y", [np.arange(N) % 3, np.where(np.arange(N) % 2, 1, -1), RNG.integers(25, 346, N) * 1.0])
def test_memory_and_stream_train_to_the_same_bits(capsys: Capture, tmp_path: Path, y: Array) -> None:
    from lowmem.training.saved_run import open_run

    ends: list[Array] = []
    for flags in ([], ["--stream"]):
        run = tmp_path / f"run{len(ends)}"
        ran = Ran(capsys, "train", "--data", str(npz(tmp_path, y)), *FLAGS, *flags, "--save", str(run))
        assert ran.code == 0
        ends.append(open_run(run).network().parameters)
    assert np.array_equal(ends[0], ends[1])
