"""Schedules that need no search, as candidates for a plan: cheap to compare before they are placed. No NumPy."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

from lowmem.planning.accounting import plan_of, whole_batch
from lowmem.planning.plan import Plan
from lowmem.planning.request import PlanRequest
from lowmem.planning.streamed import file_bytes, streamed_moves
from lowmem.schedule import PLANNERS, Forward, Schedule, lower, simulate
from lowmem.schedule.disk.evenly import leanest
from lowmem.schedule.least import LONGEST, is_even, least_memory
from lowmem.schedule.least_arena import least_arena

FEW_LAYERS = 400
"""Layers up to which the fixed strategies are tried beside `optimal` where that is not proven optimal."""

VERY_FEW_LAYERS = 24
"""Layers up to which all plans of the fixed strategies are tried."""

FEW_SLOTS = 4
"""Slots for which the NumPy engine may take the least: with more, it binds fewer calls to more places."""

SPREAD = 1.25
"""Ratio between neighbours of the numbers of slots, and of the strides, that are tried in long networks."""


@dataclass
class Draft:
    """A schedule of a request's chain, which becomes a plan when it is asked for.

    strategy: what its plan is called. relays: whether sweeps may be done in two parts. spills: whether states go to
    the request's disk.
    """

    request: PlanRequest
    strategy: str
    make: Callable[[], Schedule]
    relays: bool = False
    spills: bool = False

    @cached_property
    def schedule(self) -> Schedule:
        """The ops that reverse the chain."""
        return self.make()

    @cached_property
    def cost(self) -> float:
        """What a whole batch costs: all forwards, what every schedule costs, and what ops wait for a disk."""
        request, chain = self.request, self.request.timed_chain
        if request.disk is not None and (self.spills or request.streaming is not None):
            lowered = lower(request.chain, self.schedule)
            streamed = streamed_moves(request, lowered)
            return whole_batch(request, simulate(chain, lowered, request.disk.rates, streamed).seconds)
        forwards = sum(chain.forward_cost(op.first, op.last) for op in self.schedule.ops if isinstance(op, Forward))
        return whole_batch(request, forwards + chain.loss + sum(stage.backward for stage in chain.stages))

    @cached_property
    def peak_bytes(self) -> int:
        """The simulated peak, which no arena can beat but one with relays."""
        return simulate(self.request.chain.reversal, self.schedule).peak_bytes

    @cached_property
    def plan(self) -> Plan:
        """The plan, whatever it takes."""
        return plan_of(self.request, self.schedule, strategy=self.strategy, relays=self.relays)


def fixed(request: PlanRequest, planner: str, **options: int) -> Draft:
    """Return what one of the strategies by name makes of a request."""
    chain = request.chain.reversal
    return Draft(request, planner, lambda: PLANNERS[planner](chain, **options))


def thrifty(request: PlanRequest) -> Iterator[Draft]:
    """Yield the drafts among which is the plan of least memory; those that mostly fit come first.

    In short networks arenas are so small that Python's objects decide, so these are all plans of all strategies.
    """
    layers, chain = request.architecture.layers, request.chain.reversal
    yield fixed(request, "recompute_all")
    even = is_even(chain)
    if not even:
        yield Draft(request, "optimal", lambda: least_arena(chain), relays=True)
    if not even and layers <= LONGEST:
        yield Draft(request, "optimal", lambda: least_memory(chain), relays=True)
    if layers <= VERY_FEW_LAYERS:
        yield from revolving(request)
        yield from segmented(request)
    elif request.engine == "numpy":
        yield from (fixed(request, "revolve", slots=slots) for slots in range(1, FEW_SLOTS + 1))
    yield fixed(request, "sqrt")


def spilled(request: PlanRequest) -> Iterator[Draft]:
    """Yield the drafts that send states to the request's disk and use as little memory as they can."""
    disk = request.disk
    if disk is None or not disk.states or request.strategy != "auto":
        return
    limit = None if disk.limit is None else disk.limit - file_bytes(request)
    for schedule in leanest(request.chain.reversal, limit):
        yield Draft(request, "disk", partial(Schedule, schedule.planner, schedule.ops), spills=True)


def revolving(request: PlanRequest) -> Iterator[Draft]:
    """Yield drafts of `revolve` with all numbers of slots; in long networks with many of them."""
    most = max(request.architecture.layers - 2, 0)
    yield from (fixed(request, "revolve", slots=slots) for slots in _spread(0, most))


def segmented(request: PlanRequest) -> Iterator[Draft]:
    """Yield drafts of `segments` with all strides; in long networks with many of them."""
    most = max(request.architecture.layers - 1, 1)
    yield from (fixed(request, "segments", segments=stride) for stride in _spread(1, most))


def _spread(least: int, most: int) -> Iterator[int]:
    """Yield whole numbers: all of a few, and of many fewer and fewer as they grow."""
    number = least
    while number <= most:
        yield number
        number = max(number + 1, int(number * SPREAD)) if most > VERY_FEW_LAYERS else number + 1
