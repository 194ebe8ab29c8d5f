"""Data sets: every format read, every bad file refused in one line, batches that allocate nothing."""

import gzip
import io
import os
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowmem.data.batches import ArrayBatches, buffer_bytes
from lowmem.data.dataset import Dataset, from_arrays
from lowmem.data.open import load
from lowmem.data.split import split
from lowmem.errors import InputError, UnknownNameError

MNIST = Path(os.environ.get("LOWMEM_MNIST", Path(__file__).resolve().parents[2] / "shared" / "data" / "mnist"))
needs_mnist = pytest.mark.skipif(not MNIST.is_dir(), reason="no MNIST: set LOWMEM_MNIST to its directory")

X = np.arange(60, dtype=np.float32).reshape(12, 5)
Y = np.arange(12, dtype=np.uint8) % 3


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    """Return an idx file's bytes."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def npy_bytes(array: NDArray[Any]) -> bytes:
    """Return an .npy file's bytes."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz_bytes(save: Callable[..., None] = np.savez_compressed, **arrays: NDArray[Any]) -> bytes:
    """Return an .npz file's bytes."""
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


def saved(path: Path, content: bytes) -> Path:
    """Write `content` to `path`."""
    path.write_bytes(content)
    return path


@pytest.fixture
def idx_directory(tmp_path: Path) -> Path:
    """Hold a tiny MNIST: 6 training and 4 test images of 2 x 3 pixels."""
    for part, count, end in (("train", 6, ".gz"), ("t10k", 4, "")):
        images = np.arange(count * 6, dtype=np.uint8).reshape(count, 2, 3)
        labels = np.arange(count, dtype=np.uint8) % 3
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx_bytes(array)
            saved(tmp_path / f"{part}-{kind}-ubyte{end}", gzip.compress(content) if end else content)
    return tmp_path


# Reading


