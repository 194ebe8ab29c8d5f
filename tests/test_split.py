"""The split: seeded, of every class its share, the same in every format and route, in memory for a bit a row."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import lowmem as lm
from lowmem.data.dataset import from_arrays
from lowmem.data.open import load
from lowmem.data.row_mask import RowMask, mark_rows
from lowmem.data.samples import Samples
from lowmem.data.split import split, split_of_earlier_versions
from lowmem.training.saved_run import open_run
from tests.test_cli import Ran
from tests.test_saved_run import rewritten
from tests.test_streams import WRITERS, X, Y, collected, npy
from tests.test_task import csv, npz, parquet

Array = NDArray[Any]
Capture = pytest.CaptureFixture[str]
FLAGS = ["--layers", "1", "--width", "8", "--batch", "20", "--epochs", "2", "--no-calibrate"]


def marked(mask: RowMask, samples: int) -> Array:
    return mask.between(0, samples, marked=True)


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 5), min_size=2, max_size=200),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
    at_once=st.integers(1, 50),
)
def test_the_marks_do_not_depend_on_how_labels_come(labels: list[int], share: float, seed: int, at_once: int) -> None:
    y = np.array(labels)
    chosen = round(len(y) * share)
    if not 0 < chosen < len(y):
        return
    counts = np.bincount(y, minlength=7)
    whole = mark_rows(len(y), share, seed, counts, (y,))
    parts = mark_rows(len(y), share, seed, counts, (y[i : i + at_once] for i in range(0, len(y), at_once)))
    held = marked(whole, len(y))
    np.testing.assert_array_equal(held, marked(parts, len(y)))
    assert len(held) == whole.count(marked=True) == chosen
    given_by = np.bincount(y[held], minlength=7)
    assert (np.abs(given_by - counts * chosen / len(y)) < 1).all()
    single = (counts == 1) & (given_by == 1)
    others = (counts > 1) & (given_by < np.ceil(counts * chosen / len(y))) & (given_by < counts - 1)
    assert not single.any() or not others.any()  # the only row of a class is given when no other class has one to give


@given(
    samples=st.integers(2, 20_000), share=st.floats(0.01, 0.99), seed=st.integers(0, 9), number=st.integers(0, 10**6)
)
@settings(deadline=None, max_examples=60)
def test_a_marked_row_is_found_by_its_number(samples: int, share: float, seed: int, number: int) -> None:
    if not 0 < round(samples * share) < samples:
        return
    mask = mark_rows(samples, share, seed)
    for wanted in (True, False):
        rows = mask.between(0, samples, marked=wanted)
        at = number % len(rows)
        assert mask.row(at, marked=wanted) == rows[at]
        assert len(rows) == mask.count(marked=wanted)


def test_a_mask_takes_a_bit_for_each_row() -> None:
    tracemalloc.start()
    try:
        mask = mark_rows(4_000_000, 0.2, 0)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 4_000_000 / 8 * 1.1
    assert peak < 4_000_000 / 8 + 2**20
    assert mask.nbytes < 4_000_000 / 8 * 1.1


def test_seeds_hold_out_other_rows_and_every_row_is_held_out_by_some() -> None:
    y = np.arange(100) % 4
    splits = [frozenset(split(from_arrays(np.zeros((100, 1)), y), 0.2, seed)[1].tolist()) for seed in range(60)]
    assert len(set(splits)) == 60
    times = np.bincount(np.concatenate([list(held) for held in splits]), minlength=100)
    assert times.min() >= 2
    assert times.max() <= 30


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("write", WRITERS)
def test_every_format_and_route_holds_out_the_same_rows(tmp_path: Path, write: Any, labels: bool) -> None:
    paths = write(tmp_path)
    task = None if labels else "regression"
    architecture = lm.Architecture((5, 8, 3 if labels else 1), loss="cross_entropy" if labels else "mse")
    expected = from_arrays(X, Y, task=task).split(0.3, 7)
    both: list[Samples] = [lm.open_data(*paths, shuffle_rows=20, task=task), load(*paths, task=task)]
    for data in both:
        for part, like in zip(data.split(0.3, 7), expected, strict=True):
            got, wanted = (collected(samples.batches(10, architecture, None)) for samples in (part, like))
            np.testing.assert_array_equal(got[0], wanted[0])
            np.testing.assert_array_equal(got[1], wanted[1])
            assert part.batch_bytes(10, architecture) == part.batches(10, architecture, 0).nbytes


@pytest.mark.parametrize("write", WRITERS)
def test_parts_of_a_file_are_shuffled_weighted_and_resumed_as_a_file_is(tmp_path: Path, write: Any) -> None:
    train, _ = lm.open_data(*write(tmp_path), shuffle_rows=15).split(0.3)
    rows = collected(train.batches(7, lm.Architecture((5, 3)), None))[0]
    batches = train.batches(7, lm.Architecture((5, 3)), 3)
    first = collected(batches, 0)[0]
    assert sorted(first[:, 0]) == sorted(rows[:, 0])
    np.testing.assert_array_equal(collected(batches, 0, 4)[0], first[28:])
    assert train.class_counts(3).sum() == len(train)
    inner = train.split(0.5)
    assert len(inner[0]) + len(inner[1]) == len(train)


@pytest.mark.parametrize("write", [npz, csv, parquet])
@pytest.mark.parametrize("flags", [[], ["--stream"], ["--ram", "4GB"]])
def test_sorted_files_hold_out_every_class(capsys: Capture, tmp_path: Path, write: Any, flags: list[str]) -> None:
    y = np.sort(np.arange(100) % 4)
    ran = Ran(capsys, "train", "--data", str(write(tmp_path, y)), *FLAGS, *flags)
    assert ran.code == 0
    assert "held out: 0.2 of the samples, of each class its share, by seed 0" in ran.out
    _, held = lm.open_data(tmp_path / next(tmp_path.glob("a.*")).name).split(0.2)
    assert held.class_counts(4).tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize("write", [npz, csv, parquet])
@pytest.mark.parametrize("flags", [[], ["--stream"]])
def test_the_only_row_of_a_class_is_trained_on(capsys: Capture, tmp_path: Path, write: Any, flags: list[str]) -> None:
    for row in (0, 50, 99):
        y = np.arange(100) % 2
        y[row] = 2
        data = write(tmp_path, y)
        for seed in range(4):
            sources: list[Samples] = [lm.open_data(data), load(data)]
            for source in sources:
                train, held = source.split(0.2, seed)
                assert (train.class_counts(3)[2], held.class_counts(3)[2]) == (1, 0)
        assert Ran(capsys, "train", "--data", str(data), *FLAGS, *flags).code == 0


def test_classes_that_only_one_part_has_do_not_change_the_network(tmp_path: Path) -> None:
    y = np.arange(100) % 10 + 10 * (np.arange(100) == 7)
    parts: list[Samples] = [
        lm.open_data(npz(tmp_path, y)),
        load(tmp_path / "a.npz"),
        from_arrays(np.zeros((100, 1)), y),
    ]
    for data in parts:
        assert [part.classes for part in data.split(0.4)] == [18, 18]


def test_training_on_a_part_of_a_file_keeps_the_plan(tmp_path: Path) -> None:
    samples = 40_000
    np.save(tmp_path / "x.npy", np.zeros((samples, 100), np.float32))
    np.save(tmp_path / "y.npy", np.arange(samples) % 3)
    stream = lm.open_data(tmp_path / "x.npy", tmp_path / "y.npy", shuffle_rows=2000)  # 16 MB
    architecture = lm.Architecture((100, 3))
    list(lm.Trainer(lm.MLP(architecture), batch_size=500).epochs(stream, 1, stream))  # what is imported is no step's
    trainer = lm.Trainer(lm.MLP(architecture), batch_size=500)
    tracemalloc.start()
    try:
        train, held = stream.split(0.2)
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.reset_peak()
        list(trainer.epochs(train, 2, held))
        assert tracemalloc.get_traced_memory()[1] < trainer.plan.peak_bytes + 2**17
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("columns", [50, 4000])
def test_names_of_columns_are_counted_where_a_run_is_saved(tmp_path: Path, columns: int) -> None:
    names = [f"a long name of column {number}" for number in range(columns)]
    row = ",".join(["1.5"] * columns)
    path = tmp_path / "wide.csv"
    path.write_text("\n".join([",".join([*names, "y"]), *(f"{row},{n % 2}" for n in range(40))]))
    stream = lm.open_data(path, shuffle_rows=5)
    trainer = lm.Trainer(lm.MLP(lm.Architecture((columns, 2))), batch_size=5)
    tracemalloc.start()
    try:
        list(trainer.epochs(stream, 2, save_to=tmp_path / "run"))
        assert tracemalloc.get_traced_memory()[1] < trainer.plan.peak_bytes + 2**16
    finally:
        tracemalloc.stop()


# Commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--stream"]])
def test_nothing_is_held_out_where_that_is_asked_for(capsys: Capture, tmp_path: Path, flags: list[str]) -> None:
    run = str(tmp_path / "run")
    data = str(npz(tmp_path, np.arange(100) % 3))
    ran = Ran(capsys, "train", "--data", data, *FLAGS, *flags, "--held-out", "0", "--save", run)
    assert (ran.code, "100 samples to train on, 0 held out" in ran.out) == (0, True)
    assert "nothing is held out" in ran.out
    assert "held-out loss" not in ran.out
    ran = Ran(capsys, "resume", run, "--epochs", "3")
    assert (ran.code, "100 samples to train on, 0 held out" in ran.out) == (0, True)


@pytest.mark.parametrize("flags", [[], ["--stream"], ["--standardise"]])
def test_a_file_to_validate_on(capsys: Capture, tmp_path: Path, flags: list[str]) -> None:
    run = str(tmp_path / "run")
    (tmp_path / "more").mkdir()
    data, other = csv(tmp_path, np.arange(100) % 3), parquet(tmp_path / "more", np.arange(100) % 3)
    ran = Ran(capsys, "train", "--data", str(data), "--validation", str(other), *FLAGS, *flags, "--save", run)
    assert (ran.code, "100 samples to train on, 100 held out" in ran.out) == (0, True)
    assert f"validated on {other}" in ran.out
    assert Ran(capsys, "resume", run, "--epochs", "3").code == 0
    ran = Ran(capsys, "train", "--data", str(data), "--validation", str(other), *FLAGS, "--held-out", "0.2")
    assert (ran.code, "leave one out" in ran.err) == (2, True)
    bad = csv(tmp_path / "more", np.arange(100) % 3)
    bad.write_text(bad.read_text().replace("a,b,c,d,y", "a,b,e,d,y"))
    ran = Ran(capsys, "train", "--data", str(data), "--validation", str(bad), *FLAGS)
    assert (ran.code, "lacks the column 'c'" in ran.err) == (2, True)
    ran = Ran(capsys, "train", "--data", str(data), "--validation", str(tmp_path / "none.csv"), *FLAGS)
    assert (ran.code, "no file or directory" in ran.err) == (2, True)


@pytest.mark.parametrize("flags", [[], ["--stream"]])
def test_a_folder_of_mnist_gives_its_test_set_or_a_share_of_its_training_part(
    capsys: Capture, tmp_path: Path, flags: list[str]
) -> None:
    from tests.test_data import idx_bytes

    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 12)):
        images = rng.integers(0, 256, (count, 3, 3)).astype(np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes((np.arange(count) % 3).astype(np.uint8)))
    run = str(tmp_path / "run")
    for held_out, sizes in (
        ([], "60 samples to train on, 12"),
        (["--held-out", "0.25"], "45 samples to train on, 15"),
    ):
        data = ["--data", str(tmp_path), *held_out]
        ran = Ran(capsys, "train", *data, *FLAGS, *flags, "--save", run, "--force")
        assert (ran.code, f"{sizes} held out" in ran.out) == (0, True)
        assert ("left out: the test part of the folder" in ran.out) == bool(held_out)
        ran = Ran(capsys, "resume", run, "--epochs", "3")
        assert (ran.code, f"{sizes} held out" in ran.out) == (0, True)
    ran = Ran(capsys, "train", "--data", str(tmp_path), "--held-out", "0", *FLAGS, *flags)
    assert (ran.code, "60 samples to train on, 0 held out" in ran.out) == (0, True)
    assert "left out: the test part of the folder" in ran.out


@pytest.mark.parametrize("flags", [[], ["--stream"]])
def test_of_an_archive_to_validate_on_the_test_part_is_taken(
    capsys: Capture, tmp_path: Path, flags: list[str]
) -> None:
    path = str(tmp_path / "parts.npz")
    np.savez(path, x_train=X, y_train=Y, x_test=X[:7], y_test=Y[:7])
    ran = Ran(capsys, "train", "--data", path, "--validation", path, *FLAGS, *flags)
    assert (ran.code, f"{len(X)} samples to train on, 7 held out" in ran.out) == (0, True)
    assert f"validated on the test part of {path}\n" in ran.out


def earlier(run: Path, **flags: Any) -> None:
    """Turn a saved run into one that an earlier version saved: flags of today are missing, the split is another."""

    def change(header: Any, inside: Any) -> None:
        for name in ("splitting", "features", "ignore", "header", "task", "validation"):
            inside["notes"]["flags"].pop(name)
        inside["notes"]["flags"].update({"held_out": 0.2, **flags})
        for name in ("columns", "scale"):
            inside["data"].pop(name, None)

    rewritten(run, change)


@pytest.mark.parametrize("flags", [[], ["--stream"]])
def test_runs_of_earlier_versions_keep_their_split(capsys: Capture, tmp_path: Path, flags: list[str]) -> None:
    data, run = npz(tmp_path, np.arange(100) % 3), tmp_path / "run"
    assert Ran(capsys, "train", "--data", str(data), *FLAGS, *flags, "--save", str(run)).code == 0
    earlier(run)
    trainer = lm.Trainer.resume(run)
    train: Samples
    held: Samples
    if flags:
        train, held = lm.open_data(data).split_in_order(0.2)
        assert (len(train), len(held)) == (80, 20)
        np.testing.assert_array_equal(
            collected(held.batches(5, trainer.mlp.architecture, None))[0], np.load(data)["x"][80:].astype(np.float32)
        )
    else:
        whole = load(data)
        rows, rest = split_of_earlier_versions(whole, 0.2, 0)
        train, held = whole.take(rows), whole.take(rest)
    list(trainer.epochs(train, 1, held))
    assert Ran(capsys, "resume", str(run), "--epochs", "3").code == 0
    assert np.array_equal(open_run(run).network().parameters, trainer.mlp.parameters)


def test_a_run_of_an_earlier_version_keeps_an_index_that_it_was_trained_on(capsys: Capture, tmp_path: Path) -> None:
    data, run = csv(tmp_path, np.arange(100) % 3), tmp_path / "run"
    assert Ran(capsys, "train", "--data", str(data), *FLAGS, "--save", str(run)).code == 0
    lines = data.read_text().splitlines()
    # As pandas writes an index, which was a feature then; another feature makes room for it.
    data.write_text("\n".join([",b,c,d,y", *(f"{n},{line.split(',', 1)[1]}" for n, line in enumerate(lines[1:]))]))
    earlier(run)
    for command in (["evaluate"], ["predict"], ["resume", "--epochs", "3"]):
        ran = Ran(capsys, command[0], str(run), "--data", str(data), *command[1:])
        assert (ran.code, ran.err) == (0, "")


def test_a_split_of_a_stream_gives_the_bits_of_its_rows_in_arrays(tmp_path: Path) -> None:
    whole = from_arrays(X, Y)
    train, held = split(whole, 0.2, 3)
    ends = []
    streams = lm.open_data(*npy(tmp_path), shuffle_rows=103).split(0.2, 3)
    for one, other in ((whole.take(train), whole.take(held)), streams):
        trainer = lm.Trainer(lm.MLP(lm.Architecture((5, 8, 3))), batch_size=10, seed=5)
        epochs = list(trainer.epochs(one, 3, other))
        ends.append((trainer.mlp.parameters.tobytes(), epochs[-1].validation_loss))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("write", WRITERS)
def test_standardisation_is_that_of_the_samples_to_train_on(tmp_path: Path, write: Any) -> None:
    paths, (rows, _) = write(tmp_path), split(from_arrays(X, Y), 0.3, 7)
    mean, deviation = X[rows].mean(axis=0), X[rows].std(axis=0)
    found = []
    for data in (lm.open_data(*paths, standardise=True), load(*paths, standardise=True)):
        train, held = data.split(0.3, 7)
        assert train.standardisation is not None
        assert train.standardisation is held.standardisation
        np.testing.assert_allclose(train.standardisation.mean, mean, rtol=1e-6)
        np.testing.assert_allclose(train.standardisation.deviation, deviation, rtol=1e-6)
        found.append(train.standardisation.mean.tobytes())
        inner, _ = train.split(0.5, 1)
        assert inner.standardisation is not None
        assert not np.allclose(inner.standardisation.mean, mean, rtol=1e-6)
        test, _ = held.split(0.5, 1)  # that of the training, however what is held out is divided
        assert test.standardisation is held.standardisation
        like = lm.open_data(*paths, standardise=train.standardisation)
        assert like.split(0.3, 8)[0].standardisation is train.standardisation
    assert found[0] == found[1]


@pytest.mark.parametrize("write", [npz, csv, parquet])
def test_the_command_standardises_by_the_samples_that_it_trains_on(
    capsys: Capture, tmp_path: Path, write: Any
) -> None:
    run, data = tmp_path / "run", write(tmp_path, np.arange(100) % 3)
    flags = ["--data", str(data), *FLAGS, "--standardise", "--save", str(run)]
    assert Ran(capsys, "train", *flags).code == 0
    kept = lm.open_data(data, standardise=True).split(0.2, 0)[0].standardisation
    saved = open_run(run).standardisation()
    assert kept is not None
    assert saved is not None
    assert kept.mean.tobytes() == saved.mean.tobytes()
    # A run of an earlier version, which took the mean of all samples, goes on with what it has.
    assert Ran(capsys, "train", *flags, "--epochs", "4").code == 0
    whole = open_run(run).network().parameters
    assert Ran(capsys, "train", *flags).code == 0
    assert Ran(capsys, "resume", str(run), "--epochs", "4").code == 0
    assert np.array_equal(open_run(run).network().parameters, whole)
