"""Budgets: how one is read, and what to say where no plan fits it. No NumPy."""

from collections.abc import Sequence
from dataclasses import replace

from lowmem.errors import Advice, BudgetError, InputError, shown
from lowmem.network.batch_rows import least_rows
from lowmem.planning.candidates import Candidates, leanest
from lowmem.planning.drafts import fixed
from lowmem.planning.plan import Plan
from lowmem.planning.request import Limit, PlanRequest, UpdateMode
from lowmem.planning.streamed import without_states
from lowmem.units import apart, ceil_bytes, format_bytes, parse_bytes, times


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
        percent = float(share)
    except ValueError:
        percent = 0.0
    if not 0 < percent < float("inf") or (rest.strip() and not of_activations):
        raise InputError(
            f'cannot read the budget {shown(budget)}. Write a share as "50%" (of all that storing everything needs) '
            'or "25% of activations" (all else, and a quarter of its activations).'
        )
    everything = fixed(without_states(request), "store_all").plan
    if of_activations:
        arena = times(share, everything.store_all_bytes) // 100
        return Limit(everything.fixed_bytes + arena, arena)
    return Limit(times(share, everything.fixed_bytes + everything.store_all_bytes) // 100)


def budget_error(tried: Sequence[Candidates], limit: Limit) -> BudgetError:
    """Return the error of a request that no plan fits.

    tried: the candidates of the request, and of the same with passes of fewer rows where these were weighed.
    """
    nearest = leanest(tried)
    request = replace(nearest.request, micro_batch=tried[0].request.micro_batch)
    least = nearest.least
    searched = request.strategy in ("auto", "optimal")
    needs = f"that this network needs at batch {request.batch_size}"
    needs += "" if searched else f" with strategy {least.strategy}"
    advice: list[Advice | str] = [Advice("budget", _worded(request, limit, tried[0].store_all, least))]
    if limit.arena_bytes is not None:
        given, needed = apart(limit.arena_bytes, _share(tried[0].store_all, least))
        reason = f"{given} of activations are less than the {needed} {needs}."
        return BudgetError(reason, budget=limit.bytes, minimum=least.peak_bytes, advice=advice)
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in least.account().items() if size)
    if not searched and Candidates(replace(request, strategy="auto", segments=None, slots=None), limit).any_fits():
        advice.append(Advice("strategy", "auto"))
    smaller = _rows_that_fit(request, limit) if least.fixed_bytes < limit.bytes else None
    if smaller:
        advice.append(smaller)
    if request.optimizer is None:
        advice.append("an optimizer fused into the backward pass, which needs one layer's gradient at a time")
    elif request.optimizer != "sgd":
        advice.append(Advice("optimizer", "sgd"))
    if request.disk is not None and request.disk.limit is not None:
        advice.append("a larger disk_limit")
    if request.disk is not None and request.update is UpdateMode.GATHERED:
        advice.append(
            "two runs of each step (clip_twice=True, in a plan rehearse=True), which lets parameters and "
            "moments lie on the disk"
        )
    given, needed = apart(limit.bytes, least.peak_bytes)
    return BudgetError(
        f"{given} is less than the {needed} ({least.peak_bytes:,} bytes) {needs} ({parts}).",
        budget=limit.bytes,
        minimum=least.peak_bytes,
        advice=advice,
    )


def _share(everything: Plan, least: Plan) -> int:
    """Return the bytes of activations that a plan needs, in a budget that has all else of storing everything.

    Where Python's objects take more than those of storing everything, the share must have room for that as well.
    """
    return max(least.arena_bytes, least.peak_bytes - everything.fixed_bytes)


def _worded(request: PlanRequest, limit: Limit, everything: Plan, least: Plan) -> str:
    """Write the least budget as the budget that was asked for is written: as a share, or in bytes.

    It is written in bytes too where it is more than storing everything takes: commands take no share above 100 %.
    """
    if isinstance(request.budget, str) and "%" in request.budget:
        whole, size, of = everything.fixed_bytes + everything.store_all_bytes, least.peak_bytes, ""
        if limit.arena_bytes is not None:
            whole, size, of = everything.store_all_bytes, _share(everything, least), " of activations"
        if size <= whole:
            return f"{percent_of(size, whole)}%{of}"
    return ceil_bytes(least.peak_bytes)


def percent_of(size: int, whole: int) -> str:
    """Return the percents of a whole, to a tenth, that give at least so many bytes."""
    tenths = -(-1000 * size // whole)
    return f"{tenths // 10}.{tenths % 10}".removesuffix(".0")


def _rows_that_fit(request: PlanRequest, limit: Limit) -> Advice | None:
    """Return the largest power-of-two fraction of a pass (or, with an optimizer, of the batch) that works, if any."""
    least = max(least_rows(request.architecture), request.shards)
    rows, sharded = request.rows // 2, request.shards > 1
    if sharded:
        rows = request.batch_size // 2
    while rows >= least:
        if request.optimizer is None and not request.architecture.couples and not sharded:
            name, smaller = "micro_batch", replace(request, micro_batch=rows)
        else:
            name, smaller = "batch_size", replace(request, batch_size=rows, micro_batch=None)
        if Candidates(smaller, limit).plannable():
            return Advice(name, rows)
        rows //= 2
    return None
