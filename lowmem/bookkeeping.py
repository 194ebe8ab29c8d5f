"""How many bytes of Python objects a bound program takes: an upper estimate, so that a promise holds to the byte.

Views and bound calls are small, but a deep network has many. Their number follows from the program; the bytes of each
kind were fitted on traced allocations of CPython 3.11 by `scripts/fit_bookkeeping.py`, which also shows what is left.
"""

from lowmem.architecture import CHUNK, Architecture
from lowmem.chain import tile_rows
from lowmem.program import Program
from lowmem.schedule.ops import Backward, Forward

BYTES = {
    "constant": 5920,
    "layers": 1733,
    "forwards": 411,
    "rungs": 651,
    "ladders": 8,
    "views": 159,
    "backwards": 425,
    "remade": 558,
    "calls": 107,
    "chunks": 596,
    "states": 258,
}


def counts(
    architecture: Architecture, program: Program, *, rows: int, sizes: int, passes: int, states: int | None
) -> dict[str, int]:
    """Count the objects of a program by kind.

    rows: of a pass. sizes: different numbers of rows that passes have; views and most calls are made for each.
    passes: kinds of passes; the calls of each are listed, those that write gradients made anew. states: arrays of the
    optimizer, None without one.
    """
    widths, layers = architecture.widths, architecture.layers
    places: set[tuple[int, int]] = set()  # (offset, width): a matrix and its tiles
    ladders: dict[tuple[int, int], bytearray] = {}  # (place, scratch) -> a mark for each layer run in place there
    forwards = backwards = calls = 0
    for step in program.steps:
        match step.op:
            case Forward(first, last):
                forwards += 1
                calls += 1 + (last > first)
                places.add((step.target, widths[first]))
                places.add((step.scratch, widths[first]))
                if last > first:
                    marks = ladders.setdefault((step.target, step.scratch), bytearray(layers + 1))
                    marks[first + 1 : last + 1] = b"\1" * (last - first)
            case Backward(layer):
                backwards += 1
                calls += 2
                places.add((step.source, widths[layer]))
                places.add((step.scratch, widths[layer - 1]))
            case _:
                calls += 1
    for (place, scratch), marks in ladders.items():
        for width in {widths[layer] for layer in range(layers + 1) if marks[layer]}:
            places |= {(place, width), (scratch, width)}
    tiles = -(-rows // tile_rows(rows))
    chunks = 0
    if states is not None:
        chunks = sum(-(-architecture.layer_parameters(layer) // CHUNK) for layer in range(1, layers + 1))
    return {
        "constant": 1,
        "layers": layers,
        "forwards": forwards * sizes,
        "rungs": sum(map(sum, ladders.values())) * sizes,
        "ladders": len(ladders) * (layers + 1) * sizes,
        "views": len(places) * (tiles + (tiles > 1)) * sizes,
        "backwards": backwards * passes,
        "remade": backwards * passes if architecture.activation_facts.state == "s" else 0,
        "calls": calls * passes,
        "chunks": chunks,
        "states": chunks * (states or 0),
    }


def bookkeeping_bytes(numbers: dict[str, int]) -> int:
    """Return the bytes that so many objects of each kind take."""
    return sum(BYTES[kind] * number for kind, number in numbers.items())
