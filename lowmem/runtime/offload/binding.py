"""The disk's calls of a program, bound to a store and to the places of the arena between which it moves states."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.disk import PAGE
from lowmem.errors import DiskError
from lowmem.network.tiles import aligned, lane_rows
from lowmem.nn.mlp import MLP
from lowmem.planning.engines.outline import Item
from lowmem.planning.plan import Plan
from lowmem.runtime.buffers import Buffers
from lowmem.runtime.engines.calls import Call
from lowmem.runtime.offload.checksums import checksum_of
from lowmem.runtime.offload.store import Store
from lowmem.runtime.offload.streams import Streams
from lowmem.schedule import Forward
from lowmem.schedule.streaming import moves


class DiskBinding:
    """Binds the disk's calls of a plan whose states lie in `arena`, bytes that each lane has a share of.

    store: where the states go, None if none do. streams: parameters and optimizer's arrays that lie on the disk, None
    if they are in memory.
    """

    def __init__(self, plan: Plan, arena: NDArray[np.uint8], mlp: MLP, buffers: Buffers) -> None:
        self._plan, self._arena = plan, arena.data
        self.store = self.streams = None
        # One bound method for all calls of a kind, as deep networks have thousands of them.
        self._functions: dict[str, Callable[..., Any]] = {"store": self._begin_write, "load": self._begin_read}
        if plan.program.disk_bytes:
            assert plan.disk is not None
            self.store = Store(plan.disk, plan.program.disk_bytes, checksum_of(plan))
            self._functions["wait"] = self.store.wait
        if plan.streaming is not None:
            parameters, _ = plan.streams
            self.streams = Streams(plan, mlp.paged if parameters else None, buffers.paged_states)
            self._functions["move"] = self.streams.follow

    @property
    def moved(self) -> int:
        """Bytes that all steps have written to the disk and read back."""
        return sum(one.traffic.written + one.traffic.read for one in (self.store, self.streams) if one is not None)

    def begin_pass(self, *, updates: bool) -> None:
        """Say whether the pass that comes carries out its updates."""
        if self.streams is not None:
            self.streams.updating = updates

    @contextmanager
    def step(self, torn: Callable[[], bool]) -> Iterator[None]:
        """Be ready for a step; after it nothing is in flight, however it ends.

        torn: says whether the step has updated parameters, if a transfer fails.
        """
        for one in (self.store, self.streams):
            if one is not None:
                one.begin()
        try:
            yield
            if self.streams is not None:
                self.streams.settle()
        except DiskError as error:
            error.torn = torn() or self._plan.architecture.couples is not None  # running statistics may have moved
            raise
        finally:
            for one in (self.store, self.streams):
                if one is not None:
                    one.finish()

    def each_layer(self) -> Iterator[int]:
        """Yield the number of each layer, from the first, while its parameters are in memory: for a run forward alone.

        Raises `DiskError` if they cannot be read.
        """
        streams, streaming, last = self.streams, self._plan.streaming, self._plan.architecture.layers
        assert streams is not None
        assert streaming is not None
        streams.updating = False
        streams.begin()
        try:
            for layer, around in enumerate(moves([Forward(1, last)], streaming), start=1):
                for move in around.before:
                    streams.follow(move)
                yield layer
                for move in around.behind:
                    streams.follow(move)
            streams.settle()
        finally:
            streams.finish()

    def bind(self, item: Item) -> Call:
        """Return the call of one item of the outline."""
        arguments: tuple[Any, ...] = (item.layer, bool(item.last))
        if item.kind == "store":
            arguments = item.layer, item.step.source, item.step.scratch
        elif item.kind == "load":
            arguments = item.layer, item.step.target, item.step.scratch
        elif item.kind == "move":
            arguments = (item.move,)
        return Call(item.phase, item.layer, self._functions[item.kind], arguments)

    def _begin_write(self, layer: int, place: int, offset: int) -> None:
        """Begin to write the state of a layer from its place in the arena to its place in the file."""
        assert self.store is not None
        self.store.write(layer, self._pieces(layer, place), offset)

    def _begin_read(self, layer: int, place: int, offset: int) -> None:
        """Begin to read the state of a layer back from its place in the file to its place in the arena."""
        assert self.store is not None
        self.store.read(layer, self._pieces(layer, place), offset)

    def _pieces(self, layer: int, place: int) -> Sequence[memoryview]:
        """Return where a state lies: a piece in the arena of each lane, all of one size, whatever rows a pass has."""
        plan, lanes = self._plan, self._plan.lanes
        width, item = plan.architecture.layer(layer).leaving, plan.architecture.item_bytes
        size = aligned(lane_rows(plan.micro_batch, lanes) * width * item, PAGE)
        starts = range(place // lanes, plan.arena_bytes, plan.arena_bytes // lanes)
        return [self._arena[start : start + size] for start in starts]
