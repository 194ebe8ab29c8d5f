"""What a plan says about every moment of a step: the bytes that are alive by kind, and the work by phase."""

from dataclasses import dataclass
from itertools import accumulate

from lowmem.chain import Chain
from lowmem.planning.engines.outline import PHASES as PHASES
from lowmem.planning.network_chain import network_chain
from lowmem.planning.plan import Plan
from lowmem.planning.request import UpdateMode
from lowmem.schedule import Op, Schedule, simulate
from lowmem.schedule.effects import effects


@dataclass(frozen=True, slots=True)
class Moment:
    """What is alive while one op runs, in bytes, and the cost of that op (FLOPs for a network).

    states, deltas: the operands of the op and what it makes included. A state that turns into δ counts once.
    disk: bytes of the states on a disk, which are no part of `bytes`.
    """

    op: Op
    flops: float
    states: int
    deltas: int
    scratch: int
    disk: int = 0

    @property
    def bytes(self) -> int:
        """All that is alive in memory."""
        return self.states + self.deltas + self.scratch


def chain_of(plan: Plan) -> Chain:
    """Return the chain of one pass of a plan."""
    updates = plan.update.fuses or plan.ranks > 1
    return network_chain(
        plan.architecture,
        plan.micro_batch,
        updates=updates,
        shared=updates and plan.ranks > 1,
        lanes=plan.lanes,
        engine=plan.engine,
        alignment=plan.alignment,
    )


def moments(chain: Chain, schedule: Schedule) -> list[Moment]:
    """Return what is alive during each op; the largest sum is the peak of `simulate`.

    Raises `ScheduleError` if the schedule does not reverse the chain.
    """
    # A value is alive between the op that makes it and the op that ends it. While it is being made its place counts
    # with the op that makes it, as there it may take more room than it keeps.
    states, deltas, disk = ([0] * (len(schedule) + 2) for _ in range(3))
    for life in simulate(chain, schedule).lifetimes:
        change, size = deltas if life.value.kind == "δ" else states, life.bytes
        if life.value.kind == "d":
            change, size = disk, chain.state_bytes(life.value.layer)
        change[life.start + 1] += size
        change[life.end + 1] -= size
    series: list[Moment] = []
    levels = accumulate(states), accumulate(deltas), accumulate(disk)
    for op, state_bytes, delta_bytes, on_disk in zip(schedule.ops, *levels, strict=False):
        effect = effects(chain, op)
        alive = state_bytes + effect.place_bytes - effect.in_hand_bytes, delta_bytes, effect.scratch_bytes
        if chain.in_hand_free and not effect.weighed:
            # Between two ops that count, the values in hand still cost nothing: the level of the op before stays.
            alive = (series[-1].states, series[-1].deltas, series[-1].scratch) if series else (0, 0, 0)
        series.append(Moment(op, effect.cost, *alive, on_disk))
    return series


def planned_flops(plan: Plan) -> dict[str, int]:
    """Return the FLOPs of a whole batch by phase; they add up to `plan.flops`. No plan counts those of an update."""
    chain = chain_of(plan)
    one_pass: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    for op in plan.schedule.ops:
        effect = effects(chain, op)
        if effect.phase not in ("none", "disk"):
            one_pass[effect.phase] += effect.cost
    first_time = chain.forward_cost(1, chain.length)
    one_pass["recomputation"] = one_pass["forward"] - first_time
    one_pass["forward"] = first_time
    # Every cost of a pass is a multiple of its rows.
    runs = 2 if plan.update is UpdateMode.TWO_RUNS else 1
    whole = {phase: runs * int(flops) * plan.batch_size // plan.micro_batch for phase, flops in one_pass.items()}
    return whole | {"sum of gradients": (plan.micro_batches - 1) * plan.architecture.parameters}
