"""One planning request: every candidate plan for it, and the account of each one's bytes and FLOPs. No NumPy."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from math import ceil
from typing import Any

from lowmem.chain import Chain
from lowmem.common.checks import positive
from lowmem.errors import Advice, BudgetError, InputError
from lowmem.network.architecture import Architecture
from lowmem.network.layers.base import STATISTICS
from lowmem.network.specs import CHUNK, OPTIMIZERS
from lowmem.network.tiles import INDEX_BYTES, tile_rows
from lowmem.planning.cost_model import CostModel
from lowmem.planning.lane_count import lanes_for
from lowmem.planning.network_chain import network_chain, timed_chain
from lowmem.planning.overhead import bookkeeping_bytes, counts, least_bookkeeping
from lowmem.planning.packing import pack
from lowmem.planning.plan import Plan
from lowmem.schedule import PLANNERS, Schedule, simulate
from lowmem.schedule.least import least_memory
from lowmem.schedule.optimal.planner import Planner, most_slots
from lowmem.units import ceil_bytes, format_bytes, parse_bytes

FEW_LAYERS = 400
"""Layers up to which the fixed strategies are tried beside `optimal` where that is not proven optimal."""

VERY_FEW_LAYERS = 24
"""Layers up to which all plans of the fixed strategies are."""

LEAST_TABLES = 20 << 20
"""Bytes below which the tables of planning are not begun, as they pass them; closed forms need none."""

LEAST_ROWS = 16
"""Passes of fewer rows are done only when asked for: products that small run at a fraction of the speed."""


class Workbench:
    """One planning request: what is the same for every candidate is computed once."""

    def __init__(
        self,
        architecture: Architecture,
        batch_size: int,
        optimizer: str | None = None,
        micro_batch: int | None = None,
        batch_buffers: int = 0,
        odd_batches: bool = False,
        costs: CostModel | None = None,
        threads: int | None = None,
        gather: bool = False,
        table_bytes: int | None = None,
        rehearse: bool = False,
    ) -> None:
        self.architecture = architecture
        self.batch_size = positive("batch_size", batch_size)
        self.micro_batch = self.batch_size if micro_batch is None else positive("micro_batch", micro_batch)
        if self.micro_batch > self.batch_size:
            raise InputError(f"micro_batch={micro_batch} is more than batch_size={batch_size}; give at most that.")
        if architecture.couples and self.micro_batch < self.batch_size:
            raise InputError(
                f"micro_batch={self.micro_batch} would split a batch of {self.batch_size}, but {architecture.couples} "
                "looks at all samples of a batch together; leave micro_batch out, or take another norm."
            )
        if rehearse and (gather or optimizer is None or self.micro_batch < self.batch_size):
            raise InputError(
                "rehearse=True goes with an optimizer whose update is fused and with batches in one pass: else all "
                "gradients are kept anyway, and gather=True does with one run. Leave out rehearse, or micro_batch."
            )
        self.optimizer = optimizer
        self.batch_buffers = batch_buffers
        self.odd_batches = odd_batches
        self.costs = costs
        self.threads = threads
        self.lanes = lanes_for(architecture, self.micro_batch, threads)
        self.gather = gather
        self.rehearse = rehearse
        self.table_bytes = table_bytes
        self.arena_limit: int | None = None  # a share of the activations, beside the budget in bytes
        self.bound: float | None = None  # of the cost of any schedule whose checkpoints stay, once a planner has run
        if costs is not None and costs.dtype != architecture.dtype:
            raise InputError(f"the cost model is for {costs.dtype}, the network is {architecture.dtype}.")

    @property
    def passes(self) -> int:
        """Passes per batch."""
        return -(-self.batch_size // self.micro_batch)

    @property
    def fused(self) -> bool:
        """Whether each layer is updated right after its backward."""
        return self.optimizer is not None and not self.gather

    @cached_property
    def chain(self) -> Chain:
        """The chain of one pass."""
        return network_chain(self.architecture, self.micro_batch, updates=self.fused, lanes=self.lanes)

    @cached_property
    def timed_chain(self) -> Chain:
        """The chain of one pass with the costs that planners minimise: seconds with a cost model, else FLOPs."""
        return (
            self.chain
            if self.costs is None
            else timed_chain(self.chain, self.architecture, self.micro_batch, self.costs)
        )

    def with_micro_batch(self, rows: int) -> "Workbench":
        """Return the same request with passes of that many rows."""
        return self._with(self.batch_size, rows)

    def with_batch_size(self, rows: int) -> "Workbench":
        """Return the same request for batches of that many rows, in one pass."""
        return self._with(rows, None)

    def _with(self, batch_size: int, micro_batch: int | None) -> "Workbench":
        made = Workbench(
            self.architecture,
            batch_size,
            self.optimizer,
            micro_batch,
            self.batch_buffers,
            self.odd_batches,
            self.costs,
            self.threads,
            self.gather,
            self.table_bytes,
            self.rehearse,
        )
        made.arena_limit = self.arena_limit
        return made

    def halved(self) -> Iterator["Workbench"]:
        """Yield this request, then in ever more passes of half the rows, down to `LEAST_ROWS`."""
        bench = self
        yield bench
        while bench.micro_batch >= 2 * LEAST_ROWS and not self.architecture.couples and not self.rehearse:
            bench = bench.with_micro_batch(-(-bench.micro_batch // 2))
            yield bench

    @cached_property
    def store_all(self) -> tuple[int, int]:
        """Arena bytes and FLOPs of plain backpropagation of the whole batch in one pass."""
        lanes = lanes_for(self.architecture, self.batch_size, self.threads)
        chain = network_chain(self.architecture, self.batch_size, lanes=lanes)
        schedule = PLANNERS["store_all"](chain)
        trace = simulate(chain, schedule)
        return pack(chain, schedule, at_best=trace.peak_bytes).arena_bytes, int(trace.flops)

    def at_least(self) -> float:
        """Return what a whole batch costs at least: every forward and backward once."""
        stages = self.timed_chain.stages
        return self.whole_batch(sum(stage.forward + stage.backward for stage in stages))

    def read_budget(self, budget: int | str) -> int:
        """Return a budget in bytes; a share is taken of what storing everything needs.

        A share of activations limits the arena too: Python's objects, which plans need in different numbers, leave
        it no more.
        """
        if not isinstance(budget, str) or "%" not in budget:
            return parse_bytes(budget)
        share, _, rest = budget.partition("%")
        of_activations = rest.split() == ["of", "activations"]
        try:
            fraction = float(share) / 100
        except ValueError:
            fraction = 0.0
        if not 0 < fraction < float("inf") or (rest.strip() and not of_activations):
            raise InputError(
                f'cannot read the budget {budget!r}. Write a share as "50%" (of all that storing everything needs) or '
                '"25% of activations" (all else, and a quarter of its activations).'
            )
        everything = self.make("store_all", {})
        if of_activations:
            self.arena_limit = int(everything.store_all_bytes * fraction)
            return everything.fixed_bytes + self.arena_limit
        return int((everything.fixed_bytes + everything.store_all_bytes) * fraction)

    def fits(self, made: Plan, limit: int | None) -> bool:
        """Say whether a plan keeps a budget, and its arena the share of the activations if there is one."""
        return limit is None or self.taken(made, limit) <= limit

    def has_fitting(self, limit: int) -> bool:
        """Say whether a plan that needs no search keeps the budget."""
        return any(self.fits(made, limit) for made in self.fixed)

    def taken(self, made: Plan, limit: int) -> int:
        """Return the bytes of a plan; if its arena is further above what it may be, so far above the budget."""
        if self.arena_limit is None:
            return made.peak_bytes
        return max(made.peak_bytes, made.arena_bytes - self.arena_limit + limit)

    def candidates(
        self, strategy: str, limit: int | None, *, segments: int | None = None, slots: int | None = None
    ) -> Iterator[Plan]:
        """Yield the plans among which `strategy` chooses."""
        for name, given in (("segments", segments), ("slots", slots)):
            owner = "segments" if name == "segments" else "revolve"
            if given is not None and strategy != owner:
                raise InputError(f'{name}={given} goes with strategy="{owner}"; the strategy is "{strategy}".')
        match strategy:
            case "segments":
                yield from self._segments(segments, limit)
            case "revolve":
                yield from self._revolve(slots, limit)
            case "auto":
                everything = self.fixed[0]
                if limit is None or self.fits(everything, limit):
                    yield everything
                else:
                    yield from self._optimal(limit)
            case "optimal":
                if limit is None:
                    raise InputError('strategy="optimal" needs a budget; without one "store_all" is the cheapest.')
                yield from self._optimal(limit)
            case _:
                yield self.make(strategy, {})

    def _optimal(self, limit: int) -> Iterator[Plan]:
        """Yield the fixed plans, of which one is the least, and the optimal one if that fits.

        Whichever is the cheapest is the answer of this strategy, so but for storing everything all bear its name.
        """
        for made in self._search(limit):
            yield made if made is self.fixed[0] else replace(made, strategy="optimal")

    def _search(self, limit: int) -> Iterator[Plan]:
        """Yield what `_optimal` chooses among."""
        yield from self.fixed
        if not self.has_fitting(limit):
            return
        if self.table_bytes is not None and self.table_bytes < LEAST_TABLES:
            yield from self._revolve(None, limit)
            yield from self._segments(None, limit)
            return
        with suppress(BudgetError):  # packing and Python's objects may leave room for a fixed plan only
            room, taken = self._for_schedules(limit)
            planner = Planner(self.timed_chain, room, self.table_bytes)
            self.bound = self.whole_batch(planner.lower_bound(room))
            optimum = planner.best(room, taken)
            yield self.account(optimum.schedule)
            if optimum.gap == 0 or self.architecture.layers > FEW_LAYERS:
                return
        # What levels and packing may have cost the optimum shall not make it dearer than these.
        yield from self._revolve(None, limit)
        yield from self._segments(None, limit)

    @cached_property
    def fixed(self) -> list[Plan]:
        """Plans that need no search, storing everything first.

        Of short networks every plan of the fixed strategies: their arenas are so small that Python's objects decide.
        """
        plans = [self.make("store_all", {}), replace(self.account(least_memory(self.chain)), strategy="optimal")]
        if self.architecture.layers <= FEW_LAYERS:
            plans += [self.make(name, {}) for name in ("sqrt", "recompute_all")]
        if self.architecture.layers <= VERY_FEW_LAYERS:
            plans += [*self._revolve(None, 0), *self._segments(None, 0)]
        return plans

    @cached_property
    def least(self) -> Plan:
        """The plan of least memory among those that need no search: below it none is looked for."""
        return min(self.fixed, key=lambda made: made.peak_bytes)

    def _for_schedules(self, limit: int) -> tuple[int, Callable[[Schedule], int]]:
        """Return the bytes that a limit leaves to schedules, and what says how many of them a schedule takes.

        That is the arena after packing, and Python's objects for the calls beyond the least.
        """
        least_calls = least_bookkeeping(self.architecture, **self.object_counts())
        made = self.fixed[0]
        beside = made.peak_bytes - made.arena_bytes - made.bookkeeping_bytes + least_calls

        room = limit - beside
        if self.arena_limit is not None:
            room = min(room, self.arena_limit)

        def taken(schedule: Schedule) -> int:
            return self.taken(self.account(schedule), limit) - limit + room

        return room, taken

    def _segments(self, every: int | None, limit: int | None) -> Iterator[Plan]:
        """Yield plans that keep every so-many-th state."""
        if every is None and limit is None:
            raise InputError('strategy="segments" needs segments= (keep every so-many-th state) or a budget.')
        if every is not None:
            yield self.make("segments", {"segments": every})
            return
        stride = 1
        while stride < max(self.architecture.layers, 2):
            yield self.make("segments", {"segments": stride})
            stride += max(1, stride // 4) if self.architecture.layers > VERY_FEW_LAYERS else 1

    def _revolve(self, slots: int | None, limit: int | None) -> Iterator[Plan]:
        """Yield plans with so many kept states; with a budget, the most that fit, of short networks all."""
        if slots is not None:
            yield self.make("revolve", {"slots": slots})
            return
        if limit is None:
            raise InputError('strategy="revolve" needs slots= (states kept besides the batch) or a budget.')
        most = max(self.architecture.layers - 2, 0)
        if most <= VERY_FEW_LAYERS:
            yield from (self.make("revolve", {"slots": slots}) for slots in range(most + 1))
            return
        yield self.make("revolve", {"slots": 0})
        found = most_slots(self.chain, limit, lambda schedule: self.taken(self.account(schedule), limit))
        if found is not None:
            yield replace(self.account(found), strategy="revolve")

    def make(self, strategy: str, options: dict[str, int]) -> Plan:
        """Make the plan of one planner, whatever it takes."""
        return self.account(PLANNERS[strategy](self.chain, **options))

    def account(self, schedule: Schedule) -> Plan:
        """Place a schedule's values and count every byte and FLOP."""
        trace = simulate(self.chain, schedule)
        architecture, item = self.architecture, self.architecture.item_bytes
        program = pack(self.chain, schedule, at_best=trace.peak_bytes)
        largest = max(layer.size for layer in architecture.each_layer)
        several, facts = self.passes > 1, OPTIMIZERS.get(self.optimizer or "")
        gathered = architecture.parameters if not self.fused or several else 0
        shared = largest if several or not gathered else 0
        scratch = min(CHUNK, largest) * facts.scratch if facts else 0
        states = facts.states * architecture.parameters if facts else 0
        store_all_bytes, store_all_flops = self.store_all
        objects = counts(architecture, program, **self.object_counts())
        return Plan(
            architecture=architecture,
            batch_size=self.batch_size,
            micro_batch=self.micro_batch,
            strategy=schedule.planner,
            optimizer=self.optimizer,
            gathered=self.gather,
            rehearsed=self.rehearse,
            schedule=schedule,
            program=program,
            parameter_bytes=architecture.parameters * item,
            gradient_bytes=(gathered + shared) * item,
            optimizer_bytes=(states + scratch) * item,
            optimizer_scratch=scratch,
            arena_bytes=program.arena_bytes,
            batch_bytes=self.batch_buffers + self._row_constants(),
            bookkeeping_bytes=bookkeeping_bytes(objects),
            statistics_bytes=self._statistics * item,
            store_all_bytes=store_all_bytes,
            store_all_flops=store_all_flops,
            forward_runs=trace.forward_runs * self.passes * self._runs,
            flops=round(self._whole_flops(trace.flops)),
            lanes=self.lanes,
            seconds=None if self.costs is None else self.whole_batch(simulate(self.timed_chain, schedule).cost),
        )

    def object_counts(self) -> dict[str, Any]:
        """How often a program of this request is bound, for the account of Python's objects."""
        kinds = min(self.passes, 3)  # the first, those between, and the last are bound apart
        sizes = 2 if self.batch_size % self.micro_batch else 1
        odd = 2 if self.odd_batches else 1
        states = None if self.optimizer is None else OPTIMIZERS[self.optimizer].states
        return {
            "rows": self.micro_batch,
            "lanes": self.lanes,
            "sizes": sizes * odd,
            "passes": kinds * odd,
            "states": states,
        }

    def whole_batch(self, one_pass: float) -> float:
        """Return the cost of a whole batch from that of a pass: linear in rows, and the gradients' sums between."""
        if self.costs is None:
            return self._whole_flops(one_pass)
        sums = (self.passes - 1) * self.architecture.parameters * self.costs.accumulate
        return (one_pass * self.batch_size / self.micro_batch + sums) * self._runs

    def _whole_flops(self, one_pass: float) -> int:
        """Return the FLOPs of a whole batch; those of a pass are a multiple of its rows."""
        sums = (self.passes - 1) * self.architecture.parameters
        return (int(one_pass) * self.batch_size // self.micro_batch + sums) * self._runs

    @property
    def _runs(self) -> int:
        """How often a step runs all its passes."""
        return 2 if self.rehearse else 1

    @cached_property
    def _statistics(self) -> int:
        """Numbers that norms over the batch keep: running ones, for clipping those before, too, and a step's."""
        if self.architecture.couples is None:
            return 0
        kept = sum(layer.entering for layer in self.architecture.each_layer if layer.couples)
        return self.architecture.running * (1 + (self.gather or self.rehearse)) + STATISTICS * kept

    def _row_constants(self) -> int:
        """Bytes of the ones that sum up δ over a batch, and of the row starts that labels are added to."""
        labels = tile_rows(self.micro_batch) * INDEX_BYTES if self.architecture.loss_facts.labels else 0
        return self.micro_batch * self.architecture.item_bytes + labels


def budget_error(bench: Workbench, limit: int, least: Plan, strategy: str, options: Mapping[str, int]) -> BudgetError:
    """Say what was given, what is needed and what would lower it."""
    smallest = min(bench.fixed, key=lambda made: made.arena_bytes)
    if bench.arena_limit is not None and smallest.arena_bytes > bench.arena_limit:
        share = smallest.arena_bytes / smallest.store_all_bytes
        return BudgetError(
            f"{format_bytes(bench.arena_limit)} of activations are less than the {format_bytes(smallest.arena_bytes)} "
            f"that this network needs at batch {bench.batch_size}.",
            budget=limit,
            minimum=least.peak_bytes,
            advice=[Advice("budget", f"{ceil(1000 * share) / 10:g}% of activations")],
        )
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in least.account().items() if size)
    advice: list[Advice | str] = [Advice("budget", ceil_bytes(least.peak_bytes))]
    if strategy not in ("auto", "optimal") and bench.has_fitting(limit):
        advice.append(Advice("strategy", "auto"))
    smaller = _rows_that_fit(bench, limit, strategy, options) if least.fixed_bytes < limit else None
    if smaller:
        advice.append(smaller)
    if bench.optimizer is None:
        advice.append("an optimizer fused into the backward pass, which needs one layer's gradient at a time")
    elif bench.optimizer != "sgd":
        advice.append(Advice("optimizer", "sgd"))
    return BudgetError(
        f"{format_bytes(limit)} is less than the {format_bytes(least.peak_bytes)} ({least.peak_bytes:,} bytes) that "
        f"this network needs at batch {bench.batch_size} ({parts}).",
        budget=limit,
        minimum=least.peak_bytes,
        advice=advice,
    )


def _rows_that_fit(bench: Workbench, limit: int, strategy: str, options: Mapping[str, int]) -> Advice | None:
    """Return the largest power-of-two fraction of a pass (or, with an optimizer, of the batch) that works, if any."""
    rows = bench.micro_batch // 2
    while rows:
        if bench.optimizer is None and not bench.architecture.couples:
            name, smaller = "micro_batch", bench.with_micro_batch(rows)
        else:
            name, smaller = "batch_size", bench.with_batch_size(rows)
        if strategy in ("auto", "optimal"):
            fits = smaller.has_fitting(limit)
        else:
            fits = any(smaller.fits(made, limit) for made in smaller.candidates(strategy, limit, **options))
        if fits:
            return Advice(name, rows)
        rows //= 2
    return None