def test_the_digits_come_along() -> None:
    digits = load("digits")
    assert (digits.name, len(digits), digits.features, digits.classes, digits.scale) == (
        "digits",
        1797,
        64,
        10,
        1 / 16,
    )
    assert digits.x.dtype == digits.y.dtype == np.uint8
    assert int(digits.x.max()) * digits.scale == 1
    # The class counts that UCI gives for its test part.
    assert np.bincount(digits.y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.parametrize("names", ["x y", "X Y", "X y", "images labels", "data target", "x_train y_train"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_pairs_are_read(tmp_path: Path, names: str, save: Callable[..., None]) -> None:
    x_name, y_name = names.split()
    arrays: dict[str, NDArray[Any]] = {x_name: X, y_name: Y}
    path = saved(tmp_path / "a.npz", npz_bytes(save, **arrays))
    dataset = load(path)
    np.testing.assert_array_equal(dataset.x, X)
    np.testing.assert_array_equal(dataset.y, Y)
    assert (dataset.x.dtype, dataset.y.dtype, dataset.scale) == (X.dtype, Y.dtype, 1.0)


def test_an_npz_with_parts_gives_either(tmp_path: Path) -> None:
    path = saved(tmp_path / "mnist.npz", npz_bytes(x_train=X, y_train=Y, x_test=X[:4], y_test=Y[:4]))
    train, test = load(path), load(path, part="test")
    assert (len(train), len(test)) == (12, 4)
    assert train.remarks == ("x_train and y_train are read; left out: x_test, y_test",)
    assert test.remarks == ("x_test and y_test are read; left out: x_train, y_train",)


def test_arrays_of_an_npz_that_are_left_out_are_said(tmp_path: Path) -> None:
    path = saved(tmp_path / "more.npz", npz_bytes(x=X, y=Y, ids=Y, w=Y + 1))
    assert "left out: ids, w" in load(path).notes
    assert "left out: ids" in load(path, weights="w").notes


def test_two_arrays_of_one_name_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "twice.npz", npz_bytes(x=X, y=Y))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("x.npy", npy_bytes(X + 1))
    with pytest.raises(InputError, match=r"holds two arrays named 'x'\. Save it again with one of each name\."):
        load(path)


def test_npy_pairs_are_read(tmp_path: Path) -> None:
    x = saved(tmp_path / "x.npy", npy_bytes(X))
    y = saved(tmp_path / "y.npy", npy_bytes(X[:, :2]))
    dataset = load(str(x), y)
    np.testing.assert_array_equal(dataset.x, X)
    assert dataset.classes == 2
    assert not dataset.labels


@pytest.mark.parametrize("dtype", [">f4", "<i2", "?", "<f2", "<u8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_number_type_and_order_is_read(tmp_path: Path, dtype: str, order: Any) -> None:
    x = (X % 2).astype(dtype, order=order)
    dataset = load(saved(tmp_path / "a.npz", npz_bytes(x=x, y=Y)))
    np.testing.assert_array_equal(dataset.x, x)
    assert dataset.x.dtype == x.dtype
    assert dataset.x.flags.c_contiguous


def test_idx_directories_give_both_parts(idx_directory: Path) -> None:
    train, test = load(idx_directory), load(idx_directory, part="test")
    assert (len(train), len(test), train.features, train.scale) == (6, 4, 6, 1 / 255)
    assert train.x.dtype == np.uint8
    np.testing.assert_array_equal(train.x.ravel(), np.arange(36))
    np.testing.assert_array_equal(test.y, [0, 1, 2, 0])


def test_idx_files_find_their_labels(idx_directory: Path) -> None:
    images, labels = idx_directory / "t10k-images-idx3-ubyte", idx_directory / "t10k-labels-idx1-ubyte"
    assert len(load(images)) == 4
    other = saved(idx_directory / "other", labels.read_bytes())
    assert len(load(images, other)) == 4
    saved(labels.with_name(f"{labels.name}.gz"), gzip.compress(labels.read_bytes()))
    labels.unlink()
    assert len(load(images)) == 4


@needs_mnist
def test_mnist_stays_in_bytes() -> None:
    tracemalloc.start()
    try:
        train = load(MNIST)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(train), train.features, train.classes) == (60000, 784, 10)
    assert train.x.nbytes == 60000 * 784 <= held <= peak < 60000 * 784 + 2**20
    assert len(load(MNIST, part="test")) == 10000
    assert round(float(train.x.mean()) / 255, 4) == 0.1307  # known to everyone who has normalised MNIST


# Refusing


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X[:, 0], Y, r"x has shape \(12,\); one row per sample is needed"),
        (np.float32(1), Y, r"x has shape \(\); one row"),
        (X, Y[:-1], r"x has 12 samples and y has shape \(11,\)"),
        (X, np.uint8(3), r"x has 12 samples and y has shape \(\)"),
        (X[:0], Y[:0], r"x has shape \(0, 5\) and y \(0,\); at least one sample"),
        (X[:, :0], Y, r"x has shape \(12, 0\) .* at least one sample, feature"),
        (X, np.zeros((12, 0)), r"y \(12, 0\); at least one"),
        (X.astype(object), Y, r"x has dtype object; numbers are needed"),
        (X.astype(str), Y, r"x has dtype <U.*; numbers are needed"),
        (X + 1j, Y, r"x has dtype complex.*; numbers are needed"),
        (X, Y.astype("datetime64[s]"), r"y has dtype datetime64.*; numbers are needed"),
        (X, Y.astype(np.int8) - 2, r"y holds whole numbers from -2 to 0. Say what they are: task="),
        ([[1.0], [2.0, 3.0]], [0, 1], r"the rows of x differ in length"),
        (np.ma.array(X, mask=X[0, 0] == X), Y, r"x has 1 masked value, and masks are not read"),
        ([*np.ma.array(X, mask=X[-1, 3] < X)], Y, r"x has 1 masked value, and masks are not read"),
        (X, np.ma.array(Y, mask=Y == 2), r"y has 4 masked values, and masks are not read"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(x: Any, y: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_arrays(x, y)


def test_masked_arrays_without_a_masked_value_are_arrays() -> None:
    data = from_arrays(np.ma.array(X, mask=False), np.ma.array(Y))
    assert np.array_equal(data.x, X)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_values_that_are_not_finite_are_refused_with_their_row(value: float, dtype: type) -> None:
    bad: NDArray[Any] = X.astype(dtype)
    bad[7, 2] = value
    with pytest.raises(InputError, match=r"x\[7\] holds NaN or infinite values; finite numbers are needed"):
        from_arrays(bad, Y)
    with pytest.raises(InputError, match=r"y\[7\] holds NaN or infinite values"):
        from_arrays(X, bad)
    with pytest.raises(InputError, match=r"y\[7\] holds NaN or infinite values"):
        from_arrays(X, bad[:, 2])


def test_checking_allocates_no_array() -> None:
    x, y = np.zeros((1000, 1000), np.float32), np.zeros((1000, 10), np.float32)
    tracemalloc.start()
    try:
        dataset = from_arrays(x, y)
        assert tracemalloc.get_traced_memory()[1] < 2**14
    finally:
        tracemalloc.stop()
    assert dataset.x.base is x or dataset.x is x


def test_more_dimensions_are_flattened_and_lists_are_taken() -> None:
    dataset = from_arrays(np.zeros((4, 2, 3), np.uint8), np.zeros((4, 5, 2)))
    assert (dataset.x.shape, dataset.y.shape, dataset.classes) == ((4, 6), (4, 10), 10)
    assert from_arrays([[1, 2], [3, 4]], [0, 4]).classes == 5
    assert from_arrays([[1, 2], [3, 4]], [0.0, -4.0]).classes == 1


def test_a_data_set_prints_without_its_arrays() -> None:
    assert repr(from_arrays(X, Y, name="a", scale=0.5)) == "Dataset(name='a', scale=0.5)"


def test_unknown_sources_come_with_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError, match=r"unknown data set or file 'digts'\. Did you mean 'digits'\?"):
        load("digts")
    saved(tmp_path / "train.npz", b"")
    with pytest.raises(InputError, match=r"there is no file or directory 'trian\.npz'\. Did you mean 'train\.npz'\?"):
        load("trian.npz")
    with pytest.raises(InputError, match=r"there is no file or directory '.*zzz\.npz'\. Check the path"):
        load(tmp_path / "none" / "zzz.npz")
    with pytest.raises(InputError, match=r"there is no file or directory 'labels'\. Check the path"):
        load("train.npz", "labels")
    with pytest.raises(InputError, match=r"data of type tuple cannot be opened; .* Arrays go to from_arrays\(\)"):
        load((X, Y))  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match=r"unknown part 'tset'\. Did you mean 'test'\?"):
        load("digits", part="tset")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is neither a file nor a directory that can be read"):
        load(tmp_path / "pipe")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="every file can be read here")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "a.npz", npz_bytes(x=X, y=Y)).chmod(0)
    with pytest.raises(InputError, match=r"cannot be read: .*Permission denied.* Check that it can be opened"):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty; .* an \.npz, \.npy or MNIST idx file .* is needed\. Save arrays with numpy\.savez"),
        (b"hello", r"has one column; features and a target, separated by commas, are needed"),
        (b"\x01\x02a,b,c\n", r"cannot be read: File is not a zip file"),
        (npz_bytes(x=X, y=Y)[:-30], r"cannot be read: File is not a zip file\. It is truncated, damaged"),
        (
            npz_bytes(x=X, labels=Y),
            r"^\S+ holds the arrays x, labels; x and y are needed\. [^.]*numpy\.savez\(\)\.$",
        ),
        (npz_bytes(data=X, target=Y, more=Y), r"holds the arrays data, target, more; x and y are needed"),
        (npz_bytes(np.savez), r"holds the arrays none; x and y are needed"),
        (npz_bytes(x=X.astype(object), y=Y), r"x in .* holds object values; numbers are needed"),
        (npz_bytes(x=X.astype(str), y=Y), r"x in .* holds <U\d+ values; numbers are needed"),
        (npz_bytes(x=np.full((2, 2), np.nan), y=Y[:2]), r"x\[0\] holds NaN"),
        (npy_bytes(X), r"holds one array, which is x; y is needed too\. Give its file as targets="),
        (gzip.compress(b"a,b,c", mtime=0), r"has no rows of numbers"),
        (gzip.compress(idx_bytes(X.astype(np.uint8)), mtime=0), r"not named like images"),
    ],
)
def test_files_that_are_no_data_set_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(saved(tmp_path / "a.npz", content))


