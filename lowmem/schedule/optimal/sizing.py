"""How fine and how wide the tables of `optimal` are, within what they may take."""

from math import gcd, inf

from lowmem.chain import Chain
from lowmem.schedule.optimal.table import FIRST_WINDOW, Limits, Table
from lowmem.schedule.revolve import left_part

EXACT_LEVELS_PER_STATE = 32
"""Levels for a state of mean size up to which a common quantum is used as it is."""

EXACT_LEVELS = 2048
"""Levels for all states together up to which a common quantum is used as it is."""

FINENESS = (64, 32, 16, 8)
"""Levels for a state of mean size, where sizes are rounded: as fine as `USUAL_WINDOW` leaves room for."""

USUAL_WINDOW = 48
"""Layers of a window in which nearly all good schedules lie: finer levels are worth more than a wider window."""

WORK_OF_LAYER, LEAST_WORK, MOST_WORK = 1.8e6, 2e8, 3.6e9
"""Additions that a table may take: for each layer, and at least and at most in all. A thousand layers take about a
second."""

SHORT, MODEST, LARGE = 300, 56 << 20, 120 << 20
"""A chain of up to `SHORT` layers gets a table of `MODEST` bytes, as small networks are planned on small machines; a
longer one gets `LARGE` bytes."""


def states_in(chain: Chain, budget: int) -> int:
    """Return about how many states fit in a budget at once."""
    sizes = [stage.state_bytes for stage in chain.stages[:-1]]
    return min(len(sizes), budget * len(sizes) // max(sum(sizes), 1) + 1)


def exact_quantum(chain: Chain, budget: int) -> int:
    """Return the bytes of a level in which all states are exact, 0 if that makes too many levels."""
    sizes = [stage.state_bytes for stage in chain.stages[:-1] if stage.state_bytes]
    if not sizes:
        return max(budget, 1)
    common, mean = gcd(*sizes), sum(sizes) // len(sizes)
    few = mean <= EXACT_LEVELS_PER_STATE * common or sum(sizes) // common <= EXACT_LEVELS
    return common if few else 0


def limits_of(chain: Chain, table_bytes: int | None) -> Limits:
    """Return what a table of a chain may take."""
    work = min(max(WORK_OF_LAYER * chain.length, LEAST_WORK), MOST_WORK)
    usual = MODEST if chain.length <= SHORT else LARGE
    return Limits(work, usual if table_bytes is None else min(usual, table_bytes))


def grown(chain: Chain, budget: int, *, down: bool, limits: Limits) -> Table:
    """Return a table with the finest levels that leave room for the window that is wanted.

    Where a narrower window is enough, the rest of the work goes into finer levels.
    """
    sizes = [stage.state_bytes for stage in chain.stages[:-1]]
    mean, states = sum(sizes) // len(sizes), states_in(chain, budget)

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
    slots = states_in(chain, max(budget - largest, 0)) - 1
    return min(max(left_part(chain.length, max(slots, 1)) // 2, FIRST_WINDOW), 2 * USUAL_WINDOW)
