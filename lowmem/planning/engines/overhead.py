"""How many bytes of Python objects a bound program takes: an upper estimate, so that a promise holds to the byte.

Views and bound calls are small, but a deep network has many. Their number follows from the outline of the program,
which the binder follows too; the bytes of each kind were fitted on traced allocations of CPython 3.11 by
`scripts/fit_overhead.py`, which also shows how far the estimate lies above them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from lowmem.common.shards import Shards
from lowmem.network.architecture import Architecture
from lowmem.network.layers import Layer
from lowmem.network.layers.base import Widths, Workspace
from lowmem.network.specs import CHUNK
from lowmem.network.tiles import matrices_bytes, tile_count, tile_rows
from lowmem.planning.engines.outline import Phase, Place, outline, reversal_places
from lowmem.planning.packing import Program, Step
from lowmem.schedule.ops import Op
from lowmem.schedule.streaming import Streaming

WHOLE = Shards()
"""A batch in one shard."""

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
    """The calls of a program, wherever its values lie: what all placements of a schedule share. See `calls_of`.

    forwards: (number of the step, phase, layer). sweeps: (number of the step, first layer, last layer).
    reversals: (number of the step, layer). kinds: how many objects there are of the kinds that no place changes.
    """

    forwards: tuple[tuple[int, Phase, int], ...]
    sweeps: tuple[tuple[int, int, int], ...]
    reversals: tuple[tuple[int, int], ...]
    kinds: dict[str, int]


def calls_of(architecture: Architecture, ops: Iterable[Op], streaming: Streaming | None = None) -> Calls:
    """Return the calls of a program with these ops. streaming: of parameters and moments."""
    forwards, sweeps, reversals = [], [], []
    calls = 0
    reversed_by = -1
    numbered = Program(tuple(Step(op, number, number, number) for number, op in enumerate(ops)), 0)
    for item in outline(architecture, numbered, first=False, last=True, streaming=streaming):
        number = item.step.source
        match item.kind:
            case "forward":
                forwards.append((number, item.phase, item.layer))
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


def counts(
    architecture: Architecture,
    program: Program,
    *,
    rows: int,
    sizes: int,
    passes: int,
    states: int | None,
    shards: Shards = WHOLE,
    streaming: Streaming | None = None,
    calls: Calls | None = None,
) -> dict[str, int]:
    """Count the objects of a program by kind.

    rows: of a pass.
    sizes: different numbers of rows that passes have; views and forward calls are made for each.
    passes: kinds of passes; the other calls are made for each.
    states: arrays of the optimizer, None without one.
    shards: of a batch, whose parts of the parameters are updated one by one.
    streaming: of parameters and moments.
    calls: of the program, where they are known already.
    """
    workspace = cache(_workspace)
    places = _Places(rows, architecture.item_bytes)
    forwards: set[tuple[str, Step]] = set()  # equal ones are bound once
    in_place: dict[Place, bytearray] = {}  # (place, scratch) -> a mark for each layer
    steps = program.steps
    calls = calls or calls_of(architecture, (step.op for step in steps), streaming)
    for number, phase, reached in calls.forwards:
        step = steps[number]
        if (phase, step) not in forwards:
            forwards.add((phase, step))
            layer = architecture.layer(reached)
            places.matrices |= {(step.source, layer.entering), (step.target, layer.leaving)}
            places.workspaces.add((step.scratch, workspace(layer).forward))
    for number, begin, end in calls.sweeps:
        step = steps[number]
        marks = in_place.setdefault((step.target, step.scratch), bytearray(architecture.layers + 1))
        marks[begin : end + 1] = b"\1" * (end - begin + 1)
    for number, reached in calls.reversals:
        where = reversal_places(architecture.layer(reached), steps[number], rows)
        places.matrices |= {where.delta, where.state, *where.whole}
        places.workspaces.add(where.scratch)
    for (place, scratch), marks in in_place.items():
        for layer in {architecture.layer(number) for number, mark in enumerate(marks) if mark}:
            places.matrices |= {(place, layer.entering), (place, layer.leaving)}
            places.workspaces.add((scratch, workspace(layer).in_place))
    chunks = 0 if states is None else sum(_chunks(layer.size, shards) for layer in architecture.each_layer)
    parts = sum(len(layer.parameters) + len(layer.running) - 2 for layer in architecture.each_layer)
    of_passes = {kind: number * passes for kind, number in calls.kinds.items()}
    shared = len(forwards) + sum(map(sum, in_place.values()))
    return {
        "constant": 1,
        "layers": architecture.layers,
        "parts": parts,
        "parts again": parts * (passes - 1),
        "totals": architecture.layers * (passes > 1),
        "steps": len(program.steps),
        **of_passes,
        "calls": of_passes["calls"] + shared * sizes,
        "in place": len(in_place) * (architecture.layers + 1) * sizes,
        "places": len(places.matrices) * sizes,
        "workspaces": len(places.workspaces) * places.tiles * sizes,
        "views": places.views() * sizes,
        "loss": places.tiles * sizes,
        "chunks": chunks,
        "states": chunks * (states or 0),
    }


def _chunks(size: int, shards: Shards) -> int:
    """Return how many chunks the parts of a layer of so many numbers are cut in."""
    return sum(-(-(stop - first) // CHUNK) for first, stop in shards.parts(size))


def _workspace(layer: Layer) -> Workspace:
    """Return the working memory of a layer with NumPy."""
    return layer.workspace()


class _Places:
    """Every matrix that a program works on: states, deltas, and working memory of a tile."""

    def __init__(self, rows: int, item_bytes: int) -> None:
        self.tile, self.tiles, self.item_bytes = tile_rows(rows), tile_count(rows), item_bytes
        self.matrices: set[Place] = set()
        self.workspaces: set[tuple[int, Widths]] = set()

    def views(self) -> int:
        """Return how many views that makes.

        Of a matrix its tiles and the whole. Tiles work in one place, in two shapes where the last one is shorter: as a
        larger batch shall never seem to need less, all batches of several tiles are taken for such.
        """
        working: set[Place] = set()
        for offset, widths in self.workspaces:
            for width in widths:
                working.add((offset, width))
                offset += matrices_bytes((width,), self.tile, self.item_bytes)
        several = self.tiles > 1
        return len(self.matrices) * (self.tiles + several) + len(working) * (1 + several)


def overhead_bytes(numbers: dict[str, int]) -> int:
    """Return the bytes that so many objects of each kind take."""
    return sum(BYTES[kind] * number for kind, number in numbers.items())


def least_overhead(architecture: Architecture, *, passes: int, **numbers: Any) -> int:  # noqa: ANN401
    """Return what any program of a network takes at least, whatever its schedule; arguments as for `counts`."""
    empty = counts(architecture, Program((), 0), passes=passes, **numbers)
    backward = sum(len(layer.reversal) for layer in architecture.each_layer)
    return overhead_bytes(empty | {"calls": backward * passes, "reversals": architecture.layers * passes})