def zip_with(content: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive whose x is `content`, beside an ordinary y."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("x.npy", content)
        archive.writestr("y.npy", npy_bytes(Y))
    return stream.getvalue()


def npy_header(text: str, version: int = 1) -> bytes:
    """Return an .npy header with this text."""
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text.encode()


def header_text(shape: str, descr: str = "<f4") -> str:
    """Return the text of a header."""
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy_header(header_text("(1000000, 1000000)")), r"announces shape \(1000000, 1000000\), .* and holds 0\."),
        (npy_header(header_text("(2, 1)")) + bytes(7), r"which is 8 bytes, and holds 7\. It is truncated"),
        (npy_header(header_text("(2, 1)")) + bytes(9), r"which is 8 bytes, and holds (more|9)\. It is truncated"),
        (npy_header(header_text("(-2, -1)")) + bytes(8), r"its header has the shape \(-2, -1\)"),
        (npy_header(header_text("(True, 1)")) + bytes(4), r"its header has the shape \(True, 1\)"),
        (npy_header(header_text("(2, 1)", "nonsense")), r"no header of an \.npy file \(ValueError\)"),
        (npy_header(header_text("(" * 3000)), r"no header of an \.npy file"),
        (npy_header("__import__('os').abort()"), r"no header of an \.npy file"),
        (npy_header(header_text("(2, 1)"), version=3), r"no header of an \.npy file \(KeyError\)"),
        (npy_header(header_text("(2, 1)"))[:-20], r"no header of an \.npy file"),
    ],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, None])
