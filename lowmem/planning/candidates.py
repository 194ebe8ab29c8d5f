"""The plans among which a strategy chooses, made one after the other. No NumPy."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cached_property

from lowmem.errors import BudgetError, InputError, ScheduleError
from lowmem.planning.accounting import least_overhead, plan_of, whole_batch
from lowmem.planning.machine import DiskTier
from lowmem.planning.plan import Plan
from lowmem.planning.request import Limit, PlanRequest
from lowmem.schedule import PLANNERS, Schedule
from lowmem.schedule.disk.planner import DiskPlanner
from lowmem.schedule.least import least_memory
from lowmem.schedule.optimal.planner import Planner, most_slots
from lowmem.schedule.optimal.table import Table

FEW_LAYERS = 400
"""Layers up to which the fixed strategies are tried beside `optimal` where that is not proven optimal."""

VERY_FEW_LAYERS = 24
"""Layers up to which all plans of the fixed strategies are tried."""

LEAST_TABLES = 20 << 20
"""Bytes below which the tables of planning are not begun, as they pass them; closed forms need none."""


class Candidates:
    """The plans for one request: what all of them share is computed once.

    limit: the budget that they are for, None without one. `lower_bound` is the cost of any schedule whose checkpoints
    stay, within the limit, once the optimal planner has run.
    """

    def __init__(self, request: PlanRequest, limit: Limit | None) -> None:
        self.request, self.limit = request, limit
        self.lower_bound: float | None = None

    def __iter__(self) -> Iterator[Plan]:
        """Yield the plans among which the request's strategy chooses."""
        match self.request.strategy:
            case "segments":
                yield from self._segments(self.request.segments)
            case "revolve":
                yield from self._revolve(self.request.slots)
            case "auto" if self.fits(self.fixed[0]):
                yield self.fixed[0]
            case "auto" | "optimal":
                yield from self._optimal()
            case str() as name:
                yield self._made_by(name)
            case own:
                yield own_plan(self.request, own)

    def fits(self, plan: Plan) -> bool:
        """Say whether a plan keeps the limit."""
        return self.limit is None or _taken(plan, self.limit) <= self.limit.bytes

    def any_fixed_fits(self) -> bool:
        """Say whether a plan that needs no search keeps the limit."""
        return any(map(self.fits, self.fixed))

    @cached_property
    def fixed(self) -> list[Plan]:
        """Plans that need no search, storing everything first.

        For short networks these are all plans of the fixed strategies: arenas are so small that Python's objects
        decide which plan takes the least.
        """
        request, layers = self.request, self.request.architecture.layers
        plans = [self._made_by("store_all"), plan_of(request, least_memory(request.chain), strategy="optimal")]
        if layers <= FEW_LAYERS:
            plans += [self._made_by(name) for name in ("sqrt", "recompute_all")]
        if layers <= VERY_FEW_LAYERS:
            plans += [self._made_by("revolve", slots=slots) for slots in range(max(layers - 2, 0) + 1)]
            plans += [self._made_by("segments", segments=stride) for stride in range(1, max(layers, 2))]
        return plans

    @cached_property
    def least(self) -> Plan:
        """The plan of least memory among those that need no search. No search finds a plan for fewer bytes."""
        return min(self.fixed, key=lambda plan: plan.peak_bytes)

    def _made_by(self, planner: str, **options: int) -> Plan:
        """Return the plan of one planner, whatever it takes."""
        return plan_of(self.request, PLANNERS[planner](self.request.chain, **options))

    def _optimal(self) -> Iterator[Plan]:
        """Yield the fixed plans, among them the one of least memory, and the optimal one if that fits.

        The cheapest of them is the answer of this strategy, so all are named after it, except storing everything.
        """
        if self.limit is None:
            raise InputError('strategy="optimal" needs a budget; without one "store_all" is the cheapest.')
        for plan in self._search(self.limit):
            own_name = plan is self.fixed[0] or plan.strategy == "disk"
            yield plan if own_name else replace(plan, strategy="optimal")

    def _search(self, limit: Limit) -> Iterator[Plan]:
        """Yield the plans that `_optimal` chooses among."""
        request = self.request
        yield from self.fixed
        if not self.any_fixed_fits():
            return
        if request.table_bytes is not None and request.table_bytes < LEAST_TABLES:
            yield from self._revolve(None)
            yield from self._segments(None)
            return
        with suppress(BudgetError):  # packing and Python's objects may leave so little that only a fixed plan fits
            room, taken = self._for_schedules(limit)
            planner = Planner(request.timed_chain, room, request.table_bytes)
            self.lower_bound = whole_batch(request, planner.lower_bound(room))
            optimum = planner.best(room, taken)
            yield plan_of(request, optimum.schedule)
            if request.disk is not None and request.strategy == "auto":
                yield from self._with_disk(request.disk, planner.table, room, taken)
            if optimum.gap == 0 or request.architecture.layers > FEW_LAYERS:
                return
        # Levels and packing may have made the plan above dearer than one of these.
        yield from self._revolve(None)
        yield from self._segments(None)

    def _with_disk(self, disk: DiskTier, table: Table, room: int, taken: Callable[[Schedule], int]) -> Iterator[Plan]:
        """Yield the quickest plan that sends states to the disk, if there is one."""
        request = self.request
        found = DiskPlanner(request.timed_chain, table, room, disk.rates, disk.limit).best(taken)
        if found is not None:
            bound = whole_batch(request, found.lower_bound)
            self.lower_bound = bound if self.lower_bound is None else min(self.lower_bound, bound)
            yield plan_of(request, found.schedule)

    def _for_schedules(self, limit: Limit) -> tuple[int, Callable[[Schedule], int]]:
        """Return the bytes that a limit leaves to schedules, and a function that says how many a schedule takes.

        A schedule takes its arena after packing, and the objects of the calls that it has beyond the least number.
        """
        account = self.fixed[0].account()
        room = limit.bytes - (account.total - account.arena - account.overhead + least_overhead(self.request))
        if limit.arena_bytes is not None:
            room = min(room, limit.arena_bytes)

        def taken(schedule: Schedule) -> int:
            return _taken(plan_of(self.request, schedule), limit) - limit.bytes + room

        return room, taken

    def _segments(self, stride: int | None) -> Iterator[Plan]:
        """Yield plans that keep every so-many-th state; if None, of many strides."""
        if stride is not None:
            yield self._made_by("segments", segments=stride)
            return
        if self.limit is None:
            raise InputError('strategy="segments" needs segments= (keep every so-many-th state) or a budget.')
        layers, stride = self.request.architecture.layers, 1
        while stride < max(layers, 2):
            yield self._made_by("segments", segments=stride)
            stride += max(1, stride // 4) if layers > VERY_FEW_LAYERS else 1

    def _revolve(self, slots: int | None) -> Iterator[Plan]:
        """Yield plans that keep `slots` states; if None, as many as fit the budget, for short networks any number."""
        request, limit = self.request, self.limit
        if slots is not None:
            yield self._made_by("revolve", slots=slots)
            return
        if limit is None:
            raise InputError('strategy="revolve" needs slots= (states kept besides the batch) or a budget.')
        most = max(request.architecture.layers - 2, 0)
        if most <= VERY_FEW_LAYERS:
            yield from (self._made_by("revolve", slots=slots) for slots in range(most + 1))
            return
        yield self._made_by("revolve", slots=0)
        schedule = most_slots(request.chain, limit.bytes, lambda tried: _taken(plan_of(request, tried), limit))
        if schedule is not None:
            yield plan_of(request, schedule, strategy="revolve")


def _taken(plan: Plan, limit: Limit) -> int:
    """Return the bytes that a plan takes of a limit."""
    return limit.taken(plan.peak_bytes, plan.arena_bytes)


def own_plan(request: PlanRequest, strategy: Callable[..., Schedule] | Schedule) -> Plan:
    """Return the plan of a schedule, or of a planner that is no strategy of lowmem: a function of a chain.

    The plan has the name of the schedule's planner or of the function. Raises `InputError` if the function returns
    no schedule, `ScheduleError` if the schedule does not reverse the network's chain.
    """
    if isinstance(strategy, Schedule):
        name, schedule = strategy.planner, strategy
    else:
        schedule = strategy(request.chain.reversal)
        if not isinstance(schedule, Schedule):
            raise InputError(
                f"strategy: the planner {strategy!r} returned {schedule!r}; a lowmem.schedule.Schedule is needed."
            )
        name = getattr(strategy, "__name__", "<lambda>")
        name = schedule.planner if name == "<lambda>" else name
    try:
        return plan_of(request, schedule, strategy=name)
    except ScheduleError as error:
        raise ScheduleError(
            f"strategy: the schedule of {name!r} does not reverse this network of {request.chain.length} layers: "
            f"{error}",
            index=error.index,
        ) from None
