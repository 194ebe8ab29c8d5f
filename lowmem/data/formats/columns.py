"""What is wanted of a source, and which columns of a table are features, target, weights, or left out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowmem.common.checks import instance, is_digits
from lowmem.errors import Advice, InputError, UnknownColumnError

Name = str | int
"""A column by its name, or by its number from 0."""

LISTED = 200
"""Characters of the names that a message lists."""


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of a table that a network was trained on.

    names: of all columns, by number; None if they have none.
    x: numbers of the features, in the network's order. y, w: of target and weights; None if there are none.
    count: how many columns there are.
    only: True where the features were named one by one, so that other columns do not matter.
    """

    names: tuple[str, ...] | None
    x: tuple[int, ...]
    y: int | None
    w: int | None
    count: int
    only: bool = False

    @property
    def features(self) -> tuple[str, ...] | None:
        """The names of the features."""
        return None if self.names is None else tuple(self.names[column] for column in self.x)

    def to_dict(self) -> dict[str, Any]:
        """Return the schema as JSON holds it."""
        names = None if self.names is None else list(self.names)
        return {"names": names, "x": list(self.x), "y": self.y, "w": self.w, "count": self.count, "only": self.only}

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> "Schema":
        """Return what `to_dict` wrote. Raises `ValueError` for anything else."""
        try:
            names, x, y, w, count, only = (held[name] for name in ("names", "x", "y", "w", "count", "only"))
        except (KeyError, TypeError):
            raise ValueError("its columns are not understood") from None
        texts = names is None or (isinstance(names, list) and all(type(name) is str for name in names))
        if not texts or not isinstance(x, list) or type(count) is not int or type(only) is not bool:
            raise ValueError("its columns are not understood")
        places = [*x, *(place for place in (y, w) if place is not None)]
        if not all(type(place) is int and 0 <= place < count for place in places) or len(set(places)) < len(places):
            raise ValueError("its columns have numbers that cannot be")
        if names is not None and len(names) != count:
            raise ValueError(f"it has {len(names)} names for {count} columns")
        return cls(None if names is None else tuple(names), tuple(x), y, w, count, only)


def known_columns(given: object) -> Schema | None:
    """Return the columns of earlier data as they are, None for None. Raises `InputError` for anything else."""
    need = "those of earlier data, such as trainer.columns; names of columns go to features or ignore"
    return None if given is None else instance("columns", given, Schema, need)


@dataclass(frozen=True, slots=True)
class Selection:
    """What a user wants of a source.

    part: "train" or "test", of a source that holds both.
    targets: the file with y, where the source holds x alone.
    target: the column with y, of a table; by default the last one.
    weights: the samples' weights: a column of a table, an array of an .npz, or the file of one.
    class_names: of labels that are text, where they are known already.
    inputs_only: there is no y, or it is left aside, as are the columns that target and weights name.
    features: the only columns to take as features. ignore: columns to leave out.
    columns: those that a network was trained on, which are looked for.
    inputs: the number of features of a network whose columns are not known; None if any number will do.
    header: whether a table in text begins with names of columns; None where the file decides.
    """

    part: str = "train"
    targets: Path | None = None
    target: Name | None = None
    weights: Name | None = None
    class_names: tuple[str, ...] | None = None
    inputs_only: bool = False
    features: tuple[Name, ...] | None = None
    ignore: tuple[Name, ...] = ()
    columns: Schema | None = None
    inputs: int | None = None
    header: bool | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """Numbers of a table's columns: of the features, in their order, the target, the weights, and those left out.

    schema: what a saved run keeps of them. notes: what was chosen, in lines for people.
    remarks: what people should know before they trust the result.
    """

    x: tuple[int, ...]
    y: int | None
    w: int | None
    aside: tuple[int, ...]
    schema: Schema
    notes: tuple[str, ...]
    remarks: tuple[str, ...]


