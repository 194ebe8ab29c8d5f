"""A planning request as data: what was asked for, checked once, and what follows from it alone. No NumPy."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property

from lowmem.chain import Chain
from lowmem.common.checks import instance, lookup, positive, whole
from lowmem.common.disk import PAGE
from lowmem.common.shards import Shards
from lowmem.errors import InputError
from lowmem.network.architecture import Architecture, architecture_of
from lowmem.network.batch_rows import check_rows
from lowmem.network.tiles import ALIGNMENT
from lowmem.nn.optimizers import OPTIMIZERS
from lowmem.planning.cost_model import CostModel
from lowmem.planning.engines.choice import choose_engine
from lowmem.planning.engines.lane_count import lanes_for
from lowmem.planning.engines.machine import DiskTier
from lowmem.planning.engines.overhead import ObjectCounter
from lowmem.planning.network_chain import network_chain, timed_chain
from lowmem.planning.packing import pack
from lowmem.schedule import PLANNERS, Planner, Schedule, simulate
from lowmem.schedule.streaming import Streaming
from lowmem.units import format_bytes

STRATEGIES = ("auto", *PLANNERS)
"""The strategies that have a name; a planner of one's own or a schedule is a strategy as well."""

OPTION_OF = {"segments": "segments", "slots": "revolve"}
"""Options of planners, with the strategy that each goes with."""

LEAST = {name: 1 for name in ("batch_size", "micro_batch", "segments", "threads", "shards", "ranks")}
LEAST |= {name: 0 for name in ("slots", "table_bytes", "batch_buffers")}
"""The least that each number of a request may be."""

MOST_BYTES = 1 << 50
"""Bytes of states and parameters that no machine has: no plan within a budget is looked for."""

LEAST_ROWS = 16
"""Passes of fewer rows are done only when asked for: products that small run at a fraction of the speed."""


class UpdateMode(Enum):
    """How a step turns gradients into an update.

    NONE: there is no update; the caller takes the gradients. FUSED: each layer is updated right after its backward.
    GATHERED: all gradients are gathered first, as clipping by norm needs. TWO_RUNS: a step is run twice, first for
    the norm of the gradients alone and then with fused updates, which needs one layer's gradient at a time.
    """

    NONE = "none"
    FUSED = "fused"
    GATHERED = "gathered"
    TWO_RUNS = "two runs"

    @property
    def fuses(self) -> bool:
        """Whether each layer is updated right after its backward."""
        return self in (UpdateMode.FUSED, UpdateMode.TWO_RUNS)


@dataclass(frozen=True, slots=True)
class GradientBuffers:
    """Which buffers of gradients a step has.

    all_layers: one with the gradients of all layers. one_layer: one that all layers write to in turn.
    """

    all_layers: bool
    one_layer: bool


@dataclass(frozen=True, slots=True)
class Limit:
    """A budget in bytes.

    arena_bytes: what the arena may take of it, where the budget is a share of the activations. Where Python's objects
    take less than in other plans, the arena does not get the rest.
    """

    bytes: int
    arena_bytes: int | None = None

    def taken(self, peak_bytes: int, arena_bytes: int) -> int:
        """Return the bytes that a plan takes of the limit: the peak.

        If the arena exceeds `arena_bytes` by more than the peak exceeds `bytes`, it is `bytes` and that excess.
        """
        if self.arena_bytes is None:
            return peak_bytes
        return max(peak_bytes, arena_bytes - self.arena_bytes + self.bytes)


