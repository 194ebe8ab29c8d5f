"""Weights of samples and of classes: what they mean, under every loss, and that they cost what is counted."""

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.data.dataset import from_arrays
from lowmem.data.open import load
from lowmem.network.specs import LOSSES
from lowmem.training.class_weights import by_class
from lowmem.training.sample_weights import OF_A_CLASS, BatchWeights
from lowmem.training.saved_run import open_run
from tests.helpers import batch, randomised
from tests.test_cli import Ran
from tests.test_streams import owned


def gradients(architecture: lm.Architecture, x: Any, y: Any, weights: Any = None, **options: Any) -> tuple[float, Any]:
    """Return the loss and all gradients in one array."""
    plan = lm.plan(architecture, len(x), **options)
    loss, found = lm.Backprop(randomised(architecture), plan)(x, y, weights)
    parts = [part.ravel().copy() for pair in zip(found.weights, found.biases, strict=True) for part in pair]
    return loss, np.concatenate(parts)


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("micro_batch", [None, 5])
def test_a_weight_of_two_is_a_sample_twice_and_of_zero_none(loss: str, micro_batch: int | None) -> None:
    architecture = lm.Architecture((4, 6, 3), "tanh", loss, "float64")
    x, y = batch(architecture, 16)
    times = np.arange(16) % 3
    weighted = gradients(architecture, x, y, times.astype(float), micro_batch=micro_batch)
    repeated = gradients(architecture, np.repeat(x, times, axis=0), np.repeat(y, times, axis=0))
    share = times.sum() / 16  # the mean is over all 16 samples
    assert weighted[0] == pytest.approx(repeated[0] * share, rel=1e-12)
    np.testing.assert_allclose(weighted[1], repeated[1] * share, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_weights_of_one_give_the_bits_of_none_under_every_strategy(loss: str) -> None:
    architecture = lm.Architecture((4, 6, 6, 6, 3), "relu", loss)
    x, y = batch(architecture, 600)
    plain = gradients(architecture, x, y)
    for strategy in ("store_all", "recompute_all"):
        same = gradients(architecture, x, y, np.ones(600, np.float32), strategy=strategy)
        assert same[0] == plain[0]
        assert np.array_equal(same[1], plain[1])


ARCH = lm.Architecture((4, 8, 3))
X, Y = batch(ARCH, 50)


def trained(data: Any, **options: Any) -> Any:
    trainer = lm.Trainer(lm.MLP(ARCH), lm.SGD(0.1), batch_size=16, **options)
    list(trainer.epochs(data, 2))
    return trainer.mlp.parameters


def test_class_weights_are_the_weights_of_their_samples() -> None:
    weights = np.array([0.5, 2.0, 1.0])
    of_samples = trained(from_arrays(X, Y, weights=weights[Y]))
    assert np.array_equal(trained((X, Y), class_weights=[0.5, 2, 1]), of_samples)
    assert not np.array_equal(trained((X, Y)), of_samples)
    both = trained(from_arrays(X, Y, weights=np.full(50, 2)), class_weights=weights / 2)
    assert np.array_equal(both, of_samples)


def test_evaluation_is_not_weighted() -> None:
    trainer = lm.Trainer(lm.MLP(ARCH), lm.SGD(0.0), batch_size=50, class_weights=[3, 3, 3])
    data = from_arrays(X, Y, weights=np.full(50, 5.0))
    (epoch,) = trainer.epochs(data, 1, data)
    assert epoch.validation_loss is not None
    assert epoch.loss == pytest.approx(15 * epoch.validation_loss, rel=1e-5)


@pytest.mark.parametrize("weights", [None, "balanced", [1, 2, 3]])
def test_class_weights_are_counted(weights: Any) -> None:
    made = BatchWeights(ARCH, weights)
    made.allocate(16)
    if made.waiting:
        made.balance(np.array([1, 2, 3]))
    owned = [value for value in vars(made).values() if isinstance(value, np.ndarray)]
    of_classes = 0 if weights is None else 3 * OF_A_CLASS
    assert made.bytes_for(16) == sum(array.nbytes for array in owned) + of_classes


@pytest.mark.parametrize("form", ["list", "dictionary", "balanced"])
def test_weights_of_many_classes_are_counted_while_a_run_is_saved(form: str, tmp_path: Any) -> None:
    numbers = [float(number) for number in np.random.default_rng(0).random(5000) + 0.5]
    weights: Any = {"list": numbers, "dictionary": dict(enumerate(numbers)), "balanced": "balanced"}[form]
    data = X[:50], Y[:50]

    def trained() -> lm.Trainer:
        trainer = lm.Trainer(lm.MLP(lm.Architecture((4, 8, 5000))), batch_size=10, class_weights=weights)
        list(trainer.epochs(data, 1, save_to=tmp_path / "run"))
        return trainer

    trained()
    tracemalloc.start()
    promise, peak = trained().plan.peak_bytes, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= promise + 64 * 1024


def test_weights_are_counted_and_saved(tmp_path: Any) -> None:
    data = from_arrays(X, Y, weights=np.ones(50))
    batcher = data.batches(16, ARCH, 0)
    assert batcher.nbytes == data.batch_bytes(16, ARCH)
    assert data.batches(16, ARCH, None).nbytes == data.batch_bytes(16, ARCH, shuffled=False)
    assert data.take(np.array([1, 2])).weights is not None
    trainer = lm.Trainer(lm.MLP(ARCH), batch_size=16, class_weights=[1, 2, 3])
    list(trainer.epochs(data, 1))
    trainer.save(tmp_path / "run")
    again = lm.Trainer.resume(tmp_path / "run")
    for one in (trainer, again):
        list(one.epochs(data, 1))
    assert np.array_equal(trainer.mlp.parameters, again.mlp.parameters)


@pytest.mark.parametrize(
    "wrong",
    [
        [1, 2],
        [1, 2, -1],
        [1, 2, math.nan],
        [1, 2, math.inf],
        [0, 0, 0],
        [1e-300] * 3,
        [1, 10**400, 1],
        {0: math.nan, 1: 1, 2: 1},
    ],
)
def test_class_weights_that_make_no_sense_are_refused(wrong: list[float]) -> None:
    with pytest.raises(lm.InputError, match="weights"):
        lm.Trainer(lm.MLP(ARCH), batch_size=16, class_weights=wrong)
    with pytest.raises(lm.InputError, match="needs a loss of labels"):
        lm.Trainer(lm.MLP(lm.Architecture((4, 3), loss="mse")), batch_size=16, class_weights=[1, 1, 1])


@pytest.mark.parametrize(
    "wrong", [np.ones(49), np.ones((50, 1)), -np.ones(50), np.zeros(50), np.full(50, np.nan), ["a"] * 50]
)
def test_sample_weights_that_make_no_sense_are_refused(wrong: Any) -> None:
    with pytest.raises(lm.InputError, match="weights"):
        from_arrays(X, Y, weights=wrong)
    with pytest.raises(lm.InputError, match="weights must be float32 numbers"):
        lm.Backprop(lm.MLP(ARCH), lm.plan(ARCH, 50))(X, Y, wrong)


def test_weights_that_vanish_in_the_networks_dtype_are_refused() -> None:
    data = from_arrays(X, Y, weights=np.full(50, 1e-300))
    with pytest.raises(lm.InputError, match="weights are at most 1e-300, which is 0 in float32"):
        lm.Trainer(lm.MLP(ARCH), batch_size=16).epochs(data, 1)
    wide = lm.MLP(lm.Architecture(ARCH.widths, dtype="float64"))
    list(lm.Trainer(wide, batch_size=16).epochs(data, 1))


def test_dictionaries_of_class_weights_without_weight_are_refused() -> None:
    for wrong, words in (
        ({0: 0, 1: 0, 2: 0}, "class_weights are all 0"),
        ({"1" * 5000: 1, 1: 1, 2: 1}, "names '11+ ..."),
    ):
        with pytest.raises(lm.InputError, match=words):
            lm.Trainer(lm.MLP(ARCH), batch_size=16, class_weights=wrong).epochs((X, Y), 1)


# Balanced classes ------------------------------------------------------------------------------------------------


def test_balanced_classes_weigh_the_same() -> None:
    y = np.array([0] * 30 + [1] * 15 + [2] * 5)
    data = from_arrays(X, y)
    assert data.class_counts(3).tolist() == [30, 15, 5]
    expected = [50 / (3 * count) for count in (30, 15, 5)]
    assert np.array_equal(trained((X, y), class_weights="balanced"), trained((X, y), class_weights=expected))
    assert not np.array_equal(trained((X, y), class_weights="balanced"), trained((X, y)))


def test_balanced_is_what_scikit_learn_means(tmp_path: Path) -> None:
    utils = pytest.importorskip("sklearn.utils.class_weight")
    y = np.array([0] * 37 + [2] * 13)  # no sample of class 1: k is 2
    trainer = lm.Trainer(lm.MLP(ARCH), lm.SGD(0.1), batch_size=16, class_weights="balanced")
    list(trainer.epochs((X, y), 1))
    trainer.save(tmp_path / "run")
    first, second = utils.compute_class_weight("balanced", classes=np.array([0, 2]), y=y)
    assert open_run(tmp_path / "run").options["class_weights"] == [first, 1.0, second]


def test_balanced_weights_are_those_of_the_first_data_also_after_resuming(tmp_path: Path) -> None:
    y = np.array([0] * 30 + [1] * 15 + [2] * 5)
    trainer = lm.Trainer(lm.MLP(ARCH), lm.SGD(0.1), batch_size=16, class_weights="balanced")
    list(trainer.epochs((X, y), 1))
    trainer.save(tmp_path / "run")
    again = lm.Trainer.resume(tmp_path / "run")
    for one in (trainer, again):
        list(one.epochs((X, Y), 1))
    assert np.array_equal(trainer.mlp.parameters, again.mlp.parameters)


def test_a_stream_counts_the_classes_of_its_own_part(tmp_path: Path) -> None:
    y = np.array([0] * 30 + [1] * 15 + [2] * 5)
    np.savez(tmp_path / "data.npz", x=X, y=y)
    stream = lm.open_data(tmp_path / "data.npz")
    assert np.array_equal(trained(stream, class_weights="balanced"), trained((X, y), class_weights="balanced"))
    train, held_out = stream.split(0.2)
    assert (train.class_counts(3).tolist(), held_out.class_counts(3).tolist()) == ([24, 12, 4], [6, 3, 1])


def test_counting_classes_makes_no_copy() -> None:
    data = from_arrays(np.zeros((1_000_000, 1), np.uint8), np.zeros(1_000_000, np.uint8))
    tracemalloc.start()
    try:
        assert data.class_counts(2).tolist() == [1_000_000, 0]
        assert tracemalloc.get_traced_memory()[1] < 2**17
    finally:
        tracemalloc.stop()


def test_balancing_what_has_no_classes_is_refused() -> None:
    with pytest.raises(lm.InputError, match=r"unknown class_weights 'balance'\. Did you mean 'balanced'\?"):
        lm.Trainer(lm.MLP(ARCH), batch_size=16, class_weights="balance")  # type: ignore[arg-type]
    with pytest.raises(lm.InputError, match="needs a loss of labels"):
        lm.Trainer(lm.MLP(lm.Architecture((4, 3), loss="mse")), batch_size=16, class_weights="balanced")
    for y in (Y + 0.5, np.eye(3)[Y]):
        with pytest.raises(lm.InputError, match="integer labels"):
            lm.Trainer(lm.MLP(ARCH), batch_size=16, class_weights="balanced").epochs((X, y), 1)


# Weights beside data that stay in their files --------------------------------------------------------------------

W = np.random.default_rng(1).integers(0, 9, 50) / 4  # the same in float32 and in text


def files(folder: Path, w: Any = W) -> tuple[Any, ...]:
    for name, array in (("x", X), ("y", Y), ("w", w)):
        np.save(folder / f"{name}.npy", array)
    return folder / "x.npy", folder / "y.npy", folder / "w.npy"


def members(folder: Path, w: Any = W) -> tuple[Any, ...]:
    np.savez_compressed(folder / "a.npz", images=X, labels=Y, importance=w)
    return folder / "a.npz", None, "importance"


def column(folder: Path, w: Any = W) -> tuple[Any, ...]:
    np.savetxt(folder / "a.csv", np.column_stack([w, X, Y]), fmt="%.9g", delimiter=",")
    return folder / "a.csv", None, 0


def named(folder: Path, w: Any = W) -> tuple[Any, ...]:
    path, _, _ = column(folder, w)
    path.write_text("w,a,b,c,d,y\n" + path.read_text())
    return path, None, "w"


def parquet(folder: Path, w: Any = W) -> tuple[Any, ...]:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table([w, *X.T, Y], names=[*"wabcdy"]), folder / "a.parquet", row_group_size=20)
    return folder / "a.parquet", None, "w"