def test_lying_npy_headers_are_refused(tmp_path: Path, content: bytes, message: str, method: int | None) -> None:
    path = saved(tmp_path / "a", content if method is None else zip_with(content, method))
    with pytest.raises(InputError, match=message):
        load(path, None if method is not None else saved(tmp_path / "y", npy_bytes(Y)))


def test_headers_of_python_2_are_read(tmp_path: Path) -> None:
    x = saved(tmp_path / "x", npy_header(header_text("(2L, 1L)")) + bytes(8))
    assert len(load(x, saved(tmp_path / "y", npy_bytes(Y[:2])))) == 2


def test_an_altered_number_in_an_archive_is_refused(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((12, 500))
    content = bytearray(npz_bytes(np.savez, x=x, y=Y))
    content[content.index(x.tobytes()) + 20_000] ^= 1
    with pytest.raises(InputError, match="x in .* cannot be read: Bad CRC-32"):
        load(saved(tmp_path / "a.npz", bytes(content)))


def test_archives_in_other_compressions_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", zip_with(npy_bytes(X), zipfile.ZIP_BZIP2))
    with pytest.raises(InputError, match=r"x\.npy is compressed in a way that NumPy does not use"):
        load(path)


def test_a_small_file_that_promises_gigabytes_allocates_little(tmp_path: Path) -> None:
    lies = bytes([0, 0, 8, 3]) + struct.pack(">3I", 60000, 2**10, 2**10) + bytes(2**20)
    x = saved(tmp_path / "train-images-idx3-ubyte.gz", gzip.compress(lies))
    y = saved(tmp_path / "train-labels-idx1-ubyte", idx_bytes(Y))
    archive = saved(tmp_path / "a.npz", zip_with(npy_header(header_text("(60000, 1048576)")) + bytes(2**20), 8))
    tracemalloc.start()
    try:
        for source, targets in ((x, y), (archive, None)):
            with pytest.raises(InputError, match=r"announces shape \(60000, .* and holds 1,048,576"):
                load(source, targets)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_a_bomb_is_read_no_further_than_its_header_says(tmp_path: Path) -> None:
    bomb = gzip.compress(idx_bytes(Y.reshape(3, 2, 2)) + bytes(2**22))[:-8] + bytes(8)
    path = saved(tmp_path / "images", bomb)
    # Its checksum is wrong too, which only a reader that goes to the end would find.
    with pytest.raises(InputError, match=r"holds more than the 3 samples that its header announces"):
        load(path, saved(tmp_path / "y", npy_bytes(Y[:3])))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images-idx3-ubyte.gz", lambda raw: raw[:-9], r"cannot be read: Compressed file ended before"),
        (
            "train-images-idx3-ubyte.gz",
            lambda raw: raw[:-8] + bytes(8),
            r"cannot be read: CRC check failed .* truncated, damaged",
        ),
        (
            "train-images-idx3-ubyte.gz",
            lambda raw: gzip.compress(b"hello"),
            r"starts with 00 00, a type such as 08, .* this one with '68 65 6c 6c'",
        ),
        ("train-images-idx3-ubyte.gz", lambda raw: gzip.compress(b"\0\0\x0a\x02"), r"this one with '00 00 0a 02'"),
        ("train-images-idx3-ubyte.gz", lambda raw: gzip.compress(b"\0\0\x08\0"), r"this one with '00 00 08 00'"),
        ("train-images-idx3-ubyte.gz", lambda raw: gzip.compress(b"\0\0\x08\x03\0"), r"cannot be read: unpack"),
        ("train-images-idx3-ubyte.gz", lambda raw: gzip.compress(b""), r"is empty"),
        (
            "train-labels-idx1-ubyte.gz",
            lambda raw: idx_bytes(Y[:5]),
            r"has 6 samples and \S+labels-idx1-ubyte\.gz 5; both need one entry per",
        ),
        ("train-labels-idx1-ubyte.gz", lambda raw: idx_bytes(Y[:6])[:-1], r"which is 6 bytes, and holds 5\."),
        ("train-labels-idx1-ubyte.gz", lambda raw: b"", r"labels-idx1-ubyte\.gz is empty"),
        (
            "train-labels-idx1-ubyte.gz",
            lambda raw: npz_bytes(y=Y),
            r"is an \.npz with arrays of its own; one array",
        ),
        ("train-images-idx3-ubyte.gz", lambda raw: idx_bytes(Y[:6]), r"has the shape \(6,\); one row per sample"),
    ],
)
def test_damaged_idx_files_are_refused(
    idx_directory: Path, name: str, change: Callable[[bytes], bytes], message: str
) -> None:
    saved(idx_directory / name, change((idx_directory / name).read_bytes()))
    with pytest.raises(InputError, match=message):
        load(idx_directory)


