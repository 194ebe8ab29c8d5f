"""How a run learned, epoch by epoch: records, and the journal that holds them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lowmem.errors import InputError


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """What an epoch came to.

    number: of the epoch in the run, from 1. steps: done in the run until its end.
    loss: mean over the samples. validation_loss, accuracy: on held-out data, None without.
    learning_rate: rate of its last step. seconds: time of its steps.
    """

    number: int
    steps: int
    loss: float
    validation_loss: float | None = None
    accuracy: float | None = None
    learning_rate: float = 0.0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def read_journal(path: str | Path) -> list[EpochRecord]:
    """Return the epochs of the last run in a journal, in order.

    A run that was resumed continues what stands before it; epochs that it repeats count once, as they came out last. A
    last line that is incomplete is left out: the run may be writing it.

    Raises `InputError` if the file cannot be read, is no journal, or holds no epoch.
    """
    path = Path(path)
    epochs: list[EpochRecord] = []
    for event in _events(path):
        if event["event"] == "begin" and not event.get("epoch"):
            epochs = []  # another run
        elif event["event"] == "epoch":
            record = _record(event, path)
            epochs = [*(epoch for epoch in epochs if epoch.number < record.number), record]
    if not epochs:
        raise InputError(f"{path} holds no epoch yet; a journal gets a line when an epoch is over.")
    return epochs


def _events(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the lines of a journal."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "it is no text"
        raise InputError(f"cannot read the journal {str(path)!r}: {reason}. {WANTED}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            if number == len(lines) and number > 1:
                return
            raise InputError(f"line {number} of {path} is no line of a journal. {WANTED}")
        yield event


WANTED = "Give a file that lowmem train --journal FILE wrote."


def _record(event: Mapping[str, Any], path: Path) -> EpochRecord:
    """Return the record of an epoch's line."""
    try:
        return EpochRecord(
            number=int(event["number"]),
            steps=int(event["steps"]),
            loss=float(event["loss"]),
            validation_loss=_number(event.get("validation_loss")),
            accuracy=_number(event.get("accuracy")),
            learning_rate=float(event.get("learning_rate", 0)),
            seconds=float(event.get("seconds", 0)),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InputError(f"{path} has an epoch without its numbers: {json.dumps(event)[:80]}. {WANTED}") from None


def _number(value: object) -> float | None:
    return None if value is None else float(value)  # type: ignore[arg-type]