PLACES = [files, members, column, named, parquet]


@pytest.mark.parametrize("write", PLACES)
def test_weights_of_a_stream_are_those_of_arrays(tmp_path: Path, write: Any) -> None:
    source, targets, weights = write(tmp_path)
    stream = lm.open_data(source, targets, weights=weights)
    assert (stream.features, len(stream), stream.contents.largest_weight) == (4, 50, 2)
    arrays = from_arrays(X, Y, weights=W)
    loaded = load(source, targets, weights=weights)
    assert loaded.weights is not None
    np.testing.assert_array_equal(loaded.weights, W.astype(np.float32))
    assert np.array_equal(trained(loaded), trained(arrays))
    assert np.array_equal(trained(stream), trained(arrays))
    assert not np.array_equal(trained(stream), trained((X, Y)))
    assert np.array_equal(trained(stream, class_weights="balanced"), trained(arrays, class_weights="balanced"))


@pytest.mark.parametrize("write", PLACES)
@pytest.mark.parametrize("block", [7, 16, 50])
def test_each_sample_keeps_its_weight_in_every_order(tmp_path: Path, write: Any, block: int) -> None:
    source, targets, weights = write(tmp_path)
    batches = lm.open_data(source, targets, weights=weights, shuffle_rows=block).batches(16, ARCH, 3)
    of = {row.tobytes(): weight for row, weight in zip(X, W.astype(np.float32), strict=True)}
    for epoch in (0, 1):
        seen = 0
        for one in batches.epoch(epoch):
            assert one.weights is not None
            assert one.weights.tolist() == [of[row.tobytes()] for row in one.x]
            seen += len(one)
        assert seen == 50
    plain = lm.open_data(source, targets, weights=weights).batches(16, ARCH, None)
    assert next(plain.epoch(0)).weights is None  # evaluation is not weighted


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", ">f4"])
def test_weights_of_a_stream_are_counted(tmp_path: Path, dtype: str) -> None:
    source, targets, weights = files(tmp_path, np.ones(50, dtype))
    stream = lm.open_data(source, targets, weights=weights)
    for seed in (0, None):
        batches = stream.batches(16, ARCH, seed)
        assert stream.batch_bytes(16, ARCH, shuffled=seed is not None) == batches.nbytes == owned(batches)


