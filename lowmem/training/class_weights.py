"""Weights of classes as users write them: a number for each class, "balanced", or a dictionary by class or name."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Literal, TypeAlias

from lowmem.common.checks import as_list, as_number, is_bool
from lowmem.data.formats.cells import TRUTH
from lowmem.errors import InputError, UnknownNameError, shown

BALANCED = "balanced"

ClassWeights: TypeAlias = Sequence[float] | Mapping[Any, float] | Literal["balanced"]
"""A number for each class in their order; numbers by class number or class name, as in a dictionary or a pandas
Series; or "balanced"."""

SHOWN = 8
"""How many classes an error names."""

LONGEST = 32
"""Letters of a whole number in text; no class has as many."""


def check_form(given: object, outputs: int) -> "list[float] | dict[Any, float] | None":
    """Return weights of classes as a list, or as a dictionary whose keys are still to be understood; None: balanced.

    Raises `InputError` for anything else, for numbers that are none, below 0 or not finite, and for another number of
    classes than the network has outputs.
    """
    need = f'class_weights needs a loss of labels and "balanced" or a number for each of the {outputs} outputs'
    if isinstance(given, str):
        if given != BALANCED:
            raise UnknownNameError("class_weights", given, (BALANCED,))
        return None
    pairs = _pairs(given)
    if pairs is not None:
        weights: dict[Any, float] = {}
        for key, value in pairs:
            if key in weights:
                raise InputError(f"class_weights names {shown(key)} twice. Name every class once.")
            weights[key] = _weight(value, f"class_weights[{shown(key)}]")
        if len(weights) > outputs:
            raise InputError(f"{need}; got {len(weights)} classes.")
        return weights
    values = as_list(given)
    if values is None:
        raise InputError(f"{need}, such as [1, 2.5, 1] or {{0: 1, 1: 2.5}}; got {shown(given)}.")
    if len(values) != outputs:
        raise InputError(f"{need}; got {len(values)}.")
    return [_weight(value, f"class_weights[{number}]") for number, value in enumerate(values)]


def _pairs(given: object) -> "list[tuple[Any, Any]] | None":
    """Return keys and values of what has keys: of a dictionary, and of a Series of pandas, which is no `Mapping`."""
    shape = getattr(given, "shape", None)
    is_series = isinstance(shape, tuple) and len(shape) == 1 and hasattr(given, "items")
    return [*given.items()] if isinstance(given, Mapping) or is_series else None  # type: ignore[attr-defined]


def by_class(weights: Mapping[Any, float], names: Sequence[str] | None, outputs: int) -> list[float]:
    """Return a weight for each output, from weights by class number or class name.

    names: of the classes, by class number; None where classes are numbers alone. Outputs behind the last name stand
    for no class, and get 1. Where names are whole numbers in text, as with labels -1 and 1, a key is such a label.

    Raises `InputError` for classes that are not there, and for classes without a weight.
    """
    numbers = names is None or not any(_is_whole(name) for name in names)
    known = list(range(outputs)) if names is None else list(names)
    found: dict[int, float] = {}
    unknown = []
    for key, weight in weights.items():
        number = _number_of(key, names, len(known), numbers=numbers)
        if number is None:
            unknown.append(key)
        elif number in found:
            raise InputError(f"class_weights names the class {known[number]!r} twice. Name every class once.")
        else:
            found[number] = weight
    if unknown:
        raise InputError(
            f"class_weights names {_listed(unknown)}, which {_is_no(unknown)}. Classes: {_listed(known)}."
        )
    missing = [label for number, label in enumerate(known) if number not in found]
    if missing:
        raise InputError(
            f"class_weights has no weight for {_listed(missing)}. Name every class; 1 leaves a class as it is."
        )
    return [found.get(number, 1.0) for number in range(outputs)]


def _number_of(key: object, names: Sequence[str] | None, count: int, *, numbers: bool) -> int | None:
    """Return the class number that a key stands for, None if it stands for none.

    numbers: whether a whole number is a class number; else it is a name.
    """
    if names is not None and isinstance(key, str) and key in names:
        return names.index(key)
    whole = int(as_number(key)) if as_number(key).is_integer() else None
    if is_bool(key):
        whole = int(key)  # type: ignore[call-overload]
    if isinstance(key, str) and _is_whole(key):  # as JSON and commands write numbers
        whole = int(key)
    if isinstance(key, str) and names is None and key.lower() in TRUTH:  # as the file may have them
        whole = int(TRUTH[key.lower()])
    if whole is None:
        return None
    if numbers:
        return whole if 0 <= whole < count else None
    assert names is not None
    return names.index(str(whole)) if str(whole) in names else None


def _is_whole(name: str) -> bool:
    """Say whether a name is a whole number in text, of no more digits than Python reads."""
    return len(name) < LONGEST and name.removeprefix("-").isdecimal()


def _weight(value: object, what: str) -> float:
    """Return a weight as a float. Raises `InputError` for what is no finite number from 0."""
    weight = as_number(value)
    if not (isfinite(weight) and weight >= 0):
        raise InputError(f"{what} must be a finite number from 0; got {shown(value)}.")
    return weight


def _is_no(unknown: Sequence[object]) -> str:
    return "is no class of these data" if len(unknown) == 1 else "are no classes of these data"


def _listed(classes: Sequence[object]) -> str:
    """Write the first classes, and how many more there are."""
    more = f" and {len(classes) - SHOWN} more" if len(classes) > SHOWN else ""
    return ", ".join(map(shown, classes[:SHOWN])) + more
