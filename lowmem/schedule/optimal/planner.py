"""The cheapest schedule for a byte budget, by dynamic programming, with a proof of how good it is.

Let E(i, j, m) be the least cost of forward runs for reversing layers i+1..j from state i, with m bytes beside it:

    E(i, i+1, m) = 0                      if the backward of layer i+1 fits in m,
    E(i, j, m)   = min over i < k < j of  f_{i+1} + ... + f_k + E(k, j, m - a_k) + E(i, k, m)

where the sweep from i to k must fit in m as well. This is the recurrence of Griewank and Walther (2000) for layers of
any cost and size, as rotor has it for heterogeneous chains (Beaumont, Eyraud-Dubois, Herrmann, Joly, Shilova, "Optimal
checkpointing for heterogeneous chains", arXiv:1911.13214, 2019), but op by op on the memory of this library's kernels.
It is optimal among *persistent* schedules, in which a checkpoint stays until its segment is done. Dropping one early
can win where sizes differ; such gains are taken when the schedule is written out, so what is returned costs at most
the persistent optimum.

Bytes are counted in levels. Where all sizes are multiples of a quantum that gives few enough levels, levels are exact.
Elsewhere a table that rounds every size up gives schedules, and a table that rounds every size down gives a lower
bound. What rounding up wastes is won back: levels above the budget are tried too, and the simulator says which
schedules really fit.

For long chains the table holds inner segments of up to `window` layers. Suffixes (k, L) are then bounded twice: from
above with splits inside the window, and from below, where longer segments are bounded by superadditivity,
E(i, k, m) >= E(i, t, m) + E(t, k, m). Equal bounds prove the optimum. Otherwise the window grows until the work that a
table may take is spent, and the gap between the bounds is stated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import inf, isnan

from lowmem.chain import Chain
from lowmem.common.checks import as_number
from lowmem.errors import BudgetError, InputError, shown
from lowmem.schedule.least import least_memory
from lowmem.schedule.ops import Forward, Loss, Schedule
from lowmem.schedule.optimal.closed_form import is_uniform, most_slots, uniform_bound
from lowmem.schedule.optimal.early_drops import LONGEST, EarlyDrops
from lowmem.schedule.optimal.sizing import exact_quantum, grown, limits_of, states_in
from lowmem.schedule.optimal.table import Table
from lowmem.schedule.optimal.writing import write
from lowmem.schedule.simulate import Trace, simulate

APART = 0.003
"""Share by which the levels of a long chain that are tried lie apart."""

COARSE = 64
"""Steps of levels that are skipped at first, where what schedules take falls with their levels."""

WASTED = 0.75
"""Levels for each state that rounding up may have wasted: schedules of so many more levels are tried too."""


@dataclass(frozen=True, slots=True)
class Optimum:
    """A schedule, the cost of all its forwards and backwards, and a lower bound of what any persistent one costs."""

    schedule: Schedule
    cost: float
    lower_bound: float

    @property
    def gap(self) -> float:
        """How far the cost may be above the persistent optimum, relative to the cost. Never below 0."""
        return max(0.0, (self.cost - self.lower_bound) / self.cost) if self.cost else 0.0


def optimal(chain: Chain, *, budget: int) -> Schedule:
    """Return the cheapest schedule found whose peak, as `simulate` counts it, is at most `budget` bytes.

    Raises `BudgetError` if none fits.
    """
    if isnan(as_number(budget)):
        raise InputError(f"budget must be a number of bytes; got {shown(budget)}.")
    return Planner(chain, budget).best(budget).schedule


class Planner:
    """The tables for one chain and all budgets up to `budget` (bytes, as `simulate` counts them).

    table_bytes: what a table may take, where planning has less memory than usual.
    shared: plan for many budgets, none of them better than others. Otherwise `budget` itself is planned for best.

    Schedules are those of pure reversal: of a chain that updates its parameters, `lower` puts the updates in. What is
    tried for a budget is tried for every larger budget too, so more bytes never make a plan dearer.
    """

    def __init__(self, chain: Chain, budget: int, table_bytes: int | None = None, *, shared: bool = False) -> None:
        chain = chain.reversal
        self.chain = chain
        self.table_bytes = table_bytes
        self.fixed_cost = sum(stage.backward for stage in chain.stages) + chain.stages[-1].forward + chain.loss
        self._drops: EarlyDrops | None = None
        self.uniform = is_uniform(chain)
        self._budget = max(budget, 0)
        self._table: Table | None = None
        self._lower: list[float] = []  # the bound by level
        self._level_of: Callable[[int], int] = int  # of a budget, for a bound
        self._latest: tuple[Schedule, Trace] | None = None
        if not self.uniform:
            self._fill(self._budget, shared)

    def _fill(self, budget: int, shared: bool) -> None:
        """Make the table that schedules are read from, and the lower bound."""
        chain = self.chain
        quantum = exact_quantum(chain, budget)
        limits = limits_of(chain, self.table_bytes)
        if quantum:
            if shared:  # whatever is left of a budget beside whole levels is no more than this
                budget += quantum - 1 - budget % quantum
            self._table = Table(chain, budget, quantum, down=False, limits=limits.twice(), exact=True)
            self._table.grow()
            self._lower = self._table.lower_bounds()
            self._level_of = self._table.levels.enough
            return
        below = grown(chain, budget, down=True, limits=limits)
        self._lower, self._level_of = below.lower_bounds(), below.levels.enough
        del below  # the next table needs this memory
        self._table = grown(chain, budget, down=False, limits=limits)

    @property
    def table(self) -> Table:
        """The table that schedules are read from; where a formula does without one, it is made now."""
        if self._table is None:
            self._fill(self._budget, shared=False)
        assert self._table is not None
        return self._table

    @property
    def window(self) -> int | None:
        """Layers of the longest segments in the table that schedules are read from, None without a table."""
        return None if self._table is None else self._table.window

    @property
    def exact(self) -> bool:
        """Whether sizes are not rounded in the table."""
        return self._table is not None and self._table.levels.exact

    def best(self, budget: int, taken: Callable[[Schedule], int] | None = None) -> Optimum:
        """Return the best schedule that takes at most `budget` bytes, which is at most the budget of the tables.

        taken: says how many bytes a schedule takes, at least the simulated peak; None: the simulated peak.
        Raises `BudgetError` if none fits.
        """
        measure = taken or self._simulated_peak
        if found := self.find(budget, measure):
            return found
        smallest = least_memory(self.chain)
        least = simulate(self.chain, smallest).peak_bytes
        schedule = None if self.uniform else most_slots(self.chain, budget, measure)
        if schedule is None and least <= budget and measure(smallest) <= budget:
            schedule = smallest
        if schedule is None:
            raise BudgetError(
                f"no schedule of this chain was found for {budget:,} bytes; the least that works is {least:,}.",
                budget=budget,
                minimum=least,
            )
        return self._optimum(schedule, budget)

    def find(self, budget: int, taken: Callable[[Schedule], int], *, rough: bool = False) -> Optimum | None:
        """Return the best schedule that the table or the closed form has for a budget, None if there is none.

        rough: what schedules take does not fall steadily with what they keep, so that many of them must be tried.
        """
        schedule = most_slots(self.chain, budget, taken) if self.uniform else self._from_table(budget, taken, rough)
        return None if schedule is None else self._optimum(schedule, budget)

    def _optimum(self, schedule: Schedule, budget: int) -> Optimum:
        return Optimum(schedule, self._trace(schedule).cost, self.lower_bound(budget))

    def _simulated_peak(self, schedule: Schedule) -> int:
        return self._trace(schedule).peak_bytes

    def _trace(self, schedule: Schedule) -> Trace:
        """Simulate a schedule. The latest trace is remembered: the schedule chosen is mostly the last one tried."""
        if self._latest is None or self._latest[0].ops is not schedule.ops:
            self._latest = schedule, simulate(self.chain, schedule)
        return self._latest[1]

    def _from_table(self, budget: int, taken: Callable[[Schedule], int], rough: bool) -> Schedule | None:
        """Try schedules from the cheapest on until one fits, None if none does.

        Every schedule is read off at the lowest level that has its cost.
        """
        table = self._table
        assert table is not None
        levels = table.levels
        highest = levels.enough(budget)
        if not levels.exact:
            highest += int(WASTED * states_in(self.chain, budget))
        latest: Schedule | None = None

        def fits(level: int) -> bool:
            nonlocal latest
            schedule = self._write(level)
            if self._simulated_peak(schedule) > budget or taken(schedule) > budget:
                return False
            latest = schedule
            return True

        steps = self._steps
        first = next((number for number, level in enumerate(steps) if level <= highest), len(steps))
        stride = 1 if self.chain.length <= LONGEST else _rough_stride(len(steps)) if rough else COARSE
        _first_that_fits(first, len(steps), lambda number: fits(steps[number]), stride)
        return latest

    @cached_property
    def _steps(self) -> list[int]:
        """The levels at which a schedule gets cheaper, the highest first; of long chains some of them."""
        table = self._table
        assert table is not None
        short = self.chain.length <= LONGEST
        costs = self._early_drops().costs() if short else table.costs()
        best, levels = inf, []
        for level, cost in enumerate(costs):
            if cost < best:
                best = cost
                levels.append(level)
        levels.reverse()
        tried = levels[:1]
        for level in levels:
            if level <= tried[-1] * (1 - APART):
                tried.append(level)
        return levels if short else tried

    def _early_drops(self) -> EarlyDrops:
        """Return the recurrence with early drops, which is filled in at its first use."""
        assert self._table is not None
        if self._drops is None:
            self._drops = EarlyDrops(self.chain, self._table)
        return self._drops

    def _write(self, level: int) -> Schedule:
        """Write out the schedule of a level."""
        assert self._table is not None
        return write(self._table, level) if self.chain.length > LONGEST else self._early_drops().write(level)

    def lower_bound(self, budget: int) -> float:
        """Return what any schedule costs at least whose checkpoints stay and whose simulated peak is in the budget."""
        if not self.uniform:
            level = min(self._level_of(budget), len(self._lower) - 1)
            return inf if level < 0 else self._lower[level] + self.fixed_cost
        schedule = most_slots(self.chain, budget, self._simulated_peak)
        if schedule is None:
            return inf
        slots = sum(isinstance(op, Forward) for op in schedule.ops[: schedule.ops.index(Loss())]) - 2
        # In a network there is room for up to two states more where no δ lives yet and nothing travels.
        more = 0 if self.chain.in_hand_free else 2
        return uniform_bound(self.chain, max(slots, 0) + more) + self.fixed_cost


def _rough_stride(count: int) -> int:
    """Return the least power of 4 of whose multiples no more than `COARSE` are below a count."""
    stride = 1
    while count > COARSE * stride:
        stride *= 4
    return stride


def _first_that_fits(first: int, stop: int, fits: Callable[[int], bool], coarsest: int) -> None:
    """Ask numbers first..stop-1 until one fits; the last one that fits is the answer.

    coarsest: a power of 4. Its multiples are asked in turn, and at the end the last number; then multiples of a
        quarter of it between the one that fits and the one before it, and so on. 1 asks all numbers in turn.

    With a smaller `first`, or where more fits, the answer is the same or comes earlier, whatever fits: this makes
    plans never dearer with more budget.
    """
    low, high, stride = first, stop, coarsest
    while stride:
        number = -(-low // stride) * stride
        while number < high and not fits(number):
            number += stride
        if number >= high == stop and coarsest > 1:
            if first >= stop or not fits(stop - 1):
                return
            high = stop - 1
        low, high, stride = max(low, number - stride + 1), min(number, high), stride // 4
