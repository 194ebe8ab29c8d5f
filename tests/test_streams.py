"""Data that stay in their files: the same samples and bits as in memory, in bounded memory, and no trust in files."""

import copy
import gzip
import os
import pickle
import re
import threading
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import lowmem as lm
from lowmem.data.dataset import from_arrays
from lowmem.data.formats.array_file import ArrayFile
from lowmem.data.formats.rows import Watched
from lowmem.data.open import load
from lowmem.data.samples import Batch
from lowmem.data.standardisation import Transform
from lowmem.data.stream_batches import StreamBatches
from lowmem.errors import RunError
from tests.test_data import idx_bytes

Array = NDArray[Any]
RNG = np.random.default_rng(0)
X = RNG.standard_normal((103, 5)).astype(np.float32)
Y = RNG.integers(0, 3, 103)
ARCH = lm.Architecture((5, 8, 3))


def npy(folder: Path, x: Array = X, y: Array = Y) -> tuple[Path, Path]:
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    return folder / "x.npy", folder / "y.npy"


def npz(folder: Path) -> tuple[Path, None]:
    np.savez(folder / "plain.npz", x=X, y=Y)
    return folder / "plain.npz", None


def packed(folder: Path) -> tuple[Path, None]:
    np.savez_compressed(folder / "packed.npz", x=X, y=Y)
    return folder / "packed.npz", None


def csv(folder: Path) -> tuple[Path, None]:
    np.savetxt(folder / "table.csv", np.column_stack([X, Y]), fmt=["%.9g"] * 5 + ["%d"], delimiter=",")
    return folder / "table.csv", None


def headed(folder: Path) -> tuple[Path, None]:
    path, _ = csv(folder)
    path.write_text("a,b,c,d,e,class\r\n" + path.read_text().replace("\n", "\r\n"))
    return path, None


def parquet(folder: Path) -> tuple[Path, None]:
    import pyarrow as pa
    from pyarrow import parquet

    names = [*"abcde", "class"]
    table = pa.table(dict(zip(names, [*X.T, Y], strict=True)))
    parquet.write_table(table, folder / "table.parquet", row_group_size=40)
    return folder / "table.parquet", None


WRITERS: list[Callable[[Path], tuple[Path, Path | None]]] = [npy, npz, packed, csv, headed, parquet]


def collected(batches: Any, epoch: int = 0, start: int = 0) -> tuple[Array, Array]:
    pairs = [(batch.x.copy(), batch.y.copy()) for batch in batches.epoch(epoch, start=start)]
    return np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])


