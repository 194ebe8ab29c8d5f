"""From a planner's schedule to the schedule that runs: ops that no planner needs to know of are put in.

Planners emit pure reversal: `Forward`, `Loss`, `Backward` and `Free`. What else a step does follows from the chain. An
`Update` stands right behind the backward of its layer, where its gradient still is in cache and nothing reads the
layer's weights any more.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from lowmem.chain import Chain
from lowmem.common.checks import instance
from lowmem.errors import InputError
from lowmem.schedule.ops import Backward, Op, Schedule, Update

Planner = Callable[..., Schedule]
"""A function of a `Chain`, and of keywords of its own, that returns a `Schedule`."""


def lower(chain: Chain, schedule: Schedule) -> Schedule:
    """Return `schedule` with an `Update` behind every `Backward`, if the chain updates its parameters.

    A schedule that has updates already is returned as it is.
    """
    if not chain.updates or any(isinstance(op, Update) for op in schedule.ops):
        return schedule
    ops: list[Op] = []
    for op in schedule.ops:
        ops.append(op)
        if isinstance(op, Backward):
            ops.append(Update(op.layer))
    return Schedule(schedule.planner, tuple(ops))


def lowered(planner: Planner, with_tapes: Planner | None = None) -> Planner:
    """Return the planner that plans the pure reversal of a chain and lowers the result.

    with_tapes: what plans chains with tapes, which are refused without it.
    """

    @wraps(planner)
    def plan(chain: Chain, **options: Any) -> Schedule:  # noqa: ANN401 - whatever the planner takes
        instance("chain", chain, Chain, "a lowmem.chain.Chain, such as Chain.abstract(...) makes")
        chosen = with_tapes if chain.taped else planner
        if chosen is None:
            raise InputError(f"{planner.__name__} knows no tapes. Take store_all, sqrt, segments or optimal.")
        return lower(chain, chosen(chain.reversal, **options))

    return plan
