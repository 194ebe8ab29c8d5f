"""How many bytes of Python objects a bound program takes: an upper estimate, so that a promise holds to the byte.

Views and bound calls are small, but a deep network has many. Their number follows from the program; the bytes of each
kind were fitted on traced allocations of CPython 3.11 by `scripts/fit_bookkeeping.py`, which also shows what is left;
those of lanes were set by hand above what two and four of them took.
"""

from lowmem.architecture import CHUNK, Architecture
from lowmem.chain import aligned, lane_rows, tile_rows
from lowmem.program import Program, Step
from lowmem.schedule.ops import Backward, Forward

BYTES = {
    "constant": 12837,
    "lanes": 8000,
    "shares": 200,
    "lane chunks": 900,
    "layers": 1005,
    "forwards": 488,
    "rungs": 452,
    "ladders": 8,
    "matrices": 0,
    "views": 330,
    "backwards": 914,
    "remade": 322,
    "tiled": 184,
    "calls": 0,
    "chunks": 1455,
    "states": 283,
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
    widths, layers, facts = architecture.widths, architecture.layers, architecture.activation_facts
    keeps_x = facts.state == "x"
    places = _Places(rows, lanes, architecture.item_bytes)
    ladders: dict[tuple[int, int], bytearray] = {}  # (place, scratch) -> a mark for each layer run in place there
    forwards: set[Step] = set()  # equal ones are bound once
    backwards = calls = 0
    for step in program.steps:
        match step.op:
            case Forward(first, last):
                calls += 1 + (last > first)
                if step not in forwards:
                    forwards.add(step)
                    places.matrices.add((step.target, widths[first]))
                    if not keeps_x and first > 1:
                        places.work(step.scratch, widths[first - 1], 1 + facts.value_scratch)
                    elif keeps_x and first < layers:
                        places.work(step.scratch, widths[first], facts.value_scratch)
                if last > first:
                    marks = ladders.setdefault((step.target, step.scratch), bytearray(layers + 1))
                    marks[first + 1 : last + 1] = b"\1" * (last - first)
            case Backward(layer):
                backwards += 1
                calls += 2
                places.matrices.add((step.source, widths[layer]))
                if keeps_x:
                    places.work(step.scratch, widths[layer - 1], 1 + facts.slope_scratch)
                elif layer > 1:
                    places.matrices.add((step.scratch, widths[layer - 1]))
                    behind = step.scratch + aligned(rows * widths[layer - 1] * architecture.item_bytes)
                    places.work(behind, widths[layer - 1], facts.slope_scratch)
            case _:
                calls += 1
    for (place, scratch), marks in ladders.items():
        for width in {widths[layer + shift] for layer in range(layers + 1) if marks[layer] for shift in (-1, 0)}:
            places.matrices.add((place, width))
            places.work(scratch, width, 1 + facts.value_scratch)
    tiles = -(-lane_rows(rows, lanes) // tile_rows(rows, lanes))
    rungs = sum(map(sum, ladders.values()))
    bound = lanes * sizes
    chunks = 0
    if states is not None:
        size = CHUNK // lanes
        chunks = sum(-(-architecture.layer_parameters(layer) // size) for layer in range(1, layers + 1))
    several = lanes > 1
    if several and states is not None:
        chunks += (2 * lanes - 1) * layers  # shares of weights and of biases begin chunks of their own
    remade = 0 if keeps_x else backwards * passes * lanes
    return {
        "constant": 1,
        "layers": layers,
        "lanes": lanes - 1,
        "forwards": len(forwards) * bound,
        "rungs": rungs * bound,
        "ladders": len(ladders) * (layers + 1) * bound,
        "matrices": len(places.matrices) * sizes,
        "views": places.views() * sizes,
        "shares": 3 * backwards * lanes * passes * several,  # of δ and of both gradients
        "backwards": backwards * passes * lanes,
        "remade": remade,
        "tiled": ((len(forwards) + rungs) * bound + backwards * passes * lanes + remade) * (tiles - 1),
        "calls": calls * passes * lanes,
        "chunks": chunks * (not several),
        "lane chunks": chunks * several,
        "states": chunks * (states or 0),
    }


class _Places:
    """The (offset, width) of every matrix that a program works on: states, deltas, and working memory of a tile."""

    def __init__(self, rows: int, lanes: int, item_bytes: int) -> None:
        each, tile = lane_rows(rows, lanes), tile_rows(rows, lanes)
        of_lanes = [min(each, max(rows - lane * each, 0)) for lane in range(lanes)]
        self.tiles = sum(-(-own // tile) for own in of_lanes)
        # A lane whose last tile is shorter has views of two shapes where it works.
        self.shapes = sum((own >= tile) + (own % tile > 0) for own in of_lanes)
        self.tile, self.item_bytes = tile, item_bytes
        self.matrices: set[tuple[int, int]] = set()
        self.working: set[tuple[int, int]] = set()

    def work(self, offset: int, width: int, count: int) -> None:
        """Add `count` working matrices, one behind the other."""
        size = aligned(self.tile * width * self.item_bytes)
        for n in range(count):
            self.working.add((offset + n * size, width))

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