def test_missing_halves_are_named(idx_directory: Path) -> None:
    with pytest.raises(InputError, match=r"train-labels-idx1-ubyte\.gz is not named like images"):
        load(idx_directory / "train-labels-idx1-ubyte.gz")
    with pytest.raises(InputError, match=r'has no parts; leave out part="test", which needs a directory'):
        load(idx_directory / "train-images-idx3-ubyte.gz", part="test")
    (idx_directory / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"labels of .* were not found\. Put train-labels-idx1-ubyte beside it"):
        load(idx_directory)
    (idx_directory / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"has no train-images-idx3-ubyte or train-images-idx3-ubyte\.gz"):
        load(idx_directory)


def test_what_holds_y_itself_takes_no_targets(tmp_path: Path) -> None:
    y = saved(tmp_path / "y.npy", npy_bytes(Y))
    with pytest.raises(InputError, match=r'digits holds x and y itself; leave out targets=".*y\.npy"\.'):
        load("digits", y)
    with pytest.raises(InputError, match=r"holds the arrays x, y; x_test and y_test are needed"):
        load("digits", part="test")


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return `content` cut, with bytes changed, or with a piece moved."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        if rng.random() < 0.7:
            data[at] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        elif rng.random() < 0.5:
            del data[at : at + rng.randint(1, 64)]
        else:
            data[at:at] = data[rng.randrange(len(data)) :][:32]
        data = data or bytearray(1)
    return bytes(data)


