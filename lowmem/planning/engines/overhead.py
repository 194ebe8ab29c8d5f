"""How many bytes of Python objects a bound program takes: an upper estimate, so that a promise holds to the byte.

Views and bound calls are small, but a deep network has many. Their number follows from the outline of the program,
which the binder follows too; the bytes of each kind were fitted on traced allocations of CPython 3.11 by
`scripts/fit_overhead.py`, which also shows how far the estimate lies above them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, compress
from typing import NamedTuple, TypeAlias

from lowmem.common.shards import Shards
from lowmem.network.architecture import Architecture
from lowmem.network.layers.base import Widths
from lowmem.network.specs import CHUNK
from lowmem.network.tiles import matrices_bytes, tile_count, tile_rows
from lowmem.planning.engines.outline import Phase, Place, outline, reversal_places
from lowmem.planning.packing import Program, Step
from lowmem.schedule.ops import Loss, Op
from lowmem.schedule.streaming import Streaming

KEPT = 4
"""Schedules whose calls are kept: a search asks for the placements of one before it goes to the next."""

BYTES = {
    "constant": 12000,
    "layers": 2065,
    "parts": 410,
    "parts again": 450,
    "totals": 1207,
    "steps": 102,
    "sweeps": 80,
    "calls": 190,
    "reversals": 80,
    "in place": 9,
    "places": 345,
    "workspaces": 54,
    "views": 314,
    "loss": 371,
    "chunks": 538,
    "states": 294,
}
"""By kind of object.

layers: what each layer has whatever is done. parts: arrays of a layer beside weights and biases; parts again: what
they need in each further kind of pass. totals: the layers of a second set of gradients. steps: of the program. calls:
bound calls. in place: entries of the lists that sweeps share. places: matrices of all rows, and views: the arrays into
which they and the workspaces are cut. loss: tiles of the outputs. chunks: of the parameters, in updates; states: the
optimizer's arrays of each.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Calls:
    """The calls of a program, wherever its values lie: what all placements of a schedule share.

    forwards: (number of the step, number that equal forwards share, layer).
    sweeps: (number of the step, first layer, last layer). reversals: (number of the step, layer).
    kinds: how many objects there are of the kinds that no place changes.
    """

    forwards: tuple[tuple[int, int, int], ...]
    sweeps: tuple[tuple[int, int, int], ...]
    reversals: tuple[tuple[int, int], ...]
    kinds: dict[str, int]


def calls_of(architecture: Architecture, ops: Iterable[Op], streaming: Streaming | None = None) -> Calls:
    """Return the calls of a program with these ops. streaming: of parameters and moments."""
    forwards, sweeps, reversals = [], [], []
    calls = 0
    reversed_by = -1
    equal: dict[tuple[Phase, Op], int] = {}
    numbered = Program(tuple(Step(op, number, number, number) for number, op in enumerate(ops)), 0)
    for item in outline(architecture, numbered, first=False, last=True, streaming=streaming):
        number = item.step.source
        match item.kind:
            case "forward":
                forwards.append((number, equal.setdefault((item.phase, item.step.op), number), item.layer))
            case "sweep":
                sweeps.append((number, item.layer, item.last))
            case "prepare" | "gradients" | "scale_gradients" | "finish" | "gather":
                calls += 1
                if number != reversed_by:
                    reversed_by = number
                    reversals.append((number, item.layer))
            case "loss" | "sum" | "exchange" | "update" | "store" | "load" | "wait" | "move":
                calls += 1
    kinds = {"sweeps": len(sweeps), "calls": calls, "reversals": len(reversals)}
    return Calls(tuple(forwards), tuple(sweeps), tuple(reversals), kinds)


Places: TypeAlias = tuple[Place, ...]


class _Working(NamedTuple):
    """What a layer works on, in passes of so many rows.

    entering, leaving: widths of its states. forward, in_place, backward: the working matrices of a tile, from 0 on.
    whole: matrices of all rows to reverse the layer, in scratch at 0. behind: where `backward` begins in such scratch.
    """

    entering: int
    leaving: int
    forward: Places
    in_place: Places
    whole: Places
    behind: int
    backward: Places


