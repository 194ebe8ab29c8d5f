"""The ops that reverse a chain, and the schedule: a list of them as pure data.

`Forward` carries one state through a run of layers in a single place, each layer overwriting its input. So a
schedule has about 3 L ops whatever it recomputes, and one for 10,000 layers stays small. What every op needs, makes
and ends is told by `lowmem.schedule.effects`.

Ops are matched by keyword, `case Backward(layer=layer)`. For a pattern by position Python 3.11 makes the text
"__match_args__" anew each time, and its cache of attributes keeps up to 4,096 of them: 250 KB that no plan counts.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Never, get_args

from lowmem.chain import Value
from lowmem.errors import InputError


@dataclass(frozen=True, slots=True)
class Forward:
    """Run layers first..last from state first-1, which stays. Of the states made on the way only `last` remains."""

    first: int
    last: int

    def __str__(self) -> str:
        """Write the op for people."""
        return f"Forward({self.first}..{self.last})" if self.last > self.first else f"Forward({self.first})"


@dataclass(frozen=True, slots=True)
class Record:
    """Run one stage and keep its tape. The state that enters ends, but for what the tape holds of it.

    output: whether the stage's output stays. Without it only what makes the tape need run.
    """

    layer: int
    output: bool = True

    def __str__(self) -> str:
        """Write the op for people."""
        return f"Record({self.layer})" if self.output else f"Record({self.layer}, no output)"


@dataclass(frozen=True, slots=True)
class Loss:
    """Turn the last layer's output into the loss and δ^(L)."""

    def __str__(self) -> str:
        """Write the op for people."""
        return "Loss"


@dataclass(frozen=True, slots=True)
class Backward:
    """Reverse one layer: its gradients, and δ^(l-1) in the place of the state that entered it."""

    layer: int

    def __str__(self) -> str:
        """Write the op for people."""
        return f"Backward({self.layer})"


@dataclass(frozen=True, slots=True)
class Update:
    """Update the parameters of one layer with the gradient of the layer, which ends."""

    layer: int

    def __str__(self) -> str:
        """Write the op for people."""
        return f"Update({self.layer})"


@dataclass(frozen=True, slots=True)
class AllReduce:
    """Begin to add up the gradients that ranks have of one layer. The sum is needed, and waited for, by `Update`."""

    layer: int

    def __str__(self) -> str:
        """Write the op for people."""
        return f"AllReduce({self.layer})"


@dataclass(frozen=True, slots=True)
class Free:
    """Give the memory of a state back before the backward that would end it."""

    value: Value

    def __str__(self) -> str:
        """Write the op for people."""
        return f"Free({self.value})"


@dataclass(frozen=True, slots=True)
class Store:
    """Begin to write a state to the disk. What would end or overwrite the state waits until it is written."""

    value: Value

    def __str__(self) -> str:
        """Write the op for people."""
        return f"Store({self.value})"


@dataclass(frozen=True, slots=True)
class Load:
    """Begin to read a state back from the disk, where its copy ends. What needs the state waits until it is read."""

    value: Value

    def __str__(self) -> str:
        """Write the op for people."""
        return f"Load({self.value})"


Op = Forward | Record | Loss | Backward | AllReduce | Update | Free | Store | Load
_TAPE = "tape"
_BY_NAME = {op.__name__.lower(): op for op in get_args(Op)} | {_TAPE: partial(Record, output=False)}


@dataclass(frozen=True, slots=True)
class Schedule:
    """The ops of one step in order, and the planner that made them.

    Hashable, comparable, iterable as often as wanted; knows neither sizes nor costs (see `simulate`).
    """

    planner: str
    ops: tuple[Op, ...]

    def __iter__(self) -> Iterator[Op]:
        """Iterate over the ops."""
        return iter(self.ops)

    def __len__(self) -> int:
        """Return the number of ops."""
        return len(self.ops)

    def to_json(self) -> str:
        """Write the schedule as JSON: {"planner": ..., "ops": [["forward", 1, 3], ["loss"], ...]}."""
        return json.dumps({"planner": self.planner, "ops": [_to_list(op) for op in self.ops]})

    @classmethod
    def from_json(cls, text: str) -> "Schedule":
        """Read what `to_json` wrote. Raises `InputError` for anything else."""
        try:
            data = json.loads(text)
            return cls(str(data["planner"]), tuple(_from_list(item) for item in data["ops"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"this text is not a schedule that lowmem wrote: {error}.") from None


def _to_list(op: Op) -> list[Any]:
    """Write one op as a JSON list."""
    name = type(op).__name__.lower()
    match op:
        case Forward(first=first, last=last):
            return [name, first, last]
        case Free(value=value) | Store(value=value) | Load(value=value):
            return [name, value.kind, value.layer]
        case Record(layer=layer, output=False):
            return [_TAPE, layer]
        case Record(layer=layer) | Backward(layer=layer) | AllReduce(layer=layer) | Update(layer=layer):
            return [name, layer]
        case Loss():
            return [name]
        case _:
            raise not_an_op(op)


def not_an_op(op: Never) -> InputError:
    """Return the error that ends a match over all ops: `typing.assert_never` with words for people.

    Type checkers complain of a match that leaves an op out. At run time only what is no op comes here.
    """
    return InputError(f"{op!r} is not an op")


def _from_list(item: list[Any]) -> Op:
    """Read one op from its JSON list."""
    name, *numbers = item
    if name in ("free", "store", "load"):
        kind, layer = numbers
        if kind not in ("x", "s", "δ", "g"):
            raise ValueError(f"unknown value {kind!r}")
        of_value: Op = _BY_NAME[name](Value(kind, _layer(layer)))
        return of_value
    op: Op = _BY_NAME[name](*map(_layer, numbers))
    return op


def _layer(number: object) -> int:
    """Return a layer number as it must be: a plain int."""
    if type(number) is not int:
        raise TypeError(f"{number!r} is not a layer")
    return number
