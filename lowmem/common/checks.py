"""Checks of what users give: whole numbers, numbers, names, arrays. Each refuses in one clear line.

NumPy's numbers are numbers here, as Python's are; True and False are not.
"""

import math
import operator
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lowmem.errors import InputError, UnknownNameError, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

T = TypeVar("T")

NUMBER_KINDS, TEXT_KINDS = "biuf", "US"
"""Kinds of dtypes: bool, signed, unsigned, float; text and bytes."""


def as_whole(value: object) -> int | None:
    """Return a whole number of any type as an int, None for anything else."""
    if is_bool(value):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def is_digits(text: str) -> bool:
    """Say whether a text is a whole number in the digits 0 to 9, and not in those of another script."""
    return text.isascii() and text.isdecimal()


def positive(name: str, value: object) -> int:
    """Return a positive whole number as an int. Raises `InputError` for anything else."""
    number = as_whole(value)
    if number is None or number < 1:
        raise InputError(f"{name} must be a positive whole number; got {shown(value)}.")
    return number


def whole(name: str, value: object, least: int = 0) -> int:
    """Return a whole number of at least `least` as an int. Raises `InputError` for anything else."""
    number = as_whole(value)
    if number is None or number < least:
        raise InputError(f"{name} must be a whole number from {least}; got {shown(value)}.")
    return number


def as_number(value: object) -> float:
    """Return a number of any type as a float, NaN for anything else, text included."""
    if is_bool(value) or getattr(value, "shape", ()) != ():
        return math.nan
    if not (hasattr(value, "__float__") or hasattr(value, "__index__")):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan


def number(name: str, value: object, least: float = 0.0) -> float:
    """Return a finite number of at least `least` as a float. Raises `InputError` for anything else."""
    read = as_number(value)
    if not least <= read < math.inf:
        raise InputError(f"{name} must be a number of at least {least:g}; got {shown(value)}.")
    return read


def positive_number(name: str, value: object) -> float:
    """Return a finite number above 0 as a float. Raises `InputError` for anything else."""
    read = as_number(value)
    if not 0 < read < math.inf:
        raise InputError(f"{name} must be a positive number; got {shown(value)}.")
    return read


def fraction(name: str, value: object) -> float:
    """Return a number of [0, 1) as a float. Raises `InputError` for anything else."""
    read = as_number(value)
    if not 0 <= read < 1:
        raise InputError(f"{name} must be a number of at least 0 and below 1, such as 0.1; got {shown(value)}.")
    return read


def inner_share(name: str, value: object) -> float:
    """Return a number above 0 and below 1 as a float. Raises `InputError` for anything else."""
    read = as_number(value)
    if not 0 < read < 1:
        raise InputError(f"{name} must be a share between 0 and 1, such as 0.2; got {shown(value)}.")
    return read


def is_bool(value: object) -> bool:
    """Say whether a value is True or False, of Python or NumPy."""
    return isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", "") == "b"


def instance(what: str, value: object, kind: type[T] | tuple[type[Any], ...], need: str) -> T:
    """Return a value of the right kind as it is. Raises `InputError` for any other.

    what: the argument's name. need: what it must be, such as "a lowmem.Plan".
    """
    if not isinstance(value, kind):
        raise InputError(f"{what} must be {need}; got {shown(value)}.")
    return value


def items(what: str, values: object, kind: type[T] | tuple[type[Any], ...], need: str) -> list[T]:
    """Return a sequence of the right kind as a list. Raises `InputError` for any other, and for an empty one.

    what: the argument's name. need: what it must hold, in the plural.
    """
    listed = as_list(values)
    if not listed or not all(isinstance(value, kind) for value in listed):
        raise InputError(f"{what} must be {need}, at least one; got {shown(values)}.")
    return listed


def as_list(values: object) -> list[Any] | None:
    """Return a sequence of any type as a list, None for anything else.

    None too for text and bytes, for what has no order or has keys, and for arrays and tables of other than one axis.
    """
    unfit = (str, bytes, bytearray, set, frozenset, Mapping)
    if isinstance(values, unfit) or not isinstance(values, Iterable) or len(getattr(values, "shape", (0,))) != 1:
        return None
    return list(values)


def text(what: str, value: object) -> str:
    """Return text as it is. Raises `InputError` for anything else, and for text with half of a letter."""
    if not isinstance(value, str) or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise InputError(f"{what} must be text; got {shown(value)}.")
    return value


def truth(what: str, value: object) -> bool:
    """Return True or False, of Python or NumPy, as a bool. Raises `InputError` for anything else."""
    if not is_bool(value) or getattr(value, "shape", ()) != ():
        raise InputError(f"{what} must be True or False; got {shown(value)}.")
    return bool(value)


