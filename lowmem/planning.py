"""Planning: what a step will take, byte by byte, before anything is allocated. Imports no NumPy.

A plan is a schedule with addresses (`Program`) and the account of every byte that training will own. `plan` makes the
one asked for, or the cheapest that fits a budget.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from lowmem.architecture import CHUNK, OPTIMIZERS, Architecture, lookup
from lowmem.bookkeeping import bookkeeping_bytes, counts
from lowmem.chain import INDEX_BYTES, Chain, tile_rows
from lowmem.errors import BudgetError, InputError
from lowmem.program import Program, pack
from lowmem.schedule import PLANNERS, Schedule, Trace, simulate
from lowmem.tables import Table
from lowmem.units import ceil_bytes, format_bytes, format_count, parse_bytes

STRATEGIES = ("auto", *PLANNERS)


class Named(Protocol):
    """An optimizer, as far as planning goes: an object with a name."""

    @property
    def name(self) -> str:
        """The optimizer's name."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one step takes and how it is done. Sizes in bytes, costs in FLOPs for one whole batch.

    architecture, batch_size, micro_batch: a batch is run in `micro_batches` passes of at most `micro_batch` rows.
    strategy: the planner, never "auto". optimizer: its name, or None where the caller takes the gradients.
    schedule, program: the ops of one pass, and the same with addresses.
    parameter_bytes, gradient_bytes: arrays shaped like the parameters; of the gradients one layer's where the update
        is fused into the backward pass.
    optimizer_bytes: the optimizer's arrays and scratch, of which scratch `optimizer_scratch` numbers.
    arena_bytes: states, deltas and scratch, packed.
    batch_bytes: constants for each row, and batch buffers that lowmem owns.
    bookkeeping_bytes: Python's objects for bound calls and views, an upper estimate.
    store_all_bytes, store_all_flops: the arena and FLOPs of plain backpropagation for the same batch in one pass.
    forward_runs: layer forwards executed in one step.
    budget: what was asked for, in bytes, if anything.
    """

    architecture: Architecture
    batch_size: int
    micro_batch: int
    strategy: str
    optimizer: str | None
    schedule: Schedule = field(repr=False)
    program: Program = field(repr=False)
    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    optimizer_scratch: int
    arena_bytes: int
    batch_bytes: int
    bookkeeping_bytes: int
    store_all_bytes: int
    store_all_flops: int
    forward_runs: int
    flops: int
    budget: int | None = None

    @property
    def micro_batches(self) -> int:
        """Passes per batch."""
        return -(-self.batch_size // self.micro_batch)

    @property
    def fixed_bytes(self) -> int:
        """Everything but the arena: what no strategy changes."""
        return sum(size for name, size in self.account().items() if name != "activation arena")

    @property
    def peak_bytes(self) -> int:
        """The promise: everything that lowmem allocates for training."""
        return sum(self.account().values())

    @property
    def flop_factor(self) -> float:
        """FLOPs relative to plain backpropagation, which stores everything."""
        return self.flops / self.store_all_flops

    def account(self) -> dict[str, int]:
        """Return where every byte goes: names for people, and bytes."""
        return {
            "parameters": self.parameter_bytes,
            "gradients": self.gradient_bytes,
            "optimizer": self.optimizer_bytes,
            "activation arena": self.arena_bytes,
            "batch": self.batch_bytes,
            "bookkeeping": self.bookkeeping_bytes,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the plan's numbers for JSON, without the list of ops."""
        return {
            "widths": list(self.architecture.widths),
            "activation": self.architecture.activation,
            "loss": self.architecture.loss,
            "dtype": self.architecture.dtype,
            "batch_size": self.batch_size,
            "micro_batch": self.micro_batch,
            "strategy": self.strategy,
            "optimizer": self.optimizer,
            "budget": self.budget,
            "bytes": self.account(),
            "peak_bytes": self.peak_bytes,
            "arena_bytes": self.arena_bytes,
            "store_all_bytes": self.store_all_bytes,
            "forward_runs": self.forward_runs,
            "flops": self.flops,
            "flop_factor": self.flop_factor,
        }

    def table(self) -> Table:
        """Return where every byte goes as a table."""
        hints = {
            "parameters": f"{self.architecture.parameters:,} numbers, {self.architecture.dtype}",
            "gradients": self._gradients_hint(),
            "optimizer": self.optimizer or "none: the caller takes the gradients",
            "activation arena": f"{self.arena_bytes / self.store_all_bytes:.1%} of "
            f"{format_bytes(self.store_all_bytes)} for storing everything",
            "batch": "constants for each row, and buffers of the batch where lowmem owns them",
            "bookkeeping": "bound calls and views",
        }
        rows = [[name, format_bytes(size), hints[name]] for name, size in self.account().items()]
        total = f"of a budget of {format_bytes(self.budget)}" if self.budget else "no budget given"
        rows.append(["peak, promised", format_bytes(self.peak_bytes), total])
        passes = f" in {self.micro_batches} passes of {self.micro_batch}" if self.micro_batches > 1 else ""
        note = (
            f"strategy {self.strategy}: {self.forward_runs:,} layer forwards a step "
            f"({self.architecture.layers * self.micro_batches:,} without recomputation), "
            f"{format_count(self.flops)}FLOP, {self.flop_factor:.3f} times those of storing everything"
        )
        return Table(f"{self.architecture}\nbatch {self.batch_size}{passes}", ["where", "bytes", "what"], rows, note)

    def _gradients_hint(self) -> str:
        if self.optimizer is None:
            return "of all layers"
        if self.micro_batches > 1:
            return "of all layers, summed over the passes, and one layer's"
        return "of one layer: each is updated right after its backward"

    def __str__(self) -> str:
        """Say where every byte goes, and what the plan costs."""
        return str(self.table())