@pytest.mark.parametrize("kind", ["stored npz", "deflated npz", "npy", "idx", "idx.gz"])
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path: Path, kind: str) -> None:
    images = np.arange(72, dtype=np.uint8).reshape(12, 2, 3)
    content = {
        "stored npz": npz_bytes(np.savez, x=X, y=Y),
        "deflated npz": npz_bytes(x=X, y=Y),
        "npy": npy_bytes(X),
        "idx": idx_bytes(images),
        "idx.gz": gzip.compress(idx_bytes(images)),
    }[kind]
    targets = None if kind.endswith("npz") else saved(tmp_path / "y", npy_bytes(Y))
    rng = random.Random(kind)
    outcomes: list[Dataset | InputError] = []
    for _ in range(200):
        path = saved(tmp_path / "x", mutated(content, rng))
        try:
            outcomes.append(load(path, targets))
        except InputError as error:  # anything else is a failure
            outcomes.append(error)
    assert sum(isinstance(outcome, InputError) for outcome in outcomes) > 50


# Splitting


def test_a_split_is_stratified_complete_and_repeatable() -> None:
    digits = load("digits")
    train, held = split(digits, 0.2, seed=3)
    assert len(held) == round(1797 * 0.2)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held])), np.arange(1797))
    shares = np.bincount(digits.y[held]) / np.bincount(digits.y)
    assert np.abs(shares - 0.2).max() < 0.006  # one sample of about 178
    np.testing.assert_array_equal(split(digits, 0.2, seed=3)[1], held)
    assert not np.array_equal(split(digits, 0.2, seed=4)[1], held)


@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=60),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
    st.booleans(),
)
def test_any_split_has_the_size_asked_for(labels: list[int], held_out: float, seed: int, floats: bool) -> None:
    y = np.array(labels, np.float64 if floats else np.int64) + floats / 2
    dataset = from_arrays(np.zeros((len(y), 1)), y)
    chosen = round(len(y) * held_out)
    if not 0 < chosen < len(y):
        with pytest.raises(InputError, match="leaves none on one side"):
            split(dataset, held_out, seed)
        return
    train, held = split(dataset, held_out, seed)
    assert len(held) == chosen
    assert sorted([*train, *held]) == list(range(len(y)))
    for label in set(labels) if not floats else ():
        share = np.sum(y == label) * chosen / len(y)
        assert abs(np.sum(y[held] == label) - share) < 1


@pytest.mark.parametrize("held_out", [0.0, 1.0, -0.1, 1.5, float("nan"), 3, "0.2", None, "\n", np.zeros((3, 3))])
def test_fractions_that_leave_nothing_are_refused_in_one_line(held_out: Any) -> None:
    with pytest.raises(InputError, match=r"held_out=.* of 12 samples leaves none on one side") as error:
        split(from_arrays(X, Y), held_out, seed=0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", [-1, 1.5, True, None, "0"])
def test_seeds_are_whole_numbers(seed: Any) -> None:
    with pytest.raises(InputError, match=r"seed must be a whole number from 0; got"):
        split(from_arrays(X, Y), 0.5, seed)


# Batches


def collected(batches: ArrayBatches, epoch: int, start: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return one epoch's batches joined."""
    pairs = [(batch.x.copy(), batch.y.copy()) for batch in batches.epoch(epoch, start=start)]
    return np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])


