"""Schedules of chains with tapes: `Forward` keeps no tape, `Record` does, and `Backward` needs one."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from lowmem.schedule.ops import Backward, Forward, Loss


@dataclass(frozen=True, slots=True)
class Record:
    """Run one stage and keep its tape. The state that enters is not needed any more, but by the tape."""

    layer: int

    def __str__(self) -> str:
        """Write the op for people."""
        return f"Record({self.layer})"


TapeOp = Forward | Record | Loss | Backward


@dataclass(frozen=True, slots=True)
class TapeSchedule:
    """The ops of one step in order, and the planner that wrote them."""

    planner: str
    ops: tuple[TapeOp, ...]

    def __iter__(self) -> Iterator[TapeOp]:
        """Iterate over the ops."""
        return iter(self.ops)

    def __len__(self) -> int:
        """Return the number of ops."""
        return len(self.ops)

    def to_json(self) -> str:
        return json.dumps([self.planner, *map(str, self.ops)])
