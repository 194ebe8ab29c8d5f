"""Tables: which of their columns are features, target and weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lowmem.errors import InputError

TABLES = ("csv", "tsv", "parquet")
"""How the names of tables end."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of a table.

    target, weights: names or numbers of columns; by default the last one is the target, and there are no weights.
    inputs_only: there are neither, or the columns that are named so are left aside. class_names: of a target that is
    text, where they are known already.
    """

    target: str | int | None = None
    weights: str | int | None = None
    inputs_only: bool = False
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """Numbers of columns: features, target, weights; aside: those that are not read."""

    x: tuple[int, ...]
    y: int | None
    w: int | None
    aside: tuple[int, ...]


def choose_columns(names: Sequence[str], count: int, wanted: Wanted, path: Path) -> Columns:
    """Return the columns of a table; names: of them, if they have any."""
    target = None
    if wanted.target is not None or not wanted.inputs_only:
        target = number_of(wanted.target, names, count, "target", path)
    w = None if wanted.weights is None else number_of(wanted.weights, names, count, "weights", path)
    if w is not None and w == target:
        raise InputError(f"{path}: column {wanted.weights!r} cannot be both target and weights.")
    x = tuple(column for column in range(count) if column not in (target, w))
    if not x:
        raise InputError(f"{path} has {count} column{'s' * (count > 1)}; features and a target are needed.")
    if wanted.inputs_only:
        return Columns(x, None, None, tuple(column for column in (target, w) if column is not None))
    return Columns(x, target, w, ())


def number_of(name: str | int | None, names: Sequence[str], count: int, what: str, path: Path) -> int:
    """Return the number of a column, the last one by default."""
    if name is None:
        return count - 1
    if isinstance(name, str) and name in names:
        return list(names).index(name)
    if not isinstance(name, str) and -count <= name < count:
        return name % count
    known = ", ".join(map(repr, names)) if names else f"0 to {count - 1}"
    raise InputError(f"{path} has no column {name!r} to be the {what}; it has {known[:200]}.")