@pytest.mark.parametrize("write", PLACES)
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, r"weights\[33\] holds NaN|line 3[45], column 1.*: the value is missing \('nan'\)"),
        (np.inf, r"weights\[33\] holds NaN or inf|line 3[45], column 1.*: 'inf' is no finite number"),
        (-1.0, r"weights\[33\] is -1"),
    ],
)
def test_weights_that_make_no_sense_are_refused_with_their_row(
    tmp_path: Path, write: Any, value: float, words: str
) -> None:
    w = W.copy()
    w[33] = value
    source, targets, weights = write(tmp_path, w)
    with pytest.raises(lm.InputError, match=words):
        lm.open_data(source, targets, weights=weights)
    source, targets, weights = write(tmp_path, np.zeros(50))
    with pytest.raises(lm.InputError, match="all weights are zero"):
        lm.open_data(source, targets, weights=weights)


def test_places_where_no_weights_are_are_refused(tmp_path: Path) -> None:
    source, targets, weights = files(tmp_path, W[:9])
    with pytest.raises(lm.InputError, match=r"50 samples and .*w\.npy 9"):
        lm.open_data(source, targets, weights=weights)
    with pytest.raises(lm.InputError, match="is no table with columns"):
        lm.open_data(source, targets, weights=1)
    with pytest.raises(lm.InputError, match="no file or directory"):
        lm.open_data(source, targets, weights="none.npy")
    source, targets, weights = files(tmp_path, W[:, None])
    with pytest.raises(lm.InputError, match="one weight for each sample"):
        lm.open_data(source, targets, weights=weights)
    source, targets, weights = files(tmp_path, W.astype(str))
    with pytest.raises(lm.InputError, match="numbers are needed"):
        lm.open_data(source, targets, weights=weights)
    with pytest.raises(lm.InputError, match="no array 'w' to be the weights; it holds images, labels, importance"):
        lm.open_data(members(tmp_path)[0], weights="w")
    with pytest.raises(lm.InputError, match="no column 'v' to be the weights"):
        lm.open_data(named(tmp_path)[0], weights="v")
    with pytest.raises(lm.InputError, match="cannot be both target and weights"):
        lm.open_data(column(tmp_path)[0], weights=-1)
    source, targets, weights = files(tmp_path, np.full(50, 1e300))
    with pytest.raises(lm.InputError, match="weights too large for float32"):
        trained(lm.open_data(source, targets, weights=weights))