@dataclass(frozen=True)
class PlanRequest:
    """What a plan is wanted for. The arguments are those of `lowmem.plan`, which explains them.

    optimizer: its name. own_rule: its class, where that has a rule which only the NumPy engine calls. update: how a
    step updates. budget: as it was given. micro_batch: as it was given; `rows` is what a pass has. engine: as it was
    given, None to choose; it is a name once the request is made. disk: what states may go to, which needs `costs`.
    on_disk: whether the network's parameters lie on a disk; None for an architecture, of which nobody knows.
    streaming: which of parameters and moments are streamed, None where all of them stay in memory.

    Raises `InputError` for numbers and combinations that make no sense.
    """

    architecture: Architecture
    batch_size: int
    micro_batch: int | None = None
    budget: int | str | None = None
    optimizer: str | None = None
    own_rule: str | None = None
    update: UpdateMode = UpdateMode.NONE
    strategy: str | Planner | Schedule = "auto"
    segments: int | None = None
    slots: int | None = None
    costs: CostModel | None = None
    threads: int | None = None
    engine: str | None = None
    table_bytes: int | None = None
    batch_buffers: int = 0
    odd_batches: bool = False
    disk: DiskTier | None = None
    shards: int = 1
    ranks: int = 1
    on_disk: bool | None = False
    streaming: Streaming | None = None

    def __post_init__(self) -> None:
        """Make all numbers plain ints, and refuse what makes no sense."""
        object.__setattr__(self, "architecture", architecture_of(self.architecture))
        for name, least in LEAST.items():
            number = getattr(self, name)
            if number is not None or name in ("batch_size", "batch_buffers", "shards", "ranks"):
                object.__setattr__(self, name, positive(name, number) if least else whole(name, number))
        if not callable(self.strategy) and not isinstance(self.strategy, Schedule):
            lookup("strategy", self.strategy, dict.fromkeys(STRATEGIES))
        engine = choose_engine(self.engine, self.architecture, self.optimizer, self.own_rule)
        object.__setattr__(self, "engine", engine)
        if self.shards > 1 and self.threads is None:
            object.__setattr__(self, "threads", 1)  # the same bits on any machine and for any number of ranks
        self._check_options()
        self._check_shards()
        self._check_passes()
        self._check_size()
        if self.costs is not None:
            instance("costs", self.costs, CostModel, "a cost model, such as lowmem.calibrated() returns")
        if self.costs is not None and self.costs.dtype != self.architecture.dtype:
            raise InputError(f"the cost model is for {self.costs.dtype}, the network is {self.architecture.dtype}.")

    def _check_options(self) -> None:
        for name, owner in OPTION_OF.items():
            number = getattr(self, name)
            if number is not None and self.strategy != owner:
                given = f'"{self.strategy}"' if isinstance(self.strategy, str) else "one of your own"
                raise InputError(f'{name}={number} goes with strategy="{owner}"; the strategy is {given}.')

    def _check_shards(self) -> None:
        couples, rows = self.architecture.couples, self.sharing.most_rows(self.batch_size)
        if self.shards == 1:
            return
        if self.ranks > 1 and not self.optimizer:
            raise InputError(
                f"ranks={self.ranks} exchange gradients, and each has the sums of its own parts alone, which does not "
                "go with a caller who takes them. Give an optimizer."
            )
        if self.shards > self.batch_size:
            raise InputError(
                f"shards={self.shards} are more than batch_size={self.batch_size}; every shard needs a sample."
            )
        if couples:
            raise InputError(
                f"shards={self.shards} would split a batch of {self.batch_size}, but {couples} looks at all samples "
                "of a batch together; leave shards out, or take another norm, such as layer."
            )
        if self.update is UpdateMode.TWO_RUNS:
            raise InputError(
                f"rehearse=True runs a batch in one piece, and shards={self.shards} would split it; gather=True keeps "
                "all gradients with one run."
            )
        if self.micro_batch is not None and self.micro_batch > rows:
            raise InputError(
                f"micro_batch={self.micro_batch} is more than the {rows} rows of a shard "
                f"(batch_size={self.batch_size} in {self.shards} shards); give at most that."
            )

    def _check_passes(self) -> None:
        rows, batch, couples = self.rows, self.batch_size, self.architecture.couples
        if rows > batch:
            raise InputError(f"micro_batch={rows} is more than batch_size={batch}; give at most that.")
        check_rows(self.architecture, batch, "Give batch_size=2 or more, or take another norm.")
        if rows < batch and couples:
            raise InputError(
                f"micro_batch={rows} would split a batch of {batch}, but {couples} looks at all samples of a batch "
                "together; leave micro_batch out, or take another norm."
            )
        if rows < batch and self.update is UpdateMode.TWO_RUNS:
            raise two_runs_error()

    def _check_size(self) -> None:
        size = self.batch_size * sum(self.architecture.widths) * self.architecture.item_bytes
        size += self.architecture.parameters * self.architecture.item_bytes + self.batch_buffers
        if self.budget is not None and size > MOST_BYTES:
            raise InputError(
                f"batch_size={self.batch_size} of this network ({self.architecture}) would take more than "
                f"{format_bytes(MOST_BYTES)}. Lower batch_size or the widths."
            )

    # what follows -------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Rows of a pass; the last pass of a batch may have fewer."""
        return self.sharing.most_rows(self.batch_size) if self.micro_batch is None else self.micro_batch

    @cached_property
    def sharing(self) -> Shards:
        """The shards of a batch, as the first rank sees them."""
        return Shards(self.shards, self.ranks)

    @property
    def passes(self) -> int:
        """Passes per batch, those of all ranks."""
        return self.sharing.passes(self.batch_size, self.rows)

    @property
    def runs(self) -> int:
        """How often a step runs all its passes."""
        return 2 if self.update is UpdateMode.TWO_RUNS else 1

    @property
    def gradient_buffers(self) -> GradientBuffers:
        """Which buffers of gradients a step has.

        With NumPy, several passes need both, one to write to and one for the sums; compiled products add to the sums.
        With shards there is one that all layers write to, and as many of all layers as `shard_slots` says.
        """
        if self.shards > 1:
            return GradientBuffers(self.shard_slots > 0, one_layer=True)
        all_layers = not self.update.fuses or self.passes > 1
        summed = self.passes > 1 and self.engine == "numpy"
        return GradientBuffers(all_layers, one_layer=summed or not all_layers)

    @cached_property
    def shard_slots(self) -> int:
        """How many gradients of all layers are kept while shards are added up; 0 without shards."""
        if self.shards == 1:
            return 0
        several = self.rows < self.sharing.most_rows(self.batch_size)  # passes of a shard, which are added up first
        slots = max(self.sharing.of_rank(rank).slots(self.batch_size) for rank in range(self.ranks))
        return max(slots + several, int(not self.update.fuses and self.ranks == 1))

    @cached_property
    def received(self) -> int:
        """The most numbers that a rank receives of a layer's gradients: its part of every sum."""
        if self.ranks == 1:
            return 0
        sizes = {layer.size for layer in self.architecture.each_layer}
        return self.sharing.piece_count(self.batch_size) * max(map(self.sharing.largest_part, sizes))

    @cached_property
    def own_parameters(self) -> int:
        """The most parameters that a rank updates, and keeps the optimizer's arrays of."""
        return self.sharing.most_parts(layer.size for layer in self.architecture.each_layer)

    @cached_property
    def lanes(self) -> int:
        """Threads that each carry a part of the rows of a pass."""
        return lanes_for(self._engine, self.architecture, self.rows, self.threads)

    @property
    def _engine(self) -> str:
        assert self.engine is not None  # it has been chosen
        return self.engine

    @cached_property
    def objects(self) -> ObjectCounter:
        """The account of Python's objects that NumPy's engine binds for a program of this request."""
        states = None if self.optimizer is None else OPTIMIZERS[self.optimizer].states
        shards, streaming = self.sharing, self.streaming
        return ObjectCounter(
            self.architecture, self.batch_size, self.rows, states, shards, streaming, odd_batches=self.odd_batches
        )

    @cached_property
    def chain(self) -> Chain:
        """The chain of one pass, costs in FLOPs."""
        updates = self.update.fuses or self.ranks > 1
        return self._chain(self.rows, self.lanes, updates=updates, alignment=self.alignment)

    @property
    def alignment(self) -> int:
        """Bytes: places of the arena begin at multiples of this, in each lane. What goes to a disk has whole pages."""
        return PAGE if self.spills else ALIGNMENT

    @property
    def spills(self) -> bool:
        """Whether states may go to a disk."""
        return self.disk is not None and self.disk.states

    def _chain(self, rows: int, lanes: int, *, updates: bool, alignment: int) -> Chain:
        network, shared = self.architecture, updates and self.ranks > 1
        return network_chain(
            network, rows, updates=updates, shared=shared, lanes=lanes, engine=self._engine, alignment=alignment
        )

    @cached_property
    def timed_chain(self) -> Chain:
        """The chain of one pass with the costs that planners minimise: seconds with a cost model, else FLOPs."""
        if self.costs is None:
            return self.chain
        return timed_chain(self.chain, self.architecture, self.rows, self.costs)

    @cached_property
    def store_all(self) -> tuple[int, int]:
        """Arena bytes and FLOPs of plain backpropagation of the whole batch in one pass."""
        lanes = lanes_for(self._engine, self.architecture, self.batch_size, self.threads)
        chain = self._chain(self.batch_size, lanes, updates=False, alignment=ALIGNMENT)
        schedule = PLANNERS["store_all"](chain)
        trace = simulate(chain, schedule)
        return pack(chain, schedule, at_best=trace.peak_bytes).arena_bytes, int(trace.flops)

    @property
    def weighs_passes(self) -> bool:
        """Whether passes of fewer rows are weighed against recomputation."""
        free = self.costs is not None and self.strategy == "auto" and self.micro_batch is None
        return free and not self.architecture.couples and self.update is not UpdateMode.TWO_RUNS

    def weighed(self) -> Iterator["PlanRequest"]:
        """Yield this request; where passes are weighed, also with ever more of half the rows, to `LEAST_ROWS`."""
        request = self
        yield request
        while self.weighs_passes and request.rows >= 2 * LEAST_ROWS:
            request = replace(request, micro_batch=-(-request.rows // 2))
            yield request


def two_runs_error() -> InputError:
    """Return the error of two runs of a step where they save nothing."""
    return InputError(
        "rehearse=True goes with an optimizer whose update is fused and with batches in one pass: else all "
        "gradients are kept anyway, and gather=True does with one run. Leave out rehearse, or micro_batch."
    )
