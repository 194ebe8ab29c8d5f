"""Schedules of chains with tapes: `Forward` keeps no tape, `Record` does, and `Backward` needs one."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

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
        """Write the schedule as JSON: {"planner": ..., "ops": [["forward", 1, 3], ["record", 4], ["loss"], ...]}."""
        return json.dumps({"planner": self.planner, "ops": [_to_list(op) for op in self.ops]})

    @classmethod
    def from_json(cls, text: str) -> "TapeSchedule":
        """Read what `to_json` wrote. Raises `ValueError`, `KeyError` or `TypeError` for anything else."""
        data = json.loads(text)
        kinds = {op.__name__.lower(): op for op in get_args(TapeOp)}
        return cls(str(data["planner"]), tuple(kinds[name](*map(int, numbers)) for name, *numbers in data["ops"]))


def _to_list(op: TapeOp) -> list[Any]:
    return [type(op).__name__.lower(), *(getattr(op, name) for name in op.__match_args__)]
