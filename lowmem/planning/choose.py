"""Planning: what a step will take, byte by byte, before anything is allocated. Imports no NumPy.

`plan` makes the plan that was asked for, or the cheapest that fits a budget.
"""

from dataclasses import replace
from typing import Protocol

from lowmem.common.checks import lookup
from lowmem.network.architecture import Architecture
from lowmem.nn.optimizers import OPTIMIZERS
from lowmem.planning.cost_model import CostModel
from lowmem.planning.plan import Plan
from lowmem.planning.request import Workbench, budget_error
from lowmem.schedule import PLANNERS

STRATEGIES = ("auto", *PLANNERS)


class Named(Protocol):
    """An optimizer, as far as planning goes: an object with a name."""

    @property
    def name(self) -> str:
        """The optimizer's name."""


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
    costs: CostModel | None = None,
    threads: int | None = None,
    gather: bool = False,
    table_bytes: int | None = None,
    rehearse: bool = False,
) -> Plan:
    """Plan one training step.

    architecture: the network. batch_size: rows of a batch.
    budget: bytes for everything that lowmem allocates: a number, text such as "24MiB", "50%" of what storing
        everything needs, or "25% of activations": all else and that share of the activations of storing everything.
    optimizer: a name or an optimizer whose update is to be fused into the backward pass; None to get gradients.
    strategy: "auto", the cheapest that fits (storing everything if there is no budget), or a planner's name.
    micro_batch: run a batch in passes of that many rows, their gradients summed up. Left out, it is one pass, or with
        a cost model as many as are quickest.
    segments: for "segments", keep every so-many-th state. slots: for "revolve", states kept besides the batch. Left
        out, the cheapest that fits the budget is taken.
    batch_buffers: bytes of batch buffers that the caller owns on lowmem's account (the trainer does).
    odd_batches: some batches will have fewer rows than batch_size; their calls are bound, and counted, apart.
    costs: a cost model (`lowmem.calibrated()`): "auto" then minimises predicted seconds in place of FLOPs, and
        weighs passes of fewer rows against recomputation. By FLOPs alone small passes would always win.
    threads: the most threads that a step may use: with 1, BLAS keeps to one. Left out, BLAS uses as many as it is set
        to, and one where products are too small for several. Bits depend on it.
    gather: keep the gradients of all layers until the backward is done, and update then (clipping by norm needs it).
    rehearse: run each step twice, first without any update, which clipping by norm can use instead of `gather`: twice
        the compute, and one layer's gradient at a time.
    table_bytes: what the tables of planning itself may take for a moment, where that is less than usual.

    Returns a `Plan`. Raises `BudgetError` if nothing fits, with the least budget that works; `InputError` for numbers
    or names that make no sense.

    >>> import lowmem as lm
    >>> arch = lm.Architecture(widths=(64, *[128] * 50, 10))
    >>> plan = lm.plan(arch, batch_size=512, budget="50%")
    >>> plan.strategy, plan.peak_bytes <= plan.budget
    ('optimal', True)
    >>> plan.forward_runs > arch.layers  # some layers are run again
    True
    """
    lookup("strategy", strategy, dict.fromkeys(STRATEGIES))
    whole = Workbench(
        architecture,
        batch_size,
        optimizer_name(optimizer),
        micro_batch,
        batch_buffers,
        odd_batches,
        costs,
        threads,
        gather,
        table_bytes,
        rehearse,
    )
    limit = None if budget is None else whole.read_budget(budget)
    if strategy == "auto" and limit is None:
        strategy = "store_all"
    weigh_passes = costs is not None and strategy == "auto" and micro_batch is None
    benches = whole.halved() if weigh_passes else iter((whole,))
    given = {"segments": segments, "slots": slots}
    options = {name: number for name, number in given.items() if number is not None}
    best: Plan | None = None
    bound = whole  # the request of the best plan, which knows a bound
    least: Plan | None = None
    for bench in benches:
        if best is not None and bench.at_least() >= best.cost:
            break
        for made in bench.candidates(strategy, limit, **options):
            least = made if least is None or made.peak_bytes < least.peak_bytes else least
            fits = bench.fits(made, limit)
            if fits and (best is None or (made.cost, made.peak_bytes) < (best.cost, best.peak_bytes)):
                best, bound = made, bench
    assert least is not None
    if best is None:
        assert limit is not None
        raise budget_error(whole, limit, least, strategy, options)
    known = best.cost if best.strategy == "store_all" and best.micro_batches == 1 else bound.bound
    return replace(best, budget=limit, lower_bound=None if known is None else min(known, best.cost))


def optimizer_name(optimizer: str | Named | None) -> str | None:
    """Return the name of an optimizer given as None, a name, or an object with a `name`."""
    if optimizer is None:
        return None
    name = optimizer if isinstance(optimizer, str) else str(getattr(optimizer, "name", optimizer))
    lookup("optimizer", name, OPTIMIZERS)
    return name
