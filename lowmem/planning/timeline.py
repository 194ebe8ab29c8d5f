"""What a plan says about every moment of a step: the bytes that are alive by kind, and the work by phase."""

from dataclasses import dataclass
from itertools import accumulate

from lowmem.chain import Chain
from lowmem.planning.network_chain import network_chain
from lowmem.planning.outline import PHASES as PHASES
from lowmem.planning.plan import Plan
from lowmem.schedule import Backward, Forward, Loss, Op, Schedule, simulate


@dataclass(frozen=True, slots=True)
class Moment:
    """What is alive while one op runs, in bytes, and the FLOPs of that op.

    states, deltas: the op's operands and what it makes included. A state that turns into δ counts once.
    """

    op: Op
    flops: float
    states: int
    deltas: int
    scratch: int

    @property
    def bytes(self) -> int:
        """All that is alive."""
        return self.states + self.deltas + self.scratch


def chain_of(plan: Plan) -> Chain:
    """Return the chain of one pass of a plan."""
    updates = plan.optimizer is not None and not plan.gathered
    return network_chain(plan.architecture, plan.micro_batch, updates=updates, lanes=plan.lanes)


def occupancy(chain: Chain, schedule: Schedule) -> list[Moment]:
    """Return what is alive during each op; the largest sum is the peak of `simulate`."""
    # A value is alive between the op that makes it and the one that ends it. While it is being made it is counted
    # with that op, as there it may take more room than it keeps.
    changes = {"states": [0] * (len(schedule) + 2), "deltas": [0] * (len(schedule) + 2)}
    for life in simulate(chain, schedule).lifetimes:
        change = changes["deltas" if life.value.kind == "δ" else "states"]
        change[life.start + 1] += life.bytes
        change[life.end + 1] -= life.bytes
    moments = []
    held = zip(schedule.ops, accumulate(changes["states"]), accumulate(changes["deltas"]), strict=False)
    for op, states, deltas in held:
        flops, made, scratch = _running(chain, op)
        moments.append(Moment(op, flops, states + made, deltas, scratch))
    return moments


def _running(chain: Chain, op: Op) -> tuple[float, int, int]:
    """Return the FLOPs of an op, the bytes of the state that it is making, and those of its scratch."""
    match op:
        case Forward(first, last):
            scratch = chain.forward_scratch(first, last)
            return chain.forward_cost(first, last), chain.travelling_bytes(first, last), scratch
        case Loss():
            return chain.loss, 0, chain.loss_scratch
        case Backward(layer):
            return chain.stages[layer - 1].backward, 0, chain.stages[layer - 1].backward_scratch
        case _:
            return 0, 0, 0


def planned_flops(plan: Plan) -> dict[str, int]:
    """Return the FLOPs of a whole batch by phase; they add up to `plan.flops`. No plan counts those of an update."""
    chain = chain_of(plan)
    one_pass: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    one_pass["forward"] = chain.forward_cost(1, chain.length)
    for op in plan.schedule.ops:
        match op:
            case Forward(first, last):
                one_pass["recomputation"] += chain.forward_cost(first, last)
            case Loss():
                one_pass["loss"] += chain.loss
            case Backward(layer):
                one_pass["backward"] += chain.stages[layer - 1].backward
    one_pass["recomputation"] -= one_pass["forward"]
    # Every cost of a pass is a multiple of its rows.
    runs = 2 if plan.rehearsed else 1
    found = {phase: runs * int(flops) * plan.batch_size // plan.micro_batch for phase, flops in one_pass.items()}
    return found | {"sum of gradients": (plan.micro_batches - 1) * plan.architecture.parameters}