def choose_columns(
    names: Sequence[str], count: int, wanted: Selection, path: Path, index: Iterable[int] = ()
) -> Columns:
    """Return what the columns of a table are.

    names: of the columns, empty if they have none. count: how many there are.
    index: columns that only number or name the rows.

    Raises `InputError` for columns that the table does not have or should not have, and where no feature is left.
    """
    table = _Table(tuple(names), count, path)
    ignored = {table.number(name, "ignored") for name in wanted.ignore}
    y, w = (
        None if name is None else table.number(name, what)
        for name, what in ((wanted.target, "the target"), (wanted.weights, "the weights"))
    )
    notes: list[str] = []
    remarks: list[str] = []
    if wanted.columns is None:
        free = _free(table, wanted, {y, w} | ignored, set(index))
        told = None if wanted.features is None else tuple(table.number(n, "a feature") for n in wanted.features)
        if wanted.inputs_only and wanted.inputs is not None and told is None and y is None:
            y = free[-1] if len(free) > wanted.inputs else None
        if y is None and not wanted.inputs_only:
            last = [place for place in free if told is None or place not in told]
            y = last[-1] if last else None
            if w is not None and (y is None or w > y) and not ignored:
                raise InputError(f"{path}: {table.shown(w)}, the last column, cannot be both target and weights.")
            remarks += table.other_targets(y, free)
        x, only = tuple(place for place in free if place != y) if told is None else told, told is not None
    else:
        x, y, w, only, remarks = _matched(table, wanted, y, w, ignored | set(index))
    table.check(x, y, w, ignored, needs_target=not wanted.inputs_only)
    left_out = sorted(set(index) - {*x, y, w})
    if left_out:
        notes.append(f"left out, as it numbers the rows: {table.listed(left_out)}")
    others = sorted(set(range(count)) - {*x, y, w, *left_out})
    if others and not wanted.inputs_only:
        notes.append(f"left out: {table.listed(others)}")
    if not wanted.inputs_only:
        chosen = ", the last column" * (wanted.target is None and wanted.columns is None)
        weights = "" if w is None else f"; weights: {table.shown(w)}"
        notes.insert(0, f"target: {table.shown(y)}{chosen}; features: {table.listed(x)}{weights}")
    schema = Schema(table.names or None, x, y, w, count, only)
    used = {*x} if wanted.inputs_only else {*x, y, w}
    aside = tuple(place for place in range(count) if place not in used)
    y, w = (None, None) if wanted.inputs_only else (y, w)
    return Columns(x, y, w, aside, schema, tuple(notes), tuple(remarks))


def _free(table: "_Table", wanted: Selection, taken: set[int | None], index: set[int]) -> list[int]:
    """Return the columns that may be features, or the target if it is not named.

    A network whose columns are not known, of an earlier version, may have taken an index for a feature.
    """
    places = [place for place in range(table.count) if place not in taken]
    free = [place for place in places if place not in index]
    needed = 0 if wanted.inputs is None else wanted.inputs + (wanted.target is None and not wanted.inputs_only)
    return places if len(free) < needed else free


Match = tuple[tuple[int, ...], int | None, int | None, bool, list[str]]
"""Features, target, weights, whether the features were named one by one, and remarks."""


def _matched(table: "_Table", wanted: Selection, y: int | None, w: int | None, ignored: set[int]) -> Match:
    """Find the columns of earlier data in a table: by their names, or by place where one of the two has no names."""
    known = wanted.columns
    assert known is not None
    if not table.names or known.names is None:
        return _by_place(table, wanted, known, y, w)
    places = {name: place for place, name in enumerate(table.names)}
    y = places.get(known.names[known.y]) if y is None and known.y is not None else y
    w = places.get(known.names[known.w]) if w is None and known.w is not None else w
    features, of_training = known.features or (), set(known.names)
    missing = [name for name in features if name not in places]
    new = [name for place, name in enumerate(table.names) if place not in {y, w} | ignored and name not in of_training]
    if missing:
        there = f" It has {_texts(new)}, which is unknown." if new else ""
        raise InputError(
            f"{table.path} lacks the column{'s' * (len(missing) > 1)} {_texts(missing)}, which the network was "
            f"trained on.{there} Give all {len(features)} features under their names."
        )
    if y is None and known.y is not None and not wanted.inputs_only:
        raise InputError(
            f"{table.path} has no column {known.names[known.y]!r}, the target of training. Name the target with ",
            Advice("target", "..."),
            ".",
        )
    if new and not known.only:
        raise InputError(
            f"{table.path} has the column{'s' * (len(new) > 1)} {_texts(new)}, which the network was not trained on. "
            "Leave out what is no feature with ",
            Advice("ignore", ",".join(new)),
            ".",
        )
    x = tuple(places[name] for name in features)
    notes = (
        [] if list(x) == sorted(x) else ["its columns are in another order than in training, and were put in order"]
    )
    return x, y, w, known.only, notes


