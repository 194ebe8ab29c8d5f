"""What is wanted of a source: which of its arrays or columns are x, y and weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lowmem.errors import InputError


@dataclass(frozen=True, slots=True)
class Selection:
    """What a user wants of a source.

    part: "train" or "test", of a source that holds both.
    targets: the file with y, where the source holds x alone.
    target: the column with y, of a table, by name or number; by default the last one.
    weights: the samples' weights: a column of a table, an array of an .npz, or the file of one.
    class_names: of labels that are text, where they are known already.
    inputs_only: there is no y, or it is left aside, as are the columns that target and weights name.
    """

    part: str = "train"
    targets: Path | None = None
    target: str | int | None = None
    weights: str | int | None = None
    class_names: tuple[str, ...] | None = None
    inputs_only: bool = False


@dataclass(frozen=True, slots=True)
class Columns:
    """Numbers of a table's columns: of the features, the target, the weights, and of those that are not read."""

    x: tuple[int, ...]
    y: int | None
    w: int | None
    aside: tuple[int, ...]


def choose_columns(names: Sequence[str], count: int, wanted: Selection, path: Path) -> Columns:
    """Return what the columns of a table are.

    names: of the columns, empty if they have none. count: how many there are.

    Raises `InputError` for columns that the table does not have, and where no feature is left.
    """
    y = None
    if wanted.target is not None or not wanted.inputs_only:
        y = number_of(wanted.target, names, count, "target", path)
    w = None if wanted.weights is None else number_of(wanted.weights, names, count, "weights", path)
    if w is not None and w == y:
        raise InputError(f"{path}: column {wanted.weights!r} cannot be both target and weights.")
    x = tuple(column for column in range(count) if column not in (y, w))
    if not x:
        raise InputError(f"{path} has {count} column{'s' * (count > 1)}; features and a target are needed.")
    if wanted.inputs_only:
        return Columns(x, None, None, tuple(column for column in (y, w) if column is not None))
    return Columns(x, y, w, ())


def number_of(name: str | int | None, names: Sequence[str], count: int, what: str, path: Path) -> int:
    """Return the number of a column, the last one by default. Raises `InputError` if there is no such column.

    what: what the column is to be, for the message.
    """
    if name is None:
        return count - 1
    if isinstance(name, str) and name in names:
        return list(names).index(name)
    if not isinstance(name, str) and -count <= name < count:
        return name % count
    known = ", ".join(map(repr, names)) if names else f"0 to {count - 1}"
    raise InputError(f"{path} has no column {name!r} to be the {what}; it has {known[:200]}.")
