"""The calls that a program becomes, without NumPy: what each does, for which layer, in which phase, and where.

An engine binds exactly these calls, one for each item, to these places; the account of Python's objects counts them.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias, assert_never, get_args

from lowmem.network.architecture import Architecture
from lowmem.network.layers import Layer
from lowmem.network.layers.base import Reversed, Widths
from lowmem.network.tiles import matrices_bytes, tile_count, whole_bytes
from lowmem.planning.packing import Program, Step
from lowmem.schedule.effects import state_of
from lowmem.schedule.ops import AllReduce, Backward, Forward, Free, Load, Loss, Record, Store, Update
from lowmem.schedule.streaming import Move, Streaming, moves

Work: TypeAlias = Literal["forward", "recomputation", "loss", "backward", "sum of gradients", "update"]
"""Phases of a step that compute. A layer's first forward in a pass is "forward", any later one "recomputation"."""

PHASES: tuple[str, ...] = get_args(Work)

Phase: TypeAlias = Work | Literal["disk"]
"""Phases of a step; "disk" is what it takes to begin transfers, and to wait for them."""

DiskKind: TypeAlias = Literal["store", "load", "wait", "move"]

Kind: TypeAlias = Literal["forward", "sweep", "loss", "sum", "exchange", "update"] | DiskKind | Reversed
"""What a call does.

forward: carries a layer from one place to another. sweep: carries a state through several layers in its place.
loss: turns outputs into δ^(L). sum: adds a gradient to those of earlier passes. exchange: sends it to other ranks.
update: updates a layer's parameters.
store, load: begins to move a state to or from the disk. wait: waits for a state that is on its way.
move: fetches a layer's parameters or moments, waits for them, or lets go of them.
The others are the calls of a layer's backward, see `Layer.reversal`.
"""

Place: TypeAlias = tuple[int, int]
"""Offset in the arena and width of a matrix with all rows of a pass."""


class Item(NamedTuple):
    """One call of a pass.

    layer: its number; of a sweep the first one; 0 for the loss, which belongs to none. The disk's calls have that of
        the state.
    step: the step of the program that it belongs to.
    last: of a sweep the last layer; of a wait 1 if the state must be written too.
    move: of a move, what is moved.
    """

    kind: Kind
    phase: Phase
    layer: int
    step: Step
    last: int = 0
    move: Move | None = None


def outline(
    architecture: Architecture, program: Program, *, first: bool, last: bool, streaming: Streaming | None = None
) -> Iterator[Item]:
    """Yield the calls of one pass over the rows of a batch.

    first, last: whether this is the first or the last pass of a batch. Gradients are summed up from the second pass
    on, and parameters are updated in the last one. streaming: of parameters and moments, which cuts sweeps by layers.
    """
    reached = 0  # layers 1..reached have run in this pass
    disk, moved = DiskCalls(), StreamCalls(program, streaming)
    for step in program.steps:
        yield from disk.of(step)
        match step.op:
            case Forward(first=start, last=stop) if streaming is not None:
                for layer in range(start, stop + 1):
                    kind: Kind = "sweep" if layer > start else "forward"
                    phase: Phase = "forward" if layer > reached else "recomputation"
                    one = Item(kind, phase, layer, step, layer * (layer > start))
                    yield from moved.around(step, one)
                reached = max(reached, stop)
            case Forward(first=start, last=stop):
                yield Item("forward", "recomputation" if start <= reached else "forward", start, step)
                again = min(reached, stop)
                if again > start:
                    yield Item("sweep", "recomputation", start + 1, step, again)
                begin = max(reached, start) + 1
                if begin <= stop:
                    yield Item("sweep", "forward", begin, step, stop)
                reached = max(reached, stop)
            case Loss():
                yield Item("loss", "loss", 0, step)
            case Backward(layer=layer):
                calls = [Item(kind, "backward", layer, step) for kind in architecture.layer(layer).reversal]
                if not first:
                    calls.append(Item("sum", "sum of gradients", layer, step))
                yield from moved.around(step, *calls)
            case AllReduce(layer=layer):
                yield Item("exchange", "sum of gradients", layer, step)
            case Update(layer=layer):
                yield from moved.around(step, *([Item("update", "update", layer, step)] if last else ()))
            case (
                Free() | Record() | Store() | Load()
            ):  # nothing more is called; networks have no tapes, and the simulator refuses Record
                pass
            case unknown:
                assert_never(unknown)


class StreamCalls:
    """What is moved of parameters and moments around the runs of layers, one after the other."""

    def __init__(self, program: Program, streaming: Streaming | None) -> None:
        self._moves = None if streaming is None else iter(moves([step.op for step in program.steps], streaming))

    def around(self, step: Step, *calls: Item) -> Iterator[Item]:
        """Yield the calls of the next run of a layer, a part of a step, with the moves before and behind them."""
        if self._moves is None:
            yield from calls
            return
        before, behind = next(self._moves)
        yield from (Item("move", "disk", move.layer, step, move=move) for move in before)
        yield from calls
        yield from (Item("move", "disk", move.layer, step, move=move) for move in behind)


class DiskCalls:
    """What the disk has to do with the steps of a pass, one after the other: waits come before the step."""

    def __init__(self) -> None:
        self._read: set[int] = set()  # states that are on their way
        self._written: set[int] = set()

    def of(self, step: Step) -> Iterator[Item]:
        """Yield the disk's calls of a step: a wait before the step, or the transfer that it begins."""
        state, ends = state_of(step.op)
        if state in self._read or (ends and state in self._written):
            yield Item("wait", "disk", state, step, int(ends))
            self._read.discard(state)
            self._written.discard(state)
        match step.op:
            case Store(value=value):
                self._written.add(value.layer)
                yield Item("store", "disk", value.layer, step)
            case Load(value=value):
                self._read.add(value.layer)
                yield Item("load", "disk", value.layer, step)


class ReversalPlaces(NamedTuple):
    """Where a layer is reversed.

    delta: δ^(l). state: state l-1, which becomes δ^(l-1). whole: matrices of `Workspace.whole`.
    partial_sums: offset of the sums over tiles. scratch: offset and widths of the working matrices of a tile.
    """

    delta: Place
    state: Place
    whole: tuple[Place, ...]
    partial_sums: int
    scratch: tuple[int, Widths]


def reversal_places(layer: Layer, step: Step, rows: int) -> ReversalPlaces:
    """Return where a `Backward` step works, in passes of so many rows: its working memory, one behind the other."""
    workspace, offset = layer.workspace(), step.scratch
    whole = []
    for width in workspace.whole:
        whole.append((offset, width))
        offset += matrices_bytes((width,), rows, layer.item_bytes)
    return ReversalPlaces(
        delta=(step.source, layer.leaving),
        state=(step.target, layer.entering),
        whole=tuple(whole),
        partial_sums=offset,
        scratch=(step.scratch + whole_bytes(layer, workspace, rows, tile_count(rows)), workspace.backward),
    )