def as_path(what: str, value: object) -> Path:
    """Return the path of a file given as text or as an object that stands for one.

    Raises `InputError` for anything else, and for text that means a folder, as "out/" does.
    """
    import os

    if not isinstance(value, str | os.PathLike):
        raise InputError(f'{what} must be a path, such as "run.safetensors"; got {shown(value)}.')
    path = os.fsdecode(os.fspath(value)) if not isinstance(value, str) else value
    try:
        os.fsencode(path)
    except UnicodeEncodeError:  # half of a letter
        path = ""
    if not path or "\0" in path:
        raise InputError(f'{what} must be a path, such as "run.safetensors"; got {shown(value)}.')
    if os.path.basename(path) in ("", "."):  # which a `Path` forgets
        raise InputError(f"{what} must be a file; {shown(value)} means a folder. Name a file in it.")
    return Path(path)


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return `table[name]`. Raises `UnknownNameError`, with the nearest known name, if there is none.

    kind: what the name is the name of, for the message.
    """
    try:
        return table[name]
    except (KeyError, TypeError):
        raise UnknownNameError(kind, name, table) from None


def one_of(kind: str, name: object, known: Collection[str]) -> str:
    """Return `name` if it is one of the `known` names. Raises `UnknownNameError`, with the nearest one, otherwise.

    kind: what the name is the name of, for the message.
    """
    if not isinstance(name, str) or name not in known:
        raise UnknownNameError(kind, name, known)
    return name


def numeric(values: "ArrayLike", what: str, name: str) -> "NDArray[Any]":
    """Return `values` as an array of numbers. Raises `InputError` where they are none.

    what: the name of the array, such as "x"; name: that of the data set. Both are for the message.
    """
    import numpy as np

    check_unmasked(values, f"{name}: {what}")
    try:
        array = np.asarray(values)
    except ValueError:
        raise InputError(
            f"{name}: the rows of {what} differ in length; every sample needs as many values. Pad or cut them."
        ) from None
    except (RuntimeError, TypeError) as error:  # as of a tensor that gradients are wanted of
        why = " ".join(str(error).split())
        raise InputError(f"{name}: {what} cannot be read as an array: {why}") from None
    if array.dtype.kind not in NUMBER_KINDS:
        raise InputError(
            f"{name}: {what} has dtype {array.dtype}; numbers are needed. Convert it, such as "
            f"{what}.astype('float32'), and code text as numbers."
        )
    return array


def check_unmasked(values: object, what: str) -> None:
    """Raise `InputError` where NumPy's mask hides values, which would be read all the same. what: to call them."""
    import numpy as np

    def hidden(part: object) -> int:
        mask = getattr(part, "mask", None)  # of pandas' objects it is a method
        return int(np.count_nonzero(mask)) if isinstance(mask, np.ndarray | np.bool_) else 0

    count = sum(map(hidden, values)) if isinstance(values, list | tuple) else hidden(values)
    if count:
        raise InputError(
            f"{what} has {count} masked value{'s' * (count > 1)}, and masks are not read. Remove such samples, or "
            "fill the values in with .filled(...)."
        )


def check_layout(array: "NDArray[Any]", what: str) -> None:
    """Raise `InputError` for an array that compiled code cannot read where it is. what: its name, such as "y"."""
    check_unmasked(array, what)
    if not array.dtype.isnative:
        raise InputError(
            f"{what} has the byte order of another machine, {array.dtype}. Convert it once with "
            f"{what}.astype({what}.dtype.newbyteorder('='))."
        )
    if not array.flags.c_contiguous:
        raise InputError(
            f"{what} must be C-contiguous; this array is strided. Copy it once with np.ascontiguousarray({what})."
        )
    if not array.flags.aligned:
        raise InputError(f"{what} is not aligned in memory. Copy it once with {what}.copy().")


def finite(array: "NDArray[Any]") -> bool:
    """Say whether no element is NaN or infinite: both show in min and max, which need no array of their own."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        return math.isfinite(array.min()) and math.isfinite(array.max())


def check_range(array: "NDArray[Any]", work: "np.dtype[Any]", what: str, scale: float = 1.0) -> None:
    """Raise `InputError` if finite numbers become infinite once they are cast to `work`, and scaled after.

    what: the name of the array, such as "x".
    """
    import numpy as np

    cast = array.dtype.kind == "f" and array.dtype.itemsize > work.itemsize
    if not array.size or not (cast or abs(scale) > 1):
        return
    largest = max(abs(float(array.min())), abs(float(array.max())))
    if max(largest, largest * abs(scale)) > float(np.finfo(work).max):
        scaled = "" if scale == 1 else f", times a scale of {scale:.3g}"
        raise InputError(
            f"{what} has values up to {largest:.3g}{scaled}, too large for {work}. Scale {what}, or use float64."
        )


def check_some_left(weights: "NDArray[Any]", most: float, what: str) -> None:
    """Raise `InputError` for weights that are all 0, with which nothing would be learnt.

    weights: in the dtype of the work. most: the largest of them as given. what: to call them.
    """
    if weights.size and not weights.max() > 0:
        given = f"at most {most:g}, which is 0 in {weights.dtype}" if most > 0 else "all 0"
        raise InputError(f"{what} are {given}; some must be larger, or nothing would be learnt.")


def check_finite(array: "NDArray[Any]", what: str, name: str, first: int = 0) -> None:
    """Raise `InputError`, with the row, if an array of numbers holds NaN or infinity.

    what: the name of the array, such as "x"; name: that of the data set. first: the number of the first row.
    """
    import numpy as np

    if array.dtype.kind == "f" and not finite(array):
        row = next(row for row in range(len(array)) if not np.isfinite(array[row]).all())
        raise InputError(
            f"{name}: {what}[{first + row}] holds NaN or infinite values; finite numbers are needed. Remove such "
            "samples, or fill them in with numpy.nan_to_num."
        )


def check_sample_weights(array: "NDArray[Any]", name: str, first: int = 0) -> None:
    """Raise `InputError`, with the row, if weights of samples (samples,) are not finite or below 0.

    name: of the data set, for the message. first: the number of the first row.
    """
    check_finite(array, "weights", name, first)
    if array.min() < 0:
        row = int(array.argmin())
        raise InputError(f"{name}: weights[{first + row}] is {array[row]}; numbers from 0 are needed.")