def plan(
    architecture: Architecture,
    batch_size: int,
    budget: int | str | None = None,
    optimizer: str | Named | None = None,
    strategy: str = "auto",
    *,
    micro_batch: int | None = None,
    segments: int | None = None,
    slots: int | None = None,
    batch_buffers: int = 0,
    odd_batches: bool = False,
) -> Plan:
    """Plan one training step.

    architecture: the network. batch_size: rows of a batch.
    budget: bytes for everything that lowmem allocates: a number, text such as "24MiB", "50%" of what storing
        everything needs, or "25% of activations": all else and that share of the activations of storing everything.
    optimizer: a name or an optimizer whose update is to be fused into the backward pass; None to get gradients.
    strategy: "auto", the cheapest that fits (storing everything if there is no budget), or a planner's name.
    micro_batch: run a batch in passes of that many rows, their gradients summed up.
    segments: for "segments", keep every so-many-th state. slots: for "revolve", states kept besides the batch. Left
        out, the cheapest that fits the budget is taken.
    batch_buffers: bytes of batch buffers that the caller owns on lowmem's account (the trainer does).
    odd_batches: some batches will have fewer rows than batch_size; their calls are bound, and counted, apart.

    Returns a `Plan`. Raises `BudgetError` if nothing fits, with the least budget that works; `InputError` for numbers
    or names that make no sense.
    """
    bench = Workbench(architecture, batch_size, optimizer_name(optimizer), micro_batch, batch_buffers, odd_batches)
    limit = None if budget is None else bench.read_budget(budget)
    lookup("strategy", strategy, dict.fromkeys(STRATEGIES))
    if strategy == "auto" and limit is None:
        strategy = "store_all"
    best: Plan | None = None
    least: Plan | None = None
    for made in bench.candidates(strategy, limit, segments=segments, slots=slots):
        if least is None or made.peak_bytes < least.peak_bytes:
            least = made
        fits = limit is None or made.peak_bytes <= limit
        if fits and (best is None or (made.flops, made.peak_bytes) < (best.flops, best.peak_bytes)):
            best = made
    if best is not None:
        return replace(best, budget=limit)
    assert least is not None
    assert limit is not None
    raise _budget_error(bench, limit, least, strategy)


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
    ) -> None:
        self.architecture = architecture
        self.batch_size = positive("batch_size", batch_size)
        self.micro_batch = self.batch_size if micro_batch is None else positive("micro_batch", micro_batch)
        if self.micro_batch > self.batch_size:
            raise InputError(f"micro_batch={micro_batch} is more than batch_size={batch_size}; give at most that.")
        self.optimizer = optimizer
        self.batch_buffers = batch_buffers
        self.odd_batches = odd_batches

    @property
    def passes(self) -> int:
        """Passes per batch."""
        return -(-self.batch_size // self.micro_batch)

    @cached_property
    def chain(self) -> Chain:
        """The chain of one pass."""
        return Chain.of(self.architecture, self.micro_batch, updates=self.optimizer is not None)

    @cached_property
    def store_all(self) -> tuple[int, int]:
        """Arena bytes and FLOPs of plain backpropagation of the whole batch in one pass."""
        chain = Chain.of(self.architecture, self.batch_size)
        schedule = PLANNERS["store_all"](chain)
        trace = simulate(chain, schedule)
        return pack(chain, schedule, at_best=trace.peak_bytes).arena_bytes, int(trace.flops)

    def read_budget(self, budget: int | str) -> int:
        """Return a budget in bytes; a share is taken of what storing everything needs."""
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
            return everything.fixed_bytes + int(everything.store_all_bytes * fraction)
        return int((everything.fixed_bytes + everything.store_all_bytes) * fraction)

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
                yield from self._automatic(limit)
            case _:
                yield self.make(strategy, {})

    def _automatic(self, limit: int | None) -> Iterator[Plan]:
        """Yield what may be the cheapest plan that fits, dear ones first where one of them ends the search."""
        everything = self.make("store_all", {})
        yield everything
        if limit is None or everything.peak_bytes <= limit:
            return
        yield from self._revolve(None, limit)
        if len({stage.state_bytes for stage in self.chain.stages[:-1]}) > 1:
            # Among equal sizes revolve is never beaten; among others it may be.
            yield from (self.make(name, {}) for name in ("sqrt", "recompute_all"))
            yield from self._segments(None, limit)

    def _segments(self, every: int | None, limit: int | None) -> Iterator[Plan]:
        """Yield plans that keep every so-many-th state."""
        if every is None and limit is None:
            raise InputError('strategy="segments" needs segments= (keep every so-many-th state) or a budget.')
        if every is not None:
            yield self.make("segments", {"segments": every})
            return
        stride = 1
        while stride < self.architecture.layers:
            yield self.make("segments", {"segments": stride})
            stride += max(1, stride // 4)

    def _revolve(self, slots: int | None, limit: int | None) -> Iterator[Plan]:
        """Yield plans with so many kept states; with a budget, search the most that fit."""
        if slots is not None:
            yield self.make("revolve", {"slots": slots})
            return
        if limit is None:
            raise InputError('strategy="revolve" needs slots= (states kept besides the batch) or a budget.')
        low, high = 0, max(self.architecture.layers - 2, 0)
        least = self.make("revolve", {"slots": 0})
        yield least
        # Where all states have one size the first guess is exact; elsewhere the search is a bisection from there.
        largest = max(stage.state_bytes for stage in self.chain.stages)
        guess = (limit - least.peak_bytes) // largest
        while low < high:
            middle = min(max(guess, low + 1), high)
            made = self.make("revolve", {"slots": middle})
            yield made
            if made.peak_bytes <= limit:
                low, guess = middle, (middle + 1 if middle == guess else (middle + high + 1) // 2)
            else:
                high, guess = middle - 1, (low + middle) // 2

    def make(self, strategy: str, options: dict[str, int]) -> Plan:
        """Make the plan of one planner, whatever it takes."""
        schedule = PLANNERS[strategy](self.chain, **options)
        return self.account(schedule, simulate(self.chain, schedule))

    def account(self, schedule: Schedule, trace: Trace) -> Plan:
        """Place a schedule's values and count every byte and FLOP."""
        architecture, item = self.architecture, self.architecture.item_bytes
        program = pack(self.chain, schedule, at_best=trace.peak_bytes)
        largest = max(architecture.layer_parameters(layer) for layer in range(1, architecture.layers + 1))
        several, facts = self.passes > 1, OPTIMIZERS.get(self.optimizer or "")
        gathered = architecture.parameters if self.optimizer is None or several else 0
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
            schedule=schedule,
            program=program,
            parameter_bytes=architecture.parameters * item,
            gradient_bytes=(gathered + shared) * item,
            optimizer_bytes=(states + scratch) * item,
            optimizer_scratch=scratch,
            arena_bytes=program.arena_bytes,
            batch_bytes=self.batch_buffers + self._row_constants(),
            bookkeeping_bytes=bookkeeping_bytes(objects),
            store_all_bytes=store_all_bytes,
            store_all_flops=store_all_flops,
            forward_runs=trace.forward_runs * self.passes,
            flops=self._flops(trace),
        )

    def object_counts(self) -> dict[str, Any]:
        """How often a program of this request is bound, for the account of Python's objects."""
        kinds = min(self.passes, 3)  # the first, those between, and the last are bound apart
        sizes = 2 if self.batch_size % self.micro_batch else 1
        odd = 2 if self.odd_batches else 1
        states = None if self.optimizer is None else OPTIMIZERS[self.optimizer].states
        return {"rows": self.micro_batch, "sizes": sizes * odd, "passes": kinds * odd, "states": states}

    def _flops(self, trace: Trace) -> int:
        """FLOPs of a whole batch: costs are linear in rows, so passes of any sizes sum up to the batch's."""
        per_row = int(trace.flops) // self.micro_batch
        return per_row * self.batch_size + (self.passes - 1) * self.architecture.parameters

    def _row_constants(self) -> int:
        """Bytes of the ones that sum up δ over a batch, and of the row starts that labels are added to."""
        labels = tile_rows(self.micro_batch) * INDEX_BYTES if self.architecture.loss_facts.labels else 0
        return self.micro_batch * self.architecture.item_bytes + labels


def optimizer_name(optimizer: str | Named | None) -> str | None:
    """Return the name of an optimizer given as None, a name, or an object with a `name`."""
    if optimizer is None:
        return None
    name = optimizer if isinstance(optimizer, str) else str(getattr(optimizer, "name", optimizer))
    lookup("optimizer", name, OPTIMIZERS)
    return name


def positive(name: str, number: object) -> int:
    """Return a positive whole number as an int, or raise `InputError`."""
    if isinstance(number, bool) or not hasattr(number, "__index__") or number.__index__() < 1:
        raise InputError(f"{name} must be a positive whole number; got {number!r}.")
    return int(number.__index__())


def _budget_error(bench: Workbench, limit: int, least: Plan, strategy: str) -> BudgetError:
    """Say what was given, what is needed and what would lower it."""
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in least.account().items() if size)
    advice = [f'budget="{ceil_bytes(least.peak_bytes)}"']
    if strategy not in ("auto", "recompute_all"):
        advice.append('strategy="auto"')
    smaller = _batch_that_fits(bench, limit) if least.fixed_bytes < limit else None
    if smaller:
        advice.append(f"batch_size={smaller}")
    if bench.optimizer not in (None, "sgd"):
        advice.append('optimizer="sgd"')
    if bench.optimizer is None:
        advice.append("an optimizer fused into the backward pass, which needs one layer's gradient at a time")
    return BudgetError(
        f"{format_bytes(limit)} is less than the {format_bytes(least.peak_bytes)} ({least.peak_bytes:,} bytes) that "
        f"this network needs at batch {bench.batch_size} ({parts}). Try {' or '.join(advice)}.",
        budget=limit,
        minimum=least.peak_bytes,
    )


def _batch_that_fits(bench: Workbench, limit: int) -> int | None:
    """Return the largest power-of-two fraction of the batch that works, if one does."""
    batch = bench.batch_size // 2
    while batch:
        smaller = Workbench(bench.architecture, batch, bench.optimizer, None, bench.batch_buffers, bench.odd_batches)
        if smaller.make("recompute_all", {}).peak_bytes <= limit:
            return batch
        batch //= 2
    return None
