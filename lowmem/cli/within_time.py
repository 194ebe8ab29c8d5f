"""Queries that count the price: how much fits if a step may take only so long, and how little memory is enough."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lowmem.common.checks import is_digits
from lowmem.errors import BudgetError, InputError, shown
from lowmem.network.architecture import AnyNetwork, Architecture, architecture_of
from lowmem.planning.choose import Named, plan
from lowmem.planning.extremes import (
    deepest,
    largest_batch,
    largest_number,
    minimum_budget,
    rows_of_pass,
    smallest_batch,
)
from lowmem.planning.plan import Plan
from lowmem.units import format_seconds, parse_seconds

FINE = 256
"""The least memory is found to this part of itself."""


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """The most that a step may take: a factor of storing everything in one pass, or seconds; one of them is None."""

    factor: float | None = None
    seconds: float | None = None

    @classmethod
    def read(cls, text: str) -> "TimeLimit":
        """Read "1.5x" or a time such as "250ms", "2 s". Raises `InputError` for anything else."""
        number = text.strip().lower().removesuffix("x").removesuffix("×").strip()
        if number != text.strip().lower() and is_digits(number.replace(".", "", 1)):
            if float(number) < 1:
                raise InputError(f"nothing is quicker than storing everything, which is 1x; got {shown(text)}.")
            return cls(factor=float(number))
        seconds = parse_seconds(text)
        if not seconds:
            raise InputError(
                f"cannot read {shown(text)} as a limit of time. Write 1.5x, or a time such as 250ms or 2s."
            )
        return cls(seconds=seconds)

    def __str__(self) -> str:
        """Say the limit as it may be typed."""
        return f"{self.factor:g}x" if self.seconds is None else format_seconds(self.seconds)


@dataclass(frozen=True, slots=True)
class Priced:
    """A plan, and what it costs: factor is its cost relative to storing everything in one pass."""

    plan: Plan
    factor: float

    def keeps(self, limit: TimeLimit | None) -> bool:
        """Say whether a step takes no longer than a limit."""
        if limit is None:
            return True
        if limit.seconds is None:
            return limit.factor is None or self.factor <= limit.factor * (1 + 1e-9)
        if self.plan.seconds is None:
            raise InputError(f"a limit of {limit} needs a cost model: FLOPs have no seconds. Give a factor, as 1.5x.")
        return self.plan.seconds <= limit.seconds

    def __str__(self) -> str:
        """Say the price in words."""
        if self.plan.seconds is None:
            return f"{self.factor:.3g} times the FLOPs of storing everything"
        return f"{format_seconds(self.plan.seconds)} a step, {self.factor:.3g} times the time of storing everything"


def priced(architecture: AnyNetwork, batch_size: int, budget: int | str | None, **options: Any) -> Priced:  # noqa: ANN401 - keywords of plan
    """Return a plan with its price. options: keywords of `lowmem.plan`. Raises as `lowmem.plan` does."""
    made = plan(architecture, batch_size, budget, **options)
    rows = batch_size if options.get("shards", 1) == 1 else None  # of a pass: the whole batch, or a shard
    whole = options | {"strategy": "store_all", "micro_batch": rows, "segments": None, "slots": None}
    whole = {name: value for name, value in whole.items() if not name.startswith("disk")}
    stored = plan(architecture, batch_size, None, **whole)
    return Priced(made, made.cost / stored.cost)


def largest_batch_within(
    architecture: AnyNetwork,
    budget: int | str,
    limit: TimeLimit | None,
    optimizer: str | Named | None = None,
    **options: Any,  # noqa: ANN401 - keywords of plan
) -> Priced:
    """Return the plan of the largest batch that fits the budget in one pass, each step within the limit of time.

    limit: None is no limit; a factor is of storing everything at the same batch. options: keywords of `lowmem.plan`.

    Raises as `lowmem.largest_batch` does, and `InputError` if a step takes longer at any batch.
    """
    architecture = architecture_of(architecture)

    rows, shards = options.get("micro_batch"), options.get("shards", 1)

    def at(batch: int) -> Priced:
        passes = {"micro_batch": rows_of_pass(batch, rows, shards)}
        return priced(architecture, batch, budget, optimizer=optimizer, **options | passes)

    least = smallest_batch(architecture, shards)
    one = "one sample" if least == 1 else f"{least} samples"
    return _most(at, largest_batch(architecture, budget, optimizer, **options), limit, one, least)


def deepest_within(
    architecture: AnyNetwork,
    batch_size: int,
    budget: int | str,
    limit: TimeLimit | None,
    optimizer: str | Named | None = None,
    **options: Any,  # noqa: ANN401 - keywords of plan
) -> Priced:
    """Return the plan of the most hidden layers that fit the budget in one pass, each step within the limit of time.

    architecture: its hidden layers have one width. limit, options: as in `largest_batch_within`; a factor is of
        storing everything at the same depth.

    Raises as `lowmem.deepest` does, and `InputError` if a step takes longer at any depth.
    """
    architecture = architecture_of(architecture)
    inputs, *hidden, outputs = architecture.widths

    def at(layers: int) -> Priced:
        network = replace(architecture, widths=(inputs, *hidden[:1] * layers, outputs))
        return priced(network, batch_size, budget, optimizer=optimizer, **options)

    return _most(at, deepest(architecture, batch_size, budget, optimizer, **options), limit, "one hidden layer")


def _most(at: Callable[[int], Priced], most: int, limit: TimeLimit | None, one: str, least: int = 1) -> Priced:
    """Return the plan of the largest number, at most `most`, whose plan fits and keeps the limit.

    least: the least number that may be asked for. one: that number in words.
    """
    fitting: dict[int, Priced] = {}

    def fits(number: int) -> bool:
        if number > most:
            return False
        try:
            found = at(number)
        except BudgetError:  # what a plan takes of the engine and of passes may differ a little from the least
            return False
        if found.keeps(limit):
            fitting[number] = found
            return True
        return False

    if not fits(most) and not fits(least):
        raise InputError(f"a step takes longer than {limit} even with {one}: {at(least)}. Give more time or memory.")
    return fitting[most] if most in fitting else fitting[largest_number(fits, least)]


def least_memory_within(
    architecture: Architecture,
    batch_size: int,
    limit: TimeLimit,
    optimizer: str | Named | None = None,
    **options: Any,  # noqa: ANN401 - keywords of plan
) -> Priced:
    """Return the plan of the least memory, to a part in 256, whose steps keep to a limit of time.

    options: keywords of `lowmem.plan`. Raises `InputError` if storing everything takes longer.
    """

    def within(budget: int | None) -> Priced | None:
        try:
            found = priced(architecture, batch_size, budget, optimizer=optimizer, **options)
        except BudgetError:
            return None
        return found if found.keeps(limit) else None

    best = within(None)
    if best is None:
        stored = priced(architecture, batch_size, None, optimizer=optimizer, **options)
        raise InputError(f"a step takes longer than {limit} even if everything is stored: {stored}. Give more time.")
    low = minimum_budget(architecture, batch_size, optimizer, **options) - 1
    low, high = min(low, best.plan.peak_bytes), best.plan.peak_bytes
    while high - low > max(high // FINE, 1):
        middle = (low + high) // 2
        found = within(middle)
        if found is None:
            low = middle
        else:
            best, high = found, min(middle, found.plan.peak_bytes)
    return replace(best, plan=replace(best.plan, budget=None))
