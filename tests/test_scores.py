"""What evaluate, predict and plot tell of a run: scores by their definitions, probabilities, tables, curves."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowmem as lm
from lowmem.measure.learning import EpochRecord, read_journal
from lowmem.plots import learning_curves
from lowmem.runtime.scores import ClassScores, NumberScores, probabilities
from lowmem.training.saved_run import open_run
from tests.test_cli import Ran
from tests.test_plots import collisions

Capture = pytest.CaptureFixture[str]
NAMES = ["a, b", "c", "d"]
RNG = np.random.default_rng(0)
Y = RNG.integers(0, 3, 70)
X = (RNG.normal(size=(70, 3)) + Y[:, None]).astype(np.float32)
SMALL = ["--layers", "1", "--width", "16", "--epochs", "4", "--batch", "5", "--lr", "0.01", "--no-calibrate"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Write a table with ids, features and classes that are text."""
    path = tmp_path / "people.csv"
    with path.open("w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out)
        rows.writerow(["who", "x", "y", "z", "kind"])
        rows.writerows([f"p,{n}", *row, NAMES[k]] for n, (row, k) in enumerate(zip(X.tolist(), Y, strict=True)))
    return path


@pytest.fixture
def run(tmp_path: Path, table: Path, capsys: Capture) -> str:
    path = tmp_path / "run.safetensors"
    flags = ["--ignore", "who", "--save", str(path), "--journal", str(tmp_path / "run.jsonl")]
    assert Ran(capsys, "train", "--data", str(table), *SMALL, *flags).code == 0
    return str(path)


def outputs(run: str) -> Any:
    """Return the outputs of a saved run for all samples, scaled as in training."""
    saved = open_run(run)
    scale = saved.standardisation()
    x = X if scale is None else ((X - scale.mean) / scale.deviation).astype(np.float32)
    return saved.network().predict(x).astype(float)


# evaluate --------------------------------------------------------------------------------------------------------


def test_evaluate_counts_every_pair_of_classes(capsys: Capture, run: str, table: Path) -> None:
    flags = ["evaluate", run, "--data", str(table), "--ignore", "who"]
    told = json.loads(Ran(capsys, *flags, "--json").out)
    taken = outputs(run).argmax(axis=1)
    counts = [[int(((i == Y) & (taken == j)).sum()) for j in range(3)] for i in range(3)]
    assert told["confusion"] == counts
    assert [row["class"] for row in told["classes"]] == NAMES
    for k, row in enumerate(told["classes"]):
        assert row["samples"] == sum(counts[k])
        assert row["recall"] == counts[k][k] / sum(counts[k])
        assert row["precision"] == counts[k][k] / sum(line[k] for line in counts)
        taken_for_k = sum(line[k] for line in counts)
        assert row["f1"] == pytest.approx(2 * counts[k][k] / (sum(counts[k]) + taken_for_k))
    text = Ran(capsys, *flags).out
    assert "true \\ predicted" in text
    assert f"{told['classes'][1]['recall']:.1%}" in text


def test_evaluate_of_numbers_tells_their_errors(capsys: Capture, tmp_path: Path) -> None:
    y = X @ np.array([1.0, -2.0, 0.5]) + 1000
    np.savez(tmp_path / "numbers.npz", x=X, y=y[:, None])
    flags = ["--data", str(tmp_path / "numbers.npz"), *SMALL, "--task", "regression"]
    assert Ran(capsys, "train", *flags, "--save", str(tmp_path / "run")).code == 0
    asked = ["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "numbers.npz")]
    told = json.loads(Ran(capsys, *asked, "--json").out)
    error = outputs(str(tmp_path / "run"))[:, 0] - y.astype(np.float32)
    assert told["rmse"] == pytest.approx(math.sqrt((error**2).mean()), rel=1e-5)
    assert told["mae"] == pytest.approx(abs(error).mean(), rel=1e-5)
    assert told["r2"] == pytest.approx(1 - (error**2).sum() / ((y - y.mean()) ** 2).sum(), rel=1e-4)
    text = Ran(capsys, *asked).out
    assert all(word in text for word in ("RMSE", "MAE", "R²"))


def test_evaluate_of_yes_and_no_tells_both_sides(capsys: Capture, tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", x=X, y=(Y > 0).astype(int))
    flags = ["--data", str(tmp_path / "two.npz"), *SMALL, "--loss", "bce", "--save", str(tmp_path / "run")]
    assert Ran(capsys, "train", *flags).code == 0
    told = json.loads(
        Ran(capsys, "evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "two.npz"), "--json").out
    )
    yes = outputs(str(tmp_path / "run"))[:, 0] > 0
    (row,) = told["outputs"]
    assert row["confusion"] == [
        [int((~yes & (Y == 0)).sum()), int((yes & (Y == 0)).sum())],
        [int((~yes & (Y > 0)).sum()), int((yes & (Y > 0)).sum())],
    ]
    assert row["accuracy"] == pytest.approx((yes == (Y > 0)).mean())
    ran = Ran(capsys, "predict", str(tmp_path / "run"), "--data", str(tmp_path / "two.npz"), "--probabilities")
    found = np.array(ran.out.split(), float)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-outputs(str(tmp_path / "run"))[:, 0])), rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60), st.integers(1, 60))