FLAGS = ["--layers", "1", "--width", "8", "--batch", "10", "--epochs", "3", "--no-calibrate", "--held-out", "0.2"]
FLAGS += ["--no-standardise"]


@pytest.mark.parametrize("write", PLACES)
def test_the_commands_take_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path, write: Any) -> None:
    source, targets, weights = write(tmp_path)
    data = ["--data", str(source), "--weights", str(weights)]
    data += [] if targets is None else ["--targets", str(targets)]
    first, second = tmp_path / "first", tmp_path / "second"
    flags = ["--class-weights", "balanced", *FLAGS]
    assert Ran(capsys, "train", *data, *flags, "--save", str(first)).code == 0
    assert Ran(capsys, "train", *data, *flags, "--epochs", "2", "--save", str(second)).code == 0
    assert Ran(capsys, "resume", str(second), "--epochs", "3").code == 0
    one, two = open_run(first), open_run(second)
    assert np.array_equal(one.network().parameters, two.network().parameters)
    train, _ = lm.open_data(source, targets, weights=weights).split(0.2)
    counts = train.class_counts(3)
    assert one.options["class_weights"] == [40 / (3 * count) for count in counts.tolist()]
    ran = Ran(capsys, "evaluate", str(first), *data, "--json")
    expected = one.network().predict(X).argmax(axis=1)
    assert (ran.code, json.loads(ran.out)["accuracy"]) == (0, np.mean(expected == Y))
    ran = Ran(capsys, "predict", str(first), "--data", str(source))  # which columns are aside is known from training
    assert (ran.err, [int(line) for line in ran.out.split()]) == ("", expected.tolist())


