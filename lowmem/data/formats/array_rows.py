"""Samples whose x, y and weights are an array each: .npy, .npz and idx, read by runs of rows."""

import math
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import TEXT_KINDS
from lowmem.data.class_names import CODES, ClassNames, numbered
from lowmem.data.formats.array_file import UNPACKED_AT_ONCE, ArrayFile, Rows, blocks
from lowmem.data.formats.array_headers import damage_is_input_error, pair_names, x_name
from lowmem.errors import InputError

Array = NDArray[Any]


class ArrayRows(Rows):
    """x, y and weights in an array each; without y, all of it is zero.

    names: of the classes, if they are known already.
    """

    def __init__(
        self, x: ArrayFile, y: ArrayFile | None, w: ArrayFile | None = None, names: ClassNames | None = None
    ) -> None:
        self._x, self._y, self._w = x, y, w
        self.name = str(x.path)
        if len(x.shape) < 2:
            raise InputError(f"{x.what} has the shape {x.shape}; one row per sample is needed, (samples, features).")
        for other in (y, w):
            if other is not None and x.shape[0] != other.shape[0]:
                raise InputError(
                    f"{x.what} has {x.shape[0]:,} samples and {other.what} {other.shape[0]:,}; they do not belong "
                    "together."
                )
        if w is not None and len(w.shape) != 1:
            raise InputError(f"{w.what} has the shape {w.shape}; one weight for each sample is needed, (samples,).")
        self.w_dtype = None if w is None else w.dtype
        self.samples, self.features = x.shape[0], math.prod(x.shape[1:])
        self.x_dtype, self.y_dtype = x.dtype, np.dtype(np.int8) if y is None else y.dtype
        self.y_shape = () if y is None or len(y.shape) == 1 else (math.prod(y.shape[1:]),)
        self.seekable = all(file is None or file.seekable for file in (x, y, w))
        if y is not None and y.dtype.kind in TEXT_KINDS:
            self.names, self.y_dtype = names or ClassNames(), CODES
            if self.y_shape:
                raise InputError(f"{y.what} is text of the shape {y.shape}; one label for each sample is needed.")

    def read(self, start: int, x: Array, y: Array, w: Array | None = None) -> None:
        """See `Rows.read`."""
        self._x.read(start, x)
        if self._y is None:
            y[:] = 0
        elif self.names is None:
            self._y.read(start, y)
        else:
            self._read_names(self._y, self.names, start, y)
        if self._w is not None and w is not None:
            self._w.read(start, w)

    def _read_names(self, file: ArrayFile, names: ClassNames, start: int, y: Array) -> None:
        """Fill y with class numbers, some of the text in memory at a time."""
        at_once = max(1, UNPACKED_AT_ONCE // file.dtype.itemsize)
        for first, last in blocks(len(y), at_once):
            text = np.empty(last - first, file.dtype)
            file.read(start + first, text)
            y[first:last] = numbered(text, names, f"{self.name}: y", start + first)

    def again(self) -> "ArrayRows":
        """See `Rows.again`."""
        with ExitStack() as opened:
            x, y, w = (
                None if file is None else opened.enter_context(closing(file.again()))
                for file in (self._x, self._y, self._w)
            )
            assert x is not None
            made = ArrayRows(x, y, w, self.names)
            opened.pop_all()
            return made

    def close(self) -> None:
        """See `Rows.close`."""
        for file in (self._x, self._y, self._w):
            if file is not None:
                file.close()


Place = tuple[Path, str, str | None]
"""Of an array: path, kind and member."""


def open_arrays(x: Place, y: Place | None, w: Place | None = None, names: ClassNames | None = None) -> ArrayRows:
    """Return the rows of arrays; names: of the classes, if they are known already."""
    with ExitStack() as opened:  # what goes wrong leaves no file open
        files = [
            None if place is None else opened.enter_context(closing(ArrayFile(*place, text=number == 1)))
            for number, place in enumerate((x, y, w))
        ]
        assert files[0] is not None
        made = ArrayRows(files[0], files[1], files[2], names)
        opened.pop_all()
        return made


def open_npz(
    path: Path, part: str, weights: str | None = None, names: ClassNames | None = None, *, inputs_only: bool = False
) -> ArrayRows:
    """Return the rows of an .npz, its members streamed; weights: the name of one."""
    from zipfile import ZipFile

    with damage_is_input_error(path), ZipFile(path) as archive:
        held = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    if inputs_only:
        return open_arrays((path, "npz", x_name(held, part, path)), None)
    if weights is not None and weights not in held:
        raise InputError(f"{path} has no array {weights!r} to be the weights; it holds {', '.join(held)[:200]}.")
    x, y = pair_names([name for name in held if name != weights], part, path)
    return open_arrays((path, "npz", x), (path, "npz", y), None if weights is None else (path, "npz", weights), names)
