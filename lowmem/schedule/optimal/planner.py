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
from math import gcd, inf, isnan

from lowmem.chain import Chain
from lowmem.common.checks import as_number
from lowmem.errors import BudgetError, InputError, shown
from lowmem.schedule.least import least_memory
from lowmem.schedule.ops import Forward, Loss, Schedule
from lowmem.schedule.optimal.early_drops import LONGEST, EarlyDrops
from lowmem.schedule.optimal.table import FIRST_WINDOW, Limits, Table
from lowmem.schedule.optimal.writing import write
from lowmem.schedule.revolve import left_part, revolve, revolve_forwards
from lowmem.schedule.simulate import Trace, simulate

EXACT_LEVELS_PER_STATE = 32
"""Levels for a state of mean size up to which a common quantum is used as it is."""

EXACT_LEVELS = 2048
"""Levels for all states together up to which a common quantum is used as it is."""

FINENESS = (64, 32, 16, 8)
"""Levels for a state of mean size, where sizes are rounded: as fine as `USUAL_WINDOW` leaves room for."""

USUAL_WINDOW = 48
"""Layers of a window in which nearly all good schedules lie: finer levels are worth more than a wider window."""

MANY_LAYERS = 400
"""Above this many even layers the closed form is used for networks too."""

WORK_OF_LAYER, LEAST_WORK, MOST_WORK = 1.8e6, 2e8, 3.6e9
"""Additions that a table may take: for each layer, and at least and at most in all. A thousand layers take about a
second."""