# Weights of classes by class or name ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "by_class",
    [
        {0: 0.5, 1: 2, 2: 1},
        {2: 1.0, 0: 0.5, 1: 2.0},
        {"0": 0.5, "1": 2, "2": 1},
        {np.int64(0): np.float32(0.5), np.int64(1): np.float32(2), np.int64(2): np.float32(1)},
        {0.0: 0.5, 1.0: 2, 2: 1},
        {np.bool_(False): 0.5, np.bool_(True): 2, np.float32(2): 1},
        {"False": 0.5, "true": 2, "2": 1},
    ],
)
def test_class_weights_may_be_a_dictionary_by_class(by_class: dict[Any, float]) -> None:
    assert np.array_equal(trained((X, Y), class_weights=by_class), trained((X, Y), class_weights=[0.5, 2, 1]))
    assert not np.array_equal(trained((X, Y), class_weights=by_class), trained((X, Y)))


def test_class_weights_in_a_series_go_by_its_keys() -> None:
    pandas = pytest.importorskip("pandas")
    by_count = pandas.Series([1.0, 2.0, 0.5], index=[2, 1, 0])  # as value_counts() orders classes
    assert np.array_equal(trained((X, Y), class_weights=by_count), trained((X, Y), class_weights=[0.5, 2, 1]))
    named = from_arrays(X, np.array(["c", "a", "b"])[Y])
    by_name = pandas.Series({"c": 3.0, "a": 0.5, "b": 2.0})
    assert np.array_equal(trained(named, class_weights=by_name), trained(named, class_weights=[0.5, 2, 3]))
    for wrong, words in (
        (pandas.DataFrame([[1.0, 2.0, 3.0]]), "for each of the 3 outputs"),
        (pandas.Series([1.0, 2.0, 3.0], index=[0, 1, 1]), "names 1 twice"),
    ):
        with pytest.raises(lm.InputError, match=words) as refused:
            lm.Trainer(lm.MLP(ARCH), batch_size=16, class_weights=wrong)
        assert "\n" not in str(refused.value)


