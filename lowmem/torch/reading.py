"""Reading back what was written as JSON: each field of a dataclass must have the type that the class says."""

from dataclasses import fields
from math import isfinite
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def typed(value: T) -> T:
    """Return a dataclass as it is. Raises `TypeError` that names the first field of another type."""
    hints = get_type_hints(type(value))
    for each in fields(value):  # type: ignore[arg-type]
        found = getattr(value, each.name)
        if not _fits(found, hints[each.name]):
            raise TypeError(f"{each.name} cannot be {found!r}")
    return value


def tuples(value: Any) -> Any:  # noqa: ANN401 - what JSON gave
    """Return a value with tuples for lists."""
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def _fits(value: object, hint: Any) -> bool:  # noqa: ANN401 - a type
    """Say whether a value is of a type; numbers must be finite, and no bool is a number."""
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(each, get_args(hint)[0]) for each in value)
    if get_origin(hint) is UnionType:
        return any(_fits(value, each) for each in get_args(hint))
    if hint is float:
        return type(value) in (int, float) and isfinite(value)  # type: ignore[arg-type]
    return type(value) is int if hint is int else isinstance(value, hint)
