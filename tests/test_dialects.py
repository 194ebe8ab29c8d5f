"""Tables in text and arrays in files as they come: read where it is certain, refused in true words where it is not."""

import bz2
import gzip
import lzma
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import lowmem as lm
from lowmem.data.open import load
from tests.test_cli import Ran
from tests.test_streams import collected, refusal

Array = NDArray[Any]
Capture = pytest.CaptureFixture[str]
RNG = np.random.default_rng(6)
X = RNG.standard_normal((30, 3)).round(3).astype(np.float32)
Y = np.arange(30) % 3
LABELS = np.array(["setosa", "versicolor", "virginica"])[Y]
NAMES = ["a", "b", "c", "class"]


def table(*, delimiter: str = ",", names: list[str] | None = None, text: bool = False, end: str = "\n") -> str:
    """Return the samples as text."""
    y = LABELS if text else Y
    rows = [delimiter.join([*map(repr, row), str(label)]) for row, label in zip(X.tolist(), y.tolist(), strict=True)]
    return end.join([*([] if names is None else [delimiter.join(names)]), *rows, ""])


def saved(folder: Path, content: str | bytes, name: str = "a.csv") -> Path:
    """Write a file."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def check(path: Path, **options: Any) -> Any:
    """Open a file in both ways, and check that it holds the samples."""
    stream = lm.open_data(path, **options)
    x, y = collected(stream.batches(7, lm.Architecture((3, 3)), None))
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)
    whole = load(path, **options)
    np.testing.assert_array_equal(whole.x, X)
    np.testing.assert_array_equal(whole.y, Y)
    train, held = stream.split(0.2)
    assert (len(train), len(held)) == (24, 6)
    assert len(collected(train.batches(7, lm.Architecture((3, 3)), 0))[0]) == 24
    return stream


# Delimiters, line ends, encodings, compression -------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", " ", "   "])
@pytest.mark.parametrize("names", [None, NAMES])
@pytest.mark.parametrize("text", [False, True])
def test_cells_stand_between_anything(tmp_path: Path, delimiter: str, names: list[str] | None, text: bool) -> None:
    stream = check(saved(tmp_path, table(delimiter=delimiter, names=names, text=text), "a.txt"))
    assert stream.columns.features == (None if names is None else ("a", "b", "c"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("names", [None, ["Größe", "b", "c", "класс"]])
@pytest.mark.parametrize("packed", [False, True])
def test_any_encoding_and_line_end_is_read(
    tmp_path: Path, end: str, encoding: str, names: list[str] | None, packed: bool
) -> None:
    content = table(names=names, text=True, end=end).encode(encoding)
    stream = check(saved(tmp_path, gzip.compress(content) if packed else content))
    assert stream.class_names == ("setosa", "versicolor", "virginica")
    assert stream.columns.features == (None if names is None else ("Größe", "b", "c"))


@pytest.mark.parametrize("name", ["iris.data", "iris.txt", "iris", "iris.csv.gz", "iris.parquet", "iris.npz", "a.dat"])
@pytest.mark.parametrize("packed", [False, True])
def test_text_is_known_by_its_content(capsys: Capture, tmp_path: Path, name: str, packed: bool) -> None:
    content = table(text=True).encode()
    path = saved(tmp_path, gzip.compress(content) if packed else content, name)
    check(path)
    flags = ["--layers", "1", "--width", "4", "--batch", "10", "--epochs", "1", "--no-calibrate"]
    run = str(tmp_path / "run")
    assert Ran(capsys, "train", "--data", str(path), *flags, "--save", run).code == 0
    assert Ran(capsys, "predict", run, "--data", str(path)).out.count("\n") == 30
    assert Ran(capsys, "evaluate", run, "--data", str(path)).code == 0


@pytest.mark.parametrize("name", ["a.pq", "a", "a.csv", "a.txt", "a.npz"])
def test_parquet_and_arrays_are_known_by_their_content(tmp_path: Path, name: str) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table([*X.T, Y], names=NAMES), tmp_path / name)
    check(tmp_path / name)
    with (tmp_path / name).open("wb") as stream:
        np.savez(stream, x=X, y=Y)
    check(tmp_path / name)


def test_packed_arrays_are_read(tmp_path: Path) -> None:
    for name, array in (("x", X), ("y", Y)):
        np.save(tmp_path / f"{name}.npy", array)
        saved(tmp_path, gzip.compress((tmp_path / f"{name}.npy").read_bytes()), f"{name}.npy.gz")
    check(tmp_path / "x.npy.gz", targets=tmp_path / "y.npy.gz")


def test_what_numpy_writes_as_text_is_read(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "a.txt", np.column_stack([X, Y]))
    check(tmp_path / "a.txt")
    np.savetxt(tmp_path / "a.txt", np.column_stack([X, Y]), header="a b c y")
    assert "1 line before" in check(tmp_path / "a.txt").notes[0]
    np.savetxt(tmp_path / "a.txt", np.column_stack([X, Y]), delimiter=",", header="a,b,c,y", comments="")
    assert check(tmp_path / "a.txt").columns.features == ("a", "b", "c")


def test_what_r_and_pandas_write_is_read(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X)
    frame["y"] = Y
    frame.to_csv(tmp_path / "a.csv", sep=";", decimal=",")
    check(tmp_path / "a.csv")
    frame.to_csv(tmp_path / "a.csv.gz", encoding="utf-16")
    check(tmp_path / "a.csv.gz")
    rows = [
        f'"{n + 1}" {" ".join(map(repr, row))} "{y}"'
        for n, (row, y) in enumerate(zip(X.tolist(), LABELS, strict=True))
    ]
    check(saved(tmp_path, "\n".join(['"a" "b" "c" "kind"', *rows]), "r.txt"))
    rows = [
        f'"car {n + 1}",{",".join(map(repr, row))},"{y}"'
        for n, (row, y) in enumerate(zip(X.tolist(), LABELS, strict=True))
    ]
    check(saved(tmp_path, "\n".join(['"","a","b","c","kind"', *rows]), "r.csv"))


@pytest.mark.parametrize("begin", ["# a comment\n", "\n", "\n\n# a\n#b,c,d\n \n", "#\n"])
@pytest.mark.parametrize("names", [None, NAMES])
def test_comments_and_empty_lines_before_the_table_are_left_out(
    tmp_path: Path, begin: str, names: list[str] | None
) -> None:
    stream = check(saved(tmp_path, begin + table(names=names)))
    assert f"{begin.count(chr(10))} line{'s' * (begin.count(chr(10)) > 1)} before" in stream.notes[0]
    lines = (begin + table(names=names)).splitlines()
    lines[-5] = lines[-5].replace(",", ",x", 1)
    assert f"line {len(lines) - 4}, column 2" in refusal(saved(tmp_path, "\n".join(lines)))


def test_a_line_that_tells_the_delimiter_is_understood(tmp_path: Path) -> None:
    check(saved(tmp_path, "sep=;\n" + table(delimiter=";", names=NAMES)))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("names", [None, [*NAMES, ""], NAMES])
@pytest.mark.parametrize("text", [False, True])
def test_a_delimiter_at_the_end_of_lines_makes_no_column(
    tmp_path: Path, delimiter: str, names: list[str] | None, text: bool
) -> None:
    lines = table(delimiter=delimiter, text=text).splitlines()
    head = [] if names is None else [delimiter.join(names)]
    stream = check(saved(tmp_path, "\n".join([*head, *(line + delimiter for line in lines), ""])))
    assert stream.columns.count == 4


def test_a_column_that_is_empty_is_no_delimiter_at_the_end(tmp_path: Path) -> None:
    path = saved(tmp_path, "a,b,c\n1,2,\n3,4,\n")
    assert "line 2, column 3" in refusal(path)
    path = saved(tmp_path, "a,b,y\n1,,0\n3,,1\n")
    assert "line 2, column 2 ('b'): the value is missing ('')" in refusal(path)
    assert lm.open_data(path, ignore="b").features == 1


# Numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [";", "\t", "|", " "])
@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("names", [None, NAMES])
def test_decimal_commas_are_read_between_other_delimiters(
    tmp_path: Path, delimiter: str, text: bool, names: list[str] | None
) -> None:
    check(saved(tmp_path, table(delimiter=delimiter, text=text, names=names).replace(".", ",")))


def test_decimal_commas_far_behind_whole_numbers_are_read(tmp_path: Path) -> None:
    lines = ["1;2;0"] * 700 + ["1,5;2;1"] * 3
    x, _ = collected(lm.open_data(saved(tmp_path, "\n".join(lines))).batches(703, lm.Architecture((2, 2)), None))
    assert x[:, 0].tolist() == [1.0] * 700 + [1.5] * 3


def test_labels_with_commas_are_no_decimal_commas(tmp_path: Path) -> None:
    lines = [f"{row[0]!r};{row[1]!r};{row[2]!r};kind {y}, of 3" for row, y in zip(X.tolist(), Y, strict=True)]
    assert check(saved(tmp_path, "\n".join(lines))).class_names == ("kind 0, of 3", "kind 1, of 3", "kind 2, of 3")


def test_decimal_commas_and_points_in_one_file_are_refused(tmp_path: Path) -> None:
    words = refusal(saved(tmp_path, "1,5;2;0\n1;2.5;1\n"))
    assert "has decimal commas, '1,5' in line 1, column 1, and decimal points, '2.5' in line 2, column 2" in words


def test_commas_that_may_stand_between_thousands_are_refused(tmp_path: Path) -> None:
    words = refusal(saved(tmp_path, "1,234\t5\t0\n2,345\t6\t1\n"))
    assert "'1,234', which may be 1.234 or 1234" in words
    assert "'1,234,567' is no number" in refusal(saved(tmp_path, '"1,234,567";5;0\n"2,345,678";6;1\n"1,5";7;1'))
    assert "'1,234' is no number. Numbers have a decimal point, and nothing between thousands." in refusal(
        saved(tmp_path, '1,5,0\n"1,234",5,0\n')
    )


@pytest.mark.parametrize("delimiter", ["\t", "|", " "])
@pytest.mark.parametrize("column", [0, 2], ids=["feature", "target"])
def test_a_comma_far_behind_the_first_lines_is_no_decimal_comma_unless_another_says_so(
    tmp_path: Path, delimiter: str, column: int
) -> None:
    rows = [[str(row), str(row % 7), str(100 + row)] for row in range(300)]
    rows[200][column] = "1,234"
    path = saved(tmp_path, "".join(f"{delimiter.join(row)}\n" for row in rows), "a.tsv")
    assert "line 201 has '1,234', which may be 1.234 or 1234. Write decimal points" in refusal(path)
    rows[250][1] = "0,5"
    path = saved(tmp_path, "".join(f"{delimiter.join(row)}\n" for row in rows), "a.tsv")
    assert check_remarks(path) == []


@pytest.mark.parametrize("mark", [",", "."])
def test_between_semicolons_marks_that_may_be_of_thousands_are_remarked(tmp_path: Path, mark: str) -> None:
    rows = [f"{row};{row % 7};{100 + row}" for row in range(300)]
    rows[200] = f"1{mark}234;5;7"
    path = saved(tmp_path, "\n".join(rows))
    (remark,) = check_remarks(path)
    assert f"'1{mark}234' in line 201 is read as 1.234, and not as 1234" in remark
    rows[250] = f"0{mark}5;1;7"
    assert check_remarks(saved(tmp_path, "\n".join(rows))) == []


def check_remarks(path: Path) -> list[str]:
    """Return what is remarked on marks in numbers."""
    return [remark for remark in lm.open_data(path, task="regression").remarks if "is read as" in remark]


@pytest.mark.parametrize("end", ["", "3.5\t4\t1\n"])
def test_a_column_between_tabs_that_is_empty_lacks_its_values(tmp_path: Path, end: str) -> None:
    path = saved(tmp_path, f"a\tb\ty\n1\t\t0\n2\t\t1\n3\t\t0\n{end}", "a.tsv")
    words = refusal(path)
    assert "line 2, column 2 ('b'): the value is missing (''). Fill it in" in words
    assert 'leave the column out with ignore="b"' in words
    assert lm.open_data(path, ignore="b").features == 1


def test_tabs_that_end_all_lines_but_the_last_are_read(tmp_path: Path) -> None:
    rows = "\t\n".join(f"{row}.5\t{row % 7}\t{row % 2}" for row in range(30))
    assert len(lm.open_data(saved(tmp_path, f"a\tb\ty\t\n{rows}", "a.tsv"))) == 30


def test_columns_that_several_tabs_bring_in_line_are_read(tmp_path: Path) -> None:
    stream = lm.open_data(saved(tmp_path, "a\tlonger\ty\n1.5\t\t2\t0\n2.5\t3\t1\n1.5\t\t2\t0\n"))
    assert (len(stream), stream.features) == (3, 2)


def test_truth_values_are_numbers_as_in_other_formats(tmp_path: Path) -> None:
    stream = lm.open_data(saved(tmp_path, "a,b,y\n1.5,True,0\n2.5,False,1\n3.5,TRUE,1\n"))
    assert collected(stream.batches(3, lm.Architecture((2, 2)), None))[0][:, 1].tolist() == [1, 0, 1]
    stream = lm.open_data(saved(tmp_path, "a,b,y\n1.5,1,True\n2.5,2,False\n3.5,3,True\n"))
    assert (stream.class_names, stream.labels, stream.classes) == (None, True, 2)
    assert lm.open_data(saved(tmp_path, "1,true\n2,false\n3,maybe\n")).class_names == ("false", "maybe", "true")


@pytest.mark.parametrize("cell", ["", "NA", "nan", "NaN", "?", "null", "N/A", "-", "None"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_missing_values_are_refused_with_line_column_and_what_to_do(tmp_path: Path, cell: str, delimiter: str) -> None:
    for row in (0, 1, 17, 29):
        lines = table(delimiter=delimiter, names=NAMES).splitlines()
        cells = lines[row + 1].split(delimiter)
        cells[1] = cell
        lines[row + 1] = delimiter.join(cells)
        words = refusal(saved(tmp_path, "\n".join(lines)))
        assert f"line {row + 2}, column 2 ('b'): the value is missing ({cell!r})" in words
        assert 'Fill it in, or remove that row, or leave the column out with ignore="b".' in words


def test_text_columns_are_refused_with_name_and_what_to_do(tmp_path: Path) -> None:
    lines = ["age,city,y", *(f"{n},Paris,{n % 2}" for n in range(20, 40))]
    words = refusal(saved(tmp_path, "\n".join(lines)))
    assert "line 2, column 2 ('city'): 'Paris' is no number" in words
    assert 'ignore="city"' in words
    assert "line 1, column 2: 'Paris' is no number" in refusal(saved(tmp_path, "\n".join(lines[1:])))


def test_the_right_line_is_blamed(tmp_path: Path) -> None:
    for bad, words in (
        ("1_0,2,0", "line 5, column 1: '1_0' is no number"),
        ("1,0x10,0", "line 5, column 2: '0x10' is no number"),
        ("1,2", "line 5 has 2 columns; the first line has 3"),
        ("1,2,0,", "line 5 has 4 columns; the first line has 3"),
        ('"1,2,0', "line 5 has a quote that is not closed"),
        ("1,1e999,0", "line 5, column 2: '1e999' is no finite number"),
        ("1,inf,0", "line 5, column 2: 'inf' is no finite number"),
        ("# no", "line 5 has 1 column; the first line has 3"),
        ("1,٣,0", "line 5, column 2: '٣' is no number"),
    ):
        lines = ["1,2,0"] * 8
        lines[4] = bad
        assert words in refusal(saved(tmp_path, "\n".join(lines)))
    assert "an empty line 3 with more rows behind it" in refusal(saved(tmp_path, "1,2,0\n3,4,1\n\n\n5,6,1\n"))


def test_text_that_is_no_utf_8_is_refused_in_true_words(tmp_path: Path) -> None:
    words = refusal(saved(tmp_path, "größe,y\n1,0\n2,1\n".encode("latin-1")))
    assert "the name 'gr\\udcf6\\udcdfe' is no UTF-8 text. Save the file as UTF-8" in words
    assert "is no UTF-8 text" in refusal(saved(tmp_path, "a,b,y\n1,2,grün\n2,1,rot\n".encode("latin-1")))


# Names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "headed"),
    [
        ("0,1,2\n1.5,2.5,0\n1.7,2.7,1\n", True),  # as pandas names columns without names
        ("0,1,2,3,target\n5.1,3.5,1.4,0.2,0\n", True),
        ("0,1,2,3,4\n5.1,3.5,1.4,0.2,setosa\n4.9,3.0,1.4,0.2,setosa\n", True),
        (",0,1,2\n0,1,2,0\n1,2,3,1\n", True),  # with an index
        ("2019,2020,2021,2022\n1.5,2.5,3.5,0\n1.7,2.7,3.5,1\n", True),  # years
        ("2019,2020,2021,2022\n10,20,30,0\n11,21,31,1\n", True),
        ("2019,2020,kind\n1,5,a\n2,6,b\n", True),
        (",".join(map(str, range(12))) + "\n" + ",".join("305102938471") + "\n", True),
        ("x,y\n1,0\n", True),
        ("150,4,setosa,versicolor,virginica\n5.1,3.5,1.4,0.2,0\n4.9,3.0,1.4,0.2,0\n", True),  # scikit-learn's file
        ("id,2020,2021,y\n1,5,6,0\n2,6,7,1\n", True),
        ("5.1,3.5,0\n4.9,3.0,1\n", False),
        ("5.1,3.5,setosa\n4.9,3.0,virginica\n", False),
        ("1,2,0\n3,4,1\n", False),
        ("0,0,0\n0,1,1\n", False),
        ("5.1,NA,0\n4.9,3.0,1\n", False),
        ("1,2,3\n4,5,6\n", False),
        ("0,1,a\n1,0,b\n0,1,a\n", False),  # a label that occurs again
    ],
)
def test_names_are_told_from_samples(tmp_path: Path, text: str, headed: bool) -> None:
    path = saved(tmp_path, text)
    try:
        stream = lm.open_data(path, task="regression")
    except lm.InputError as error:
        assert "missing" in str(error) or "text" in str(error)
        try:
            stream = lm.open_data(path, task="classification")
        except lm.InputError as problem:
            assert "line 1, column 2: the value is missing ('NA')" in str(problem)
            assert not headed
            return
    assert len(stream) == text.count("\n") - headed
    assert stream.columns is not None
    assert (stream.columns.names is not None) == headed


@pytest.mark.parametrize(
    "text", ["0,1\n1,0\n0,0\n", "0,1,2\n2,1,0\n1,1,0\n", "2001,2002,2003\n1999,2005,2001\n", "0,1,a\n1,0,b\n1,1,b\n"]
)
def test_lines_that_may_be_either_are_refused_and_may_be_told(capsys: Capture, tmp_path: Path, text: str) -> None:
    path = saved(tmp_path, text)
    words = refusal(path)
    assert "line 1: " in words
    assert "may be names of columns, as pandas writes them, or a sample" in words
    assert words.endswith("Say which with header=True or header=False.")
    rows = text.count("\n")
    assert len(lm.open_data(path, header=False, task="classification")) == rows
    assert len(lm.open_data(path, header=True, task="classification")) == rows - 1
    flags = ["--layers", "1", "--width", "4", "--batch", "2", "--epochs", "1", "--no-calibrate", "--held-out", "0"]
    ran = Ran(capsys, "train", "--data", str(path), *flags)
    assert (ran.code, "Say which with --header yes or --header no." in ran.err) == (2, True)
    for header, count in (("no", rows), ("yes", rows - 1)):
        ran = Ran(capsys, "train", "--data", str(path), *flags, "--header", header, "--task", "classification")
        assert (ran.code, f"{count} samples to train on" in ran.out) == (0, True)
    ran = Ran(capsys, "train", "--data", str(path), *flags, "--header", "maybe")
    assert (ran.code, "--header is yes or no; got 'maybe'" in ran.err) == (2, True)


def test_columns_named_by_numbers_are_chosen_by_name_first(tmp_path: Path) -> None:
    path = saved(tmp_path, ",1,2,3\n0,1.5,2.5,7.5\n1,1.6,2.6,8.5\n2,1.7,2.7,9.5\n")
    stream = lm.open_data(path, target="1")
    assert stream.columns is not None
    assert stream.columns.features == ("2", "3")
    assert lm.open_data(path, target=3).columns.features == ("1", "2")  # type: ignore[union-attr]
    years = saved(tmp_path, "2019,2020,2021\n1.5,2.5,0.5\n1.6,2.6,1.5\n")
    assert lm.open_data(years, target=2019).columns.features == ("2020", "2021")  # type: ignore[union-attr]


# Other files -----------------------------------------------------------------------------------------------------


def excel(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "<x/>")


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("iris.csv", table())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bz2.compress(table().encode()), "is compressed by bzip2; no data are read from that. Unpack it"),
        (lzma.compress(table().encode()), "is compressed by xz"),
        (b"\x28\xb5\x2f\xfd" + bytes(20), "is compressed by zstd"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "is HDF5"),
        (b"\x80\x04\x95" + bytes(20), "is a pickle, which is never opened here"),
        (excel, "is an Excel workbook: save the sheet as CSV"),
        (zipped, "is a zip: unpack it. It holds iris.csv"),
        ('{"a": [1, 2]}\n', "it is JSON, and a table is needed"),
        ("<!DOCTYPE html>\n<html>\n", "it is HTML or XML"),
        ("@relation iris\n@attribute a numeric\n", "it is ARFF"),
        ("# only a comment\n", "has no lines but comments"),
        (bytes(40), "starts with b'\\x00\\x00\\x00\\x00\\x00\\x00'"),
        (
            gzip.compress(b"PAR1" + bytes(20), mtime=0),
            "is parquet inside gzip, which cannot be read by rows. Unpack it: gunzip",
        ),
        (gzip.compress(table().encode(), mtime=0)[:-12], "cannot be"),
        (gzip.compress(table().encode(), mtime=0)[:60], "cannot be"),
    ],
)
def test_what_is_something_else_is_called_what_it_is(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "data"
    if callable(content):
        content(path)
    else:
        saved(tmp_path, content, "data")
    assert words in refusal(path)


def test_flags_of_tables_are_refused_for_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    for option in ({"target": "y"}, {"features": "a"}, {"ignore": "a"}, {"header": True}):
        assert f"is no table with columns (npz); leave out {next(iter(option))}=" in refusal(
            tmp_path / "a.npz", **option
        )


@settings(deadline=None, max_examples=80)
@given(
    delimiter=st.sampled_from([",", ";", "\t", "|", " "]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    packed=st.booleans(),
    names=st.booleans(),
    text=st.booleans(),
    comma=st.booleans(),
    trailing=st.booleans(),
    quoted=st.booleans(),
    begin=st.sampled_from(["", "# c", ""]),
    index=st.booleans(),
)
def test_any_mixture_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    delimiter: str,
    encoding: str,
    end: str,
    packed: bool,
    names: bool,
    text: bool,
    comma: bool,
    trailing: bool,
    quoted: bool,
    begin: str,
    index: bool,
) -> None:
    comma = comma and delimiter != ","
    trailing = trailing and delimiter != " "
    index = index and names
    rows = [
        [repr(value) for value in row] + [str(label)]
        for row, label in zip(X.tolist(), LABELS if text else Y, strict=True)
    ]
    if comma:
        rows = [[*(cell.replace(".", ",") for cell in row[:-1]), row[-1]] for row in rows]
    if index:
        rows = [[str(number), *row] for number, row in enumerate(rows)]
    if names:
        rows.insert(0, [*([""] if index and delimiter != " " else []), *NAMES])
    if quoted:
        rows = [[f'"{cell}"' for cell in row] for row in rows]
    lines = [delimiter.join(row) + delimiter * trailing for row in rows]
    content = end.join([*([begin] if begin else []), *lines, ""]).encode(encoding)
    folder = tmp_path_factory.mktemp("mixture")
    check(saved(folder, gzip.compress(content) if packed else content, "data"))


# idx -------------------------------------------------------------------------------------------------------------

IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def idx(array: Array, kind: int) -> bytes:
    """Return the bytes of an idx file."""
    head = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(IDX_TYPES[kind]).tobytes()


@pytest.mark.parametrize("kind", IDX_TYPES)
@pytest.mark.parametrize("label_kind", IDX_TYPES)
@pytest.mark.parametrize("packed", [False, True])
def test_all_types_of_idx_are_read(tmp_path: Path, kind: int, label_kind: int, packed: bool) -> None:
    images, labels = RNG.integers(0, 120, (20, 2, 3)), np.arange(20) % 10
    pack, end = (gzip.compress, ".gz") if packed else (bytes, "")
    saved(tmp_path, pack(idx(images, kind)), f"train-images-idx3-ubyte{end}")
    saved(tmp_path, pack(idx(labels, label_kind)), f"train-labels-idx1-ubyte{end}")
    factor = np.float32(1 / 255) if kind == 0x08 else np.float32(1)
    for data in (lm.open_data(tmp_path), load(tmp_path)):
        x, y = collected(data.batches(6, lm.Architecture((6, 10)), None))
        np.testing.assert_array_equal(x, images.reshape(20, 6).astype(np.float32) * factor)
        np.testing.assert_array_equal(y, labels)
        assert (data.task, data.classes) == ("classification", 10)
        assert ("x is multiplied by 1/255" in data.notes) == (kind == 0x08)


@pytest.mark.parametrize("prefix", ["", "q", "emnist-letters-"])
def test_qmnist_and_its_relatives_are_read(tmp_path: Path, prefix: str) -> None:
    images = RNG.integers(0, 256, (20, 2, 3))
    labels = np.column_stack([np.arange(20) % 10, RNG.integers(0, 9999, (20, 7))])
    name = f"{prefix}mnist-train" if prefix == "q" else f"{prefix}train"
    saved(tmp_path, gzip.compress(idx(images, 0x08)), f"{name}-images-idx3-ubyte.gz")
    if prefix == "q":
        saved(tmp_path, gzip.compress(idx(labels, 0x0C)), f"{name}-labels-idx2-int.gz")
    else:
        saved(tmp_path, gzip.compress(idx(labels[:, 0], 0x08)), f"{name}-labels-idx1-ubyte.gz")
    for data in (lm.open_data(tmp_path), load(tmp_path), lm.open_data(tmp_path / f"{name}-images-idx3-ubyte.gz")):
        assert collected(data.batches(20, lm.Architecture((6, 10)), None))[1].tolist() == labels[:, 0].tolist()
        assert any("QMNIST" in note for note in data.notes) == (prefix == "q")


@pytest.mark.parametrize("kind", [0x00, 0x0A, 0x0F])
def test_other_types_of_idx_are_refused(tmp_path: Path, kind: int) -> None:
    path = saved(tmp_path, bytes([0, 0, kind, 1, 0, 0, 0, 1, 7]), "train-images-idx3-ubyte")
    saved(tmp_path, idx(Y, 0x08), "train-labels-idx1-ubyte")
    assert "an idx file starts with 00 00, a type such as 08" in refusal(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"a\nb",c,y\n1,2,0\n3,4,1\n', "line 1 has a quote that is not closed in that line; cells with line breaks"),
        ('a,c,y\n1,"2\n",0\n3,4,1\n', "line 2 has a quote that is not closed in that line; cells with line breaks"),
        (
            'a,c,y\n"1,100",2,0\n3,4,1\n',
            "'1,100' is no number. Numbers have a decimal point, and nothing between thou",
        ),
    ],
)
def test_cells_with_line_breaks_and_thousands_are_refused_as_such(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(lm.InputError) as error:
        lm.open_data(tmp_path / "a.csv")
    assert words in str(error.value)


def test_text_that_is_gzipped_twice_and_labels_of_cp1252_are_called_so(tmp_path: Path) -> None:
    rows = "a,y\n" + "".join(f"{n}.5,{'séto' if n % 2 else 'b'}\n" for n in range(30))
    (tmp_path / "a.csv").write_bytes(gzip.compress(gzip.compress(rows.encode())))
    with pytest.raises(lm.InputError, match="is gzipped twice. Unpack it: gunzip a.csv"):
        lm.open_data(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_bytes(rows.encode("cp1252"))
    with pytest.raises(lm.InputError, match="line 3, column 2: the label .* is no UTF-8 text. Save the file as UTF-8"):
        lm.open_data(tmp_path / "b.csv")


def test_odd_classes_are_remarked(tmp_path: Path) -> None:
    for labels, remark in (
        (["NA", "a", "b"], "the class 'NA' may stand for labels that are missing"),
        (["0"], "the same"),
    ):
        rows = "".join(f"{n % 7}.5,{labels[n % len(labels)]}\n" for n in range(30))
        (tmp_path / "a.csv").write_text(f"a,y\n{rows}")
        assert any(remark in one for one in lm.open_data(tmp_path / "a.csv").remarks)
