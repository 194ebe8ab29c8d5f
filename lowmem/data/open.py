"""Opening data: one way from a path to samples, in memory or as a stream, whatever the format."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from lowmem.common.checks import as_list, as_number, as_whole, one_of, positive, truth
from lowmem.common.damage import damage_is_input_error
from lowmem.common.places import is_folder
from lowmem.data.class_names import are_numbers, known_names
from lowmem.data.dataset import Dataset
from lowmem.data.formats.array_rows import open_arrays, parts_of_archive
from lowmem.data.formats.chosen_rows import CodedRows
from lowmem.data.formats.columns import Name, Schema, Selection, known_columns
from lowmem.data.formats.csv import CsvRows
from lowmem.data.formats.finding import PARTS, TABLES, existing, format_of, idx_images, no_parts
from lowmem.data.formats.parquet import ParquetRows
from lowmem.data.formats.rows import Rows
from lowmem.data.opened import Opened
from lowmem.data.samples import LABEL_DTYPE, LABEL_KINDS
from lowmem.data.scan import Contents, scan
from lowmem.data.standardisation import Standardisation
from lowmem.data.stream import Stream
from lowmem.data.task import Answers, Task, check_task, decide
from lowmem.errors import Advice, InputError, RunError, shown

DIGITS = Path(__file__).with_name("datasets") / "digits.npz"

BLOCK_BYTES = 8 << 20
"""Bytes of the block within which the rows of a stream are shuffled, unless their number is given."""

PathLike = str | os.PathLike[str]
Names = Sequence[Name] | Name


def open_data(
    source: PathLike,
    targets: PathLike | None = None,
    *,
    part: str = "train",
    target: Name | None = None,
    weights: PathLike | int | None = None,
    features: Names | None = None,
    ignore: Names | None = (),
    columns: Schema | None = None,
    header: bool | None = None,
    task: str | None = None,
    class_names: Sequence[str] | None = None,
    shuffle_rows: int | None = None,
    scale: float | None = None,
    standardise: bool | Standardisation = False,
    one_hot: bool = False,
    labels: bool | None = None,
    inputs_only: bool = False,
    inputs: int | None = None,
) -> Stream:
    """Open data that are read in blocks while training: they may be larger than memory.

    source: "digits", or a path. These are known, by their content: `.npz` with arrays x and y, or X and y, or just
        images and labels, or just data and target, or x_train, y_train, x_test and y_test; `.npy` with x; idx files as
        those of MNIST, or a folder of them; tables, Parquet or any text with cells between commas, semicolons, tabs,
        bars or blanks. Text, `.npy` and idx may be gzipped.
    targets: the file with y, where the source holds x alone; for an idx file it is found by name.
    part: "train" or "test", where the source holds both.
    target: name or number of a table's target column; by default the last.
    weights: by which the loss of each sample is multiplied in training: a column of a table, an array of an `.npz`, or
        another `.npy`; numbers from 0.
    features: names or numbers of the only columns of a table that are features. ignore: those of columns to leave out.
        An index that pandas wrote is left out in any case.
    columns: of the data that a network was trained on (`Stream.columns`): they are found by name, put in the same
        order, and others are refused.
    header: whether a table in text begins with names of columns; by default its lines decide.
    task: "classification" or "regression"; by default what y holds decides. Text, and whole numbers of which there
        are few, are classes.
    class_names: of labels that are text, in the order of their numbers, and no others are allowed; by default those
        found in the first pass, sorted. Labels that are negative numbers have names too, such as "-1" and "1".
    shuffle_rows: rows that are shuffled among each other; by default as many as fit 8 MiB as they are stored.
    scale: x is multiplied by it; by default by 1/16 for the digits, by 1/255 for bytes of idx files, else by 1.
    standardise: bring each feature to mean 0 and deviation 1, which the first pass finds, and a split once more in the
        samples to train on alone; or what was found before.
    one_hot: turn labels into rows with a one, for losses other than cross_entropy.
    labels: whether y are class numbers; another way to say the task.
    inputs_only: there are no targets, for predictions, or they are left aside (of a table the columns that `target`
        and `weights` name); y is then zero.
    inputs: the number of features that are needed, where the columns of the training are not known.

    One pass over the file sees that every number is finite, and finds out what labels or targets there are. What was
    found and chosen is told by `Stream.notes`, and by `Stream.remarks` what one should know before trusting a result,
    such as a feature of whose values float32 loses the digits that tell them apart.

    Returns a `Stream`. Raises `InputError` in one line for what cannot be read or is no data set, with the row where
    there is one, and `UnknownNameError` for unknown names.

    >>> import numpy as np, lowmem as lm
    >>> np.savez("train.npz", x=np.random.default_rng(0).random((100, 5)), y=np.arange(100) % 3)
    >>> data = lm.open_data("train.npz", standardise=True)
    >>> len(data), data.features, data.classes
    (100, 5, 3)
    >>> train, held_out = data.split(0.2)
    >>> len(train), len(held_out)
    (80, 20)
    """
    shuffle_rows = None if shuffle_rows is None else positive("shuffle_rows", shuffle_rows)
    one_hot = truth("one_hot", one_hot)
    wanted = Selection(
        part=part,
        targets=None if targets is None else existing(targets, what="targets"),
        target=None if target is None else _name("target", target),
        weights=_weights(weights),
        class_names=known_names(class_names),
        inputs_only=truth("inputs_only", inputs_only),
        features=_features(features),
        ignore=_ignored(ignore),
        columns=known_columns(columns),
        inputs=None if inputs is None else positive("inputs", inputs),
        header=None if header is None else truth("header", header),
    )
    with _opened(source, wanted, _task(task, labels), scale, standardise, in_memory=False) as opened:
        found, rows = opened.task.targets, opened.rows
        if one_hot and not found.labels:
            raise InputError(f"{rows.name}: one_hot needs labels, whole numbers from 0; y are targets already.")
        if one_hot:
            found = replace(found, labels=False, low=0.0, high=1.0)
        if shuffle_rows is None:
            shuffle_rows = max(1, BLOCK_BYTES // (rows.x_bytes + rows.y_bytes(weighted=False)))
        return Stream(str(source), rows, opened.contents, found, one_hot, shuffle_rows=shuffle_rows, **opened.about())


def load(
    source: PathLike,
    targets: PathLike | None = None,
    *,
    part: str = "train",
    target: Name | None = None,
    weights: PathLike | int | None = None,
    features: Names | None = None,
    ignore: Names | None = (),
    columns: Schema | None = None,
    header: bool | None = None,
    task: str | None = None,
    class_names: Sequence[str] | None = None,
    scale: float | None = None,
    standardise: bool | Standardisation = False,
    labels: bool | None = None,
) -> Dataset:
    """Read data into memory. The arguments are those of `open_data`.

    Returns a `Dataset` with x and y as stored, but that labels are whole numbers from 0. Raises `InputError` as
    `open_data` does.
    """
    wanted = Selection(
        part=part,
        targets=None if targets is None else existing(targets, what="targets"),
        target=None if target is None else _name("target", target),
        weights=_weights(weights),
        class_names=known_names(class_names),
        features=_features(features),
        ignore=_ignored(ignore),
        columns=known_columns(columns),
        header=None if header is None else truth("header", header),
    )
    with _opened(source, wanted, _task(task, labels), scale, standardise, in_memory=True) as opened:
        rows, are_labels = opened.rows, opened.task.targets.labels
        whole = rows.buffer(rows.samples)
        try:
            rows.read(0, whole)
        except RunError as problem:
            raise InputError(str(problem)) from None
        y = whole.y
        if are_labels != (y.ndim == 1 and y.dtype.kind in LABEL_KINDS):
            y = y.astype(LABEL_DTYPE if are_labels else np.float64)
        return Dataset(str(source), whole.x, y, whole.weights, **opened.about())


def part_to_use(source: PathLike, given: str | None = None) -> str:
    """Return the part to evaluate or predict: the one that is given, else "test" where the source has that part.

    Raises `InputError` for a part that is none, and for one of a source that has no parts.
    """
    if given is not None:
        one_of("part", given, PARTS)
    path = _path(source)
    folder = is_folder(path)
    parts = tuple(PARTS) if folder else parts_of_archive(path) if format_of(path) == "npz" else ()
    if given is not None and not parts:
        raise no_parts(path, given)
    return given or ("test" if "test" in parts else "train")


def _path(source: PathLike) -> Path:
    """Return the path of a source, which may be the digits. Raises `InputError` if there is none."""
    digits = isinstance(source, str) and source == "digits"
    return DIGITS if digits else existing(source, names=("digits",))


def _features(names: object) -> tuple[Name, ...] | None:
    """Return the only columns to take as features, None for all. Raises `InputError` where none is named."""
    if names is None:
        return None
    named = _names("features", names)
    if not named:
        raise InputError(f"features must name at least one column; got {shown(names)}. Leave it out to take all.")
    return named


def _names(what: str, names: object) -> tuple[Name, ...]:
    """Return names or numbers of columns, of which one may come without a list, and some as text with commas."""
    if isinstance(names, str):
        return tuple(name.strip() for name in names.split(",") if name.strip())
    listed = [names] if as_whole(names) is not None else as_list(names)
    if listed is None:
        raise InputError(
            f'{what} must be a list of names or numbers of columns, such as ["age", 3]; got {shown(names)}.'
        )
    return tuple(_name(what, name) for name in listed)


def _ignored(names: Names | None) -> tuple[Name, ...]:
    """Return the columns to leave out, whose order does not matter: a set will do."""
    if names is None:
        return ()
    return _names("ignore", list(names) if isinstance(names, set | frozenset) else names)


def _name(what: str, name: object) -> Name:
    """Return the name or number of a column as text or an int. Raises `InputError` for anything else."""
    read = str(name) if isinstance(name, str) else as_whole(name)
    if read is None or read == "":
        raise InputError(f'{what} must be a name or number of a column, such as "age" or 3; got {shown(name)}.')
    return read


def _weights(weights: object) -> str | int | None:
    """Return the number of a column as an int, and a name or path as text. Raises `InputError` for anything else."""
    if isinstance(weights, os.PathLike):
        return os.fsdecode(weights)
    return None if weights is None else _name("weights", weights)


def _scale(scale: object) -> float:
    """Return a factor of x. Raises `InputError` for what is no finite number."""
    factor = as_number(scale)
    if not math.isfinite(factor):
        raise InputError(f"scale must be a finite number; got {shown(scale)}.")
    return factor


def _task(task: str | None, labels: bool | None) -> str | None:
    """Return the task that was told in either way."""
    check_task(task)
    other = None if labels is None else "classification" if truth("labels", labels) else "regression"
    if task is not None and other is not None and task != other:
        raise InputError(f"task={task!r} and labels={labels} contradict each other. Leave labels out.")
    return task or other


@contextmanager
def _opened(
    source: PathLike,
    wanted: Selection,
    task: str | None,
    scale: float | None,
    standardise: bool | Standardisation,
    *,
    in_memory: bool,
) -> Iterator[Opened]:
    """Open a source and go through its rows once, which settles task and class names. The rows are closed behind."""
    one_of("part", wanted.part, PARTS)
    factor = None if scale is None else _scale(scale)
    if not isinstance(standardise, Standardisation):
        standardise = truth("standardise", standardise)
    path = _path(source)
    digits = path is DIGITS
    if is_folder(path):
        path, wanted = idx_images(path, wanted.part), replace(wanted, part="train")
    kind = format_of(path)
    _check_kind(path, kind, source, wanted)
    rows: Rows
    if kind == "csv":
        rows = CsvRows(path, wanted)
    elif kind == "parquet":
        rows = ParquetRows(path, wanted)
    else:
        rows = open_arrays(path, kind, wanted, whole=in_memory)
    known = wanted.class_names
    if known is not None and rows.class_names is None and are_numbers(known) and not wanted.inputs_only:
        rows = CodedRows(rows, known)
    with damage_is_input_error(path), closing(rows):
        contents = scan(rows, fit=standardise is True)
        if rows.class_names is not None:
            contents = contents.settled(rows.class_names.settle())
        standardisation = standardise if isinstance(standardise, Standardisation) else contents.standardisation
        if standardisation is not None and standardisation.mean.shape != (rows.features,):
            raise InputError(
                f"{rows.name} has {rows.features} features; the standardisation is for {len(standardisation.mean)}."
            )
        decided = _decided(rows, contents, "regression" if wanted.inputs_only else task, kind, known)
        if wanted.inputs_only:
            decided = replace(decided, note="")
        if decided.names is not None:
            rows, contents = CodedRows(rows, decided.names), contents.coded()
        if factor is None:
            factor = 1 / 16 if digits else 1 / 255 if kind == "idx" and rows.x_dtype == np.uint8 else 1.0
        new = wanted.columns is None and wanted.inputs is None
        yield Opened(rows, contents, decided, factor, standardisation, standardise is True, new)


def _check_kind(path: Path, kind: str, source: PathLike, wanted: Selection) -> None:
    """Refuse what does not go with the format of a file."""
    if kind != "npz" and wanted.part != "train":
        raise no_parts(path, wanted.part)
    if kind not in ("npy", "idx") and wanted.targets is not None:
        raise InputError(f"{source} holds x and y itself; leave out ", Advice("targets", str(wanted.targets)), ".")
    for name in ("target", "features", "ignore", "header"):
        value = getattr(wanted, name)
        if kind not in TABLES and value not in (None, ()):
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            raise InputError(f"{path} is no table with columns ({kind}); leave out ", Advice(name, shown), ".")


def _decided(rows: Rows, contents: Contents, task: str | None, kind: str, known: tuple[str, ...] | None) -> Task:
    """Decide what y is."""
    names = rows.class_names.names if rows.class_names is not None else None
    if isinstance(rows, CodedRows):
        names = rows.coded
    return decide(
        Answers(
            name=rows.name,
            samples=rows.samples,
            columns=math.prod(rows.y_shape),
            low=contents.low,
            high=contents.high,
            row_of_high=contents.row_of_high,
            whole=contents.whole,
            row_of_part=contents.row_of_part,
            decimal=rows.y_decimal,
            counts=contents.counts,
            class_names=names,
            labelled=kind == "idx" or known is not None,
        ),
        task,
    )
