"""How many bytes of Python objects a bound program takes: an upper estimate, so that a promise holds to the byte.

Views and bound calls are small, but a deep network has many. Their number follows from the program; the bytes of each
kind were fitted on traced allocations of CPython 3.11 by `scripts/fit_bookkeeping.py`, which also shows what is left;
those of lanes were set by hand above what two and four of them took.
"""

from lowmem.network.architecture import Architecture
from lowmem.network.layers.base import Rooms
from lowmem.network.specs import CHUNK
from lowmem.network.tiles import aligned, lane_rows, tile_count, tile_rows, whole_bytes
from lowmem.planning.packing import Program, Step
from lowmem.schedule.ops import Backward, Forward

BYTES = {
    "constant": 17520,
    "lanes": 8000,
    "shares": 150,
    "lane chunks": 600,
    "lane states": 320,
    "layers": 1600,
    "forwards": 800,
    "rungs": 372,
    "loss": 600,
    "parts": 1000,
    "sites": 100,
    "gathered": 100,
    "whole": 600,
    "ladders": 14,
    "views": 400,
    "backwards": 450,
    "remade": 260,
    "tiled": 11,
    "calls": 220,
    "chunks": 780,
    "states": 330,
}


def counts(
    architecture: Architecture, program: Program, *, rows: int, lanes: int, sizes: int, passes: int, states: int | None
) -> dict[str, int]:
    """Count the objects of a program by kind.

    rows: of a pass. lanes: each has calls and views of its own.
    sizes: different numbers of rows that passes have; views and most calls are made for each.
    passes: kinds of passes; the calls of each are listed, those that write gradients made anew. states: arrays of the
    optimizer, None without one.
    """
    widths, layers = architecture.widths, architecture.layers
    places = _Places(rows, lanes, architecture.item_bytes)
    ladders: dict[tuple[int, int], bytearray] = {}  # (place, scratch) -> a mark for each layer run in place there
    forwards: set[Step] = set()  # equal ones are bound once
    backwards = calls = remade = gathered = whole = 0
    for step in program.steps:
        match step.op:
            case Forward(first, last):
                calls += 1 + (last > first)
                if step not in forwards:
                    forwards.add(step)
                    places.matrices.add((step.target, widths[first]))
                    places.work(step.scratch, architecture.layer(first).forward_rooms(in_place=False))
                if last > first:
                    marks = ladders.setdefault((step.target, step.scratch), bytearray(layers + 1))
                    marks[first + 1 : last + 1] = b"\1" * (last - first)
            case Backward(number):
                layer = architecture.layer(number)
                backwards += 1
                calls += 2
                places.matrices.add((step.source, widths[number]))
                offset = step.scratch
                for width in layer.whole_rooms:
                    places.matrices.add((offset, width))
                    offset += aligned(rows * width * architecture.item_bytes)
                remade += architecture.preactivation and number > 1
                whole += max(len(layer.whole_rooms) - 1, 0)
                gathered += layer.partials
                places.work(step.scratch + whole_bytes(layer, rows, lanes), layer.backward_rooms)
            case _:
                calls += 1
    for (place, scratch), marks in ladders.items():
        rungs_of = {architecture.layer(number) for number in range(1, layers + 1) if marks[number]}
        for width in {width for layer in rungs_of for width in (layer.entering, layer.leaving)}:
            places.matrices.add((place, width))
        for rooms in {layer.forward_rooms(in_place=True) for layer in rungs_of}:
            places.work(scratch, rooms)
    tiles = -(-lane_rows(rows, lanes) // tile_rows(rows, lanes))
    rungs = sum(map(sum, ladders.values()))
    bound = lanes * sizes
    chunks = 0
    if states is not None:
        size = CHUNK // lanes
        chunks = sum(-(-layer.size // size) for layer in architecture.each_layer)
    several = lanes > 1
    if several and states is not None:
        # Shares of weights, biases and all others begin chunks of their own.
        chunks += sum(len(layer.parameters) * lanes - 1 for layer in architecture.each_layer)
    remade *= passes * lanes
    special = sum(layer.partials > 0 or layer.drops for layer in architecture.each_layer)
    return {
        "constant": 1,
        "layers": layers,
        "lanes": lanes - 1,
        "forwards": len(forwards) * bound,
        "rungs": rungs * bound,
        "loss": tile_count(rows, lanes) * sizes,
        "parts": sum(len(layer.parameters) + len(layer.running) - 2 for layer in architecture.each_layer),
        "sites": special * bound,
        "gathered": gathered * passes * lanes,
        "whole": whole * passes * lanes,
        "ladders": len(ladders) * (layers + 1) * bound,
        "views": places.views() * sizes,
        "shares": 3 * backwards * lanes * passes * several,  # of δ and of both gradients
        "backwards": backwards * passes * lanes,
        "remade": remade,
        "tiled": ((len(forwards) + rungs) * bound + backwards * passes * lanes + remade) * (tiles - 1),
        "calls": calls * passes * lanes,
        "chunks": chunks * (not several),
        "lane chunks": chunks * several,
        "lane states": chunks * (states or 0) * several,
        "states": chunks * (states or 0) * (not several),
    }


class _Places:
    """The (offset, width) of every matrix that a program works on: states, deltas, and working memory of a tile."""

    def __init__(self, rows: int, lanes: int, item_bytes: int) -> None:
        each, tile = lane_rows(rows, lanes), tile_rows(rows, lanes)
        of_lanes = [min(each, max(rows - lane * each, 0)) for lane in range(lanes)]
        self.tiles = sum(-(-own // tile) for own in of_lanes)
        # A lane whose last tile is shorter has views of two shapes where it works; one with several tiles is taken for
        # such, so that a larger batch never seems to need less.
        self.shapes = sum((own > 0) + (own > tile) for own in of_lanes)
        self.tile, self.item_bytes = tile, item_bytes
        self.matrices: set[tuple[int, int]] = set()
        self.working: set[tuple[int, int]] = set()

    def work(self, offset: int, rooms: Rooms) -> None:
        """Add working matrices, one behind the other."""
        for width in rooms:
            self.working.add((offset, width))
            offset += aligned(self.tile * width * self.item_bytes)

    def views(self) -> int:
        """Return how many views that makes: of a matrix its tiles and the whole; tiles of a lane work in one place."""
        return len(self.matrices) * (self.tiles + (self.tiles > 1)) + len(self.working) * self.shapes


def bookkeeping_bytes(numbers: dict[str, int]) -> int:
    """Return the bytes that so many objects of each kind take."""
    return sum(BYTES[kind] * number for kind, number in numbers.items())


def least_bookkeeping(
    architecture: Architecture, *, rows: int, lanes: int, sizes: int, passes: int, states: int | None
) -> int:
    """Return what any program of a network takes at least, whatever its schedule; arguments as for `counts`."""
    empty = counts(architecture, Program((), 0), rows=rows, lanes=lanes, sizes=sizes, passes=passes, states=states)
    return bookkeeping_bytes(empty | {"backwards": architecture.layers * passes * lanes})
