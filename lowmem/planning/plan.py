"""The plan of a training step: where every byte goes, what it costs, and how it is done. Pure data, no NumPy."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from lowmem.common.shards import Shards
from lowmem.common.tables import Table
from lowmem.network.architecture import Architecture
from lowmem.network.tiles import ALIGNMENT
from lowmem.planning.packing import Program
from lowmem.planning.request import GradientBuffers, UpdateMode
from lowmem.schedule import Schedule
from lowmem.schedule.streaming import Streaming
from lowmem.units import format_bytes, format_count, format_seconds

T = TypeVar("T", covariant=True)

LABELS: Mapping[str, str] = MappingProxyType(
    {
        "parameters": "parameters",
        "gradients": "gradients",
        "optimizer": "optimizer",
        "arena": "activation arena",
        "batch": "batch",
        "overhead": "overhead",
        "statistics": "statistics",
    }
)
"""The name of every entry of an account in tables and messages."""

JSON_KEYS: Mapping[str, str] = MappingProxyType({**LABELS, "overhead": "bookkeeping"})
"""The name of every entry of an account in JSON, which stays as it has always been."""


@dataclass(frozen=True, slots=True)
class Account(Generic[T]):
    """Where every byte goes. In a plan every entry is a number; in a measurement None stands for what is not known.

    parameters, gradients: arrays shaped like the parameters. optimizer: its arrays and scratch.
    arena: states, deltas and scratch of the layers. batch: constants for each row, and buffers of the batch.
    overhead: Python's objects for bound calls and views, or the compiled engine's program.
    statistics: those of norms over the batch.
    """

    parameters: T
    gradients: T
    optimizer: T
    arena: T
    batch: T
    overhead: T
    statistics: T

    @property
    def total(self: "Account[int | None]") -> int:
        """The sum of all entries that are known."""
        return sum(size for _, size in self._entries() if size is not None)

    def arrays(self: "Account[int | None]") -> "Account[int | None]":
        """Return the account of arrays alone: the overhead, which no array shows, is not known."""
        return replace(self, overhead=None)

    def items(self) -> Iterator[tuple[str, T]]:
        """Yield (label, entry) for all entries; statistics only where there are some."""
        return ((LABELS[name], size) for name, size in self._entries())

    def to_dict(self: "Account[int | None]") -> dict[str, int]:
        """Return the entries that are known, by their names in JSON; `from_dict` reads them."""
        return {JSON_KEYS[name]: size for name, size in self._entries() if size is not None}

    @staticmethod
    def from_dict(sizes: Mapping[str, int]) -> "Account[int | None]":
        """Return the account that `to_dict` wrote. What it does not name is not known, but for statistics: none."""
        known: dict[str, Any] = {name: sizes.get(key) for name, key in JSON_KEYS.items()}
        return Account(**known | {"statistics": sizes.get("statistics", 0)})

    def _entries(self) -> Iterator[tuple[str, T]]:
        for entry in fields(self):
            size = getattr(self, entry.name)
            if size or entry.name != "statistics":
                yield entry.name, size


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one step takes and how it is done. Sizes in bytes, costs in FLOPs for one whole batch.

    architecture, batch_size, micro_batch: a batch is run in `micro_batches` passes of at most `micro_batch` rows.
    strategy: the planner, never "auto". optimizer: its name, or None where the caller takes the gradients.
    update: how a step updates. gradient_buffers: which buffers of gradients it has.
    schedule, program: the ops of one pass, and the same ops with addresses.
    parameter_bytes, gradient_bytes, optimizer_bytes, arena_bytes, batch_bytes, overhead_bytes, statistics_bytes:
        where every byte goes, as `Account` explains.
    optimizer_scratch: how many numbers of the optimizer's bytes are scratch.
    store_all_bytes, store_all_flops: the arena and FLOPs of plain backpropagation for the same batch in one pass.
    forward_runs: layer forwards executed in one step.
    engine: what carries the plan out, "native" or "numpy"; its bytes are counted.
    lanes: threads of the compiled engine that each carry a part of the rows of a pass; 1 with NumPy.
    threads: the most threads that a step may use, as asked for; None leaves it to the machine.
    seconds: predicted for one step, without the update, where the plan was made with a cost model.
    disk: the folder of the disk that the plan may use, None without one: there is the file that states are written to
        in each pass and read back from, and those with what is streamed.
    disk_bytes: of that file, of the network's own if it lives on a disk, and of those with what is streamed; 0 without
        files. disk_written, disk_read: bytes moved in one step.
    alignment: bytes: places of the arena begin at multiples of this, in each lane.
    on_disk: whether the network lives on a disk, whether its parameters are streamed or not.
    streaming: which of parameters and optimizer's arrays lie on the disk, each layer's fetched for its use and let go
        of behind it; None where all are in memory.
    lower_bound: the least cost of any schedule whose checkpoints stay, within the budget, where that is known.
    budget: what was asked for, in bytes, if anything.
    shards: a batch is cut in that many shards, whose gradients are added up along a tree.
    shard_slots: how many gradients of all layers are kept for that.
    ranks: processes that share the shards; the bytes are those of one, work is that of all.
    received: the most numbers that a rank receives of a layer's gradients at a time.
    """

    architecture: Architecture
    batch_size: int
    micro_batch: int
    strategy: str
    optimizer: str | None
    update: UpdateMode
    gradient_buffers: GradientBuffers
    schedule: Schedule = field(repr=False)
    program: Program = field(repr=False)
    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    optimizer_scratch: int
    arena_bytes: int
    batch_bytes: int
    overhead_bytes: int
    statistics_bytes: int
    store_all_bytes: int
    store_all_flops: int
    forward_runs: int
    flops: int
    engine: str
    lanes: int = 1
    threads: int | None = None
    seconds: float | None = None
    disk: str | None = None
    disk_bytes: int = 0
    disk_written: int = 0
    disk_read: int = 0
    lower_bound: float | None = None
    budget: int | None = None
    shards: int = 1
    shard_slots: int = 0
    ranks: int = 1
    received: int = 0
    streaming: Streaming | None = None
    on_disk: bool = False
    alignment: int = ALIGNMENT

    @property
    def micro_batches(self) -> int:
        """Passes per batch, those of all ranks."""
        return self.sharing.passes(self.batch_size, self.micro_batch)

    @property
    def sharing(self) -> Shards:
        """The shards of a batch, as the first rank sees them."""
        return Shards(self.shards, self.ranks)

    @property
    def fixed_bytes(self) -> int:
        """Everything but the arena, which is what a strategy changes."""
        return self.peak_bytes - self.arena_bytes

    @property
    def peak_bytes(self) -> int:
        """The promise: everything that lowmem allocates for training."""
        return self.account().total

    @property
    def flop_factor(self) -> float:
        """FLOPs relative to plain backpropagation, which stores everything."""
        return self.flops / self.store_all_flops

    @property
    def cost(self) -> float:
        """What the planner minimised: predicted seconds with a cost model, else FLOPs."""
        return self.flops if self.seconds is None else self.seconds

    @property
    def disk_traffic(self) -> int:
        """Bytes that one step writes to the disk and reads back, added up."""
        return self.disk_written + self.disk_read

    @property
    def streams(self) -> tuple[bool, bool]:
        """Whether parameters are streamed, and whether the optimizer's arrays are."""
        return (False, False) if self.streaming is None else (self.streaming.parameters, self.streaming.moments)

    @property
    def gap(self) -> float | None:
        """The most by which the cost can be above the optimum, relative to the cost; None where no bound is known."""
        return None if self.lower_bound is None else max(0.0, 1 - self.lower_bound / self.cost)

    @property
    def gathered(self) -> bool:
        """Whether an update waits for the gradients of all layers, as clipping by norm needs."""
        return self.update is UpdateMode.GATHERED

    @property
    def rehearsed(self) -> bool:
        """Whether a step is run twice, first for the norm of the gradients alone."""
        return self.update is UpdateMode.TWO_RUNS

    def account(self) -> Account[int]:
        """Return where every byte goes."""
        return Account(
            parameters=self.parameter_bytes,
            gradients=self.gradient_bytes,
            optimizer=self.optimizer_bytes,
            arena=self.arena_bytes,
            batch=self.batch_bytes,
            overhead=self.overhead_bytes,
            statistics=self.statistics_bytes,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan's numbers for JSON, without the list of ops."""
        return {
            **self.architecture.to_dict(),
            "batch_size": self.batch_size,
            "micro_batch": self.micro_batch,
            "strategy": self.strategy,
            "optimizer": self.optimizer,
            "engine": self.engine,
            "lanes": self.lanes,
            "shards": self.shards,
            "ranks": self.ranks,
            "update": self.update.value,
            "gathered": self.gathered,
            "rehearsed": self.rehearsed,
            "budget": self.budget,
            "bytes": self.account().to_dict(),
            "peak_bytes": self.peak_bytes,
            "arena_bytes": self.arena_bytes,
            "store_all_bytes": self.store_all_bytes,
            "forward_runs": self.forward_runs,
            "flops": self.flops,
            "flop_factor": self.flop_factor,
            "seconds": self.seconds,
            "disk": self.disk,
            "disk_bytes": self.disk_bytes,
            "disk_written": self.disk_written,
            "disk_read": self.disk_read,
            "streamed": None if self.streaming is None else asdict(self.streaming),
            "lower_bound": self.lower_bound,
            "gap": self.gap,
        }

    def table(self) -> Table:
        """Return where every byte goes as a table."""
        arena = f"{self.arena_bytes / self.store_all_bytes:.1%} of {format_bytes(self.store_all_bytes)}"
        hints = Account(
            parameters=self._parameters_hint(),
            gradients=self._gradients_hint(),
            optimizer=self._optimizer_hint(),
            arena=f"{arena} for storing everything",
            batch="constants for each row, and buffers of the batch where lowmem owns them",
            overhead=("Python's objects: bound calls and views" if self.engine == "numpy" else "the compiled program")
            + (", and threads for the disk" if self.streaming is not None else ""),
            statistics="of norms over the batch: running ones, and those of a step",
        )
        rows = [
            [label, format_bytes(size), hint]
            for (label, size), (_, hint) in zip(self.account().items(), hints.items(), strict=False)
        ]
        total = f"of a budget of {format_bytes(self.budget)}" if self.budget else "no budget given"
        rows.append(["peak, promised", format_bytes(self.peak_bytes), total])
        if self.disk_bytes:
            moved = f"{format_bytes(self.disk_written)} written and {format_bytes(self.disk_read)} read a step"
            rows.append(["on the disk", format_bytes(self.disk_bytes), f"{self._on_disk()}, in {self.disk}: {moved}"])
        passes = f" in {self.micro_batches} passes of {self.micro_batch}" if self.micro_batches > self.shards else ""
        if self.shards > 1:
            passes = f" in {self.shards} shards of {self.sharing.most_rows(self.batch_size)}{passes}"
        if self.ranks > 1:
            passes += f", {self.ranks} ranks, bytes of one"
        passes += f", {self.engine} engine" + (f", {self.lanes} threads" if self.lanes > 1 else "")
        proof = ""
        if self.gap is not None:
            proof = ", proven optimal" if self.gap < 1e-9 else f", at most {self.gap:.2%} above the optimum"
        timed = "" if self.seconds is None else f", {format_seconds(self.seconds)} predicted"
        note = (
            f"strategy {self.strategy}: {self.forward_runs:,} layer forwards a step "
            f"({self.architecture.layers * self.micro_batches:,} without recomputation), "
            f"{format_count(self.flops)}FLOP, {self.flop_factor:.3f} times those of storing everything{timed}{proof}"
        )
        return Table(f"{self.architecture}\nbatch {self.batch_size}{passes}", ["where", "bytes", "what"], rows, note)

    def _on_disk(self) -> str:
        """Say what lies on the disk."""
        there = (self.program.disk_bytes, "states"), (self.on_disk, "parameters"), (self.streams[1], "moments")
        names = [name for is_there, name in there if is_there]
        return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))

    def _parameters_hint(self) -> str:
        whole = f"{self.architecture.parameters:,} numbers, {self.architecture.dtype}"
        return f"of {whole}: those of the layers at hand" if self.streams[0] else whole

    def _optimizer_hint(self) -> str:
        if self.optimizer is None:
            return "none: the caller takes the gradients"
        if self.streams[1]:
            return f"{self.optimizer}: arrays of the layers at hand"
        return self.optimizer if self.ranks == 1 else f"{self.optimizer}, of the parts that a rank updates"

    def _gradients_hint(self) -> str:
        if self.optimizer is None and self.shards == 1:
            return "of all layers"
        if self.gathered and self.ranks == 1:
            return "of all layers, gathered before the update"
        if self.rehearsed:
            return "of one layer: each is updated in the second run of a step, the first one takes the norm"
        if self.shards > 1:
            kept = f"{self.shard_slots} sums of all layers and " if self.shard_slots else ""
            if self.ranks > 1:
                parts = ", and a rank's parts of all, gathered before the update" if self.gathered else ""
                return f"{kept}those of some layers that travel, sent and received{parts}"
            return f"{kept}one layer's: shards are added up along a tree"
        if self.micro_batches > 1:
            return "of all layers, summed over the passes, and one layer's"
        return "of one layer: each is updated right after its backward"

    def __str__(self) -> str:
        """Say where every byte goes, and what the plan costs."""
        return str(self.table())
