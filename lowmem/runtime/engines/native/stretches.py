"""A pass of the compiled engine in stretches: runs of ops without Python, and what the disk has to do between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lowmem.planning.engines.outline import DiskCalls, Item, StreamCalls
from lowmem.planning.plan import Plan
from lowmem.runtime.engines.calls import Call
from lowmem.runtime.engines.native.encoding import record_count
from lowmem.schedule.streaming import runs_of

if TYPE_CHECKING:
    from lowmem.runtime.offload.binding import DiskBinding


def stretches(plan: Plan, disk: DiskBinding | None) -> list[tuple[int, int] | Call]:
    """Return in order the ranges of a plan's records that run without a break, and the disk's calls between them."""
    found: list[tuple[int, int] | Call] = []
    first = stop = 0
    calls, moved = DiskCalls(), StreamCalls(plan.program, plan.streaming)
    for step in plan.program.steps:
        items = [*(calls.of(step) if disk is not None else ())]
        # A record for each run of a layer where parameters or moments are streamed: moves go before and behind it.
        run = Item("forward", "forward", 0, step)
        runs = [run for _ in runs_of(step.op)] if plan.streaming is not None else []
        items += [one for run in runs for one in moved.around(step, run)] if runs else [run] * record_count(step.op)
        for item in items:
            if item is run:
                stop += 1
                continue
            assert disk is not None
            if stop > first:
                found.append((first, stop))
                first = stop
            found.append(disk.bind(item))
    return [*found, (first, stop)]