SHORT, MODEST, LARGE = 300, 56 << 20, 120 << 20
"""A chain of up to `SHORT` layers gets a table of `MODEST` bytes, as small networks are planned on small machines; a
longer one gets `LARGE` bytes."""


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

    Schedules are those of pure reversal: of a chain that updates its parameters, `lower` puts the updates in.
    """

    def __init__(self, chain: Chain, budget: int, table_bytes: int | None = None) -> None:
        chain = chain.reversal
        self.chain = chain
        self.table_bytes = table_bytes
        self.fixed_cost = sum(stage.backward for stage in chain.stages) + chain.stages[-1].forward + chain.loss
        self._drops: EarlyDrops | None = None
        self.uniform = _is_uniform(chain)
        self._budget = budget = max(budget, 0)
        self._table: Table | None = None
        self._lower = 0.0
        self._latest: tuple[Schedule, Trace] | None = None
        if not self.uniform:
            self._fill(budget)

    def _fill(self, budget: int) -> None:
        """Make the table that schedules are read from, and the lower bound."""
        chain = self.chain
        quantum = _exact_quantum(chain, budget)
        limits = _limits(chain, self.table_bytes)
        if quantum:
            self._table = Table(chain, budget, quantum, down=False, limits=limits.twice(), exact=True)
            self._table.grow()
            self._lower = self._table.lower(self._table.top)
            return
        below = _grown(chain, budget, down=True, limits=limits)
        self._lower = below.lower(below.top)
        del below  # the next table needs this memory
        self._table = _grown(chain, budget, down=False, limits=limits)

    @property
    def table(self) -> Table:
        """The table that schedules are read from; where a formula does without one, it is made now."""
        if self._table is None:
            self._fill(self._budget)
        assert self._table is not None
        return self._table

    @property
    def window(self) -> int | None:
        """Layers of the longest segments in the table that schedules are read from, None without a table."""
        return None if self._table is None else self._table.window

    def best(self, budget: int, taken: Callable[[Schedule], int] | None = None) -> Optimum:
        """Return the best schedule that takes at most `budget` bytes, which is at most the budget of the tables.

        taken: says how many bytes a schedule takes, at least the simulated peak; None: the simulated peak.
        Raises `BudgetError` if none fits.
        """
        measure = taken or self._simulated_peak
        answer = self._closed_form(budget, measure) if self.uniform else self._from_table(budget, measure)
        if answer is None:
            least = simulate(self.chain, least_memory(self.chain)).peak_bytes
            raise BudgetError(
                f"no schedule of this chain was found for {budget:,} bytes; the least that works is {least:,}.",
                budget=budget,
                minimum=least,
            )
        schedule, lower = answer
        return Optimum(schedule, self._trace(schedule).cost, lower + self.fixed_cost)

    def _simulated_peak(self, schedule: Schedule) -> int:
        return self._trace(schedule).peak_bytes

    def _trace(self, schedule: Schedule) -> Trace:
        """Simulate a schedule. The latest trace is remembered: the schedule chosen is mostly the last one tried."""
        if self._latest is None or self._latest[0].ops is not schedule.ops:
            self._latest = schedule, simulate(self.chain, schedule)
        return self._latest[1]

    def _from_table(self, budget: int, taken: Callable[[Schedule], int]) -> tuple[Schedule, float] | None:
        """Try schedules from the cheapest on until one fits; where no schedule is in the window, use the formula.

        Every schedule is read off at the lowest level that has its cost. On short chains none is left out, so that
        more budget never means a dearer plan. On long chains a schedule that takes too much skips the levels that
        are too high by more than what is missing.
        """
        table = self._table
        assert table is not None
        skipped = table.top + 1
        for level in self._steps():
            if level > skipped and self.chain.length > LONGEST:
                continue
            schedule = self._write(level)
            excess = taken(schedule) - budget
            if excess <= 0:
                return schedule, self._lower
            skipped = level - excess // table.levels.quantum
        smallest = least_memory(self.chain)
        fallback = most_slots(self.chain, budget, taken) or (smallest if taken(smallest) <= budget else None)
        return None if fallback is None else (fallback, self._lower)

    def _steps(self) -> list[int]:
        """Return the levels at which a schedule gets cheaper, the highest first."""
        table = self._table
        assert table is not None
        costs = table.costs() if self.chain.length > LONGEST else self._early_drops().costs()
        best, levels = inf, []
        for level, cost in enumerate(costs):
            if cost < best:
                best = cost
                levels.append(level)
        return levels[::-1]

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
            return self._lower + self.fixed_cost
        answer = self._closed_form(budget, self._simulated_peak)
        return inf if answer is None else answer[1] + self.fixed_cost

    def _closed_form(self, budget: int, taken: Callable[[Schedule], int]) -> tuple[Schedule, float] | None:
        """Return Griewank and Walther's schedule and a bound: states have one size, layers but the ends one cost."""
        schedule = most_slots(self.chain, budget, taken)
        if schedule is None:
            return None
        slots = sum(isinstance(op, Forward) for op in schedule.ops[: schedule.ops.index(Loss())]) - 2
        # In a network there is room for up to two states more where no δ lives yet and nothing travels.
        more = 0 if self.chain.in_hand_free else 2
        return schedule, self._uniform_bound(max(slots, 0) + more)

    def _uniform_bound(self, slots: int) -> float:
        """Return a lower bound of the cost of forward runs with so many slots."""
        stages, length = self.chain.stages, self.chain.length
        slots = min(slots, max(length - 2, 0))
        first, inner = stages[0].forward, stages[min(1, length - 2)].forward
        if first == inner:
            return inner * (revolve_forwards(length, slots) - 1)
        # Layers 2..L from state 1 take what the formula says; layer 1 runs at least once.
        return first + inner * (revolve_forwards(length - 1, slots) - 1)


def most_slots(chain: Chain, budget: int, taken: Callable[[Schedule], int]) -> Schedule | None:
    """Return the revolve schedule with the most slots that takes at most `budget` bytes, None if none does.

    The search steps by what is left over or missing, counted in states of the largest size; where all states have one
    size, the first step is exact.
    """
    best = revolve(chain, slots=0)
    left = budget - (0 if chain.in_hand_free else taken(best))
    if left < 0:
        return None
    sizes = [stage.state_bytes for stage in chain.stages[:-1]] or [0]
    largest = max(*sizes, 1)
    low, high = 0, max(chain.length - 2, 0)
    middle = left // largest
    while low < high and (middle > low or min(sizes) < largest):
        middle = min(max(middle, low + 1), high)
        schedule = revolve(chain, slots=middle)
        left = budget - taken(schedule)
        if left >= 0:
            best, low = schedule, middle
        else:
            high = middle - 1
        middle += left // largest
    return Schedule("optimal", best.ops)


