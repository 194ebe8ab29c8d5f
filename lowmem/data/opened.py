"""What the first pass over a source has found: what samples tell besides rows and targets, in notes and remarks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lowmem.data.formats.cells import is_missing
from lowmem.data.formats.chosen_rows import CodedRows
from lowmem.data.formats.rows import Rows
from lowmem.data.scan import Contents
from lowmem.data.standardisation import Standardisation
from lowmem.data.task import Task


@dataclass(frozen=True, slots=True)
class Opened:
    """A source whose rows were gone through once.

    fitted: the standardisation was found in them. new: no network was trained on such data before.
    """

    rows: Rows
    contents: Contents
    task: Task
    scale: float
    standardisation: Standardisation | None
    fitted: bool
    new: bool

    def _classes_named(self) -> tuple[str, ...] | None:
        """Return the names of the classes, None if they have none."""
        if self.task.names is None and isinstance(self.rows, CodedRows):
            return self.rows.coded
        if self.task.names is None and self.rows.class_names is not None:
            return self.rows.class_names.names
        return self.task.names

    def about(self) -> dict[str, Any]:
        """Return what `Samples` tell besides rows and targets."""
        rows = self.rows
        return {
            "scale": self.scale,
            "standardisation": self.standardisation,
            "fitted": self.fitted,
            "class_names": self._classes_named(),
            "columns": rows.schema,
            "notes": (*rows.notes, *self._notes()),
            "remarks": (*rows.remarks, *self._remarks()),
            "files": rows.files,
        }

    def _notes(self) -> Iterator[str]:
        """Yield what the first pass found, for people."""
        if self.task.note:
            yield self.task.note
        if self.scale != 1 and self.standardisation is None:
            yield f"x is multiplied by {_factor(self.scale)}"

    def _remarks(self) -> Iterator[str]:
        """Yield what the first pass found that people should know."""
        counting, coarse = self.contents.counting, self.contents.coarse
        if counting is not None and self.new:
            told = f"counts the rows, from {self.contents.counted_from:g}: leave it out if it is no feature"
            yield f"{self._feature(counting)} {told}"
        if coarse is not None and self.new:
            stored = self.rows.schema is None  # tables are read as float32, whatever the network's dtype
            yield f"{self._feature(coarse.feature)} {coarse}{', or train in float64' if stored else ''}"
        if self.new and self.task.targets.labels:
            yield from self._doubtful_classes()
        if 0 < self.scale < 1 and self.standardisation is None and self.contents.largest <= 1:
            yield f"x has no value above 1, and is multiplied by {_factor(self.scale)}"

    def _feature(self, number: int) -> str:
        """Return what a feature is called: its name, or the number of its column, from 0."""
        schema = self.rows.schema
        place = number if schema is None else schema.x[number]
        name = "" if schema is None or schema.names is None else schema.names[place]
        return repr(name) if name else f"column {place}"

    def _doubtful_classes(self) -> Iterator[str]:
        """Yield what is odd about classes."""
        names = self._classes_named()
        missing = [name for name in names or () if is_missing(name)]
        if missing:
            yield f"the class {missing[0]!r} may stand for labels that are missing"
        counts = self.contents.counts
        if counts is not None and (counts > 0).sum() == 1:
            yield "all samples have the same class: there is nothing to learn"


def _factor(scale: float) -> str:
    """Write a factor of x, as a fraction of 1 where it is one."""
    return f"1/{1 / scale:g}" if 0 < scale < 1 else f"{scale:g}"
