"""Labels that are text: learnt in the first pass, kept with the run, given back, and no others taken for them."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import lowmem as lm
from lowmem.data import class_names
from lowmem.data.class_names import ClassNames
from lowmem.data.dataset import from_arrays
from lowmem.data.open import load
from lowmem.training.saved_run import open_run
from tests.test_cli import Ran
from tests.test_saved_run import rewritten
from tests.test_streams import ARCH, X, collected, refusal
from tests.test_streams import Y as OTHER_WAY_ROUND

Array = NDArray[Any]
Capture = pytest.CaptureFixture[str]
NAMES = ("Grün, hell", "amber", "setosa")  # sorted by their characters, as Python does
Y = 2 - OTHER_WAY_ROUND  # names appear in another order than they are sorted in
LABELS = np.array(NAMES)[Y]


def npy(folder: Path, labels: Array = LABELS) -> tuple[Path, Path | None]:
    np.save(folder / "x.npy", X)
    np.save(folder / "y.npy", labels)
    return folder / "x.npy", folder / "y.npy"


def npz(folder: Path, labels: Array = LABELS) -> tuple[Path, Path | None]:
    np.savez_compressed(folder / "a.npz", x=X, y=np.char.encode(labels, "utf-8"))
    return folder / "a.npz", None


def csv(folder: Path, labels: Array = LABELS) -> tuple[Path, Path | None]:
    lines = [",".join([*map(repr, row), f'"{label}"']) for row, label in zip(X.tolist(), labels, strict=True)]
    (folder / "a.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "a.csv", None


def headed(folder: Path, labels: Array = LABELS) -> tuple[Path, Path | None]:
    path, _ = csv(folder, labels)
    path.write_text("0,1,2,3,4,species\n" + path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    return path, None


def parquet(folder: Path, labels: Array = LABELS) -> tuple[Path, Path | None]:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table([*X.T, pa.array(labels.tolist())], names=[*"abcde", "class"])
    parquet.write_table(table, folder / "a.parquet", row_group_size=40)
    return folder / "a.parquet", None


def categories(folder: Path, labels: Array = LABELS) -> tuple[Path, Path | None]:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table([*X.T, pa.array(labels.tolist()).dictionary_encode()], names=[*"abcde", "class"])
    parquet.write_table(table, folder / "b.parquet", row_group_size=40)
    return folder / "b.parquet", None


WRITERS: list[Callable[..., tuple[Path, Path | None]]] = [npy, npz, csv, headed, parquet, categories]


@pytest.mark.parametrize("write", WRITERS)
def test_text_becomes_the_numbers_of_the_sorted_names(tmp_path: Path, write: Any) -> None:
    stream = lm.open_data(*write(tmp_path))
    assert (stream.class_names, stream.classes, stream.labels, len(stream)) == (NAMES, 3, True, 103)
    x, y = collected(stream.batches(10, ARCH, None))
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_array_equal(stream.class_counts(4), [*np.bincount(Y), 0])


@pytest.mark.parametrize("write", WRITERS)
def test_names_train_to_the_bits_of_their_numbers(tmp_path: Path, write: Any) -> None:
    ends = []
    for data in ((X, Y), (X, LABELS), (X, LABELS.astype(object)), lm.open_data(*write(tmp_path))):
        trainer = lm.Trainer(lm.MLP(ARCH), batch_size=10, seed=5)
        list(trainer.epochs(data, 2, data))
        ends.append(trainer.mlp.parameters)
    assert all(np.array_equal(ends[0], end) for end in ends)


@pytest.mark.parametrize("write", [npy, npz])
def test_arrays_of_text_are_loaded_too(tmp_path: Path, write: Any) -> None:
    dataset = load(*write(tmp_path))
    np.testing.assert_array_equal(dataset.y, Y)
    assert (dataset.class_names, dataset.classes) == (NAMES, 3)
    assert dataset.take(np.flatnonzero(Y == 0)).classes == 3
    with pytest.raises(lm.InputError, match=r"y\[\d+\]: the label 'setosa' is none of the 2 known classes"):
        load(*write(tmp_path), class_names=NAMES[:2])


@settings(deadline=None, max_examples=50)
@given(labels=st.lists(st.text("abcß日 ", min_size=1, max_size=3).filter(str.strip), min_size=1, max_size=30))
def test_any_names_are_numbered_as_numpy_would(labels: list[str]) -> None:
    dataset = from_arrays(np.zeros((len(labels), 1)), labels, task="classification")
    names, numbers = np.unique([label.strip() for label in labels], return_inverse=True)
    assert dataset.class_names == tuple(names.tolist())
    np.testing.assert_array_equal(dataset.y, numbers)


@pytest.mark.parametrize("write", WRITERS)
def test_a_label_that_was_not_known_is_refused_with_its_row(tmp_path: Path, write: Any) -> None:
    labels = LABELS.copy()
    labels[77] = "setose"
    words = refusal(*write(tmp_path, labels), class_names=NAMES)
    assert "the label 'setose' is none of the 3 known classes (Grün, hell, amber, setosa)" in words
    assert "Did you mean 'setosa'?" in words
    assert {headed: "line 79", csv: "line 78"}.get(write, "77") in words
    assert lm.open_data(*write(tmp_path), class_names=(*NAMES, "x")).classes == 4


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("label", ["", " ", "a\tb\x01"])
def test_a_label_that_is_no_name_is_refused_with_its_row(tmp_path: Path, write: Any, label: str) -> None:
    labels = LABELS.copy()
    labels[80] = label
    words = refusal(*write(tmp_path, labels))
    assert "is no name for a class" in words
    assert {headed: "line 82", csv: "line 81"}.get(write, "80") in words


def test_classes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_names, "MOST_NAMES", 50)
    labels = np.array([f"sample {number}" for number in range(103)])
    for write in WRITERS:
        assert "'sample 50' is one too many after 50 different ones" in refusal(*write(tmp_path, labels))
    monkeypatch.setattr(class_names, "MOST_NAMES", 1000)
    monkeypatch.setattr(class_names, "MOST_CHARACTERS", 100)
    assert "one too many" in refusal(*csv(tmp_path, labels))


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("1,2,7\n3,4,0\n")
    stream = lm.open_data(path, task="classification")
    assert (stream.class_names, stream.classes) == (None, 8)
    path.write_text("1,2,7\n3,4,b\n")
    assert "line 2, column 3: 'b' is no number" in refusal(path)


@pytest.mark.parametrize(
    ("text", "samples"),
    [
        ("1,2,a\n3,4,b\n", 2),  # no names of columns
        ("1,2,a\n", 1),
        ("1,2,a\n3,4,0\n", 1),  # a label would not be followed by a number
        ("0,1,kind\n3,4,b\n", 1),  # columns named by their numbers
        ("u,v,a\n3,4,b\n", 1),
    ],
)
def test_a_first_line_of_names_is_told_from_a_sample(tmp_path: Path, text: str, samples: int) -> None:
    (tmp_path / "a.csv").write_text(text)
    assert len(lm.open_data(tmp_path / "a.csv")) == samples


def test_features_that_are_text_are_refused(tmp_path: Path) -> None:
    path, _ = csv(tmp_path)
    assert f"column 6: {str(LABELS[1])!r} is no number" in refusal(path, target=0)
    path, _ = parquet(tmp_path)
    assert "column 'class' holds string, and numbers are needed" in refusal(path, target="a")
    assert "which can only be labels" in refusal(path, labels=False)
    np.save(tmp_path / "x.npy", LABELS[:, None])
    np.save(tmp_path / "y.npy", Y)
    assert "holds <U10 values" in refusal(tmp_path / "x.npy", tmp_path / "y.npy")
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", LABELS[:, None])
    assert "one label for each sample" in refusal(tmp_path / "x.npy", tmp_path / "y.npy")
    with pytest.raises(lm.InputError, match="one label for each sample"):
        from_arrays(X, LABELS[:, None])


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    x, y = npy(tmp_path)
    assert y is not None
    content = bytearray(y.read_bytes())
    content[-4:] = b"\xff\xff\xff\xff"
    y.write_bytes(content)
    assert "y[102] is no text" in refusal(x, y)
    with pytest.raises(lm.InputError, match=r"y\[102\] is no text"):
        load(x, y)
    np.save(y, np.full(103, b"\xff\xfe"))
    assert "is no UTF-8 text" in refusal(x, y)
    np.save(y, np.zeros(103, "<U0"))
    refusal(x, y)


def test_reading_names_takes_little_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((200_000, 1), np.int8))
    np.save(tmp_path / "y.npy", np.tile(LABELS[:100], 2000))  # 8 MB
    tracemalloc.start()
    try:
        assert lm.open_data(tmp_path / "x.npy", tmp_path / "y.npy").classes == 3
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


# Runs ------------------------------------------------------------------------------------------------------------


def trained(data: Any, path: Path, validation: Any = None) -> lm.Trainer:
    trainer = lm.Trainer(lm.MLP(ARCH), batch_size=10)
    list(trainer.epochs(data, 1, validation))
    trainer.save(path)
    return trainer


def test_names_come_back_with_the_run_and_others_are_refused(tmp_path: Path) -> None:
    assert trained(lm.open_data(*parquet(tmp_path)), tmp_path / "run").class_names == NAMES
    assert open_run(tmp_path / "run").class_names == NAMES
    again = lm.Trainer.resume(tmp_path / "run")
    assert again.class_names == NAMES
    some = Y < 2
    with pytest.raises(lm.InputError, match=r"has the classes Grün, hell, amber and the network was trained on Grün"):
        again.epochs(from_arrays(X[some], LABELS[some]), 1)
    with pytest.raises(lm.InputError, match="has numbers as labels and the network was trained on Grün"):
        again.epochs((X, Y), 1)
    with pytest.raises(lm.InputError, match="'zebra' is none of the 3 known classes"):
        again.epochs((X, np.where(Y > 1, "zebra", LABELS)), 1)
    assert len(list(again.epochs((X[some], LABELS[some]), 1, (X[some], LABELS[some])))) == 1  # numbered as known
    known = from_arrays(X[some], LABELS[some], class_names=NAMES)
    assert again.evaluate((X[some], LABELS[some])) == again.evaluate(known)
    with pytest.raises(lm.InputError, match="was trained on Grün"):
        again.evaluate((X, Y))


def test_validation_of_other_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(lm.InputError, match="the validation data has numbers as labels"):
        trained((X, LABELS), tmp_path / "run", (X, Y))
    with pytest.raises(lm.InputError, match="the validation data has the classes"):
        trained((X, Y), tmp_path / "run", (X, LABELS))
    with pytest.raises(lm.InputError, match=r"has the 3 classes Grün, hell, amber, setosa and the network 2 outputs"):
        lm.Trainer(lm.MLP(lm.Architecture((5, 2))), batch_size=10).epochs((X, LABELS), 1)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("abc", "no list of text"),
        ([1, 2, 3], "no list of text"),
        (["a\nb"], "no list of text"),
        (["a", "a"], "or one twice"),
        (["a", "b", "c", "d"], "4 names of classes for 3 outputs"),
    ],
)
def test_names_in_a_run_that_are_none_are_refused(tmp_path: Path, names: Any, words: str) -> None:
    trained((X, LABELS), tmp_path / "run")
    rewritten(tmp_path / "run", lambda header, inside: inside["data"].update(class_names=names))
    with pytest.raises(lm.InputError, match=words):
        open_run(tmp_path / "run")


FLAGS = ["--layers", "1", "--width", "8", "--batch", "10", "--epochs", "2", "--no-calibrate", "--no-standardise"]


@pytest.mark.parametrize("write", WRITERS)
def test_the_commands_know_names(capsys: Capture, tmp_path: Path, write: Any) -> None:
    source, targets = write(tmp_path)
    data = ["--data", str(source), *([] if targets is None else ["--targets", str(targets)])]
    run = str(tmp_path / "run")
    ran = Ran(capsys, "train", *data, *FLAGS, "--save", run)
    assert (ran.code, "classes Grün, hell, amber, setosa" in ran.out) == (0, True)
    network = open_run(run).network()
    expected = np.array(NAMES)[network.predict(X).argmax(axis=1)]
    ran = Ran(capsys, "predict", run, "--data", str(source))
    assert (ran.err, ran.out.splitlines()) == ("", expected.tolist())
    assert Ran(capsys, "predict", run, "--data", str(source), "--output", str(tmp_path / "p.npy")).code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), expected)
    told = json.loads(Ran(capsys, "evaluate", run, *data, "--json").out)
    assert told["accuracy"] == np.mean(expected == LABELS)
    assert Ran(capsys, "resume", run, "--epochs", "3").code == 0
    labels = LABELS.copy()
    labels[5] = "setose"
    write(tmp_path, labels)
    for command in (["evaluate", run, *data], ["resume", run, "--epochs", "4"]):
        ran = Ran(capsys, *command)
        assert (ran.code, "'setose' is none of the 3 known classes" in ran.err) == (2, True)


def test_numbers_are_not_taken_for_names_nor_names_for_numbers(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "numbers").mkdir()
    named, numbered = csv(tmp_path)[0], csv(tmp_path / "numbers", Y.astype(str))[0]
    for data, other, words in (
        (named, numbered, "line 1, column 6: the label '"),
        (numbered, named, "was trained on labels that are numbers"),
    ):
        run = str(data.with_suffix(".run"))
        assert Ran(capsys, "train", "--data", str(data), *FLAGS, "--save", run).code == 0
        ran = Ran(capsys, "evaluate", run, "--data", str(other))
        assert (ran.code, words in ran.err) == (2, True)


def test_settling_tells_where_numbers_went() -> None:
    names = ClassNames()
    assert [names.number(text) for text in ("b", " a ", b"b", "c")] == [0, 1, 0, 2]
    assert names.settle().tolist() == [1, 0, 2]
    assert names.names == ("a", "b", "c")
    assert names.number("d") == -1
