"""From a planner's schedule to the schedule that runs: ops that no planner needs to know of are put in.

Planners emit pure reversal: `Forward`, `Loss`, `Backward` and `Free`. What else a step does follows from the chain. An
`Update` stands right behind the backward of its layer, where its gradient still is in cache and nothing reads the
layer's weights any more.

Where ranks share a batch, an `AllReduce` stands right behind the backward of its layer, and the update waits until
`IN_FLIGHT` layers more have been reversed: meanwhile gradients travel. The order of exchanges and updates is the same
on every rank, whatever its budget.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from lowmem.chain import Chain
from lowmem.common.checks import instance
from lowmem.errors import InputError
from lowmem.schedule.ops import AllReduce, Backward, Op, Schedule, Update

IN_FLIGHT = 2
"""How many layers are reversed while the gradients of the layer above them travel. Each has buffers of its own."""

TRAVELLING = IN_FLIGHT + 1
"""How many layers' gradients travel at a time, at most."""

Planner = Callable[..., Schedule]
"""A function of a `Chain`, and of keywords of its own, that returns a `Schedule`."""


def lower(chain: Chain, schedule: Schedule) -> Schedule:
    """Return `schedule` with an `Update` behind every `Backward`, if the chain updates its parameters.

    A schedule that has updates already is returned as it is.
    """
    if not chain.updates or any(isinstance(op, Update) for op in schedule.ops):
        return schedule
    ops: list[Op] = []
    travelling: list[int] = []  # layers whose gradients do
    for op in schedule.ops:
        ops.append(op)
        if isinstance(op, Backward):
            travelling.append(op.layer)
            if chain.shared:
                ops.append(AllReduce(op.layer))
            if len(travelling) > IN_FLIGHT * chain.shared:
                ops.append(Update(travelling.pop(0)))
    ops += map(Update, travelling)
    return Schedule(schedule.planner, tuple(ops))


def lowered(planner: Planner, with_tapes: Callable[[], Mapping[str, Planner]]) -> Planner:
    """Return the planner that plans the pure reversal of a chain and lowers the result.

    with_tapes: loads the planners of chains with tapes, by name; such a chain is refused if none has this one's name.
    """

    @wraps(planner)
    def plan(chain: Chain, **options: Any) -> Schedule:  # noqa: ANN401 - whatever the planner takes
        instance("chain", chain, Chain, "a lowmem.chain.Chain, such as Chain.abstract(...) makes")
        chosen = with_tapes().get(planner.__name__) if chain.taped else planner
        if chosen is None:
            raise InputError(f"{planner.__name__} knows no tapes. Take store_all, sqrt, segments or optimal.")
        return lower(chain, chosen(chain.reversal, **options))

    return plan
