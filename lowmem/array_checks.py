"""What numbers in arrays must be: numbers, finite, and from 0 where they are weights."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lowmem.data_files import NUMBER_KINDS
from lowmem.errors import InputError


def numeric(values: ArrayLike, what: str, name: str) -> NDArray[Any]:
    """Return `values` as an array of numbers."""
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


def finite(array: NDArray[Any]) -> bool:
    """Say whether no element is NaN or infinite: both show in min and max, which need no array of their own."""
    with np.errstate(invalid="ignore"):
        return math.isfinite(array.min()) and math.isfinite(array.max())


def check_finite(array: NDArray[Any], what: str, name: str, first: int = 0) -> None:
    """Refuse NaN and infinity, with the row; `first` is the number of the first one."""
    if array.dtype.kind == "f" and not finite(array):
        row = next(row for row in range(len(array)) if not np.isfinite(array[row]).all())
        raise InputError(
            f"{name}: {what}[{first + row}] holds NaN or infinite values; finite numbers are needed. Remove such "
            "samples, or fill them in with numpy.nan_to_num."
        )
