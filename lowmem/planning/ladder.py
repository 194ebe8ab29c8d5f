"""The cheapest schedule for a budget, such that more budget never makes it dearer. No NumPy of its own.

Tables of the optimal planner are made for fixed budgets, the rungs of a ladder, and not for the budget that was asked
for. What a table offers for a budget it offers for every larger one up to its rung too. So a plan could only be dearer
than one for fewer bytes where that comes from the table of a lower rung: then that table is asked as well.
"""

from collections.abc import Callable, Iterator
from math import inf

from lowmem.planning.request import PlanRequest
from lowmem.schedule import Schedule, simulate
from lowmem.schedule.optimal.early_drops import LONGEST
from lowmem.schedule.optimal.planner import Planner
from lowmem.schedule.store_all import store_all

RUNG = 1.5
"""Ratio between neighbouring rungs."""

MISSES = 2
"""Rungs without a schedule that fits, after which no lower ones are asked: Python's objects take what there is."""

FEW_LAYERS = 100
"""Layers up to which a bound is made for the very budget too, where sizes are not rounded."""

OBJECTS = {"numpy": 2048, "native": 160}
"""Bytes by which the objects of two schedules differ, about, where one keeps a state more. Smaller states do not
decide alone what a schedule takes."""

EARLY_DROPS = 0.1
"""Share of the forward runs by which dropping checkpoints early may beat the bound, in networks of few layers."""


class Ladder:
    """The tables for one request. `lower_bound` bounds the cost of a pass from below, once `search` has begun."""

    def __init__(self, request: PlanRequest) -> None:
        self.request = request
        self.chain = request.timed_chain.reversal
        self.lower_bound = 0.0
        states = sum(self.chain.state_bytes(layer) for layer in range(1, self.chain.length))
        self.rough = states < OBJECTS[str(request.engine)] * self.chain.length

    def search(self, room: int, taken: Callable[[Schedule], int]) -> Iterator[Schedule]:
        """Yield schedules that take at most `room` bytes, the best one among them.

        taken: says how many bytes a schedule takes, at least the simulated peak.
        """
        rung = self._rung(room)
        planner = Planner(self.chain, rung, self.request.table_bytes, shared=True)
        self.lower_bound = planner.lower_bound(room)
        tighten = planner.exact and self.chain.length <= FEW_LAYERS
        least, misses = inf, 0
        while True:
            best = planner.find(min(room, rung), taken, rough=self.rough)
            if best is not None:
                yield best.schedule
                least = min(least, best.cost)
            misses += best is None
            rung = self._below(rung)
            bound = planner.lower_bound(rung)
            if planner.uniform or bound == inf or misses > MISSES or least <= self._surely(planner, bound):
                break
            planner = Planner(self.chain, rung, self.request.table_bytes, shared=True)

        if tighten and least > self.lower_bound:
            del planner  # the next table needs its memory
            self.lower_bound = Planner(self.chain, room, self.request.table_bytes).lower_bound(room)

    def _surely(self, planner: Planner, bound: float) -> float:
        """Return what a plan within a lower rung costs at least: the bound, less what early drops may save."""
        share = EARLY_DROPS if self.chain.length <= LONGEST else EARLY_DROPS / 10
        return bound - share * (bound - planner.fixed_cost)

    def _rung(self, room: int) -> int:
        """Return the lowest rung that is not below a number of bytes."""
        rung = simulate(self.chain, store_all(self.chain)).peak_bytes
        while rung < room:
            rung = int(rung * RUNG) + 1
        while (lower := self._below(rung)) >= room and lower < rung:
            rung = lower
        return rung

    def _below(self, rung: int) -> int:
        """Return the next rung below."""
        return int(rung / RUNG)