def owned(value: Any) -> int:
    """Return the bytes of the arrays that an object holds, in lists, batches and transforms too."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, list):
        return sum(map(owned, value))
    if isinstance(value, Batch):
        return owned([value.x, value.y, value.weights])
    return owned(list(vars(value).values())) if isinstance(value, StreamBatches | Transform) else 0


# The same samples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("rows", [1, 10, 103, 200])
def test_every_format_gives_the_samples_as_they_are(tmp_path: Path, write: Any, rows: int) -> None:
    stream = lm.open_data(*write(tmp_path))
    assert (len(stream), stream.features, stream.labels, stream.classes) == (103, 5, True, 3)
    x, y = collected(stream.batches(min(rows, 103), ARCH, None))
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)
    assert [x.dtype.name, y.dtype.name] == ["float32", "int64"]


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_is_loaded_into_memory_too(tmp_path: Path, write: Any) -> None:
    paths = write(tmp_path)
    dataset, stream = load(*paths, standardise=True), lm.open_data(*paths, standardise=True)
    np.testing.assert_array_equal(dataset.x, X)
    np.testing.assert_array_equal(dataset.y, Y)
    assert (dataset.labels, dataset.classes, dataset.features) == (True, 3, 5)
    for ours, theirs in zip(*(collected(data.batches(10, ARCH, None)) for data in (dataset, stream)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for seed in (0, None):
        batches = dataset.batches(10, ARCH, seed)
        assert dataset.batch_bytes(10, ARCH, shuffled=seed is not None) == batches.nbytes
    assert load(*paths, labels=False).y.dtype.kind == "f"


@pytest.mark.parametrize("write", WRITERS)
def test_what_fits_a_block_trains_to_the_bits_of_arrays(tmp_path: Path, write: Any) -> None:
    ends = []
    for data in ((X, Y), lm.open_data(*write(tmp_path), shuffle_rows=103)):
        trainer = lm.Trainer(lm.MLP(ARCH), batch_size=10, seed=5)
        list(trainer.epochs(data, 3, data))
        ends.append(trainer.mlp.parameters)
    assert np.array_equal(ends[0], ends[1])


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("block", [7, 10, 25, 102])
def test_a_block_shuffle_shows_every_sample_once_in_another_order_each_epoch(
    tmp_path: Path, write: Any, block: int
) -> None:
    batches = lm.open_data(*write(tmp_path), shuffle_rows=block).batches(10, ARCH, 3)
    orders = [collected(batches, epoch) for epoch in (0, 1)]
    for x, y in orders:
        where = np.argsort(x[:, 0])
        np.testing.assert_array_equal(x[where], X[np.argsort(X[:, 0])])
        np.testing.assert_array_equal(y[where], Y[np.argsort(X[:, 0])])
    assert not np.array_equal(orders[0][0], orders[1][0])
    np.testing.assert_array_equal(collected(batches, 0)[0], orders[0][0])  # whatever ran before


@settings(deadline=None, max_examples=60)
@given(
    samples=st.integers(1, 103),
    rows=st.integers(1, 30),
    block=st.integers(1, 120),
    start=st.integers(0, 9),
    seed=st.integers(0, 3),
)
def test_an_epoch_goes_on_from_any_batch(
    tmp_path_factory: pytest.TempPathFactory, samples: int, rows: int, block: int, start: int, seed: int
) -> None:
    stream = lm.open_data(*npy(tmp_path_factory.mktemp("data"), X[:samples], Y[:samples]), shuffle_rows=block)
    whole, rest = (stream.batches(rows, ARCH, seed) for _ in range(2))
    sizes = [len(batch) for batch in whole.epoch(1)]
    assert sizes == [rows] * (samples // rows) + [samples % rows] * (samples % rows > 0)
    assert len(whole) == len(sizes)
    if start < len(sizes):
        np.testing.assert_array_equal(collected(rest, 1, start)[0], collected(whole, 1)[0][start * rows :])


def test_a_run_over_a_stream_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    paths = npy(tmp_path)
    options: dict[str, Any] = {"shuffle_rows": 25, "standardise": True}
    whole = lm.Trainer(lm.MLP(ARCH), batch_size=10, seed=5)
    list(whole.epochs(lm.open_data(*paths, **options), 3))
    broken = lm.Trainer(lm.MLP(ARCH), batch_size=10, seed=5)

    def stop(done: int, count: int) -> None:
        if broken.optimizer.step_count == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(broken.epochs(lm.open_data(*paths, **options), 3, save_to=tmp_path / "run", save_every=17, on_step=stop))
    broken.save(tmp_path / "run")
    resumed = lm.Trainer.resume(tmp_path / "run")
    with pytest.raises(lm.InputError, match="over other data"):
        resumed.epochs(lm.open_data(*paths, shuffle_rows=26, standardise=True))
    list(resumed.epochs(lm.open_data(*paths, **options)))
    assert np.array_equal(resumed.mlp.parameters, whole.mlp.parameters)


def test_idx_files_are_streamed_gzipped_or_not(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (30, 4, 3)).astype(np.uint8)
    for part, pack in (("train", gzip.compress), ("t10k", bytes)):
        end = ".gz" if part == "train" else ""
        (tmp_path / f"{part}-images-idx3-ubyte{end}").write_bytes(pack(idx_bytes(images)))
        (tmp_path / f"{part}-labels-idx1-ubyte{end}").write_bytes(
            pack(idx_bytes((np.arange(30) % 7).astype(np.uint8)))
        )
    architecture = lm.Architecture((12, 7))
    for part in ("train", "test"):
        stream = lm.open_data(tmp_path, part=part)
        x, y = collected(stream.batches(8, architecture, None))
        np.testing.assert_array_equal(x, (images.reshape(30, 12) * np.float32(1 / 255)).astype(np.float32))
        np.testing.assert_array_equal(y, np.arange(30) % 7)


def test_the_digits_are_those_that_load_gives() -> None:
    digits = load("digits")
    x, y = collected(lm.open_data("digits").batches(256, lm.Architecture((64, 10)), None))
    np.testing.assert_array_equal(x, digits.x * np.float32(digits.scale))
    np.testing.assert_array_equal(y, digits.y)


@pytest.mark.parametrize("dtype", [">f4", "<f8", "<i2", "|u1", "<f2"])
def test_any_number_type_is_cast_a_batch_at_a_time(tmp_path: Path, dtype: str) -> None:
    x = np.round(X * 9).astype("i1").astype(dtype)
    stream = lm.open_data(*npy(tmp_path, x, Y.astype(np.uint8)))
    np.testing.assert_array_equal(collected(stream.batches(10, ARCH, None))[0], x.astype(np.float32))


# Targets, standardisation, parts ---------------------------------------------------------------------------------


def test_standardisation_is_that_of_all_rows_together(tmp_path: Path) -> None:
    x = X * [1, 100, 0, 1e-3, 5] + [0, 1e4, 7, 0, -3]
    stream = lm.open_data(*npy(tmp_path, x), standardise=True)
    assert stream.standardisation is not None
    np.testing.assert_allclose(stream.standardisation.mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        stream.standardisation.deviation, np.where(x.std(axis=0) > 0, x.std(axis=0), 1), rtol=1e-9
    )
    seen = collected(stream.batches(10, lm.Architecture((5, 3), dtype="float64"), None))[0]
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(seen.std(axis=0), [1, 1, 0, 1, 1], atol=1e-9)
    test = lm.open_data(*npy(tmp_path, x[:9], Y[:9]), standardise=stream.standardisation)
    np.testing.assert_allclose(collected(test.batches(9, ARCH, None))[0], seen[:9], atol=1e-5)
    with pytest.raises(lm.InputError, match="the standardisation is for 5"):
        lm.open_data(*npy(tmp_path, x[:, :4]), standardise=stream.standardisation)


def test_labels_become_rows_with_a_one_where_that_is_asked_for(tmp_path: Path) -> None:
    stream, architecture = lm.open_data(*npy(tmp_path), one_hot=True), lm.Architecture((5, 8, 3), loss="bce")
    np.testing.assert_array_equal(collected(stream.batches(10, architecture, None))[1], np.eye(3)[Y])
    trainer = lm.Trainer(lm.MLP(architecture), batch_size=10)
    assert len(list(trainer.epochs(stream, 1, stream))) == 1
    with pytest.raises(lm.InputError, match="needs integer labels"):
        lm.Trainer(lm.MLP(ARCH), batch_size=10).epochs(stream, 1)


def test_targets_are_numbers_where_they_are_not_whole_or_it_is_said(tmp_path: Path) -> None:
    y = RNG.random((103, 2))
    stream = lm.open_data(*npy(tmp_path, X, y))
    assert (stream.labels, stream.classes, stream.targets.columns) == (False, 2, 2)
    seen = collected(stream.batches(10, lm.Architecture((5, 2), loss="mse"), None))[1]
    np.testing.assert_array_equal(seen, y.astype(np.float32))
    stream = lm.open_data(*npy(tmp_path), labels=False)
    assert collected(stream.batches(10, lm.Architecture((5, 1), loss="mse"), None))[1].shape == (103, 1)
    with pytest.raises(lm.InputError, match=r"y\[0\] is no whole number; labels are whole numbers from 0 or text"):
        lm.open_data(*npy(tmp_path, X, Y + 0.5), labels=True)
    with pytest.raises(lm.InputError, match="one_hot needs labels"):
        lm.open_data(*npy(tmp_path, X, y), one_hot=True)


@pytest.mark.parametrize("write", WRITERS)
def test_a_stream_is_split_into_rows_in_their_order(tmp_path: Path, write: Any) -> None:
    train, held_out = lm.open_data(*write(tmp_path), shuffle_rows=10).split(0.2)
    assert (len(train), len(held_out)) == (82, 21)
    kept, rest = (collected(part.batches(10, ARCH, None))[0] for part in (train, held_out))
    places = {row: place for place, row in enumerate(X[:, 0].tolist())}
    for part in (kept, rest):
        order = [places[value] for value in part[:, 0].tolist()]
        assert order == sorted(order)
        np.testing.assert_array_equal(part, X[order])
    assert {*kept[:, 0].tolist()} | {*rest[:, 0].tolist()} == set(places)
    assert set(collected(train.batches(10, ARCH, 1))[0][:, 0]) == set(kept[:, 0])
    for share in (0.0, 1.0, 0.001):
        with pytest.raises(lm.InputError, match="leaves none on one side"):
            lm.open_data(*npy(tmp_path)).split(share)


@pytest.mark.parametrize("target", ["a", 0, -6])
@pytest.mark.parametrize("write", [headed, parquet])
def test_the_target_may_be_any_column(tmp_path: Path, write: Any, target: Any) -> None:
    stream = lm.open_data(*write(tmp_path), target=target)
    x, y = collected(stream.batches(50, lm.Architecture((5, 1), loss="mse"), None))
    np.testing.assert_array_equal(y[:, 0], X[:, 0])
    np.testing.assert_array_equal(x, np.column_stack([X[:, 1:], Y]).astype(np.float32))
    with pytest.raises(lm.InputError, match="has no column 'z' to be the target"):
        lm.open_data(*write(tmp_path), target="z")


def test_inputs_alone_are_opened_with_or_without_targets_beside_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X)
    np.savez_compressed(tmp_path / "parts.npz", x_train=X, y_train=Y, x_test=X[:9])
    np.savetxt(tmp_path / "x.csv", X, fmt="%.9g", delimiter=",")
    for path, options in (
        (tmp_path / "x.npz", {}),
        (tmp_path / "parts.npz", {}),
        (tmp_path / "x.csv", {}),
        (npz(tmp_path)[0], {}),
        (npy(tmp_path)[0], {}),
        (headed(tmp_path)[0], {"target": "class"}),
        (parquet(tmp_path)[0], {"target": -1}),
    ):
        stream = lm.open_data(path, inputs_only=True, **options)
        assert stream.features == 5
        np.testing.assert_array_equal(collected(stream.batches(10, ARCH, None))[0], X)
    assert len(lm.open_data(tmp_path / "parts.npz", inputs_only=True, part="test")) == 9
    np.savez(tmp_path / "two.npz", a=X, b=X)
    assert "holds the arrays a, b; x, or a single one, is needed" in refusal(tmp_path / "two.npz", inputs_only=True)


# Memory ----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 40),
    block=st.integers(1, 120),
    x_dtype=st.sampled_from(["u1", "f4", "f8", ">f4"]),
    columns=st.sampled_from([0, 1, 3]),
    dtype=st.sampled_from(["float32", "float64"]),
    standardise=st.booleans(),
    shuffled=st.booleans(),
    one_hot=st.booleans(),
)
def test_the_bytes_told_beforehand_are_the_bytes_owned(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    block: int,
    x_dtype: str,
    columns: int,
    dtype: str,
    standardise: bool,
    shuffled: bool,
    one_hot: bool,
) -> None:
    y = RNG.random((103, columns)) if columns else Y
    one_hot = one_hot and not columns
    folder = tmp_path_factory.mktemp("data")
    stream = lm.open_data(
        *npy(folder, np.ones((103, 5), x_dtype), y), shuffle_rows=block, standardise=standardise, one_hot=one_hot
    )
    outputs = columns or 3
    architecture = lm.Architecture((5, outputs), "relu", "mse" if columns or one_hot else "cross_entropy", dtype)
    batches = stream.batches(rows, architecture, 0 if shuffled else None)
    assert stream.batch_bytes(rows, architecture, shuffled=shuffled) == batches.nbytes == owned(batches)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_is_never_in_memory_as_a_whole(tmp_path: Path, compressed: bool) -> None:
    x, y = np.zeros((20_000, 250), np.float32), np.zeros(20_000, np.int8)  # 20 MB
    if compressed:
        np.savez_compressed(tmp_path / "data.npz", x=x, y=y)
        paths: tuple[Path, Path | None] = (tmp_path / "data.npz", None)
    else:
        paths = npy(tmp_path, x, y)
    del x
    architecture = lm.Architecture((250, 3))
    tracemalloc.start()
    try:
        stream = lm.open_data(*paths, shuffle_rows=2000)
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
        trainer = lm.Trainer(lm.MLP(architecture), batch_size=500)
        tracemalloc.reset_peak()
        list(trainer.epochs(stream, 2, stream))
        held = stream.batch_bytes(500, architecture) + stream.batch_bytes(256, architecture, shuffled=False)
        assert held < trainer.plan.batch_bytes
        assert tracemalloc.get_traced_memory()[1] < trainer.plan.peak_bytes + 2**19
    finally:
        tracemalloc.stop()


def wide_text(
    path: Path, between: str, written: Callable[[float], str], *, rows: int = 80, named: bool = False, end: str = ""
) -> Path:
    """Write a table of 1,500 features as text; gzipped if its name says so."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt") as out:
        for row in RNG.standard_normal((rows, 1500)).tolist():
            label = int(row[0] > 0)
            out.write(between.join([*map(written, row), f"class_{label}" if named else str(label)]) + end + "\n")
    return path