def test_counts_do_not_depend_on_the_batches(pairs: list[tuple[int, int]], rows: int) -> None:
    true, taken = (np.array(side) for side in zip(*pairs, strict=True))
    whole, parts = ClassScores.of(5), ClassScores.of(5)
    whole.add(taken, true)
    for start in range(0, len(true), rows):
        parts.add(taken[start : start + rows], true[start : start + rows])
    assert np.array_equal(whole.confusion, parts.confusion)
    assert whole.accuracy == (true == taken).mean()
    for k, row in enumerate(whole.per_class()):
        assert (row["recall"] is None) == (k not in true)
        assert (row["precision"] is None) == (k not in taken)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 3), st.floats(-1e6, 1e6))
def test_errors_do_not_depend_on_the_batches_or_on_large_targets(rows: int, width: int, offset: float) -> None:
    rng = np.random.default_rng(rows)
    y = rng.normal(size=(50, width)) + offset
    s = y + rng.normal(size=(50, width))
    scores = NumberScores()
    for start in range(0, 50, rows):
        scores.add(s[start : start + rows], y[start : start + rows])
    assert scores.rmse == pytest.approx(np.sqrt(((s - y) ** 2).mean()))
    assert scores.mae == pytest.approx(np.abs(s - y).mean())
    r2 = 1 - ((s - y) ** 2).sum(axis=0) / ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    assert scores.r2 == pytest.approx(r2.mean(), rel=1e-6)
    constant = NumberScores()
    constant.add(np.ones((3, 1)), np.zeros(3))
    assert constant.r2 is None


# predict ---------------------------------------------------------------------------------------------------------


def rows_of(text: str, delimiter: str = ",") -> list[list[str]]:
    return list(csv.reader(text.splitlines(), delimiter=delimiter))


def test_probabilities_are_those_of_the_softmax_and_have_the_names_of_the_classes(
    capsys: Capture, run: str, table: Path
) -> None:
    s = outputs(run)
    expected = np.exp(s) / np.exp(s).sum(axis=1, keepdims=True)
    ran = Ran(capsys, "predict", run, "--data", str(table), "--id", "who", "--probabilities")
    heads, *rows = rows_of(ran.out)
    assert heads == ["who", *NAMES]
    assert [row[0] for row in rows] == [f"p,{n}" for n in range(70)]
    np.testing.assert_allclose(np.array([row[1:] for row in rows], float), expected, rtol=1e-5, atol=1e-9)
    huge = probabilities(np.array([[1e4, 0.0]], np.float32), "cross_entropy")
    assert huge.tolist() == [[1, 0]]


def test_tables_have_a_header_and_the_number_of_each_sample(
    capsys: Capture, run: str, table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "classes.tsv"
    flags = ["predict", run, "--data", str(table), "--ignore", "who", "--with-header"]
    assert Ran(capsys, *flags, "--output", str(out)).code == 0
    heads, *rows = rows_of(out.read_text(encoding="utf-8"), "\t")
    assert heads == ["sample", "class"]
    assert rows == [[str(n + 1), NAMES[k]] for n, k in enumerate(outputs(run).argmax(axis=1))]
    heads, *rows = rows_of(Ran(capsys, *flags, "--outputs").out)
    assert heads == ["sample", "output 0", "output 1", "output 2"]
    assert len(rows) == 70


def test_ids_come_from_parquet_too(capsys: Capture, run: str, table: Path, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"who": [f"q{n}" for n in range(69)] + [None], **dict(zip("xyz", X.T, strict=True))}
    parquet.write_table(pa.table(columns), tmp_path / "people.parquet")
    ran = Ran(capsys, "predict", run, "--data", str(tmp_path / "people.parquet"), "--id", "who")
    assert [row[0] for row in rows_of(ran.out)] == ["who", *(f"q{n}" for n in range(69)), ""]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--outputs", "--probabilities"], "leave one out"),
        (["--with-header", "--output", "p.npy"], "--with-header goes with text"),
        (["--id", "whom"], "Did you mean 'who'?"),
    ],
    ids=str,
)
def test_predictions_that_cannot_be_are_refused_before_any(
    capsys: Capture, run: str, table: Path, flags: list[str], words: str
) -> None:
    ran = Ran(capsys, "predict", run, "--data", str(table), *flags)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err