def test_class_weights_go_by_the_names_of_classes() -> None:
    named = from_arrays(X, np.array(["c", "a", "b"])[Y])
    assert named.class_names == ("a", "b", "c")
    by_name = trained(named, class_weights={"c": 3, "a": 0.5, "b": 2})
    assert np.array_equal(by_name, trained(named, class_weights=[0.5, 2, 3]))
    assert np.array_equal(by_name, trained(named, class_weights={0: 0.5, 1: 2, 2: 3}))


def test_class_weights_of_two_classes_as_keras_users_write_them() -> None:
    two = lm.Architecture((4, 5, 2))
    x, y = X, Y % 2

    def after(weights: Any) -> Any:
        trainer = lm.Trainer(lm.MLP(two), lm.SGD(0.1), batch_size=16, class_weights=weights)
        list(trainer.epochs((x, y), 2))
        return trainer.mlp.parameters.copy()

    assert np.array_equal(after({0: 1.0, 1: 5.0}), after([1.0, 5.0]))
    assert np.array_equal(after({False: 1.0, True: 5.0}), after([1.0, 5.0]))


def test_labels_that_are_whole_numbers_in_text_are_no_class_numbers() -> None:
    assert by_class({-1: 2.0, 1: 3.0}, ("-1", "1"), 2) == [2.0, 3.0]
    assert by_class({"7": 2.0, 3: 3.0}, ("3", "7"), 3) == [3.0, 2.0, 1.0]
    with pytest.raises(lm.InputError, match=r"names 0, which is no class of these data\. Classes: '-1', '1'"):
        by_class({0: 2.0, 1: 3.0}, ("-1", "1"), 2)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({0: 1, 1: 2, 3: 1}, "names 3, which is no class of these data"),
        ({0: 1, 1: 2}, "has no weight for 2. Name every class"),
        ({}, "has no weight for 0, 1, 2"),
        ({0: 1, 1: 2, "b": 1}, "names 'b'"),
        ({0: 1, 1: 2, 2: 1e300}, r"class_weights has values up to 1e\+300, too large for float32"),
        ({0: 1, 1: 2, 2: -1}, r"class_weights\[2\] must be a finite number from 0; got -1"),
        ({0: 1, 1: 2, 2: "much"}, r"class_weights\[2\] must be a finite number from 0; got 'much'"),
        ({0: 1, 1: 2, 2: 1, 3: 1}, "for each of the 3 outputs; got 4 classes"),
        ({0: 1, 1: 2, None: 1}, "names None"),
        (5, "for each of the 3 outputs"),
        ({1.0, 5.0, 2.0}, "for each of the 3 outputs"),
        (frozenset({1.0, 5.0, 2.0}), "for each of the 3 outputs"),
        (b"abc", "for each of the 3 outputs"),
        (np.ones((3, 1)), "for each of the 3 outputs"),
        (dict, "for each of the 3 outputs"),
        ({0: 1, "0": 1, 1: 2}, "names the class 0 twice"),
        ([1, 2, float("nan")], r"class_weights\[2\] must be a finite number"),
    ],
)
def test_unknown_and_missing_classes_are_refused(weights: Any, words: str) -> None:
    with pytest.raises(lm.InputError, match=words):
        lm.Trainer(lm.MLP(ARCH), batch_size=16, class_weights=weights).epochs((X, Y), 1)


def test_unknown_and_missing_names_are_refused() -> None:
    named = from_arrays(X, np.array(["ant", "bee", "cow"])[Y])
    trainer = lm.Trainer(lm.MLP(ARCH), batch_size=16, class_weights={"ant": 1, "bee": 1, "cat": 2})
    with pytest.raises(lm.InputError, match=r"names 'cat', which is no class .* Classes: 'ant', 'bee', 'cow'"):
        trainer.epochs(named, 1)


def test_a_run_with_a_dictionary_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    weights = {0: 0.5, 1: 2.0, 2: 1.0}
    whole = lm.Trainer(lm.MLP(ARCH), lm.SGD(0.1), batch_size=16, class_weights=weights)
    list(whole.epochs((X, Y), 2))
    first = lm.Trainer(lm.MLP(ARCH), lm.SGD(0.1), batch_size=16, class_weights=weights)
    list(first.epochs((X, Y), 1, save_to=tmp_path / "run"))
    assert open_run(tmp_path / "run").options["class_weights"] == [0.5, 2.0, 1.0]
    second = lm.Trainer.resume(tmp_path / "run")
    list(second.epochs((X, Y), 1))
    assert np.array_equal(second.mlp.parameters, whole.mlp.parameters)
