"""A journal of a run: one JSON object on each line, for programs to follow along."""

import json
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lowmem.errors import InputError


class Journal:
    """Appends to a file; None writes nowhere.

    Each line has `event` and `time` (UTC) and what the event is about. A line that an earlier process left unfinished
    is ended first. A line that cannot be written is a warning, once: no training is lost for its journal.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._path = None if path is None else Path(path)
        if self._path is None:
            return
        try:
            with self._path.open("ab+") as stream:
                if stream.tell():
                    stream.seek(-1, 2)
                    if stream.read(1) != b"\n":
                        stream.write(b"\n")
        except OSError as problem:
            raise InputError(f"cannot write the journal {str(path)!r}: {problem.strerror or problem}.") from None

    def write(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - whatever JSON holds
        """Write one line."""
        if self._path is None:
            return
        line = {"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
        except OSError as problem:
            warnings.warn(f"the journal ends here: {problem}. Training goes on.", RuntimeWarning, stacklevel=3)
            self._path = None
