"""Budgets: how one is read, and what to say where no plan fits it. No NumPy."""

from dataclasses import replace
from math import ceil

from lowmem.errors import Advice, BudgetError, InputError
from lowmem.planning.accounting import plan_of
from lowmem.planning.candidates import Candidates
from lowmem.planning.plan import Plan
from lowmem.planning.request import Limit, PlanRequest
from lowmem.schedule import PLANNERS
from lowmem.units import apart, ceil_bytes, format_bytes, parse_bytes


def read_limit(request: PlanRequest) -> Limit | None:
    """Return the limit that the request's budget sets; a share is taken of what storing everything needs.

    Raises `InputError` for a budget that cannot be read.
    """
    budget = request.budget
    if budget is None:
        return None
    if not isinstance(budget, str) or "%" not in budget:
        return Limit(parse_bytes(budget))
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
    everything = plan_of(request, PLANNERS["store_all"](request.chain))
    if of_activations:
        arena = int(everything.store_all_bytes * fraction)
        return Limit(everything.fixed_bytes + arena, arena)
    return Limit(int((everything.fixed_bytes + everything.store_all_bytes) * fraction))


def budget_error(candidates: Candidates, limit: Limit, least: Plan) -> BudgetError:
    """Return the error of a request that no plan fits.

    least: of the plans that its strategy chose among, the one that takes the least.
    """
    request = candidates.request
    searched = request.strategy in ("auto", "optimal")
    needs = f"that this network needs at batch {request.batch_size}"
    needs += "" if searched else f" with strategy {least.strategy}"
    if limit.arena_bytes is not None:
        # A strategy that was asked for by name has plans of its own. Where Python's objects take more than those of
        # storing everything, the share must have room for that as well.
        everything = candidates.fixed[0]
        plans = candidates.fixed if searched else candidates
        share = min(max(plan.arena_bytes, plan.peak_bytes - everything.fixed_bytes) for plan in plans)
        percent = ceil(1000 * share / everything.store_all_bytes) / 10
        given, needed = apart(limit.arena_bytes, share)
        return BudgetError(
            f"{given} of activations are less than the {needed} {needs}.",
            budget=limit.bytes,
            minimum=least.peak_bytes,
            advice=[Advice("budget", f"{percent:g}% of activations")],
        )
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in least.account().items() if size)
    advice: list[Advice | str] = [Advice("budget", ceil_bytes(least.peak_bytes))]
    if not searched and candidates.any_fixed_fits():
        advice.append(Advice("strategy", "auto"))
    smaller = _rows_that_fit(request, limit) if least.fixed_bytes < limit.bytes else None
    if smaller:
        advice.append(smaller)
    if request.optimizer is None:
        advice.append("an optimizer fused into the backward pass, which needs one layer's gradient at a time")
    elif request.optimizer != "sgd":
        advice.append(Advice("optimizer", "sgd"))
    given, needed = apart(limit.bytes, least.peak_bytes)
    return BudgetError(
        f"{given} is less than the {needed} ({least.peak_bytes:,} bytes) {needs} ({parts}).",
        budget=limit.bytes,
        minimum=least.peak_bytes,
        advice=advice,
    )


def _rows_that_fit(request: PlanRequest, limit: Limit) -> Advice | None:
    """Return the largest power-of-two fraction of a pass (or, with an optimizer, of the batch) that works, if any."""
    rows, sharded = request.rows // 2, request.shards > 1
    if sharded:
        rows = request.batch_size // 2
    while rows >= request.shards:
        if request.optimizer is None and not request.architecture.couples and not sharded:
            name, smaller = "micro_batch", replace(request, micro_batch=rows)
        else:
            name, smaller = "batch_size", replace(request, batch_size=rows, micro_batch=None)
        candidates = Candidates(smaller, limit)
        if request.strategy in ("auto", "optimal"):
            fits = candidates.any_fixed_fits()
        else:
            fits = any(map(candidates.fits, candidates))
        if fits:
            return Advice(name, rows)
        rows //= 2
    return None
