"""What users give is checked here: whole numbers, names, arrays of numbers. Each check refuses in one clear line."""

import math
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from lowmem.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

T = TypeVar("T")

NUMBER_KINDS, TEXT_KINDS = "biuf", "US"
"""Kinds of dtypes: bool, signed, unsigned, float; text and bytes."""


def as_whole(value: object) -> int | None:
    """Return a whole number of any type as an int, None for anything else."""
    if _is_bool(value):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def positive(name: str, value: object) -> int:
    """Return a positive whole number as an int. Raises `InputError` for anything else."""
    number = as_whole(value)
    if number is None or number < 1:
        raise InputError(f"{name} must be a positive whole number; got {value!r}.")
    return number


def whole(name: str, value: object, least: int = 0) -> int:
    """Return a whole number of at least `least` as an int. Raises `InputError` for anything else."""
    number = as_whole(value)
    if number is None or number < least:
        raise InputError(f"{name} must be a whole number from {least}; got {value!r}.")
    return number


def _is_bool(value: object) -> bool:
    """Say whether a value is True or False, of Python or NumPy."""
    return isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", "") == "b"


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return `table[name]`, or raise `UnknownNameError` with the nearest known name."""
    try:
        return table[name]
    except (KeyError, TypeError):
        raise UnknownNameError(kind, name, table) from None


def numeric(values: "ArrayLike", what: str, name: str) -> "NDArray[Any]":
    """Return `values` as an array of numbers."""
    import numpy as np

    try:
        array = np.asarray(values)
    except ValueError:
        raise InputError(
            f"{name}: the rows of {what} differ in length; every sample needs as many values. Pad or cut them."
        ) from None
    if array.dtype.kind not in NUMBER_KINDS:
        raise InputError(
            f"{name}: {what} has dtype {array.dtype}; numbers are needed. Convert it, such as "
            f"{what}.astype('float32'), and code text as numbers."
        )
    return array


def finite(array: "NDArray[Any]") -> bool:
    """Say whether no element is NaN or infinite: both show in min and max, which need no array of their own."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        return math.isfinite(array.min()) and math.isfinite(array.max())


def check_finite(array: "NDArray[Any]", what: str, name: str, first: int = 0) -> None:
    """Refuse NaN and infinity, with the row; `first` is the number of the first one."""
    import numpy as np

    if array.dtype.kind == "f" and not finite(array):
        row = next(row for row in range(len(array)) if not np.isfinite(array[row]).all())
        raise InputError(
            f"{name}: {what}[{first + row}] holds NaN or infinite values; finite numbers are needed. Remove such "
            "samples, or fill them in with numpy.nan_to_num."
        )