@pytest.mark.parametrize("stored", ["u1", "f4", "f8", ">f4", "i8", "f2", "?"])
@pytest.mark.parametrize("layout", ["contiguous", "fortran", "columns"])
@pytest.mark.parametrize("labels", [True, False])
def test_an_epoch_gives_every_sample_once(stored: str, layout: str, labels: bool) -> None:
    x = (np.arange(60).reshape(12, 5) % 7).astype(stored)
    x = {"contiguous": x, "fortran": np.asfortranarray(x), "columns": np.repeat(x, 2, axis=1)[:, ::2]}[layout]
    y = np.arange(12, dtype=np.uint8) if labels else np.arange(24, dtype=stored.replace("?", "i1")).reshape(12, 2)
    batches = ArrayBatches(x, y, 5, scale=0.5, seed=1, labels=labels)
    got_x, got_y = collected(batches, 0)
    order = got_y if labels else np.array([int(np.flatnonzero((y == row).all(axis=1))[0]) for row in got_y])
    assert got_x.dtype == np.float32
    assert got_y.dtype == (np.int64 if labels else np.float32)
    np.testing.assert_array_equal(got_x, x[order].astype(np.float32) * 0.5)
    assert sorted(order) == list(range(12))


def test_the_last_batch_may_be_shorter_and_batches_are_views() -> None:
    batches = ArrayBatches(X, Y, 5, seed=0, labels=True)
    shapes = []
    for batch in batches.epoch(0):
        shapes.append((batch.x.shape, batch.y.shape))
        assert batch.x.base is batches.x_buffer
        assert batch.y.base is batches.y_buffer
    assert shapes == [((5, 5), (5,)), ((5, 5), (5,)), ((2, 5), (2,))]
    assert len(batches) == 3


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    one, two = ArrayBatches(X, Y, 4, seed=5, labels=True), ArrayBatches(X, Y, 4, seed=5, labels=True)
    for epoch in (0, 1):
        collected(one, epoch)
    np.testing.assert_array_equal(collected(one, 2)[0], collected(two, 2)[0])  # whatever ran before
    np.testing.assert_array_equal(collected(one, 2, start=2)[0], collected(one, 2)[0][8:])
    assert not np.array_equal(collected(one, 3)[0], collected(one, 2)[0])
    assert not np.array_equal(collected(one, 2)[0], collected(ArrayBatches(X, Y, 4, seed=6, labels=True), 2)[0])


def test_without_a_seed_rows_keep_their_order() -> None:
    np.testing.assert_array_equal(collected(ArrayBatches(X, Y, 5, labels=True), 3)[0], X)


def test_indices_choose_rows_and_stay_the_callers() -> None:
    indices = np.array([9, 2, 4])
    batches = ArrayBatches(X, Y, 2, seed=0, labels=True, indices=indices)
    assert sorted(collected(batches, 0)[0][:, 0]) == [10, 20, 45]
    np.testing.assert_array_equal(indices, [9, 2, 4])


@needs_mnist
def test_an_epoch_of_mnist_allocates_no_array() -> None:
    train = load(MNIST, part="test")
    batches = ArrayBatches(train.x, train.y, 512, scale=train.scale, seed=0, labels=True)
    assert peak_of_an_epoch(batches) < 2**13


@pytest.mark.parametrize("stored", ["u1", "f4", "f8", ">f4"])
@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("labels", [True, False])
def test_an_epoch_allocates_no_array(stored: str, layout: Any, labels: bool) -> None:
    x = np.ones((4000, 300)).astype(stored, order=layout)
    y = np.ones(4000, np.uint8) if labels else np.ones((4000, 20), stored)
    batches = ArrayBatches(x, y, 1000, scale=0.5, seed=0, labels=labels)
    # A batch is 1.2 MB, the order 16 kB, its indices 8 kB; casts of odd layouts use a fixed buffer of NumPy.
    assert peak_of_an_epoch(batches) < 2**12 + (2**16 if layout == "F" else 0)


