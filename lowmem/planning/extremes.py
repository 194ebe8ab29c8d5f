"""How little is enough, and how much fits: the least budget, the largest batch, the most layers."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from sys import maxsize
from typing import Unpack

from lowmem.common.checks import positive
from lowmem.errors import InputError
from lowmem.network.architecture import AnyNetwork, Architecture, architecture_of
from lowmem.network.batch_rows import least_rows
from lowmem.planning.candidates import Candidates, leanest
from lowmem.planning.choose import Named, PlanOptions, plan, request_of
from lowmem.planning.request import Limit
from lowmem.planning.streamed import thriftiest
from lowmem.units import parse_bytes

REGULAR = 256
"""Hidden layers from which on every layer more may take the same bytes as the one before; that is checked."""

MANY_PASSES = 4
"""Passes beyond which more of them take no more memory."""

CHECKED = 4096
"""Hidden layers up to which an answer is checked with the network itself, which takes a second or two."""


def minimum_budget(
    architecture: AnyNetwork,
    batch_size: int,
    optimizer: str | Named | None = None,
    **options: Unpack[PlanOptions],
) -> int:
    """Return the least budget in bytes, as `plan.peak_bytes` counts, for which `lowmem.plan` finds a plan.

    options: keywords of `lowmem.plan`. Every budget from the least on is planned, and the plan for the least budget
        promises just that. Where widths differ it takes as long as making that plan.

    >>> import lowmem as lm
    >>> arch = lm.Architecture(widths=(64, *[128] * 50, 10))
    >>> least = lm.minimum_budget(arch, batch_size=512)
    >>> lm.plan(arch, batch_size=512, budget=least).peak_bytes == least
    True
    """
    request = request_of(architecture, batch_size, None, optimizer, **options)
    return leanest(Candidates(variant, None) for variant in thriftiest(request)).least.peak_bytes


def largest_batch(
    architecture: AnyNetwork,
    budget: int | str,
    optimizer: str | Named | None = None,
    **options: Unpack[PlanOptions],
) -> int:
    """Return the largest batch size that fits the budget.

    options: keywords of `lowmem.plan`. A batch, or each of its shards, is run in one pass, or with `micro_batch` in
        passes of so many rows. Where the last pass, or a shard, has fewer rows than others, that may take more memory:
        batches smaller than the largest need not fit then.

    Raises `BudgetError` if not even the smallest batch does, `InputError` for a budget in percent, whose meaning would
    change with the batch, and where passes let batches of any size fit, or any multiple of a pass.

    >>> import lowmem as lm
    >>> arch = lm.Architecture(widths=(64, *[128] * 50, 10))
    >>> rows = lm.largest_batch(arch, budget="12MiB")
    >>> lm.minimum_budget(arch, rows) <= 12 * 2**20 < lm.minimum_budget(arch, rows + 1)
    True
    """
    architecture = architecture_of(architecture)
    limit = _bytes_of(budget, "batch")
    rows, shards = options.get("micro_batch"), positive("shards", options.get("shards", 1))
    smallest = smallest_batch(architecture, shards)

    def for_batch(batch: int) -> PlanOptions:
        return {**options, "micro_batch": rows_of_pass(batch, rows, shards)}

    @cache
    def fits(batch: int) -> bool:
        return _fits(architecture, batch, limit, optimizer, for_batch(batch))

    if not fits(smallest):
        plan(architecture, smallest, limit, optimizer, **for_batch(smallest))  # raises with the account
    steps: tuple[int, ...] = (shards, 1)
    low, below = smallest, maxsize
    if rows is not None:
        one_pass = positive("micro_batch", rows) * shards
        steps, below = (one_pass, *steps), MANY_PASSES * one_pass
        if fits(below):
            raise _all_fit(budget, rows, None if fits(below + 1) else one_pass)
    for step in steps:
        low, below = _narrowed(fits, low, below, step)
    return low


def _all_fit(budget: int | str, rows: int, multiples: int | None) -> InputError:
    """Return the error of a batch that may be as large as one likes; multiples: of what it must be, if it must."""
    sizes, others = "size", ""
    if multiples is not None:
        sizes = f"multiple of {multiples} samples"
        others = " Batches of other sizes need more, for a last pass of fewer rows."
    return InputError(
        f"batches of any {sizes} fit in {budget} in passes of micro_batch={rows} rows.{others} Leave out micro_batch "
        "to ask for what fits in one pass."
    )


def _narrowed(fits: Callable[[int], bool], low: int, below: int, step: int) -> tuple[int, int]:
    """Return between which two numbers the largest batch is, at most a step apart; the first of them fits.

    low, below: between which it is known to be. Whole multiples of a step may fit where fewer samples do not, as rows
    of two numbers (the last pass, or another shard) take memory for both. What fits fails from somewhere on among the
    multiples, and between two of them.
    """
    first = -(-low // step) * step
    if first < below and fits(first):
        count = largest_number(lambda count: fits(step * count), first // step, -(-below // step))
        low, first = step * count, step * (count + 1)
    return low, min(first, below)


def smallest_batch(architecture: Architecture, shards: int) -> int:
    """Return the least batch size of a network: every shard needs a sample, and norms over the batch need two."""
    return max(least_rows(architecture), shards)


def rows_of_pass(batch: int, micro_batch: int | None, shards: int) -> int | None:
    """Return the `micro_batch` of a batch of any size: at most the rows of a shard.

    micro_batch: as it was given; without it a batch, or each of its shards (None), is run in one pass.
    """
    if micro_batch is None:
        return batch if shards == 1 else None
    return min(micro_batch, -(-batch // shards))


def deepest(
    architecture: AnyNetwork,
    batch_size: int,
    budget: int | str,
    optimizer: str | Named | None = None,
    **options: Unpack[PlanOptions],
) -> int:
    """Return how many hidden layers fit the budget, of the width that all hidden layers of `architecture` have.

    options: keywords of `lowmem.plan`. Where layers are so many that each takes what the one before took, the rest is
    a division.

    Raises `BudgetError` if not even one layer fits, `InputError` if the hidden widths differ or the budget is in
    percent, whose meaning would change with the depth.

    >>> import lowmem as lm
    >>> one = lm.Architecture(widths=(64, 128, 10))
    >>> layers = lm.deepest(one, batch_size=512, budget="12MiB", optimizer="adam")
    >>> deep = lm.Architecture(widths=(64, *[128] * layers, 10))
    >>> lm.minimum_budget(deep, batch_size=512, optimizer="adam") <= 12 * 2**20
    True
    """
    architecture = architecture_of(architecture)
    inputs, *hidden, outputs = architecture.widths
    if len(set(hidden)) != 1:
        raise InputError(f"deepest needs hidden layers of one width, to add more of them; got {hidden}.")
    limit = _bytes_of(budget, "depth")

    def network(layers: int) -> Architecture:
        return replace(architecture, widths=(inputs, *hidden[:1] * layers, outputs))

    @cache  # near the border an answer may take seconds
    def fits(layers: int) -> bool:
        return _fits(network(layers), batch_size, limit, optimizer, options)

    def least(layers: int) -> int:
        return minimum_budget(network(layers), batch_size, optimizer, **options)

    if not fits(1):
        plan(network(1), batch_size, limit, optimizer, **options)  # raises with the account
    low = 1
    while fits(2 * low):
        low *= 2
        if low >= REGULAR and (more := _layers_left(least, low, limit)) is not None:
            guess = low + more
            if guess > CHECKED or (fits(guess) and not fits(guess + 1)):
                return guess
    return largest_number(fits, low)


def _layers_left(least: Callable[[int], int], layers: int, limit: int) -> int | None:
    """Return how many layers more fit, if layers take the same bytes each from half of `layers` on; else None."""
    half, end = layers // 2, least(layers)
    step = end - least(layers - 1)
    regular = step > 0 and end - least(half) == (layers - half) * step and end - least(layers - 2) == 2 * step
    return (limit - end) // step if regular else None


def _fits(
    architecture: Architecture, batch: int, limit: int, optimizer: str | Named | None, options: PlanOptions
) -> bool:
    """Say whether there is a plan for a batch within a limit: of the same requests as `minimum_budget` looks at."""
    request = request_of(architecture, batch, limit, optimizer, **options)
    return any(Candidates(variant, Limit(limit)).plannable() for variant in thriftiest(request))


def _bytes_of(budget: int | str, what: str) -> int:
    """Return the bytes of a budget. Raises `InputError` for a share, which depends on what is asked for."""
    if isinstance(budget, str) and "%" in budget:
        raise InputError(f'a share such as "{budget}" depends on the {what}; give the budget in bytes.')
    return parse_bytes(budget)


def largest_number(fits: Callable[[int], bool], smallest: int = 1, below: int | None = None) -> int:
    """Return the largest number for which `fits` holds; it holds for `smallest`, and fails from somewhere on.

    below: a number from which on it fails, if one is known.
    """
    low, high = smallest, 2 * smallest
    while (below is None or high < below) and fits(high):
        low, high = high, 2 * high
    high = high if below is None else min(high, below)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
