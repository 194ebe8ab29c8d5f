"""A journal of a run: a file with one JSON object on each line, for programs that follow the run."""

import json
import warnings
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lowmem.common.files import reason
from lowmem.errors import InputError, NonFiniteError, Origin
from lowmem.training.callbacks.base import Callback

if TYPE_CHECKING:
    from lowmem.training.loop import Epoch, Loop


START = b'{"event": "'
"""How every line begins."""

LONGEST = 1 << 16
"""Bytes in which the last line of an earlier run is looked for; one that is longer is believed."""


class Journal(Callback):
    """Appends a line to a file for each event: begin, epoch, skipped, non-finite, stopped and end.

    Each line has `event`, `time` (UTC), and fields of the event. A line that an earlier process left unfinished is
    ended first. Raises `InputError` if the file cannot be written, or holds anything but a journal. If it can no
    longer be written during the run, there is one warning and the journal ends: no training is lost for its journal.
    """

    def __init__(self, path: str | Path) -> None:
        self._path: Path | None = Path(path)
        try:
            with self._path.open("ab+") as stream:
                if stream.tell() and not _ends_in_line(stream, self._path):
                    stream.write(b"\n")
        except OSError as problem:
            raise InputError(
                f"cannot write the journal {str(path)!r}: {reason(problem)}. Name another file."
            ) from None

    def on_begin(self, loop: "Loop") -> None:
        """Write the plan, and the position that the run begins at."""
        at = loop.at
        self.write("begin", plan=loop.plan.to_dict(), epoch=at.epoch, batch=at.batch, until=at.until)

    def on_skip(self, loop: "Loop", origin: Origin) -> None:
        """Write where the numbers of the skipped step stopped being finite."""
        self.write("skipped", steps=loop.at.steps, where=str(origin))

    def on_epoch(self, loop: "Loop", epoch: "Epoch") -> None:
        """Write the numbers of the epoch."""
        self.write("epoch", steps=loop.at.steps, **asdict(epoch))

    def on_failure(self, loop: "Loop", error: NonFiniteError) -> None:
        """Write why the run failed."""
        self.write("non-finite", steps=loop.at.steps, layer=error.layer, saved=error.last_save, error=str(error))

    def on_stop(self, loop: "Loop", signal: int) -> None:
        """Write which signal ended the run, and where the run is saved."""
        self.write("stopped", signal=signal, steps=loop.at.steps, saved=loop.last_save)

    def on_end(self, loop: "Loop") -> None:
        """Write where the run is saved."""
        self.write("end", steps=loop.at.steps, saved=loop.last_save)

    def write(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - whatever JSON holds
        """Write one line."""
        if self._path is None:
            return
        line = {"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
        except OSError as problem:
            warnings.warn(f"the journal ends here: {reason(problem)}. Training goes on.", RuntimeWarning, stacklevel=3)
            self._path = None


def _ends_in_line(stream: BinaryIO, path: Path) -> bool:
    """Say whether the last line of a file is complete. Raises `InputError` unless its lines are those of a journal."""
    size = stream.tell()
    stream.seek(0)
    first = stream.read(len(START))
    stream.seek(max(0, size - LONGEST))
    end = stream.read()
    before, _, last = end.rstrip().rpartition(b"\n")
    for line in (first, last) if before or len(end) == size else (first,):
        # A process that was killed may have left the beginning of a line.
        if line[: len(START)] != START[: len(line)]:
            raise InputError(f"the journal {str(path)!r} is there already, and is no journal. Name another file.")
    return end.endswith(b"\n")
