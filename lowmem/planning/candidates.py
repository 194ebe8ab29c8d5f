"""The plans among which a strategy chooses, made one after the other. No NumPy."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from math import inf

from lowmem.errors import BudgetError, InputError, ScheduleError
from lowmem.planning.accounting import floor_bytes, least_overhead, plan_of, predicted, whole_batch
from lowmem.planning.drafts import FEW_LAYERS, Draft, fixed, revolving, segmented, spilled, thrifty
from lowmem.planning.engines import native_memory
from lowmem.planning.engines.machine import DiskTier
from lowmem.planning.ladder import Ladder
from lowmem.planning.plan import Plan
from lowmem.planning.request import Limit, PlanRequest
from lowmem.planning.streamed import file_bytes
from lowmem.schedule import Schedule
from lowmem.schedule.disk.evenly import evenly
from lowmem.schedule.disk.planner import DiskPlanner, Spilled
from lowmem.schedule.least import certain_peak, is_even
from lowmem.schedule.ops import Op
from lowmem.schedule.optimal.planner import Planner

LEAST_TABLES = 20 << 20
"""Bytes below which the tables of planning are not begun, as they pass them; closed forms need none."""


class Candidates:
    """The plans for one request: what all of them share is computed once.

    What is looked at does not depend on the limit, only what is taken of it does. So more budget never makes a plan
    dearer, and every budget from `least` on is planned.

    limit: the budget that they are for, None without one. `lower_bound` is the cost of any schedule whose checkpoints
    stay, within the limit, once the optimal planner has run.
    """

    def __init__(self, request: PlanRequest, limit: Limit | None) -> None:
        self.request, self.limit = request, limit
        self.lower_bound: float | None = None

    def __iter__(self) -> Iterator[Plan]:
        """Yield plans, among them the cheapest within the limit that the request's strategy has, if there is one."""
        match self.request.strategy:
            case "segments":
                yield from self._named(self.request.segments, segmented)
            case "revolve":
                yield from self._named(self.request.slots, revolving)
            case "auto" | "optimal":
                yield from self._optimal()
            case str() as name:
                yield fixed(self.request, name).plan
            case own:
                yield own_plan(self.request, own)

    def fits(self, plan: Plan) -> bool:
        """Say whether a plan keeps the limit."""
        return self.limit is None or self.taken(plan) <= self.limit.bytes

    @cached_property
    def store_all(self) -> Plan:
        """The plan that stores everything."""
        return fixed(self.request, "store_all").plan

    @cached_property
    def least(self) -> Plan:
        """The plan of this request's strategy that takes the least of the limit. No plan is looked for in less."""
        match self.request.strategy:
            case "auto" | "optimal":
                return self._least_as_without_a_disk()
            case "segments" if self.request.segments is None:
                return self._least_of(segmented(self.request))
            case "revolve" if self.request.slots is None:
                return self._least_of(revolving(self.request))
            case _:
                return next(iter(self))

    def any_fits(self) -> bool:
        """Say whether a plan that needs no search keeps the limit."""
        return self.fits(self.store_all) or any(self._fitting(self._thrifty)) or any(self._fitting(self._spilled))

    def plannable(self) -> bool:
        """Say whether the limit is enough for a plan of this request's strategy."""
        if self.request.strategy in ("auto", "optimal") and (self.any_fits() or self.hopeless):
            return not self.hopeless
        return self.fits(self.least)

    @cached_property
    def hopeless(self) -> bool:
        """Whether no plan at all keeps the limit, which is told without making one."""
        return self.limit is not None and self._room < certain_peak(self.request.chain)

    def _least_as_without_a_disk(self) -> Plan:
        """Return the plan of least memory, which takes no more than the one for the same request without a disk.

        That may be searched by FLOPs where this is searched by time, because a disk asks for costs.
        """
        request, least = self.request, self._least_found()
        if request.disk is None or request.spills or request.streaming is not None or request.costs is None:
            return least
        other = Candidates(replace(request, costs=None), self.limit).least
        if self.taken(other) >= self.taken(least):
            return least
        return replace(other, seconds=predicted(request, other.schedule))

    def _least_found(self) -> Plan:
        """Return the plan of least memory, of those that need no search and those that a search in so little finds.

        What is cheapest in the bytes of one plan may take fewer, and then leads to the next.
        """
        least = self._least_of([*self._thrifty, *self._spilled], self.store_all)
        while least.strategy != "store_all" and self._may_take_less and self.taken(least) > self.at_least:
            within = self._within(self.taken(least))
            smaller = min(filter(within.fits, within.searched()), key=self.taken, default=least)
            if self.taken(smaller) >= self.taken(least):
                break
            least = smaller
        return least

    @cached_property
    def at_least(self) -> int:
        """Bytes of the limit that any plan of this request takes, whatever its schedule: no plan is made for them."""
        peak = certain_peak(self.request.chain)
        return self._taken(self._beside + peak, peak)

    @cached_property
    def _may_take_less(self) -> bool:
        """Whether a search may find less than plans without one do.

        Where widths are even, only a disk helps, or calls that NumPy's engine binds once for several uses.
        """
        request = self.request
        return request.engine == "numpy" or request.spills or not is_even(request.chain)

    def _within(self, taken: int) -> "Candidates":
        """Return the candidates for a limit of which a plan takes so many bytes."""
        limit = Limit(taken)
        if self.limit is not None and self.limit.arena_bytes is not None:
            limit = Limit(taken, self.limit.arena_bytes + taken - self.limit.bytes)
        within = Candidates(self.request, limit)
        # What does not depend on limits:
        within.__dict__.update(store_all=self.store_all, _thrifty=self._thrifty)
        within.__dict__.update(_spilled=self._spilled, _placed=self._placed)
        return within

    @cached_property
    def _thrifty(self) -> list[Draft]:
        return list(thrifty(self.request))

    @cached_property
    def _spilled(self) -> list[Draft]:
        return list(spilled(self.request))

    def _least_of(self, drafts: Iterable[Draft], least: Plan | None = None) -> Plan:
        """Return the plan of these drafts that takes the least; those that cannot are not placed."""
        for draft in sorted(drafts, key=lambda draft: draft.peak_bytes):
            at_least = self._taken(self._beside + draft.peak_bytes, draft.peak_bytes)
            if least is None or draft.relays or at_least < self.taken(least):
                least = draft.plan if least is None else min(least, draft.plan, key=self.taken)
        assert least is not None
        return least

    def taken(self, plan: Plan) -> int:
        """Return the bytes that a plan takes of the limit."""
        return self._taken(plan.peak_bytes, plan.arena_bytes)

    def _taken(self, peak_bytes: int, arena_bytes: int) -> int:
        return peak_bytes if self.limit is None else self.limit.taken(peak_bytes, arena_bytes)

    @cached_property
    def _beside(self) -> int:
        """The bytes that every plan of this request takes beside the arena."""
        account = self.store_all.account()
        return account.total - account.arena - account.overhead + least_overhead(self.request)

    @cached_property
    def _room(self) -> int:
        """The bytes that the limit leaves to schedules: to arenas, and to objects beyond the least number."""
        assert self.limit is not None
        room = self.limit.bytes - self._beside
        return room if self.limit.arena_bytes is None else min(room, self.limit.arena_bytes)

    @cached_property
    def _placed(self) -> dict[tuple[Op, ...], tuple[int, int]]:
        """The peak and the arena of schedules that were placed: a search in fewer bytes tries some of them again."""
        return {}

    # searching ----------------------------------------------------------------------------------------------------

    def _optimal(self) -> Iterator[Plan]:
        """Yield the cheapest plan in the limit, after others; without one, the plan of least memory.

        The cheapest of them is the answer of this strategy, so all are named after it, except storing everything.
        """
        if self.limit is None:
            raise InputError('strategy="optimal" needs a budget; without one "store_all" is the cheapest.')
        if self.fits(self.store_all):
            yield self.store_all
            return
        if not self.any_fits():
            if self._room < min(draft.peak_bytes for draft in self._thrifty):
                self.lower_bound = inf  # no schedule at all whose checkpoints stay
            if self.hopeless or not self.fits(self.least):
                return
            yield self.least
        yield from self.searched()

    def searched(self) -> Iterator[Plan]:
        """Yield the plans that a search within the limit finds, by the name of the strategy that makes it."""
        for plan in self._search():
            yield plan if plan.strategy == "disk" else replace(plan, strategy="optimal")

    def _search(self) -> Iterator[Plan]:
        """Yield ever cheaper plans within the limit."""
        request, best = self.request, inf
        few = request.table_bytes is not None and request.table_bytes < LEAST_TABLES
        if not few:
            for plan in self._from_tables():
                best = min(best, plan.cost)
                yield plan
        for plan in self._with_disk(request.disk, tables=not few):
            best = min(best, plan.cost)
            yield plan
        if self.lower_bound is not None and best <= self.lower_bound:
            return
        # Levels and packing may have made the plan above dearer than one of these.
        others = [*self._thrifty, *self._spilled]
        if few or request.architecture.layers <= FEW_LAYERS:
            others = [*others, *revolving(request), *segmented(request)]
        cheaper = sorted((draft for draft in others if draft.cost < best), key=lambda draft: draft.cost)
        yield from self._fitting(cheaper)

    def _from_tables(self) -> Iterator[Plan]:
        """Yield the plans within the limit that the tables of the optimal planner have."""
        ladder = Ladder(self.request)
        for schedule in ladder.search(self._room, self._taken_by):
            yield plan_of(self.request, schedule, relays=True)
        if ladder.lower_bound < inf:  # else only relays fit, of which the tables know nothing
            self.lower_bound = whole_batch(self.request, ladder.lower_bound)

    def _with_disk(self, disk: DiskTier | None, *, tables: bool) -> Iterator[Plan]:
        """Yield ever quicker plans that send states to the disk.

        tables: whether there is memory for tables to look one up in, before the few that need none are tried.
        """
        request = self.request
        if disk is None or not disk.states or request.strategy != "auto":
            return
        chain, room = request.timed_chain, self._room
        limit = None if disk.limit is None else disk.limit - file_bytes(request)
        found = self._from_disk_tables(disk, limit) if tables else None
        if found is not None:
            yield plan_of(request, found.schedule, relays=True)
        best = inf if found is None else found.seconds
        schedule = evenly(chain, room, disk.rates, limit, self._taken_by, best)
        if schedule is not None:
            yield plan_of(request, schedule, relays=True)

    def _from_disk_tables(self, disk: DiskTier, limit: int | None) -> Spilled | None:
        """Return the quickest plan that tables have with a disk. limit: bytes that states on it may take."""
        request, chain, room = self.request, self.request.timed_chain, self._room
        reserve = native_memory.disk_objects_bytes(2 * chain.length)
        try:
            table = Planner(chain, room - reserve, request.table_bytes).table
        except BudgetError:  # what transfers need beside the schedule leaves too little
            return None
        found = DiskPlanner(chain, table, room, disk.rates, limit, reserve).best(self._taken_by)
        if found is not None:
            bound = whole_batch(request, found.lower_bound)
            self.lower_bound = bound if self.lower_bound is None else min(self.lower_bound, bound)
        return found

    def _taken_by(self, schedule: Schedule) -> int:
        """Return the bytes that a schedule takes of what the limit leaves to schedules."""
        assert self.limit is not None
        if self.request.engine == "numpy":
            floor = floor_bytes(self.request, schedule)
            if floor > self._room:
                return floor  # placing the values takes more bytes, and most of the time
        if schedule.ops not in self._placed:
            plan = plan_of(self.request, schedule, relays=True)
            self._placed[schedule.ops] = plan.peak_bytes, plan.arena_bytes
        return self._taken(*self._placed[schedule.ops]) - self.limit.bytes + self._room

    def _fitting(self, drafts: Iterable[Draft]) -> Iterator[Plan]:
        """Yield the first plan of these drafts that keeps the limit."""
        for draft in drafts:
            may_fit = self.limit is None or draft.relays or draft.peak_bytes <= self._room
            if may_fit and self.fits(draft.plan):
                yield draft.plan
                return

    def _named(self, number: int | None, drafts: Callable[[PlanRequest], Iterator[Draft]]) -> Iterator[Plan]:
        """Yield the plan of a strategy with its number, or without one the cheapest that fits, or else the least."""
        name = str(self.request.strategy)
        option = {"segments": "segments", "revolve": "slots"}[name]
        if number is not None:
            yield fixed(self.request, name, **{option: number}).plan
            return
        if self.limit is None:
            what = {"segments": "keep every so-many-th state", "revolve": "states kept besides the batch"}[name]
            raise InputError(f'strategy="{name}" needs {option}= ({what}) or a budget.')
        fitting = list(self._fitting(sorted(drafts(self.request), key=lambda draft: draft.cost)))
        yield from fitting or [self.least]


def leanest(candidates: Iterable[Candidates]) -> Candidates:
    """Return those candidates whose plan of the least memory takes the least of the limit; of equals the first ones.

    The plans of those that must take more are not made.
    """
    listed = list(candidates)
    best = None
    for one in sorted(listed, key=lambda one: one.at_least):
        if best is not None and one.at_least > best.taken(best.least):
            break
        order = one.taken(one.least), listed.index(one)
        if best is None or order < (best.taken(best.least), listed.index(best)):
            best = one
    assert best is not None
    return best


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
