"""Planning: what a step will take, byte by byte, before anything is allocated. Imports no NumPy.

`plan` makes the plan that was asked for, or the cheapest that fits a budget.
"""

from dataclasses import replace
from math import inf
from os import PathLike
from typing import Any, Protocol, TypedDict, Unpack

from lowmem.common.checks import lookup, positive, truth
from lowmem.network.architecture import AnyNetwork, Architecture, architecture_of
from lowmem.nn.optimizers import OPTIMIZERS
from lowmem.nn.penalty import own_rule
from lowmem.planning.accounting import least_cost
from lowmem.planning.budget import budget_error, read_limit
from lowmem.planning.candidates import Candidates
from lowmem.planning.cost_model import CostModel
from lowmem.planning.engines.choice import choose_engine
from lowmem.planning.engines.machine import DiskTier, disk_tier, measured_costs
from lowmem.planning.plan import Plan
from lowmem.planning.request import STRATEGIES, PlanRequest, UpdateMode, two_runs_error
from lowmem.planning.streamed import check_disk_limit, in_memory, variants
from lowmem.schedule import Planner, Schedule

__all__ = ["STRATEGIES", "Named", "optimizer_name", "plan", "plan_for"]


NEARLY = 1.02
"""Ratio of a plan's cost to the least cost up to which no others are made that stream parameters or moments."""


class Named(Protocol):
    """An optimizer, as far as planning goes: an object with a name."""

    @property
    def name(self) -> str:
        """The optimizer's name."""