def with_comma(value: float) -> str:
    return repr(value).replace(".", ",")


@pytest.mark.parametrize("shuffle_rows", [20, None])
def test_a_plan_counts_what_many_blocks_take(tmp_path: Path, shuffle_rows: int | None) -> None:
    samples = 100_000  # 5,000 blocks of training, or 391 batches of evaluation
    np.savez(tmp_path / "a.npz", x=np.zeros((samples, 1), np.float16), y=np.zeros(samples, np.int8))
    data = lm.open_data(tmp_path / "a.npz", shuffle_rows=shuffle_rows, task="classification")
    architecture = lm.Architecture((1, 2))
    seed, rows = (None, 256) if shuffle_rows is None else (0, 4096)

    def traced() -> int:
        tracemalloc.start()
        try:
            batches = data.batches(rows, architecture, seed)
            for _ in batches.epoch(0):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    traced()
    counted = data.batch_bytes(rows, architecture, shuffled=seed is not None) + data.reading_bytes
    assert traced() <= counted + 2**14


WIDE_TEXTS: dict[str, Callable[[Path], Path]] = {
    "commas": lambda folder: wide_text(folder / "a.csv", ",", repr),
    "tabs": lambda folder: wide_text(folder / "a.tsv", "\t", repr, named=True),
    "blanks": lambda folder: wide_text(folder / "a.txt", " ", repr),
    "bars": lambda folder: wide_text(folder / "a", "|", repr, end="|"),
    "digits": lambda folder: wide_text(folder / "a.csv", ",", lambda value: str(int(abs(value)))),
    "decimal commas": lambda folder: wide_text(folder / "a.csv", ";", with_comma, rows=12),
    "short decimals": lambda folder: wide_text(folder / "a.csv", ";", lambda x: with_comma(round(x, 1)), rows=12),
    "gzipped": lambda folder: wide_text(folder / "a.csv.gz", ",", repr),
}