def _is_uniform(chain: Chain) -> bool:
    """Say whether the closed form is used: states of one size, layers of one cost.

    For an abstract chain the formula is exact. In a network memory is not the same at every op, which a table sees
    and the formula does not; with many layers the difference is not worth a table, and the bound says how large it
    may be. The last layer may always differ; the first one too where there are many layers.
    """
    many = chain.length > MANY_LAYERS
    inner = chain.stages[:-1]
    alike = inner[1:] if many else inner
    sizes = {(s.state_bytes, s.delta_bytes) for s in inner}
    works = {(s.forward, s.forward_scratch, s.advance_scratch) for s in alike}
    return (many or chain.in_hand_free) and chain.length > 1 and len(sizes) == 1 and len(works) == 1


def _states_in(chain: Chain, budget: int) -> int:
    """Return about how many states fit in a budget at once."""
    sizes = [stage.state_bytes for stage in chain.stages[:-1]]
    return min(len(sizes), budget * len(sizes) // max(sum(sizes), 1) + 1)


def _exact_quantum(chain: Chain, budget: int) -> int:
    """Return the bytes of a level in which all states are exact, 0 if that makes too many levels."""
    sizes = [stage.state_bytes for stage in chain.stages[:-1] if stage.state_bytes]
    if not sizes:
        return max(budget, 1)
    common, mean = gcd(*sizes), sum(sizes) // len(sizes)
    few = mean <= EXACT_LEVELS_PER_STATE * common or sum(sizes) // common <= EXACT_LEVELS
    return common if few else 0


def _limits(chain: Chain, table_bytes: int | None) -> Limits:
    """Return what a table of a chain may take."""
    work = min(max(WORK_OF_LAYER * chain.length, LEAST_WORK), MOST_WORK)
    usual = MODEST if chain.length <= SHORT else LARGE
    return Limits(work, usual if table_bytes is None else min(usual, table_bytes))


def _grown(chain: Chain, budget: int, *, down: bool, limits: Limits) -> Table:
    """Return a table with the finest levels that leave room for the window that is wanted.

    Where a narrower window is enough, the rest of the work goes into finer levels.
    """
    sizes = [stage.state_bytes for stage in chain.stages[:-1]]
    mean, states = sum(sizes) // len(sizes), _states_in(chain, budget)

    def table_of(fine: int) -> Table:
        quantum = max(mean // fine, 1)
        # Levels above the budget are tried, to win back what rounding up wastes: about half a level for each state.
        return Table(chain, budget if down else budget + states * quantum, quantum, down=down, limits=limits)

    wanted = _wanted_window(chain, budget)
    window = min(wanted if down else min(max(wanted, USUAL_WINDOW), USUAL_WINDOW * 3 // 2), chain.length)
    fine = next((fine for fine in FINENESS[:-1] if table_of(fine).affordable(window)), FINENESS[-1])
    table = table_of(fine)
    settled = table.grow()
    while not down and table.upper(table.top) == inf and fine > FINENESS[-1]:
        fine //= 2  # coarser levels leave room for a window in which there is a schedule
        table = table_of(fine)
        settled = table.grow()
    while settled and fine < FINENESS[0]:
        fine *= 2
        finer, spent = table_of(fine), table.spent
        if not finer.affordable(table.window, spent):
            break
        table = finer  # the coarser one goes before this one is filled
        settled = table.grow(spent)
    return table


def _wanted_window(chain: Chain, budget: int) -> int:
    """Return the window in which bounds are likely to meet: half of the way to an even chain's first checkpoint."""
    largest = max(stage.state_bytes + stage.delta_bytes for stage in chain.stages[:-1])
    slots = _states_in(chain, max(budget - largest, 0)) - 1
    return min(max(left_part(chain.length, max(slots, 1)) // 2, FIRST_WINDOW), 2 * USUAL_WINDOW)
