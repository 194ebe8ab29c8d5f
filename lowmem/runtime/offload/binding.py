"""The disk's calls of a program, bound to a store and to the places of the arena between which it moves states."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.disk import PAGE
from lowmem.errors import DiskError
from lowmem.network.tiles import aligned, lane_rows
from lowmem.planning.engines.outline import Item
from lowmem.planning.plan import Plan
from lowmem.runtime.engines.calls import Call
from lowmem.runtime.offload.store import Store


class DiskBinding:
    """Binds the disk's calls of a plan whose states lie in `arena`, bytes that each lane has a share of.

    store: where the states go.
    """

    def __init__(self, plan: Plan, arena: NDArray[np.uint8]) -> None:
        assert plan.disk is not None
        self._plan, self._arena = plan, arena.data
        self.store = Store(plan.disk, plan.disk_bytes)
        # One bound method for all calls of a kind, as deep networks have thousands of them.
        self._functions: dict[str, Callable[..., Any]] = {
            "store": self._begin_write,
            "load": self._begin_read,
            "wait": self.store.wait,
        }

    @contextmanager
    def step(self, torn: Callable[[], bool]) -> Iterator[None]:
        """Be ready for a step; after it nothing is in flight, however it ends.

        torn: says whether the step has updated parameters, if a transfer fails.
        """
        self.store.begin()
        try:
            yield
        except DiskError as error:
            error.torn = torn() or self._plan.architecture.couples is not None  # running statistics may have moved
            raise
        finally:
            self.store.finish()

    def bind(self, item: Item) -> Call:
        """Return the call of one item of the outline."""
        arguments: tuple[Any, ...] = (item.layer, bool(item.last))
        if item.kind == "store":
            arguments = item.layer, item.step.source, item.step.scratch
        elif item.kind == "load":
            arguments = item.layer, item.step.target, item.step.scratch
        return Call(item.phase, item.layer, self._functions[item.kind], arguments)

    def _begin_write(self, layer: int, place: int, offset: int) -> None:
        """Begin to write the state of a layer from its place in the arena to its place in the file."""
        self.store.write(layer, self._pieces(layer, place), offset)

    def _begin_read(self, layer: int, place: int, offset: int) -> None:
        """Begin to read the state of a layer back from its place in the file to its place in the arena."""
        self.store.read(layer, self._pieces(layer, place), offset)

    def _pieces(self, layer: int, place: int) -> Sequence[memoryview]:
        """Return where a state lies: a piece in the arena of each lane, all of one size, whatever rows a pass has."""
        plan, lanes = self._plan, self._plan.lanes
        width, item = plan.architecture.layer(layer).leaving, plan.architecture.item_bytes
        size = aligned(lane_rows(plan.micro_batch, lanes) * width * item, PAGE)
        starts = range(place // lanes, plan.arena_bytes, plan.arena_bytes // lanes)
        return [self._arena[start : start + size] for start in starts]