def _by_place(table: "_Table", wanted: Selection, known: Schema, y: int | None, w: int | None) -> Match:
    """Find the columns of earlier data by place: all of them, or all but those that a prediction does without."""
    told, y, w = (y, w), known.y if y is None else y, known.w if w is None else w
    held = list(range(known.count))
    used = {*known.x, known.y, known.w}
    left_out: set[int | None] = {place for place in held if place not in used}
    lacking: list[set[int | None]] = [set(), left_out]
    if wanted.inputs_only:
        without = [{w} - {None}, {y} - {None}, {y, w} - {None}]
        lacking += without + [lacks | left_out for lacks in without]
    for lacks in lacking:
        left = [place for place in held if place not in lacks]
        if len(left) == table.count:
            moved = {place: number for number, place in enumerate(left)}
            named = bool(table.names) != (known.names is not None)
            notes = ["columns without names are taken in the order of training"] * named
            x = tuple(moved[place] for place in known.x)
            y = told[0] if told[0] is not None or y is None else moved.get(y)
            return x, y, None if w is None else moved.get(w), known.only, notes
    raise InputError(
        f"{table.path} has {table.count} columns; the data of training had {known.count}, {len(known.x)} of them "
        "features. Give the same columns."
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """The columns of a table, to find and name them. names: empty if they have none."""

    names: tuple[str, ...]
    count: int
    path: Path

    def number(self, name: Name, what: str) -> int:
        """Return the number of a column. See `number_of`."""
        return number_of(name, self.names, self.count, what, self.path)

    def shown(self, place: int | None) -> str:
        """Write a column for people: its name, or its number."""
        if place is None:
            return "none"
        return repr(self.names[place][:60]) if self.names and self.names[place] else f"column {place}"

    def listed(self, places: Sequence[int]) -> str:
        """Write some columns for people."""
        shown = ", ".join(self.shown(place) for place in places[:8])
        return shown[:LISTED] + f", ... ({len(places)})" * (len(places) > 8 or len(shown) > LISTED)

    def other_targets(self, y: int | None, free: Sequence[int]) -> list[str]:
        """Return a remark where another column than the last one has the name of a target."""
        like = [place for place in free if place != y and self.names and self.names[place].lower() in TARGETS]
        if not like or y is None or self.names[y].lower() in TARGETS:
            return []
        return [f"{self.listed(like)} may be the target as well: the last column was taken"]

    def check(self, x: Sequence[int], y: int | None, w: int | None, ignored: set[int], *, needs_target: bool) -> None:
        """Refuse columns that are two things at once, and tables without a feature or a target."""
        for place in ignored:
            if place in (*x, y, w):
                raise InputError(f"{self.path}: {self.shown(place)} is to be ignored, and needed too. Choose one.")
        if y is not None and y == w:
            raise InputError(f"{self.path}: {self.shown(y)} cannot be both target and weights.")
        both = [place for place in x if place in (y, w)]
        if len(set(x)) < len(x):
            both = [next(place for number, place in enumerate(x) if place in x[:number])]
        if both:
            raise InputError(f"{self.path}: {self.shown(both[0])} is named as a feature, and as something else too.")
        if not x or (needs_target and y is None):
            raise InputError(
                f"{self.path} has {self.count} column{'s' * (self.count > 1)}; features and a target are needed."
            )


TARGETS = {"target", "label", "labels", "class", "y"}
"""Names that a target usually has."""


def number_of(name: Name, names: Sequence[str], count: int, what: str, path: Path) -> int:
    """Return the number of a column. A text is a name before it is a number.

    what: what the column is to be, for the message.

    Raises `InputError` if there is no such column.
    """
    text = str(name)
    if text in names and (isinstance(name, str) or not -count <= name < count):
        return list(names).index(text)
    if is_digits(text.lstrip("-")) and -count <= int(text) < count:
        return int(text) % count
    import difflib  # only on the way to an error

    near = difflib.get_close_matches(text, names, n=1)
    known = f"it has {_texts(names)}" if names else f"its columns have no names, and the numbers 0 to {count - 1}"
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UnknownColumnError(path, name, what, f"{known}.{hint}")


def _texts(names: Sequence[str]) -> str:
    """Write names for people."""
    text = ", ".join(map(repr, names[:20]))
    return text[:LISTED] + " ..." * (len(text) > LISTED or len(names) > 20)