class ObjectCounter:
    """Counts Python's objects that NumPy's engine binds for the programs of a request.

    rows: of a pass.
    states: arrays of the optimizer, None without one.
    shards: of a batch, whose parts of the parameters are updated one by one.
    streaming: of parameters and moments.
    odd_batches: whether the last batch of an epoch has another size.

    A search counts them for hundreds of programs. So what the network alone decides is found out once, and the calls
    of the last schedules are kept.
    """

    def __init__(
        self,
        architecture: Architecture,
        batch_size: int,
        rows: int,
        states: int | None,
        shards: Shards,
        streaming: Streaming | None,
        *,
        odd_batches: bool,
    ) -> None:
        self._architecture, self._streaming = architecture, streaming
        self._rows = rows
        odd = 2 if odd_batches else 1
        # Views and forward calls are made for each number of rows, the other calls for each kind of pass.
        self._sizes = odd * _sizes_of_passes(batch_size, rows, shards)
        self._passes = passes = odd * _kinds_of_passes(batch_size, rows, shards)
        self._working = tuple(_working(architecture, rows))
        chunks = 0 if states is None else sum(_chunks(layer.size, shards) for layer in architecture.each_layer)
        parts = sum(len(layer.parameters) + len(layer.running) - 2 for layer in architecture.each_layer)
        self._constant = {
            "constant": 1,
            "layers": architecture.layers,
            "parts": parts,
            "parts again": parts * (passes - 1),
            "totals": architecture.layers * (passes > 1),
            "chunks": chunks,
            "states": chunks * (states or 0),
        }
        self._calls: dict[tuple[Op, ...], Calls] = {}

    def bytes(self, program: Program) -> int:
        """Return the bytes that the objects of a program take."""
        return overhead_bytes(self.counts(program))

    @cached_property
    def least(self) -> int:
        """The bytes that the objects of any program take at least, whatever its schedule."""
        backward = sum(len(layer.reversal) for layer in self._architecture.each_layer)
        reversals = self._architecture.layers
        empty = self.counts(Program((), 0))
        return overhead_bytes(empty | {"calls": backward * self._passes, "reversals": reversals * self._passes})

    def counts(self, program: Program) -> dict[str, int]:
        """Count the objects of a program by kind."""
        steps, working = program.steps, self._working
        calls = self._calls_of(steps)
        matrices: set[Place] = set()
        workspaces: set[tuple[int, Places]] = set()  # (offset, matrices from 0 on)
        forwards: set[tuple[int, int, int, int]] = set()  # equal ones are bound once
        in_place: dict[Place, bytearray] = {}  # (place, scratch) -> a mark for each layer
        for number, equal, layer in calls.forwards:
            step, of = steps[number], working[layer - 1]
            forwards.add((equal, step.source, step.target, step.scratch))
            matrices.add((step.source, of.entering))
            matrices.add((step.target, of.leaving))
            workspaces.add((step.scratch, of.forward))
        for number, begin, end in calls.sweeps:
            step = steps[number]
            marks = in_place.setdefault((step.target, step.scratch), bytearray(len(working)))
            marks[begin - 1 : end] = b"\1" * (end - begin + 1)
        for number, layer in calls.reversals:
            step, of = steps[number], working[layer - 1]
            matrices.add((step.source, of.leaving))
            matrices.add((step.target, of.entering))
            matrices.update((step.scratch + offset, width) for offset, width in of.whole)
            workspaces.add((step.scratch + of.behind, of.backward))
        for (place, scratch), marks in in_place.items():
            for of in set(compress(working, marks)):
                matrices.add((place, of.entering))
                matrices.add((place, of.leaving))
                workspaces.add((scratch, of.in_place))
        of_passes = {kind: number * self._passes for kind, number in calls.kinds.items()}
        shared = len(forwards) + sum(marks.count(1) for marks in in_place.values())
        working_on = {(begin + offset, width) for begin, places in workspaces for offset, width in places}
        sizes, tiles = self._sizes, tile_count(self._rows)
        # Of a matrix its tiles and the whole. Tiles work in one place, in two shapes where the last one is shorter: as
        # a larger batch shall never seem to need less, all batches of several tiles are taken for such.
        several = tiles > 1
        views = len(matrices) * (tiles + several) + len(working_on) * (1 + several)
        return {
            **self._constant,
            "steps": len(steps),
            **of_passes,
            "calls": of_passes["calls"] + shared * sizes,
            "in place": len(in_place) * (len(working) + 1) * sizes,
            "places": len(matrices) * sizes,
            "workspaces": len(workspaces) * tiles * sizes,
            "views": views * sizes,
            "loss": tiles * sizes,
        }

    def _calls_of(self, steps: Sequence[Step]) -> Calls:
        """Return the calls of a program, which all placements of a schedule share."""
        ops = tuple(step.op for step in steps)
        if ops not in self._calls:
            if len(self._calls) == KEPT:
                del self._calls[next(iter(self._calls))]
            self._calls[ops] = calls_of(self._architecture, ops, self._streaming)
        return self._calls[ops]


def _sizes_of_passes(batch_size: int, rows: int, shards: Shards) -> int:
    """Return how many different numbers of rows passes have. Shards differ by a row, and each has a rest."""
    least, larger = divmod(batch_size, shards.count)
    of_shards = {least, least + 1} if larger else {least}
    return len({size for shard in of_shards for size in (min(rows, shard), shard % rows or rows)})


def _kinds_of_passes(batch_size: int, rows: int, shards: Shards) -> int:
    """Return how many kinds of passes there are: the first one, those between, and the last one; of shards one."""
    return 1 if shards.count > 1 else min(-(-batch_size // rows), 3)


def _working(architecture: Architecture, rows: int) -> Iterator[_Working]:
    """Yield what each layer works on; of equal layers the same object, which is told from others at once."""
    at_zero, tile, made = Step(Loss(), 0, 0, 0), tile_rows(rows), dict[int, _Working]()

    def placed(widths: Widths) -> Places:
        """Return matrices of a tile, one behind the other."""
        sizes = (matrices_bytes((width,), tile, architecture.item_bytes) for width in widths)
        return tuple(zip(accumulate(sizes, initial=0), widths, strict=False))

    for layer in architecture.each_layer:
        if id(layer) not in made:  # equal layers are one object
            workspace, reversal = layer.workspace(), reversal_places(layer, at_zero, rows)
            made[id(layer)] = _Working(
                layer.entering,
                layer.leaving,
                forward=placed(workspace.forward),
                in_place=placed(workspace.in_place),
                whole=reversal.whole,
                behind=reversal.scratch[0],
                backward=placed(workspace.backward),
            )
        yield made[id(layer)]


def _chunks(size: int, shards: Shards) -> int:
    """Return how many chunks the parts of a layer of so many numbers are cut in."""
    return sum(-(-(stop - first) // CHUNK) for first, stop in shards.parts(size))


def overhead_bytes(numbers: dict[str, int]) -> int:
    """Return the bytes that so many objects of each kind take."""
    return sum(BYTES[kind] * number for kind, number in numbers.items())
