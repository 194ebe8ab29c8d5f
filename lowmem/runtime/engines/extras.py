"""What plans with a disk or with shards need beside an engine; its code is imported for those who use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lowmem.nn.mlp import MLP
from lowmem.planning.plan import Plan
from lowmem.runtime.arena import Arena
from lowmem.runtime.buffers import Buffers
from lowmem.runtime.collectives.group import Group

if TYPE_CHECKING:
    from lowmem.runtime.collectives.sums import ShardSums
    from lowmem.runtime.offload.binding import DiskBinding


def disk_of(plan: Plan, arena: Arena, mlp: MLP, buffers: Buffers) -> DiskBinding | None:
    """Return what moves states, moments and parameters to a disk and back; None where a plan moves nothing."""
    if not plan.program.disk_bytes and plan.streaming is None:
        return None
    from lowmem.runtime.offload.binding import DiskBinding

    return DiskBinding(plan, arena.buffer, mlp, buffers)


def sums_of(plan: Plan, buffers: Buffers, group: Group | None) -> ShardSums | None:
    """Return the sums of the gradients of shards; None where a batch has one."""
    if plan.shards == 1:
        return None
    from lowmem.runtime.collectives.sums import ShardSums

    return ShardSums(plan, buffers, group)
