"""A pass of the compiled engine in stretches: runs of ops without Python, and what the disk has to do between them."""

from lowmem.planning.engines.outline import DiskCalls
from lowmem.planning.plan import Plan
from lowmem.runtime.engines.calls import Call
from lowmem.runtime.engines.native.encoding import is_native
from lowmem.runtime.offload.binding import DiskBinding


def stretches(plan: Plan, disk: DiskBinding | None) -> list[tuple[int, int] | Call]:
    """Return in order the ranges of a plan's records that run without a break, and the disk's calls between them."""
    found: list[tuple[int, int] | Call] = []
    first = stop = 0
    calls = DiskCalls()
    for step in plan.program.steps:
        for item in calls.of(step) if disk is not None else ():
            assert disk is not None
            if stop > first:
                found.append((first, stop))
                first = stop
            found.append(disk.bind(item))
        stop += is_native(step.op)
    return [*found, (first, stop)]