@pytest.mark.parametrize("write", WIDE_TEXTS.values(), ids=WIDE_TEXTS)
def test_a_plan_counts_what_reading_text_takes(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    data = lm.open_data(write(tmp_path), shuffle_rows=8, standardise=True, task="classification", header=False)
    train, held_out = data.split(0.25)
    assert data.reading_bytes < 2**20

    def epoch() -> lm.Trainer:
        trainer = lm.Trainer(lm.MLP(lm.Architecture((1500, 4, 2))), batch_size=4)
        list(trainer.epochs(train, 1, held_out))
        return trainer

    epoch()
    tracemalloc.start()
    try:
        promised = epoch().plan.peak_bytes
        assert tracemalloc.get_traced_memory()[1] <= promised + 2**16
        batch = data.rows.buffer(len(data))
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        with closing(data.rows.again()) as rows:
            rows.read(0, batch)
        assert tracemalloc.get_traced_memory()[1] - before <= data.reading_bytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("rows", "buffers"), [(103, 1), (102, 2), (10, 2)])
def test_the_only_batch_of_an_epoch_has_no_second_buffer(tmp_path: Path, rows: int, buffers: int) -> None:
    batches = lm.open_data(*npy(tmp_path)).batches(rows, ARCH, 0)
    assert len(batches._buffers) == buffers
    assert [len(batch) for epoch in range(3) for batch in batches.epoch(epoch)].count(rows) == 3 * (103 // rows)


def test_a_parquet_file_is_read_a_row_group_at_a_time(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path, group = tmp_path / "a.parquet", {f"c{n}": RNG.random(5000, np.float32) for n in range(20)}  # 0.4 MB
    with parquet.ParquetWriter(path, pa.table(group).schema) as writer:
        for _ in range(40):
            writer.write_table(pa.table(group))
    rows = lm.open_data(path).rows.again()
    batch = rows.buffer(1000)
    before, most = pa.total_allocated_bytes(), 0
    for start in range(0, rows.samples, 1000):
        rows.read(start, batch)
        most = max(most, pa.total_allocated_bytes() - before)
    rows.close()
    assert most < 6 * 400_000  # of 16 MB


def test_the_next_batch_is_read_while_the_last_one_is_used_and_not_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = lm.open_data(*npy(tmp_path), shuffle_rows=10)
    batches = stream.batches(10, ARCH, 0)
    made: list[int] = []
    ready, assemble = threading.Event(), batches._assemble

    def noted(*arguments: Any) -> Any:
        made.append(len(made))
        if len(made) == 2:
            ready.set()
        return assemble(*arguments)

    monkeypatch.setattr(batches, "_assemble", noted)
    epoch = batches.epoch(0)
    next(epoch)
    assert ready.wait(20)
    assert len(made) == 2
    epoch.close()
    assert not any(thread.name == "lowmem reader" for thread in threading.enumerate())


# Refusals --------------------------------------------------------------------------------------------------------


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(lm.InputError) as error:
        lm.open_data(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_with_their_row(tmp_path: Path, value: float) -> None:
    bad = np.tile(X, (3, 300))[:300]
    bad[207, 3] = value
    assert "x[207] holds NaN or infinite" in refusal(*npy(tmp_path, bad, np.zeros(300)))
    y = np.zeros(103)
    y[55] = value
    assert "y[55] holds NaN or infinite" in refusal(*npy(tmp_path, X, y))


@pytest.mark.parametrize("column", ["a", "y"])
def test_a_nan_that_signals_is_refused_as_any_other(tmp_path: Path, column: str) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    signalling = np.arange(20.0)
    signalling.view(np.uint64)[7] = 0x7FF0000000000001  # a cast of such a NaN sets a flag of the processor
    table = {"a": np.arange(20.0), "y": np.arange(20.0), column: signalling}
    parquet.write_table(pa.table(table), tmp_path / "a.parquet")
    with pytest.raises(lm.InputError, match=f"row 7, column '{column}'"):
        lm.open_data(tmp_path / "a.parquet")


def test_what_is_too_large_to_standardise_is_refused(tmp_path: Path) -> None:
    x = X.astype(float)
    x[:, 2] *= 1e200
    with pytest.raises(lm.InputError, match=r"feature 2 .from 0. has values too large to standardise"):
        lm.open_data(*npy(tmp_path, x), standardise=True)


def test_what_float32_cannot_standardise_or_scale_is_refused(tmp_path: Path) -> None:
    x = X.astype(float)
    x[:, 2] *= 1e-45
    for data in (lm.open_data(*npy(tmp_path, x), standardise=True), load(*npy(tmp_path, x), standardise=True)):
        with pytest.raises(lm.InputError, match=r"feature 2 .from 0. cannot be standardised in float32: its mean is"):
            data.batches(8, lm.Architecture((5, 3)), 0)
        assert data.batches(8, lm.Architecture((5, 3), dtype="float64"), 0)
    for data in (lm.open_data(*npy(tmp_path, X), scale=1e38), load(*npy(tmp_path, X), scale=1e38)):
        with pytest.raises(lm.InputError, match="too large for float32"):
            data.batches(8, lm.Architecture((5, 3)), 0)


def test_numbers_beyond_float32_are_refused_with_their_row(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    x = np.arange(20.0)
    x[7] = -1e300
    (tmp_path / "a.csv").write_text("a,y\n" + "".join(f"{value!r},{n % 2}\n" for n, value in enumerate(x.tolist())))
    parquet.write_table(pa.table({"a": x, "y": [0, 1] * 10}), tmp_path / "a.parquet")
    for path, place in (
        (tmp_path / "a.csv", "line 9, column 1 .'a'.: '-1e"),
        (tmp_path / "a.parquet", "row 7, column 'a': -1e"),
    ):
        with pytest.raises(lm.InputError, match=place + r"\+300'? is no finite number of float32. Mend it, or scale"):
            lm.open_data(path)


def test_labels_that_the_network_has_no_output_for_are_refused_with_the_row(tmp_path: Path) -> None:
    y = Y.copy()
    y[77] = 3
    stream = lm.open_data(*npy(tmp_path, X, y))
    with pytest.raises(lm.InputError, match="in row 77 labels up to 3 and the network 3 outputs"):
        lm.Trainer(lm.MLP(ARCH), batch_size=10).epochs(stream, 1)
    with pytest.raises(lm.InputError, match="in row 77 labels up to 3 and the network 3 outputs"):
        lm.Trainer(lm.MLP(ARCH), batch_size=10).epochs((X, y), 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2,0\n3,4\n", "line 2 has 2 columns; the first line has 3"),
        ("a,b,c\n1,2,0\n3,4,5,6\n", "line 3 has 4 columns; the first line has 3"),
        ("1,2,0\n1,2,0\n3,four,1\n", "line 3, column 2: 'four' is no number"),
        ("a,b,c\n1,2,0\n3,,1\n", "line 3, column 2 ('b'): the value is missing ('')"),
        ("1,2,0\n\n3,4,1\n", "an empty line 2 with more rows behind it"),
        ("a,b,c\n", "has no rows of numbers"),
        ("", "is empty"),
        ("1\n2\n", "has one column"),
        ("1,2,0\n1,nan,0\n", "line 2, column 2: the value is missing ('nan')"),
        ("1,2,0\n1,\xff\x00,0\n", "line 2, column 2"),
    ],
)
def test_a_csv_file_that_is_none_is_refused_with_the_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="latin-1")
    assert words in refusal(path)


def test_files_that_cannot_be_streamed_are_refused(tmp_path: Path) -> None:
    x, y = npy(tmp_path, np.asfortranarray(X))
    assert "stored column by column" in refusal(x, y)
    assert "y is needed too" in refusal(x)
    x, y = npy(tmp_path, X[:9])
    assert "9 samples and" in refusal(x, y)
    assert "one row per sample" in refusal(y, y)
    assert "at least one sample" in refusal(*npy(tmp_path, X[:0], Y[:0]))
    assert "numbers are needed" in refusal(*npy(tmp_path, X.astype("U4")))
    assert "shuffle_rows must be a positive whole number" in refusal(*npy(tmp_path), shuffle_rows=0)
    assert "leave out targets=" in refusal(npz(tmp_path)[0], x)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no more")
    assert "cannot be read as Parquet" in refusal(tmp_path / "bad.parquet")
    assert "no file or directory" in refusal(tmp_path / "none.npy")


@pytest.mark.parametrize("write", [npy, npz, packed])
def test_files_cut_short_are_refused(tmp_path: Path, write: Any) -> None:
    path, targets = write(tmp_path)
    content = path.read_bytes()
    for keep in (len(content) - 1, len(content) // 2, 130, 5):
        path.write_bytes(content[:keep])
        refusal(path, targets)


@pytest.mark.parametrize("longer", [False, True])
def test_gzipped_files_that_lie_are_refused(tmp_path: Path, longer: bool) -> None:
    images = idx_bytes(np.ones((30, 4, 3), np.uint8))
    (tmp_path / "images").write_bytes(gzip.compress(images + b"1" if longer else images[:-1]))
    (tmp_path / "labels").write_bytes(idx_bytes(np.ones(30, np.uint8)))
    words = "holds more than the 30 samples" if longer else "ends in row 29 of the 30"
    assert words in refusal(tmp_path / "images", tmp_path / "labels")


def touched(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"1,2,3,4,5,0\n")


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(1, 1))
    other.replace(path)


@pytest.mark.parametrize("change", [touched, appended, replaced])
@pytest.mark.parametrize("write", WRITERS)
def test_a_file_that_changes_while_it_is_used_is_an_error(tmp_path: Path, write: Any, change: Any) -> None:
    path, targets = write(tmp_path)
    for changed in (path, *([] if targets is None else [targets])):
        stream = lm.open_data(path, targets, shuffle_rows=20)
        epoch = stream.batches(10, ARCH, 0).epoch(0)
        next(epoch)
        change(changed)
        with pytest.raises(lm.LowmemError, match=f"{changed.name} has changed since it was opened") as error:
            list(epoch)
        assert error.value.exit_code == 1
        with pytest.raises(lm.LowmemError, match="has changed since it was opened"):
            list(stream.batches(10, ARCH, 0).epoch(0))
        write(tmp_path)


MANY = RNG.standard_normal((12_000, 5)).astype(np.float32)


def many(folder: Path, kind: str) -> tuple[Path, Path | None]:
    """Write more samples than any buffer holds."""
    y = np.arange(12_000) % 3
    path = folder / f"a.{kind.removeprefix('packed ')}"
    if kind == "npy":
        return npy(folder, MANY, y)
    if kind == "gz":
        images = RNG.integers(0, 256, (12_000, 5, 1)).astype(np.uint8)
        path.write_bytes(gzip.compress(idx_bytes(images)))
        np.save(folder / "y.npy", y)
        return path, folder / "y.npy"
    if kind.endswith("npz"):
        (np.savez_compressed if kind.startswith("packed") else np.savez)(path, x=MANY, y=y)
    elif kind == "csv":
        np.savetxt(path, np.column_stack([MANY, y]), fmt="%.9g", delimiter=",")
    else:
        import pyarrow as pa
        from pyarrow import parquet

        table = pa.table(dict(zip("abcdef", [*MANY.T, y], strict=True)))
        parquet.write_table(table, path, row_group_size=500)
    return path, None


@pytest.mark.parametrize("kind", ["npy", "gz", "npz", "packed npz", "csv", "parquet"])
@pytest.mark.parametrize("share", [0.5, 0.7])
def test_a_file_that_is_cut_while_it_is_used_is_an_error_with_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, share: float
) -> None:
    path, targets = many(tmp_path, kind)
    stream = lm.open_data(path, targets, shuffle_rows=100)
    monkeypatch.setattr(Watched, "check", lambda self: None)  # as if size and time were the same
    epoch = stream.batches(50, ARCH, None).epoch(0)
    next(epoch)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(RunError) as error:
        list(epoch)
    found = re.search(r"(?:row|line) ([\d,]+)", str(error.value))
    assert found is not None
    assert "\n" not in str(error.value)
    assert kind != "csv" or "was cut while it was in use" in str(error.value)
    assert 50 < int(found[1].replace(",", "")) < 12_000


@pytest.mark.parametrize("kind", ["npy", "gz", "npz", "packed npz"])
def test_reads_that_fall_short_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    paths = many(tmp_path, kind)
    whole = collected(lm.open_data(*paths, shuffle_rows=300).batches(50, ARCH, 0))
    some = ArrayFile._some

    def few(self: ArrayFile, target: Any, row: int, *, end: bool = False) -> int:
        return some(self, target[:37], row, end=end)

    monkeypatch.setattr(ArrayFile, "_some", few)
    again = collected(lm.open_data(*paths, shuffle_rows=300).batches(50, ARCH, 0))
    assert all(np.array_equal(one, other) for one, other in zip(whole, again, strict=True))


@pytest.mark.parametrize("row", [1, 511, 512, 4096, 4200])
@pytest.mark.parametrize(("text", "columns"), [("2,0", 2), ("3,4,5,0", 4), ('"3,4",0', 2), ("1", 1)])
def test_a_row_of_another_length_is_told_wherever_it_is(tmp_path: Path, row: int, text: str, columns: int) -> None:
    lines = ["1,2,0"] * 4300
    lines[row] = text
    (tmp_path / "a.csv").write_text("\n".join(lines))
    assert f"line {row + 1:,} has {columns} column{'s' * (columns > 1)}; the first line has 3" in refusal(
        tmp_path / "a.csv"
    )


def test_a_row_that_is_spoilt_while_the_file_is_used_is_a_run_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = many(tmp_path, "csv")
    stream = lm.open_data(path, shuffle_rows=100)
    monkeypatch.setattr(Watched, "check", lambda self: None)
    with path.open("r+b") as file:
        file.write(b"x")
    with pytest.raises(RunError, match=r"line 1, column 1: 'x.*' is no number.*has changed since it was opened"):
        list(stream.batches(50, ARCH, None).epoch(0))


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_that_is_gone_is_an_error_and_no_waiting(tmp_path: Path, write: Any) -> None:
    path, targets = write(tmp_path)
    stream = lm.open_data(path, targets)
    path.unlink()
    with pytest.raises(lm.LowmemError):
        list(stream.batches(10, ARCH, 0).epoch(0))


def test_quoted_numbers_are_numbers_and_a_mark_of_the_byte_order_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('\ufeff"a";"b"\n"1.5";"0"\n2;1\n')
    x, y = collected(lm.open_data(tmp_path / "a.csv").batches(2, lm.Architecture((1, 2)), None))
    assert x.tolist() == [[1.5], [2]]
    assert y.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("values", "told", "stored"),
    [
        (1_700_000_000 + 128 * np.arange(9), "steps of 128, and all of them lie within 1.02e+03: subtract", False),
        (1_700_000_000 + np.arange(9), "steps of 128, and all of them are the same there: subtract an offset", True),
        (1_700_000_000 + 0.5 + 128 * np.arange(9), "steps of 128, and all of them lie within 1.02e+03", True),
        (1_700_000_000 + 100_000 * np.arange(9), None, False),
        (1_700_000_000_000_000_000 + 1000 * np.arange(9), "are the same there", True),
        (48.85 + 1e-6 * np.arange(9), "steps of 3.81e-06, and all of them lie within 7.63e-06", True),
        (48.85 + 1e-2 * np.arange(9), None, False),
        (1e6 + 0.25 * np.arange(9), "steps of 0.0625, and all of them lie within 2", False),  # text may have had more
        (202401 + np.arange(9), None, False),  # years and months
        (16_000_000 + 60 * np.arange(9), None, False),
        (2**23 + 100 * np.arange(9), None, False),
        (-(2**23) - 100 * np.arange(9), None, False),
        (2020 + np.arange(9), None, False),
        (np.full(9, 2020), None, False),
        (np.full(9, 0.1), None, False),
        (np.full(9, 1_700_000_001), "are the same there", False),
        (1e-33 + 1e-39 * np.arange(9), None, False),
        (np.zeros(9), None, False),
    ],
)
def test_features_whose_digits_float32_loses_are_told(
    tmp_path: Path, values: Array, told: str | None, stored: bool
) -> None:
    path, order, y = tmp_path / "a.csv", [3, 1, 4, 0, 5, 2, 6, 8, 7], np.arange(9) % 2
    values = values[order]
    path.write_text("t,y\n" + "".join(f"{value!r},{n % 2}\n" for n, value in enumerate(values.tolist())))
    remarks = " ".join(lm.open_data(path).remarks)
    assert (told is None and remarks == "") or (
        told is not None and f"'t' has values about {abs(values[0]):.3g}" in remarks
    )
    assert told is None or told in remarks
    x = np.stack([np.arange(9) % 3, values], axis=1)  # whole numbers stay whole numbers
    np.savez(tmp_path / "a.npz", x=x, y=y)
    remarks = " ".join(lm.open_data(tmp_path / "a.npz").remarks)
    assert ("column 1 has" in remarks and "train in float64" in remarks) == stored
    assert len(from_arrays(x, y).remarks) == stored
    np.savez(tmp_path / "b.npz", x=x.astype(np.float32), y=y)
    assert lm.open_data(tmp_path / "b.npz").remarks == ()
    assert from_arrays(x.astype(np.float32), y).remarks == ()


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int32])
def test_digits_that_float32_loses_are_found_in_any_run_of_rows(dtype: Any) -> None:
    x = np.zeros((40_000, 3), dtype)
    x[:, 0] = np.arange(40_000) % 1000  # wide
    x[:, 1] = 1_600_000_000  # a number of float32
    x[:, 2] = 5
    y = np.arange(40_000) % 2
    assert from_arrays(x, y).remarks == ()
    x[-1, 1] += 1
    assert "feature 1 (from 0) has values about 1.6e+09" in " ".join(from_arrays(x, y).remarks)
    x[-1, 1] = 0  # and now its range is wide
    assert from_arrays(x, y).remarks == ()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"source": np.ones((3, 2))}, "data of type ndarray cannot be opened"),
        ({"class_names": 5}, "class_names must be a list of text"),
        ({"class_names": {"a", "b"}}, "class_names must be a list of text"),
        ({"class_names": "ab"}, "class_names must be a list of text"),
        ({"features": 1.5}, "features must be a list of names or numbers of columns"),
        ({"features": {"a", "b"}}, "features must be a list of names or numbers of columns"),
        ({"features": ["a", None]}, "features must be a name or number of a column"),
        ({"ignore": 1.5}, "ignore must be a list of names or numbers of columns"),
        ({"columns": ["a"]}, r"columns must be those of earlier data, such as trainer\.columns"),
        ({"labels": "yes"}, "labels must be True or False"),
        ({"header": "no"}, "header must be True or False"),
        ({"one_hot": "no"}, "one_hot must be True or False"),
        ({"inputs_only": "no"}, "inputs_only must be True or False"),
        ({"inputs": "three"}, "inputs must be a positive whole number"),
        ({"standardise": "no"}, "standardise must be True or False"),
        ({"weights": ["w"]}, "weights must be a name or number of a column"),
        ({"target": ["w"]}, "target must be a name or number of a column"),
        ({"scale": "x"}, "scale must be a finite number"),
    ],
)
def test_arguments_of_opening_that_make_no_sense_are_refused(
    tmp_path: Path, wrong: dict[str, Any], words: str
) -> None:
    (tmp_path / "a.csv").write_text("a,b,w,y\n" + "1,2,1,0\n2,1,1,1\n" * 3)
    for opened in (lm.open_data, load):
        if not {*wrong} <= {*signature(opened).parameters}:
            continue  # open_data has more of them
        with pytest.raises(lm.InputError, match=words) as refused:
            opened(**({"source": tmp_path / "a.csv"} | wrong))
        assert "\n" not in str(refused.value)


def test_columns_are_named_in_any_usual_way(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,w,y\n" + "1,2,1,0\n2,1,1,1\n" * 3)
    usual: list[dict[str, Any]] = [
        *({"ignore": {"w"}}, {"ignore": np.int64(2)}, {"ignore": np.array(["w"])}, {"features": np.array([0, 1])}),
        *({"features": ("a", "b"), "ignore": None}, {"weights": np.int64(2)}, {"weights": "w", "target": np.int64(3)}),
    ]
    for options in usual:
        assert lm.open_data(tmp_path / "a.csv", **options).features == 2


@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps])
def test_a_stream_says_how_it_is_had_twice(tmp_path: Path, copied: Any) -> None:
    (tmp_path / "a.csv").write_text("a,y\n" + "1,0\n2,1\n" * 4)
    stream = lm.open_data(tmp_path / "a.csv")
    with pytest.raises(lm.InputError, match="open the file again"):
        copied(stream)
    with pytest.raises(lm.InputError, match="open the file again"):
        copied(stream.split(0.5)[0])
