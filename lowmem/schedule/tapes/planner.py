"""The cheapest schedule of a chain with tapes for a byte budget, with a proof of how good it is.

Let C(i, j, m) be the least cost of reversing stages i+1..j from state i with m bytes. Either stage i+1 is recorded, or
some state k is kept and stages i+1..k are run again later:

    C(i, j, m) = min( f_{i+1} + C(i+1, j, m - t_{i+1}) + b_{i+1},
                      min over i < k < j of f_{i+1} + ... + f_k + C(k, j, m - a_k) + C(i, k, m) ).

This is rotor's recurrence (O. Beaumont, L. Eyraud-Dubois, J. Herrmann, A. Joly, A. Shilova, "Optimal checkpointing for
heterogeneous chains: how to train deep neural networks with limited memory", arXiv:1911.13214, 2019), but each op is
held to the bytes that live while it runs: gradients on their way, gradients of parameters as they have come, working
memory, and the caller's output. Optimal means among schedules whose checkpoints stay until their segment is done.

The last stage of a segment is recorded without its output, so C(j-1, j, m) may cost less than f_j + b_j: a product
whose result nobody needs is not taken again.

Bytes are counted in levels. Where sizes have a common quantum they are exact. Otherwise sizes rounded up give
schedules, and sizes rounded down a lower bound of the cost. Levels above the budget are tried too, as rounding up
wastes some, and the simulator says what fits. In long chains parts of a schedule that are run again are held to a
window of stages, the widest that leaves enough levels; the lower bound holds for all.
"""

from math import gcd

from lowmem.chain import Chain
from lowmem.errors import BudgetError
from lowmem.schedule.ops import Schedule
from lowmem.schedule.optimal.planner import Optimum
from lowmem.schedule.simulate import simulate
from lowmem.schedule.tapes.fixed import sqrt, store_all
from lowmem.schedule.tapes.least import least_memory
from lowmem.schedule.tapes.needs import Needs, tapes_of
from lowmem.schedule.tapes.table import ROUNDING, SHORT, Levels, Table

MOST_LEVELS = 2048
"""Levels of the finest table."""

WORK = 1.2e8
"""Additions for one table of a hundred stages; more stages get more, by the power of 3/2."""

FINE = 8
"""Levels for a tape of mean size that are worth more than a wider window."""

NARROWEST = 40
"""Stages of the narrowest window."""

EXTRA = 0.25
"""Levels above the budget that are tried, as a share of its levels at most."""

LONGEST = 1200
"""Stages up to which a plan is made. The table of segments grows with the square."""


def optimal(chain: Chain, *, budget: int) -> Schedule:
    """Return the cheapest schedule found whose peak, as `simulate` counts it, is at most `budget` bytes.

    Raises `BudgetError` if none fits.
    """
    return best_schedule(chain, budget).schedule


def best_schedule(chain: Chain, budget: int) -> Optimum:
    """Return what `optimal` finds, with its cost and a lower bound. Raises `BudgetError` if nothing fits."""
    everything = Schedule("optimal", store_all(chain).ops)
    trace = simulate(chain, everything)
    if trace.peak_bytes <= budget:
        return Optimum(everything, trace.cost, trace.cost)
    smallest = Schedule("optimal", least_memory(chain).ops)
    least = simulate(chain, smallest).peak_bytes
    if least > budget:
        raise BudgetError(
            f"no schedule of this chain fits in {budget:,} bytes; the least that works is {least:,}.",
            budget=budget,
            minimum=least,
        )
    needs, room = Needs(chain), budget - chain.source_bytes
    candidates = [smallest, Schedule("optimal", sqrt(chain).ops)]
    quantum = exact_quantum(chain, room)
    if quantum:
        level = room // quantum
        table = Table(needs, Levels(quantum, level + needs.lift // quantum, rest=room % quantum), chain.length)
        candidates.append(table.write(level))
        bound = table.cost(level)
    else:
        window = _window(chain, room)
        bound = lower_bound(needs, room, window)
        candidates += _fitting(needs, room, window, budget)
    traces = [(simulate(chain, schedule), schedule) for schedule in candidates]
    cost, _, best = min(
        (found.cost, n, schedule) for n, (found, schedule) in enumerate(traces) if found.peak_bytes <= budget
    )
    return Optimum(best, cost, min(cost, max(bound, trace.cost)))


def lower_bound(needs: Needs, room: int, window: int) -> float:
    """Return a lower bound of the cost of any persistent schedule in `room` bytes, from a table with a window."""
    quantum = max(-(-room // level_count(needs.chain.length, window)), 1)
    level = -(-room // quantum)
    lift = needs.lift // quantum + needs.chain.length if needs.lift else 0
    bound = Table(needs, Levels(quantum, level + lift, down=True), window).cost(level)
    return bound * (1 - ROUNDING) if needs.chain.length > SHORT else bound


def _fitting(needs: Needs, room: int, window: int, budget: int) -> list[Schedule]:
    """Return the cheapest schedule of a table that fits the budget, in a list that is empty if none does."""
    length = needs.chain.length
    count = level_count(length, window)
    quantum = max(-(-room // count), 1)
    highest = room // quantum + min(length, int(count * EXTRA)) + 1
    table = Table(needs, Levels(quantum, highest + needs.lift // quantum), window)
    skipped = highest
    for level in table.steps():
        if level > skipped:
            continue
        schedule = table.write(level)
        excess = simulate(needs.chain, schedule).peak_bytes - budget
        if excess <= 0:
            return [schedule]
        skipped = level - excess // quantum // 2
    return [] if window == length else _fitting(needs, room, length, budget)


def _window(chain: Chain, room: int) -> int:
    """Return the most stages of a segment at which levels still are fine."""
    pairs = zip(chain.stages, tapes_of(chain), strict=True)
    mean = sum(max(tape.kept_bytes, stage.state_bytes) for stage, tape in pairs) // chain.length
    tapes = min(room // max(mean, 1) + 1, chain.length)
    window = chain.length
    while window > NARROWEST and level_count(chain.length, window) < FINE * tapes:
        window = window * 7 // 8
    return window


def level_count(length: int, window: int) -> int:
    """Return how many levels a table of such segments may have within its share of work."""
    work = WORK * max(length / 100, 1) ** 1.5
    additions = length * window**2 / 2 - window**3 / 3
    return int(min(max(work / max(additions, 1), 16), MOST_LEVELS))


def exact_quantum(chain: Chain, room: int) -> int:
    """Return the bytes of a level in which all sizes that stay are exact, 0 if that makes too many levels."""
    sizes = [chain.state_bytes(layer) for layer in range(chain.length)] + [tape.kept_bytes for tape in tapes_of(chain)]
    common = gcd(*sizes)
    if not common:
        return max(room, 1)
    return common if room // common <= level_count(chain.length, chain.length) else 0