def peak_of_an_epoch(batches: ArrayBatches) -> int:
    """Return the bytes that an epoch allocates at its peak, warmed up."""
    for _ in batches.epoch(0):
        pass
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in batches.epoch(1):
            pass
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@settings(deadline=None)
@given(
    rows=st.integers(1, 40),
    features=st.integers(1, 20),
    targets=st.integers(1, 5),
    samples=st.integers(1, 50),
    x_dtype=st.sampled_from(["u1", "f2", "f4", "f8", ">f4", "i8"]),
    y_dtype=st.sampled_from(["u1", "i4", "i8"]),
    labels=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_the_bytes_told_beforehand_are_the_bytes_owned(**sizes: Any) -> None:
    samples, labels = sizes["samples"], sizes["labels"]
    x = np.zeros((samples, sizes["features"]), sizes["x_dtype"])
    y = np.zeros(samples if labels else (samples, sizes["targets"]), sizes["y_dtype"])
    batches = ArrayBatches(x, y, sizes["rows"], sizes["dtype"], seed=0, labels=labels)
    owned = [value for value in vars(batches).values() if isinstance(value, np.ndarray)]
    owned = [array for array in owned if array is not batches._x and not np.shares_memory(array, y)]
    assert buffer_bytes(**sizes) == batches.nbytes == sum(array.nbytes for array in owned)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 0}, r"the rows of a batch must be a positive whole number; got 0"),
        ({"rows": 2.0}, r"the rows of a batch must be a positive whole number; got 2\.0"),
        ({"rows": True}, r"the rows of a batch must be a positive whole number; got True"),
        ({"x": X[:, 0]}, r"x has shape \(12,\) and y \(12,\); x must be \(samples, features\)"),
        ({"y": Y[:5]}, r"x has shape \(12, 5\) and y \(5,\); x must be .* as many samples"),
        ({"x": X.astype(str)}, r"x has dtype <U.*; numbers are needed"),
        ({"y": X}, r"this loss needs integer labels of shape \(samples,\)\. One-hot rows"),
        ({"y": X[:, 0]}, r"y has shape \(12,\) and dtype float32; this loss needs integer labels"),
        ({"y": X.reshape(12, 5, 1), "labels": False}, r"targets of shape \(samples, outputs\) are needed"),
        ({"dtype": "float16"}, r"unknown dtype 'float16'\. Did you mean 'float"),
        ({"seed": -1}, r"seed must be a whole number from 0; got -1"),
        ({"indices": np.array([0, 12])}, r"indices go from 0 to 12; x has rows 0 to 11"),
        ({"indices": np.array([-1])}, r"indices go from -1 to -1"),
        ({"indices": np.array([0.5])}, r"indices have shape \(1,\) and dtype float64; a list of row numbers"),
        ({"indices": np.array([], int)}, r"indices have shape \(0,\)"),
        ({"x": X.astype(float) * 1e300}, r"x has values up to 5\.9e\+301, too large for float32"),
        ({"y": X.astype(float) * 1e300, "labels": False}, r"y has values up to 5\.9e\+301, too large for float32"),
        ({"weights": np.full(12, 1e300)}, r"weights has values up to 1e\+300, too large for float32"),
        ({"scale": 1e38}, r"x has values up to 59, times a scale of 1e\+38, too large for float32"),
        (
            {"x": X.astype(int), "scale": 1e38},
            r"x has values up to 59, times a scale of 1e\+38, too large for float32",
        ),
    ],
)
def test_what_no_batch_can_be_made_of_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ArrayBatches(**{"x": X, "y": Y, "rows": 4, "labels": True, **arguments})