def plan(
    architecture: AnyNetwork,
    batch_size: int,
    budget: int | str | None = None,
    optimizer: str | Named | None = None,
    strategy: str | Planner | Schedule = "auto",
    *,
    micro_batch: int | None = None,
    segments: int | None = None,
    slots: int | None = None,
    batch_buffers: int = 0,
    odd_batches: bool = False,
    costs: CostModel | None = None,
    threads: int | None = None,
    engine: str | None = None,
    gather: bool = False,
    table_bytes: int | None = None,
    rehearse: bool = False,
    disk: str | PathLike[str] | DiskTier | None = None,
    disk_limit: int | str | None = None,
    shards: int = 1,
    ranks: int = 1,
) -> Plan:
    """Plan one training step.

    architecture: the network: an `Architecture`, an `MLP`, or widths such as (64, 256, 10).
    batch_size: rows of a batch.
    budget: bytes for everything that lowmem allocates: a number, text such as "24MiB", "50%" of what storing
        everything needs, or "25% of activations": all else and that share of the activations of storing everything.
    optimizer: a name or an optimizer whose update is to be fused into the backward pass; None to get gradients.
    strategy: "auto", the cheapest that fits (storing everything if there is no budget); a planner's name; a planner of
        your own, which is a function of a `Chain` that returns a `Schedule`; or a `Schedule`. The last two are
        checked by the simulator. A function gets the chain of one pass of the network.
    micro_batch: run a batch in passes of that many rows, their gradients summed up. Left out, it is one pass, or with
        a cost model as many as are quickest.
    segments: for "segments", keep every so-many-th state. Left out, the cheapest that fits the budget is taken.
    slots: for "revolve", states kept besides the batch. Left out, the cheapest that fits the budget is taken.
    batch_buffers: bytes of batch buffers that the caller owns on lowmem's account (the trainer does).
    odd_batches: some batches will have fewer rows than batch_size; their calls are bound, and counted, apart.
    costs: a cost model (`lowmem.calibrated()`): "auto" then minimises predicted seconds in place of FLOPs, and
        weighs passes of fewer rows against recomputation. By FLOPs alone small passes would always win.
    threads: the most threads that a step may use, BLAS included: lanes of the compiled engine, or BLAS's own with
        NumPy. Left out, as many as cores, cgroup and environment allow, and fewer where products are small. Bits and
        bytes depend on it.
    engine: "native", the compiled engine, or "numpy". Left out, LOWMEM_ENGINE in the environment, or else the
        compiled engine where it is there and knows all that the network and the optimizer are made of: an optimizer
        of your own runs with NumPy. Bits and bytes depend on it.
    gather: keep the gradients of all layers until the backward is done, and update then (clipping by norm needs it).
    table_bytes: what the tables of planning itself may take for a moment, where that is less than usual.
    rehearse: run each step twice, first without any update, which clipping by norm can use instead of `gather`: twice
        the compute, and one layer's gradient at a time.
    disk: a folder on a disk. Where the budget is less than what storing everything needs, states may go to a file
        there in each pass and come back from it, if that is quicker than making them again. The optimizer's arrays may
        lie there too, and the parameters of a network made with `lowmem.MLP(arch, disk=)`: each layer's are then
        fetched for its use and let go of behind it. For an architecture, parameters are streamed only if nothing else
        fits. How fast the disk and the machine are is measured at the first use, in a few seconds, and remembered. It
        goes with the strategy "auto", or, for states, with a schedule of your own. Left out, nothing is written.
    disk_limit: the bytes that the files may take, with that of a network which lives on a disk. Left out, as many as
        are free.
    shards: cut each batch in that many shards, as even as can be, which run one after the other, or on several ranks.
        Their gradients are added up along one binary tree, so that the bits depend on `shards` and not on who
        computes which shard. A shard runs on one thread unless `threads` says more.
    ranks: processes that share the shards of a batch (`lowmem.distributed`); it must divide `shards`. The plan is that
        of one rank: its bytes are those of the rank that needs the most.

    Returns a `Plan`, whose `update` says how a step updates. Raises `BudgetError` if nothing fits, with the least
    budget that works; `ScheduleError` for a schedule that does not reverse the network; `InputError` for numbers or
    names that make no sense.

    >>> import lowmem as lm
    >>> arch = lm.Architecture(widths=(64, *[128] * 50, 10))
    >>> plan = lm.plan(arch, batch_size=512, budget="50%")
    >>> plan.strategy, plan.peak_bytes <= plan.budget
    ('optimal', True)
    >>> plan.forward_runs > arch.layers  # some layers are run again
    True
    """
    request = request_of(
        architecture,
        batch_size,
        budget,
        optimizer,
        strategy=strategy,
        micro_batch=micro_batch,
        segments=segments,
        slots=slots,
        batch_buffers=batch_buffers,
        odd_batches=odd_batches,
        costs=costs,
        threads=threads,
        engine=engine,
        gather=gather,
        table_bytes=table_bytes,
        rehearse=rehearse,
        disk=disk,
        disk_limit=disk_limit,
        shards=shards,
        ranks=ranks,
    )
    return plan_for(request)


class PlanOptions(TypedDict, total=False):
    """The keywords of `plan`, which explains them. Questions about plans take them all."""

    strategy: str | Planner | Schedule
    micro_batch: int | None
    segments: int | None
    slots: int | None
    batch_buffers: int
    odd_batches: bool
    costs: CostModel | None
    threads: int | None
    engine: str | None
    gather: bool
    table_bytes: int | None
    rehearse: bool
    disk: str | PathLike[str] | DiskTier | None
    disk_limit: int | str | None
    shards: int
    ranks: int


def request_of(
    architecture: AnyNetwork,
    batch_size: int,
    budget: int | str | None,
    optimizer: str | Named | None,
    **options: Unpack[PlanOptions],
) -> PlanRequest:
    """Return the request that the arguments of `plan` stand for. Raises `InputError` for what makes no sense."""
    chosen: dict[str, Any] = {"costs": None, "engine": None, "micro_batch": None, **options}
    name, network = optimizer_name(optimizer), architecture_of(architecture)
    on_disk = None if architecture is network else getattr(architecture, "paged", None) is not None
    tier = disk_tier(chosen.pop("disk", None), chosen.pop("disk_limit", None))
    gather, rehearse = (truth(mode, chosen.pop(mode, False)) for mode in ("gather", "rehearse"))
    update = update_mode(name, gather=gather, rehearse=rehearse)
    request = PlanRequest(
        architecture=network,
        batch_size=batch_size,
        budget=budget,
        optimizer=name,
        own_rule=own_rule(optimizer),
        update=update,
        on_disk=on_disk,
        **with_costs(chosen, tier, network, name, batch_size),
    )
    check_disk_limit(request)
    return request


