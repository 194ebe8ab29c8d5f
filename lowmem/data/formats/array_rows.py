"""Samples whose x, y and weights are an array each: .npy, .npz and idx, read by runs of rows."""

import math
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import TEXT_KINDS
from lowmem.common.damage import damage_is_input_error
from lowmem.data.class_names import CODES, ClassNames, numbered
from lowmem.data.formats.array_file import UNPACKED_AT_ONCE, ArrayFile, ArrayRef
from lowmem.data.formats.columns import Selection
from lowmem.data.formats.finding import PARTS, existing, format_of, idx_labels
from lowmem.data.formats.rows import Rows, blocks
from lowmem.data.samples import Batch
from lowmem.errors import Advice, InputError, shown

Array = NDArray[Any]

QMNIST_COLUMNS = 8

ONLY_ALONE = (("images", "labels"), ("data", "target"))
PAIRS = (("x", "y"), ("X", "Y"), ("X", "y"), *ONLY_ALONE)
"""Names of arrays that are x and y in an .npz; some only where it holds no others."""


class ArrayRows(Rows):
    """Rows of x, y and weights in an array each. Without y, all of it is zero.

    Labels with eight columns of whole numbers in an idx file are those of QMNIST: the first is the class.
    """

    def __init__(self, x: ArrayFile, y: ArrayFile | None, w: ArrayFile | None, names: ClassNames | None) -> None:
        self._x, self._y, self._w = x, y, w
        self.name = str(x.ref.path)
        if len(x.shape) < 2:
            raise InputError(f"{x.ref} has the shape {x.shape}; one row per sample is needed, (samples, features).")
        for other in (y, w):
            if other is not None and x.shape[0] != other.shape[0]:
                raise InputError(
                    f"{x.ref} has {x.shape[0]:,} samples and {other.ref} {other.shape[0]:,}; both need one entry per "
                    "sample. Check that they belong together."
                )
        if w is not None and len(w.shape) != 1:
            raise InputError(f"{w.ref} has the shape {w.shape}; one weight for each sample is needed, (samples,).")
        self.w_dtype = None if w is None else w.dtype
        self.files = tuple(file.ref.path for file in (x, y, w) if file is not None)
        self.samples, self.features = x.shape[0], math.prod(x.shape[1:])
        self.x_dtype, self.y_dtype = x.dtype, np.dtype(np.int8) if y is None else y.dtype
        self._first_of = QMNIST_COLUMNS if y is not None and _is_qmnist(y) else 1
        columns = 1 if y is None or self._first_of > 1 else math.prod(y.shape[1:])
        self.y_shape = () if columns == 1 else (columns,)
        self.y_decimal = self.y_dtype.kind == "f"
        if self._first_of > 1:
            self.notes = (f"labels: the first of {QMNIST_COLUMNS} columns, as in QMNIST",)
        self.seekable = self.apart = all(file is None or file.seekable for file in (x, y, w))
        if y is not None and y.dtype.kind in TEXT_KINDS:
            self.class_names, self.y_dtype = names or ClassNames(), CODES
            if len(y.shape) > 1:
                raise InputError(f"{y.ref} is text of the shape {y.shape}; one label for each sample is needed.")

    def read(self, start: int, batch: Batch) -> None:
        """See `Rows.read`."""
        self._x.read(start, batch.x)
        if self._y is None:
            batch.y[:] = 0
        elif self._first_of > 1:
            self._read_first(self._y, start, batch.y)
        elif self.class_names is None:
            self._y.read(start, batch.y)
        else:
            self._read_labels(self._y, self.class_names, start, batch.y)
        if self._w is not None and batch.weights is not None:
            self._w.read(start, batch.weights)

    def _read_first(self, file: ArrayFile, start: int, y: Array) -> None:
        """Fill y with the first column of an array, with few of its rows in memory at a time."""
        for first, last in blocks(len(y), max(1, UNPACKED_AT_ONCE // file.row_bytes)):
            held = np.empty((last - first, *file.shape[1:]), file.dtype)
            file.read(start + first, held)
            y[first:last] = held[:, 0]

    def _read_labels(self, file: ArrayFile, names: ClassNames, start: int, y: Array) -> None:
        """Fill y with class numbers, with little of the text in memory at a time."""
        for first, last in blocks(len(y), max(1, UNPACKED_AT_ONCE // file.dtype.itemsize)):
            text = np.empty(last - first, file.dtype)
            file.read(start + first, text)
            y[first:last] = numbered(text, names, f"{self.name}: y", start + first)

    def again(self) -> "ArrayRows":
        """See `Rows.again`."""
        with ExitStack() as opened:
            x = opened.enter_context(closing(self._x.again()))
            y, w = (
                None if file is None else opened.enter_context(closing(file.again())) for file in (self._y, self._w)
            )
            rows = ArrayRows(x, y, w, self.class_names)
            opened.pop_all()  # what goes wrong before leaves no file open
            return rows

    def close(self) -> None:
        """See `Rows.close`."""
        for file in (self._x, self._y, self._w):
            if file is not None:
                file.close()


def _is_qmnist(y: ArrayFile) -> bool:
    """Say whether labels are those of QMNIST."""
    return y.ref.format == "idx" and y.dtype.kind == "i" and y.shape[1:] == (QMNIST_COLUMNS,)


def open_arrays(path: Path, kind: str, wanted: Selection, *, whole: bool) -> ArrayRows:
    """Return the rows of an .npz, or of an .npy or idx file with y and weights in files of their own.

    whole: see `ArrayFile`. Raises `InputError` where y is missing, or arrays do not belong together.
    """
    (x, y, w), notes, remarks = _in_archive(path, wanted) if kind == "npz" else (_in_files(path, kind, wanted), (), ())
    names = None if wanted.class_names is None else ClassNames(wanted.class_names)
    with ExitStack() as opened:
        x_file = opened.enter_context(closing(ArrayFile(x, whole=whole)))
        y_file = None if y is None else opened.enter_context(closing(ArrayFile(y, text=True, whole=whole)))
        w_file = None if w is None else opened.enter_context(closing(ArrayFile(w, whole=whole)))
        rows = ArrayRows(x_file, y_file, w_file, names)
        rows.notes, rows.remarks = (*rows.notes, *notes), remarks
        opened.pop_all()  # what goes wrong before leaves no file open
        return rows


Refs = tuple[ArrayRef, ArrayRef | None, ArrayRef | None]
"""Where x, y and weights are."""


Told = tuple[str, ...]
"""Lines for people."""


def parts_of_archive(path: Path) -> tuple[str, ...]:
    """Return the parts for which an .npz has arrays of their own. Raises `InputError` if it cannot be read."""
    held = _held(path)
    return tuple(part for part in PARTS if f"x_{part}" in held)


def _held(path: Path) -> list[str]:
    """Return the names of the arrays in an .npz. Raises `InputError` if it holds none, or two of one name."""
    from zipfile import ZipFile  # 1 MiB, for those who read archives

    with damage_is_input_error(path), ZipFile(path) as archive:
        members = archive.namelist()
    names = [name.removesuffix(".npy") for name in members if name.endswith(".npy")]
    if members and not names:
        what = "an Excel workbook: save the sheet as CSV" if "xl/workbook.xml" in members else "a zip: unpack it"
        raise InputError(f"{path} is {what}. It holds {', '.join(members)[:200]}, and no arrays (.npy).")
    if len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path} holds two arrays named {shown(twice)}. Save it again with one of each name.")
    return names


def _in_archive(path: Path, wanted: Selection) -> tuple[Refs, Told, Told]:
    """Choose the arrays of an .npz. Return where they are, and notes and remarks on those that are left out."""
    names = _held(path)
    weights = None if wanted.weights is None or wanted.inputs_only else str(wanted.weights)
    if weights is not None and weights not in names:
        raise InputError(f"{path} has no array {weights!r} to be the weights; it holds {', '.join(names)[:200]}.")
    chosen = (*_array_names([name for name in names if name != weights], wanted, path), weights)
    x, y, w = (None if name is None else ArrayRef(path, "npz", name) for name in chosen)
    assert x is not None
    rest = [name for name in names if name not in chosen]
    others = [name for part in PARTS if part != wanted.part for name in (f"x_{part}", f"y_{part}") if name in rest]
    left_out = f"left out: {', '.join(others if wanted.inputs_only else rest)[:200]}"
    if others:  # people may take one part for the other
        return (x, y, w), (), (f"{' and '.join(filter(None, chosen))} are read; {left_out}",)
    return (x, y, w), (left_out,) * (bool(rest) and not wanted.inputs_only), ()


def _in_files(path: Path, kind: str, wanted: Selection) -> Refs:
    """Find the files that belong to an .npy or idx file with x."""
    if wanted.inputs_only:
        return ArrayRef(path, kind), None, None
    targets = idx_labels(path) if kind == "idx" and wanted.targets is None else wanted.targets
    if targets is None:
        raise InputError(
            f"{path} holds one array, which is x; y is needed too. Give its file as ", Advice("targets", "..."), "."
        )
    if isinstance(wanted.weights, int):
        raise InputError(
            Advice("weights", wanted.weights),
            f": {path} is no table with columns. Give the file of the weights, an .npy.",
        )
    return (
        ArrayRef(path, kind),
        _alone(targets),
        None if wanted.weights is None else _alone(existing(wanted.weights, what="weights")),
    )


def _alone(path: Path) -> ArrayRef:
    """Return where the one array of a file is."""
    kind = format_of(path)
    if kind not in ("npy", "idx"):
        what = "an .npz with arrays of its own" if kind == "npz" else "a table"
        raise InputError(f"{path} is {what}; one array is needed here, .npy or idx.")
    return ArrayRef(path, kind)


def _array_names(held: Sequence[str], wanted: Selection, path: Path) -> tuple[str, str | None]:
    """Choose the arrays that are x and y among those that an .npz holds; with `inputs_only`, x alone."""
    part = wanted.part
    pairs = [(f"x_{part}", f"y_{part}"), *(PAIRS if part == "train" else ())]
    if wanted.inputs_only:
        alone = held[0] if len(held) == 1 and part == "train" else None
        x = next((x for x, _ in pairs if x in held), alone)
        if x is not None:
            return x, None
        need = "x, or a single one, is needed. Name it so"
    else:
        for x, y in pairs:
            if {x, y} <= set(held) and ((x, y) not in ONLY_ALONE or len(held) == 2):
                return x, y
        need = f"{'x and y' if part == 'train' else ' and '.join(pairs[0])} are needed. Name them so"
    raise InputError(f"{path} holds the arrays {', '.join(held) or 'none'}; {need} in numpy.savez().")
