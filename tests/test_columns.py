"""Columns have identity: names are read, kept with the run and checked; an index is left out; others are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import lowmem as lm
from lowmem.data.dataset import from_arrays
from lowmem.data.formats.columns import Schema
from lowmem.data.open import load
from lowmem.training.saved_run import open_run
from tests.test_cli import Ran
from tests.test_saved_run import rewritten
from tests.test_streams import collected, refusal

pd = pytest.importorskip("pandas")

Array = NDArray[Any]
Capture = pytest.CaptureFixture[str]
RNG = np.random.default_rng(4)
X = RNG.standard_normal((90, 3)).astype(np.float32)
Y = np.arange(90) % 3
NAMES = ("length", "width", "depth")
ARCH = lm.Architecture((3, 8, 3))
FLAGS = ["--layers", "1", "--width", "8", "--batch", "10", "--epochs", "2", "--no-calibrate"]


def frame() -> Any:
    """Return the samples as a data frame."""
    table = pd.DataFrame(X, columns=list(NAMES))
    table["kind"] = np.array(["a", "b", "c"])[Y]
    return table


def written(table: Any, path: Path, **options: Any) -> Path:
    """Write a data frame as CSV or Parquet, without its index unless asked."""
    if path.suffix == ".csv":
        table.to_csv(path, **{"index": False, **options})
    else:
        table.to_parquet(path, **options)
    return path


def inputs(stream: Any) -> Array:
    """Return x of a stream, in the order of the file."""
    return collected(stream.batches(30, lm.Architecture((stream.features, 3)), None))[0]


ENDINGS = pytest.mark.parametrize("ending", [".csv", ".parquet"])


# Order, missing and unknown columns ------------------------------------------------------------------------------


@ENDINGS
def test_columns_in_another_order_are_put_in_order(tmp_path: Path, ending: str) -> None:
    trained_on = lm.open_data(written(frame(), tmp_path / f"a{ending}"))
    assert trained_on.columns is not None
    assert trained_on.columns.features == NAMES
    swapped = written(frame()[["kind", "depth", "length", "width"]], tmp_path / f"b{ending}")
    again = lm.open_data(swapped, columns=trained_on.columns, class_names=trained_on.class_names)
    np.testing.assert_array_equal(inputs(again), X)
    assert again.columns is not None
    assert again.columns.features == NAMES
    assert any("another order" in remark for remark in again.remarks)
    alone = lm.open_data(swapped, columns=trained_on.columns, inputs_only=True)
    np.testing.assert_array_equal(inputs(alone), X)
    without = written(frame()[["width", "depth", "length"]], tmp_path / f"c{ending}")
    np.testing.assert_array_equal(inputs(lm.open_data(without, columns=trained_on.columns, inputs_only=True)), X)


@ENDINGS
def test_missing_and_unknown_columns_are_refused_by_name(tmp_path: Path, ending: str) -> None:
    columns = lm.open_data(written(frame(), tmp_path / f"a{ending}")).columns
    fewer = written(frame().drop(columns="width"), tmp_path / f"b{ending}")
    assert "lacks the column 'width', which the network was trained on" in refusal(fewer, columns=columns)
    renamed = written(frame().rename(columns={"width": "breadth"}), tmp_path / f"c{ending}")
    words = refusal(renamed, columns=columns)
    assert "lacks the column 'width'" in words
    assert "It has 'breadth'" in words
    more = frame()
    more.insert(1, "extra", 1.5)
    path = written(more, tmp_path / f"d{ending}")
    words = refusal(path, columns=columns)
    assert "has the column 'extra', which the network was not trained on" in words
    assert 'ignore="extra"' in words
    np.testing.assert_array_equal(inputs(lm.open_data(path, columns=columns, ignore="extra")), X)
    targetless = written(frame().drop(columns="kind"), tmp_path / f"e{ending}")
    assert "has no column 'kind', the target of training" in refusal(targetless, columns=columns)


@ENDINGS
def test_the_commands_know_the_columns_of_the_training(capsys: Capture, tmp_path: Path, ending: str) -> None:
    run = str(tmp_path / "run")
    data = written(frame(), tmp_path / f"a{ending}")
    ran = Ran(capsys, "train", "--data", str(data), *FLAGS, "--save", run)
    assert (ran.code, "target: 'kind', the last column; features: 'length', 'width', 'depth'" in ran.out) == (0, True)
    assert open_run(run).columns == Schema((*NAMES, "kind"), (0, 1, 2), 3, None, 4)
    right = Ran(capsys, "evaluate", run, "--data", str(data), "--json").out
    swapped = written(frame()[["width", "kind", "length", "depth"]], tmp_path / f"b{ending}")
    ran = Ran(capsys, "evaluate", run, "--data", str(swapped), "--json")
    assert ran.out == right
    assert "in another order" in ran.err
    predicted = Ran(capsys, "predict", run, "--data", str(data)).out
    assert Ran(capsys, "predict", run, "--data", str(swapped)).out == predicted
    fewer = written(frame().drop(columns="width"), tmp_path / f"c{ending}")
    for command in ("evaluate", "predict"):
        ran = Ran(capsys, command, run, "--data", str(fewer))
        assert (ran.code, "lacks the column 'width'" in ran.err) == (2, True)
    more = frame().assign(extra=2.5)[["extra", *NAMES, "kind"]]
    path = written(more, tmp_path / f"d{ending}")
    ran = Ran(capsys, "predict", run, "--data", str(path))
    assert (ran.code, "--ignore extra" in ran.err) == (2, True)
    assert Ran(capsys, "predict", run, "--data", str(path), "--ignore", "extra").out == predicted
    ran = Ran(capsys, "resume", run, "--data", str(fewer), "--epochs", "3")
    assert (ran.code, "lacks the column 'width'" in ran.err) == (2, True)
    ran = Ran(capsys, "resume", run, "--data", str(swapped), "--epochs", "3")
    assert (ran.code, "in another order" in ran.out) == (0, True)


def test_a_run_resumed_on_swapped_columns_reaches_the_same_weights(capsys: Capture, tmp_path: Path) -> None:
    ends = []
    for order in ([*NAMES, "kind"], ["kind", *reversed(NAMES)]):
        run, data = str(tmp_path / "run"), written(frame(), tmp_path / "a.csv")
        assert Ran(capsys, "train", "--data", str(data), *FLAGS, "--save", run).code == 0
        other = written(frame()[order], tmp_path / "other.csv")
        assert Ran(capsys, "resume", run, "--data", str(other), "--epochs", "4").code == 0
        ends.append(open_run(run).network().parameters)
    assert np.array_equal(ends[0], ends[1])


def test_a_table_without_names_is_taken_in_the_order_of_training_and_that_is_said(tmp_path: Path) -> None:
    columns = lm.open_data(written(frame(), tmp_path / "a.csv")).columns
    bare = written(frame(), tmp_path / "b.csv", header=False)
    stream = lm.open_data(bare, columns=columns, inputs_only=True)
    np.testing.assert_array_equal(inputs(stream), X)
    assert stream.remarks == ("columns without names are taken in the order of training",)
    alone = written(frame()[list(NAMES)], tmp_path / "c.csv", header=False)
    np.testing.assert_array_equal(inputs(lm.open_data(alone, columns=columns, inputs_only=True)), X)
    indexed = lm.open_data(written(frame(), tmp_path / "e.csv", index=True))
    for path in (bare, alone):
        stream = lm.open_data(path, columns=indexed.columns, inputs_only=True)
        np.testing.assert_array_equal(inputs(stream), X)
    again = lm.open_data(bare, columns=indexed.columns, class_names=indexed.class_names)
    np.testing.assert_array_equal(inputs(again), X)
    fewer = written(frame()[["length", "kind"]], tmp_path / "d.csv", header=False)
    assert "has 2 columns; the data of training had 4, 3 of them features" in refusal(fewer, columns=columns)


# Features and ignored columns ------------------------------------------------------------------------------------


@ENDINGS
def test_features_and_ignored_columns_are_chosen_by_name_or_number(tmp_path: Path, ending: str) -> None:
    table = frame()
    table.insert(0, "date", [f"2024-01-{1 + day % 28:02}" for day in range(90)])
    table.insert(1, "id", np.arange(1000, 1090))
    path = written(table, tmp_path / f"a{ending}")
    for ignore in ("date,id", ["date", "id"], [0, 1], ("date", 1)):
        np.testing.assert_array_equal(inputs(lm.open_data(path, ignore=ignore)), X)
        np.testing.assert_array_equal(load(path, ignore=ignore).x, X)
    some = lm.open_data(path, features="depth,length")
    np.testing.assert_array_equal(inputs(some), X[:, [2, 0]])
    assert some.columns is not None
    assert some.columns.features == ("depth", "length")
    other = lm.open_data(path, target="width", features=["length"], task="regression")
    assert (other.features, other.labels) == (1, False)
    assert "'date'" in refusal(path)
    assert "has no column 'dat' to be ignored" in refusal(path, ignore="dat")
    assert "Did you mean 'date'?" in refusal(path, ignore="dat")
    assert "is to be ignored, and needed too" in refusal(path, ignore="kind", target="kind")
    assert "named as a feature, and as something else too" in refusal(path, features="length,length")
    assert "named as a feature, and as something else too" in refusal(path, features="length,kind", target="kind")


@pytest.mark.parametrize("features", [[], "", " , ", ()])
def test_no_feature_at_all_is_not_all_of_them(tmp_path: Path, features: Any) -> None:
    (tmp_path / "a.csv").write_text("a,b,y\n1.5,2,0\n2.5,3,1\n")
    with pytest.raises(lm.InputError, match="features must name at least one column; got .* Leave it out to take all"):
        lm.open_data(tmp_path / "a.csv", features=features)


def test_what_is_ignored_in_training_is_ignored_later(capsys: Capture, tmp_path: Path) -> None:
    table = frame()
    table.insert(0, "date", "today")
    data, run = written(table, tmp_path / "a.csv"), str(tmp_path / "run")
    ran = Ran(capsys, "train", "--data", str(data), *FLAGS, "--save", run)
    assert (ran.code, "'today' is no number" in ran.err, "--ignore date" in ran.err) == (2, True, True)
    ran = Ran(capsys, "train", "--data", str(data), "--ignore", "date", *FLAGS, "--save", run)
    assert (ran.code, "left out: 'date'" in ran.out) == (0, True)
    right = Ran(capsys, "evaluate", run, "--data", str(data), "--json").out
    without = written(frame(), tmp_path / "b.csv")
    assert Ran(capsys, "evaluate", run, "--data", str(without), "--json").out == right
    assert Ran(capsys, "resume", run, "--epochs", "3").code == 0


def test_features_named_one_by_one_make_other_columns_not_matter(tmp_path: Path) -> None:
    columns = lm.open_data(written(frame(), tmp_path / "a.csv"), features="width,length", target="kind").columns
    more = written(frame().assign(new=1.0), tmp_path / "b.csv")
    np.testing.assert_array_equal(inputs(lm.open_data(more, columns=columns)), X[:, [1, 0]])


# An index --------------------------------------------------------------------------------------------------------


@ENDINGS
@pytest.mark.parametrize("kind", ["counted", "shuffled", "named", "text"])
def test_an_index_that_pandas_wrote_is_left_out_and_that_is_said(tmp_path: Path, ending: str, kind: str) -> None:
    table = frame()
    if kind == "shuffled":
        table.index = pd.Index(np.roll(np.arange(90) * 7, 3))
    elif kind == "text":
        table.index = pd.Index([f"row {n}" for n in range(90)])
    elif kind == "named" and ending == ".parquet":
        table.index = pd.Index(np.arange(90) + 5, name="number")
    stream = lm.open_data(written(table, tmp_path / f"a{ending}", index=True))
    np.testing.assert_array_equal(inputs(stream), X)
    assert any("left out, as it numbers the rows" in note for note in stream.notes)


def test_an_index_that_was_read_and_written_again_is_left_out(tmp_path: Path) -> None:
    table = pd.read_csv(written(frame(), tmp_path / "a.csv", index=True))
    assert table.columns[0] == "Unnamed: 0"
    for ending in (".csv", ".parquet"):
        np.testing.assert_array_equal(inputs(lm.open_data(written(table, tmp_path / f"b{ending}"))), X)


def test_an_index_may_be_asked_for(tmp_path: Path) -> None:
    path = written(frame(), tmp_path / "a.csv", index=True)
    stream = lm.open_data(path, features=[0, "length"])
    np.testing.assert_array_equal(inputs(stream)[:, 0], np.arange(90))


def test_a_first_column_without_a_name_that_is_no_index_is_refused(tmp_path: Path) -> None:
    table = frame().rename(columns={"length": ""})
    assert "column 0 has no name, and holds" in refusal(written(table, tmp_path / "a.csv"))
    assert lm.open_data(tmp_path / "a.csv", ignore=[0]).features == 2


def test_a_feature_that_counts_the_rows_is_remarked(capsys: Capture, tmp_path: Path) -> None:
    table = frame()
    table.insert(1, "id", np.arange(1, 91))
    path = written(table, tmp_path / "a.csv")
    assert lm.open_data(path).remarks == ("'id' counts the rows, from 1: leave it out if it is no feature",)
    assert "'id' counts the rows" in Ran(capsys, "train", "--data", str(path), *FLAGS).out
    bare = written(frame(), tmp_path / "b.csv", header=False, index=True)
    assert lm.open_data(bare).remarks == ("column 0 counts the rows, from 0: leave it out if it is no feature",)
    assert lm.open_data(bare, ignore=[0]).features == 3


def test_a_column_that_is_called_target_but_is_not_the_last_is_remarked(tmp_path: Path) -> None:
    path = written(frame().rename(columns={"kind": "label"})[["label", *NAMES]], tmp_path / "a.parquet")
    assert "column 'label' holds" in refusal(path)
    assert 'or make it the target with target="label"' in refusal(path)
    path = written(frame().assign(label=Y)[["label", *NAMES]], tmp_path / "b.csv")
    assert lm.open_data(path).remarks == ("'label' may be the target as well: the last column was taken",)


# Types -----------------------------------------------------------------------------------------------------------


def test_messages_name_column_and_type(tmp_path: Path) -> None:
    import decimal

    table = frame()
    table["price"] = [decimal.Decimal("1.50")] * 90
    path = written(table, tmp_path / "a.parquet")
    words = refusal(path, target="kind")
    assert "column 'price' holds decimal128(3, 2), and numbers are needed" in words
    assert "Cast it to double" in words
    assert 'ignore="price"' in words
    for values, kind in (
        (pd.Timestamp("2024-01-01"), "timestamp"),
        ("Paris", "string"),
        ([[1, 2]] * 90, "list"),
        (None, "null"),
    ):
        path = written(frame().assign(other=values), tmp_path / "b.parquet")
        words = refusal(path, target="kind")
        assert "column 'other' holds " in words
        assert kind in words
    table = frame()
    table.loc[7, "width"] = None
    for ending, place in ((".csv", "line 9, column 2 ('width')"), (".parquet", "'width' has an empty value in row 7")):
        assert place in refusal(written(table, tmp_path / f"c{ending}"))
    bare = pd.DataFrame({"a": [1.0, float("inf")] * 45, "y": Y})
    assert "row 1, column 'a': inf is no finite number" in refusal(written(bare, tmp_path / "d.parquet"))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,a\n1,2,3\n4,5,6\n")
    assert "has two columns named 'a'. Rename one" in refusal(tmp_path / "a.csv")


# Python ----------------------------------------------------------------------------------------------------------


def test_data_frames_have_columns_too(tmp_path: Path) -> None:
    trainer = lm.Trainer(lm.MLP(ARCH), batch_size=10)
    table, labels = frame()[list(NAMES)], frame()["kind"]
    list(trainer.epochs((table, labels), 2))
    right = trainer.evaluate((table, labels))
    assert trainer.evaluate((table[["depth", "width", "length"]], labels)) == right
    with pytest.raises(lm.InputError, match="lacks the column 'width'"):
        trainer.evaluate((table.drop(columns="width"), labels))
    with pytest.raises(lm.InputError, match="has the column 'more', which the network was not trained on"):
        trainer.evaluate((table.assign(more=1.0), labels))
    trainer.save(tmp_path / "run")
    again = lm.Trainer.resume(tmp_path / "run")
    assert again.columns is not None
    assert again.columns.features == NAMES
    list(again.epochs((table[["depth", "width", "length"]], labels), 1))
    list(trainer.epochs((table, labels), 1))
    assert np.array_equal(again.mlp.parameters, trainer.mlp.parameters)
    with pytest.raises(lm.InputError, match="column 'width' of x holds"):
        from_arrays(table.assign(width="x"), labels)


def test_streams_of_other_columns_are_refused_by_the_trainer(tmp_path: Path) -> None:
    data = written(frame(), tmp_path / "a.csv")
    swapped = written(frame()[["width", "length", "depth", "kind"]], tmp_path / "b.csv")
    trainer = lm.Trainer(lm.MLP(ARCH), batch_size=10)
    list(trainer.epochs(lm.open_data(data), 1))
    with pytest.raises(lm.InputError, match="has the features width, length, depth and the network was trained on"):
        trainer.evaluate(lm.open_data(swapped))
    assert trainer.evaluate(lm.open_data(swapped, columns=trainer.columns)) == trainer.evaluate(lm.open_data(data))
    with pytest.raises(lm.InputError, match="the validation data has the features"):
        lm.Trainer(lm.MLP(ARCH), batch_size=10).epochs(lm.open_data(data), 1, lm.open_data(swapped))


@pytest.mark.parametrize(
    "change",
    [
        {"names": "abcd"},
        {"x": [0, 1]},
        {"x": [0, 1, 4]},
        {"x": [0, 1, 1]},
        {"y": "kind"},
        {"count": 3},
        {"names": ["a"]},
        {"only": 1},
    ],
)
def test_columns_in_a_run_that_are_none_are_refused(tmp_path: Path, change: Any) -> None:
    trainer = lm.Trainer(lm.MLP(ARCH), batch_size=10)
    list(trainer.epochs(lm.open_data(written(frame(), tmp_path / "a.csv")), 1))
    trainer.save(tmp_path / "run")
    rewritten(tmp_path / "run", lambda header, inside: inside["data"]["columns"].update(change))
    with pytest.raises(lm.InputError, match="is not a saved run that can be resumed"):
        open_run(tmp_path / "run")