def with_costs(
    options: dict[str, Any],
    disk: DiskTier | None,
    architecture: Architecture,
    optimizer: str | Named | None,
    batch_size: int,
) -> dict[str, Any]:
    """Return keywords of `plan` with a disk, and with the costs of this machine if they have none.

    Passes are weighed only where costs were given: with costs that a disk asks for, a batch stays in one pass, or each
    of its shards does.
    """
    if disk is None or options["costs"] is not None:
        return options | {"disk": disk}
    costs = measured_costs(
        architecture.dtype, choose_engine(options["engine"], architecture, optimizer_name(optimizer))
    )
    rows, shards = options["micro_batch"], positive("shards", options.get("shards", 1))
    if rows is None:
        rows = batch_size if shards == 1 else -(-positive("batch_size", batch_size) // shards)
    return options | {"disk": disk, "costs": costs, "micro_batch": rows}


def plan_for(request: PlanRequest) -> Plan:
    """Return the cheapest plan for a request, of those that its strategy chooses among and its budget has room for.

    Raises `BudgetError` if none fits.
    """
    limit = read_limit(request)
    if request.strategy == "auto" and limit is None:
        request = replace(request, strategy="store_all")
    best: Plan | None = None
    tried: list[Candidates] = []
    bound = inf  # of all passes that were weighed
    for variant in variants(request):
        least = least_cost(variant)
        if best is not None and least >= best.cost:
            continue  # no plan in passes of so many rows can win; in passes of fewer rows one may
        if best is not None and variant.streaming is not None:
            if variant.streaming.parameters and variant.on_disk is None and not best.streams[0]:
                continue  # the network may well be in memory
            if best.cost <= NEARLY * least:
                bound = min(bound, least)
                continue
        candidates = Candidates(variant, limit)
        tried.append(candidates)
        if variant.streaming is not None and limit is not None and sum(in_memory(variant)) > limit.bytes:
            continue  # nothing needs to be searched for
        for candidate in candidates:
            if candidates.fits(candidate) and (best is None or _worth(candidate) < _worth(best)):
                best = candidate
        bound = min(bound, least if candidates.lower_bound is None else candidates.lower_bound)
    if best is None:
        assert limit is not None
        raise budget_error(tried, limit)
    searched = any(candidates.lower_bound is not None for candidates in tried)
    if best.strategy == "store_all" and best.micro_batches == 1:
        bound, searched = best.cost, True
    return replace(
        best, budget=None if limit is None else limit.bytes, lower_bound=min(bound, best.cost) if searched else None
    )


def _worth(plan: Plan) -> tuple[float, int]:
    """Return what plans are compared by: the cost, and of equal ones the bytes."""
    return plan.cost, plan.peak_bytes


def optimizer_name(optimizer: str | Named | None) -> str | None:
    """Return the name of an optimizer given as None, a name, or an object with a `name`."""
    if optimizer is None:
        return None
    name: Any = optimizer if isinstance(optimizer, str) else getattr(optimizer, "name", optimizer)
    lookup("optimizer", name, OPTIMIZERS)
    return str(name)


def update_mode(optimizer: str | None, *, gather: bool, rehearse: bool) -> UpdateMode:
    """Return the update mode that the keywords of `lowmem.plan` stand for.

    Raises `InputError` for `rehearse` with `gather`, or without an optimizer.
    """
    if rehearse:
        if gather or optimizer is None:
            raise two_runs_error()
        return UpdateMode.TWO_RUNS
    if optimizer is None:
        return UpdateMode.NONE
    return UpdateMode.GATHERED if gather else UpdateMode.FUSED
