"""Which states go to a disk, and how much is computed again between them: the quickest plan that memory allows.

States d_1 < ... < d_n lie on the outermost sweep. All but the last go to the disk, each written once and read once,
the last in first out. Between two of them layers are reversed in memory as `optimal` does it. A plan takes at least as
long as its compute C, and as its transfers IO, so at least (C + μ IO) / (1 + μ) for any price μ of a second of
transfers. For one price the best states are found by dynamic programming over

    H(j) = min over i < j of  H(i) + f_{i+1} + ... + f_j + E(i, j, m - a_i) + μ io(i)

with E as in `optimal`. From price to price more is computed again and less goes to the disk; each answer is written
out, its transfers are placed, and the simulator says how long it takes with transfers beside the ops. The least of the
bounds over all states is a lower bound for every plan of this kind.

The shape is that of two-level checkpointing, as in G. Aupy, J. Herrmann, P. Hovland, Y. Robert, "Optimal multistage
algorithm for adjoint computation", SIAM J. Sci. Comput. 38(3), 2016. Transfers that run beside compute are weighed as
in O. Beaumont, L. Eyraud-Dubois, A. Shilova, "Efficient combination of rematerialization and offloading for training
DNNs", NeurIPS 2021. What is not looked for: plans in which a state of the outermost sweep stays in memory while later
ones go to the disk.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from math import inf
from typing import TYPE_CHECKING, Any

from lowmem.chain import Chain
from lowmem.schedule.disk.spilling import fit
from lowmem.schedule.disk.transfers import DiskRates
from lowmem.schedule.ops import Forward, Op, Schedule
from lowmem.schedule.optimal.table import Table
from lowmem.schedule.optimal.writing import write_segment

if TYPE_CHECKING:
    from numpy.typing import NDArray

PRICES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
"""Of a second of transfers, in seconds of compute."""

SPREADS, GOLDEN = (0.0, 0.5), 0.6180339887498949
"""How far the prices of states differ. Where states are alike, one price sends all of them to the disk or hardly any;
prices that are scattered (by multiples of the golden ratio) send a part of them, evenly."""

STAGING = (0, 1, 2, 3, 4, 6, 8, 12)
"""States of room that segments leave to transfers."""

MANY, FEW_PRICES, FEW_STAGING = 400, PRICES[::3], (0, 2, 6)
"""Layers above which fewer plans are tried, and those tried then."""

HALVINGS = 24
"""To find the price of a byte at which states take as much of the disk as they may."""

MOST_TRIED = 32
"""Plans that are written out and simulated, the most promising first."""


@dataclass(frozen=True, slots=True)
class Spilled:
    """A plan with a disk: its schedule, the seconds of a pass, and a lower bound for plans of this kind."""

    schedule: Schedule
    seconds: float
    lower_bound: float


class DiskPlanner:
    """Plans of one chain, costs in seconds, for one disk.

    table: E(i, j, level) of the chain, as `optimal` makes it. room: bytes, as `taken` counts them.
    disk_bytes: the most that the states on the disk may take, None for no limit.
    reserve: bytes of the room that the objects of transfers may take; the table is one for the rest.
    """

    def __init__(
        self, chain: Chain, table: Table, room: int, rates: DiskRates, disk_bytes: int | None, reserve: int = 0
    ) -> None:
        self._chain, self._table, self._room = chain.reversal, table, room
        self._inside = room - reserve
        self._rates, self._disk_bytes = rates, inf if disk_bytes is None else disk_bytes
        self._fixed = sum(stage.backward for stage in chain.stages) + chain.stages[-1].forward + chain.loss
        np, levels = table.levels.np, table.levels
        self._sums: NDArray[Any] = levels.sums
        self._sizes = sizes = [chain.state_bytes(layer) for layer in range(chain.length)]
        at_once = max(1.0, 2 * rates.shared)  # seconds of transfers that pass in a second, at best
        times = [(rates.write_seconds(size) + rates.read_seconds(size)) / at_once if size else 0.0 for size in sizes]
        self._transfer: NDArray[Any] = np.array(times)
        self._largest = max(sizes)
        self._scattered: NDArray[Any] = 2 * (np.arange(chain.length) * GOLDEN % 1) - 1

    def best(self, taken: Callable[[Schedule], int]) -> Spilled | None:
        """Return the quickest plan for which `taken` says at most the room, None if there is none.

        taken: bytes that a schedule takes, at least the simulated peak.
        """
        found, best, tried = None, inf, 0
        for choice, staging in sorted(self._choices(), key=lambda pair: pair[0].estimate):
            if tried == MOST_TRIED:
                break
            if choice.compute >= best:
                continue
            tried += 1
            kept = self._kept(choice.states, staging)
            fitted = fit(self._chain, kept, choice.states[:-1], self._room, self._rates, taken, best)
            if fitted is not None:
                found, best = fitted
        return None if found is None else Spilled(found, best, min(self.lower_bound, best))

    @cached_property
    def lower_bound(self) -> float:
        """Seconds that a pass takes at least: every forward and backward once, or more where the table proves it."""
        table, least = self._table, float(self._sums[-2]) + self._fixed
        if not table.levels.bounds or table.window < self._chain.length:
            return least
        rows, suffix = self._rows(0), self._suffix(0)
        bounds = [self._cheapest(price, rows, suffix).value / (1 + price) for price in PRICES]
        return max(least, *((bound if bound < inf else least) for bound in bounds))

    def _choices(self) -> Iterator[tuple["_Choice", int]]:
        """Yield states and the staging beside them that are worth a try, each once."""
        many = self._chain.length > MANY
        seen = set[tuple[tuple[int, ...], int]]()
        for staging in FEW_STAGING if many else STAGING:
            rows, suffix = self._rows(staging), self._suffix(staging)
            for price, spread in product(FEW_PRICES if many else PRICES, SPREADS):
                choice = self._within_limit(price * (1 + spread * self._scattered), rows, suffix)
                if choice.value == inf or len(choice.states) < 2 or choice.bytes > self._disk_bytes:
                    continue
                # Where nothing is run again the staging makes no difference.
                key = choice.states, 0 if choice.compute <= float(self._sums[-2]) + self._fixed else staging
                if key not in seen:
                    seen.add(key)
                    yield choice, staging

    # States for one price ------------------------------------------------------------------------------------------

    def _level(self, i: int, staging: int) -> int:
        """Return the level beside state i that its segment may use; below 0 if there is none."""
        beside = self._inside - staging * self._largest - self._chain.state_bytes(i)
        return min(beside // self._table.levels.quantum, self._table.top)

    def _rows(self, staging: int) -> list["NDArray[Any]"]:
        """Return for each i the costs of running layers i+1..j and reversing them later, for j = i+1, ..."""
        table, levels, length = self._table, self._table.levels, self._chain.length
        np, rows = levels.np, []
        for i in range(length - 1):
            stop = min(i + table.window, length - 1)
            level = self._level(i, staging)
            if level < 0:
                rows.append(np.full(stop - i, np.inf))
                continue
            at = min(level + int(levels.shifts[i]), table.segments.cap)
            costs = table.segments.costs[i, 1 : stop - i + 1, at].astype(np.float64) - 2 * self._sums[i]
            rows.append(costs + self._sums[i + 1 : stop + 1])
        return rows

    def _suffix(self, staging: int) -> "NDArray[Any]":
        """Return for each i the cost of layers i+1..L-1 and of what is run again on the way back."""
        table, np = self._table, self._table.levels.np
        costs = [table.segment(i, self._chain.length, self._level(i, staging)) for i in range(self._chain.length)]
        return np.array(costs)  # type: ignore[no-any-return]

    def _within_limit(
        self, price: "float | NDArray[Any]", rows: list["NDArray[Any]"], suffix: "NDArray[Any]"
    ) -> "_Choice":
        """Return the states that cost least at a price and take no more of the disk than they may, if there are any.

        Where they take more, a price for each byte is raised until they do not.
        """
        choice = self._cheapest(price, rows, suffix)
        if choice.bytes <= self._disk_bytes:
            return choice
        low, high = 0.0, choice.value / max(min(size for size in self._sizes[1:] if size), 1)
        best = self._cheapest(price, rows, suffix, high)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            choice = self._cheapest(price, rows, suffix, middle)
            if choice.bytes <= self._disk_bytes:
                best, high = choice, middle
            else:
                low = middle
        return best

    def _cheapest(
        self, price: "float | NDArray[Any]", rows: list["NDArray[Any]"], suffix: "NDArray[Any]", per_byte: float = 0.0
    ) -> "_Choice":
        """Return the states that cost least where a second of transfers has a price, and a byte of the disk too.

        price: one for all states, or one for each.
        """
        np, length = self._table.levels.np, self._chain.length
        cost = np.full(length, np.inf)
        before = np.zeros(length, np.int64)
        prices = price * self._transfer + per_byte * np.array(self._sizes)
        cost[0] = 0.0
        for i, row in enumerate(rows):
            offered = cost[i] + row + prices[i]
            part = cost[i + 1 : i + 1 + len(row)]
            better = offered < part
            part[better] = offered[better]
            before[i + 1 : i + 1 + len(row)][better] = i
        whole = cost + suffix
        last = int(whole.argmin())
        states = [last]
        while states[-1]:
            states.append(int(before[states[-1]]))
        kept = tuple(reversed(states[:-1]))
        moved = list(kept[:-1])
        value, size = float(whole[last]) + self._fixed, sum(self._sizes[layer] for layer in moved)
        compute = value - float(prices[moved].sum())
        return _Choice(value, compute, float(self._transfer[moved].sum()), kept, size)

    # Writing -------------------------------------------------------------------------------------------------------

    def _kept(self, states: tuple[int, ...], staging: int) -> Schedule:
        """Write out the schedule that keeps the states in memory."""
        bounds = [0, *states]
        ops: list[Op] = [Forward(i + 1, j) for i, j in pairwise(bounds)]
        for i, j in reversed([*pairwise(bounds), (states[-1], self._chain.length)]):
            ops += write_segment(self._table, i, j, self._level(i, staging))
        return Schedule("disk", tuple(ops))


@dataclass(frozen=True, slots=True)
class _Choice:
    """States that are cheapest at some price.

    value: seconds of compute, and what transfers and bytes cost. compute, transfers: the seconds of each.
    states: d_1..d_n. bytes: of those that go to the disk.
    """

    value: float
    compute: float
    transfers: float
    states: tuple[int, ...]
    bytes: int

    @property
    def estimate(self) -> tuple[float, float]:
        """About how long it takes: what takes longer, and where that is the same, the sum."""
        return max(self.compute, self.transfers), self.compute + self.transfers
