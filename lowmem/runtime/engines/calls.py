"""Bound calls: a step, ready to be carried out. Their arguments are views and objects that outlive the step."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from lowmem.planning.engines.outline import Phase


@dataclass(frozen=True, slots=True)
class Call:
    """One bound call.

    phase: of the step. layer: its number; 0 where the call belongs to no single layer.
    function: may have an attribute `flops`, a function that counts FLOPs from the same arguments.
    """

    phase: Phase
    layer: int
    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def run(self) -> None:
        """Carry it out."""
        self.function(*self.arguments)

    def flops(self) -> int:
        """Return the FLOPs of the call, counted from the arrays that it works on."""
        count = getattr(self.function, "flops", None)
        if count is None:
            return 0
        owner = getattr(self.function, "__self__", None)
        return int(count(*self.arguments) if owner is None else count(owner, *self.arguments))


@dataclass(frozen=True, slots=True)
class Sweep:
    """A state carried through layers first..last in one place.

    in_place: the in-place calls of that place by layer, which all its sweeps share, in whatever phase.
    """

    phase: Phase
    in_place: Sequence[Call | None]
    first: int
    last: int

    def calls(self) -> Iterator[Call]:
        """Yield the calls one by one, in the phase of this sweep."""
        for call in self.in_place[self.first : self.last + 1]:
            assert call is not None
            yield Call(self.phase, call.layer, call.function, call.arguments)

    def run(self) -> None:
        """Carry it out."""
        for call in self.in_place[self.first : self.last + 1]:
            call.run()  # type: ignore[union-attr]


Bound: TypeAlias = Call | Sweep

CarryOut: TypeAlias = Callable[[Sequence[Bound]], None]
"""Carries out the calls of one pass; `run_calls` does it plainly, a profile measures each call."""


def run_calls(bound: Sequence[Bound]) -> None:
    """Carry out bound calls one after the other."""
    for item in bound:
        item.run()


def single_calls(bound: Iterable[Bound]) -> Iterator[Call]:
    """Yield bound calls one by one, those of sweeps included."""
    for item in bound:
        if isinstance(item, Sweep):
            yield from item.calls()
        else:
            yield item