def test_ids_need_a_table_and_probabilities_classes(capsys: Capture, run: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    ran = Ran(capsys, "predict", run, "--data", str(tmp_path / "x.npy"), "--id", "who")
    assert (ran.code, ran.out) == (2, "")
    np.savez(tmp_path / "numbers.npz", x=X, y=X[:, :1])
    flags = ["--data", str(tmp_path / "numbers.npz")]
    assert Ran(capsys, "train", *flags, *SMALL, "--save", str(tmp_path / "numbers")).code == 0
    ran = Ran(capsys, "predict", str(tmp_path / "numbers"), *flags, "--probabilities")
    assert "the loss of this one is mse" in ran.err
    assert ran.code == 2


# plot, and the epochs in reports -----------------------------------------------------------------------------------


def test_plot_draws_a_run_from_its_journal(capsys: Capture, run: str, tmp_path: Path) -> None:
    journal = tmp_path / "run.jsonl"
    ran = Ran(capsys, "plot", str(journal))
    assert (ran.code, ran.err) == (0, "")
    assert "<svg" in (tmp_path / "run.svg").read_text(encoding="utf-8")
    assert f"The figure is in {tmp_path / 'run.svg'}." in ran.out
    told = json.loads(Ran(capsys, "plot", str(journal), "--output", str(tmp_path / "run.png"), "--json").out)
    assert [epoch["number"] for epoch in told["epochs"]] == [1, 2, 3, 4]
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [epoch["loss"] for epoch in told["epochs"]] == [line["loss"] for line in lines if line["event"] == "epoch"]


def test_a_journal_tells_of_its_last_run_as_it_came_out(tmp_path: Path) -> None:
    def event(kind: str, **fields: object) -> str:
        return json.dumps({"event": kind, "time": "", **fields})

    def epoch(number: int, loss: float) -> str:
        return event("epoch", number=number, steps=10 * number, loss=loss, learning_rate=0.1)

    lines = [event("begin", epoch=0), epoch(1, 9.0), event("begin", epoch=0), epoch(1, 3.0), epoch(2, 2.0)]
    lines += [epoch(3, 8.0), event("begin", epoch=2), epoch(3, 1.0), '{"event": "epo']
    (tmp_path / "j").write_text("\n".join(lines), encoding="utf-8")
    assert [(record.number, record.loss) for record in read_journal(tmp_path / "j")] == [(1, 3.0), (2, 2.0), (3, 1.0)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no epoch yet"),
        ("a,b\n1,2\n", "line 1 of"),
        ('{"event": "begin"}\nno\n{"event": "end"}\n', "line 2 of"),
        ('{"event": "epoch", "number": 1}\n', "without its numbers"),
        ("[1]\n", "line 1 of"),
        (b"\xff\xfe", "it is no text"),
        (None, "No such file"),
    ],
    ids=str,
)
def test_what_is_no_journal_is_one_clear_line(
    capsys: Capture, tmp_path: Path, text: str | bytes | None, words: str
) -> None:
    path = tmp_path / "journal"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    ran = Ran(capsys, "plot", str(path))
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "journal.svg").exists()


def test_train_tells_its_epochs_and_writes_them_to_a_page(capsys: Capture, table: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    flags = ["--ignore", "who", "--json", "--html", str(page), "--lr-schedule", "cosine"]
    told = json.loads(Ran(capsys, "train", "--data", str(table), *SMALL, *flags).out)
    assert [epoch["number"] for epoch in told["epochs"]] == [1, 2, 3, 4]
    assert told["epochs"][-1]["loss"] == told["loss"]
    assert told["epochs"][-1]["accuracy"] == told["accuracy"]
    assert told["epochs"][0]["steps"] * 4 == told["steps"]
    text = page.read_text(encoding="utf-8")
    assert "<h2>Learning</h2>" in text
    assert text.count("<svg") == 3
    assert f"Measured {told['provenance']['date'].replace('T', ' ')}" in text
    assert "@media print" in text
    ran = Ran(capsys, "train", "--data", str(table), *SMALL, *flags[:2], "--html", str(tmp_path / "report.pdf"))
    assert "whose ending is none of" in ran.err
    assert ran.code == 2


VALUES = st.none() | st.floats(1e-9, 1e9) | st.sampled_from([0.0, -3.0, math.nan, math.inf])
EPOCHS = st.builds(
    EpochRecord, st.integers(1, 999), st.integers(1, 10**9), st.floats(-1e3, 1e12), VALUES, VALUES, st.floats(0, 10)
)


@settings(max_examples=8, deadline=None)
@given(st.lists(EPOCHS, min_size=1, max_size=9), st.text(st.characters(codec="ascii", exclude_categories=["Cc"])))
def test_texts_of_learning_curves_of_any_run_do_not_collide(epochs: list[EpochRecord], title: str) -> None:
    assert collisions(learning_curves(epochs, title=title)) == []


def test_learning_curves_show_what_there_is() -> None:
    bare = [EpochRecord(number, 10 * number, 1 / number) for number in (1, 2)]
    assert [axes.get_ylabel() for axes in learning_curves(bare).axes] == ["loss\n(linear scale)"]
    rates = [EpochRecord(n, 10 * n, 100.0**-n, 1.0, 0.5, 0.1 * n) for n in (1, 2)]
    drawn = [axes.get_ylabel().partition("\n") for axes in learning_curves(rates).axes]
    assert [(name, scale) for name, _, scale in drawn] == [
        ("loss", "(log scale)"),
        ("accuracy", "(linear scale)"),
        ("rate", "(linear scale)"),
    ]
    with pytest.raises(lm.InputError, match="records of epochs"):
        learning_curves([1])  # type: ignore[list-item]
