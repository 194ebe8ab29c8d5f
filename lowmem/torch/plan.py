"""A plan for a PyTorch chain: which stages keep their tapes and which run again, in a budget of bytes."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import torch

from lowmem.chain import Chain
from lowmem.common.checks import lookup
from lowmem.common.tables import Table
from lowmem.errors import BudgetError, InputError, shown
from lowmem.schedule import PLANNERS, Schedule, simulate
from lowmem.schedule.tapes.planner import best_schedule
from lowmem.torch.chain import MeasuredChain
from lowmem.torch.measuring.measure import ROUNDS, measure
from lowmem.torch.reading import typed
from lowmem.units import ceil_bytes, format_bytes, parse_bytes, times

STRATEGIES = ("optimal", "sqrt", "segments", "store_all")


@dataclass(frozen=True)
class Plan:
    """How a step of a chain runs, and what it takes.

    measured: the chain. schedule: the ops of a step. strategy: what chose them. budget: in bytes, None without one.
    peak_bytes: the most that a step allocates at once, gradients of parameters included, parameters and batch not.
    cost: seconds of all forwards and backwards of a step, as the stages were measured. lower_bound: seconds that any
    schedule takes in the same budget whose checkpoints stay; of strategies without a budget, those of storing all.
    store_all_bytes, store_all_cost: the same of plain PyTorch.
    """

    measured: MeasuredChain
    schedule: Schedule
    strategy: str
    budget: int | None
    accumulating: bool
    peak_bytes: int
    cost: float
    lower_bound: float
    store_all_bytes: int
    store_all_cost: float

    @property
    def chain(self) -> Chain:
        """The chain that the schedule reverses; `lowmem.plots.schedule_diagram` takes both and draws them."""
        return self.measured.chain(accumulating=self.accumulating)

    @property
    def gap(self) -> float:
        """How far the cost may be above the least for this budget, relative to the cost."""
        return max(0.0, (self.cost - self.lower_bound) / self.cost) if self.cost else 0.0

    @property
    def forward_runs(self) -> int:
        """How many forwards of stages a step runs, recomputation included."""
        return simulate(self.chain, self.schedule).forward_runs

    def table(self) -> Table:
        """Return what the plan promises, beside storing everything."""
        stages = len(self.measured.stages)
        rows = [
            ["peak of a step", format_bytes(self.peak_bytes), format_bytes(self.store_all_bytes)],
            ["forwards of stages", str(self.forward_runs), str(stages)],
            ["time of forwards and backwards", _seconds(self.cost), _seconds(self.store_all_cost)],
            ["least time in this budget", f"{_seconds(self.lower_bound)} (gap {self.gap:.1%})", ""],
        ]
        if self.budget is not None:
            rows.insert(0, ["budget", format_bytes(self.budget), ""])
        note = f"Parameters take {format_bytes(self.measured.parameter_bytes)} beside this."
        return Table(f"{stages} stages, strategy {self.strategy}", ["", "plan", "storing everything"], rows, note)

    def __str__(self) -> str:
        """Write the table."""
        return str(self.table())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        names = ("strategy", "budget", "accumulating", "peak_bytes", "cost", "lower_bound")
        numbers = {name: getattr(self, name) for name in (*names, "gap", "store_all_bytes", "store_all_cost")}
        return numbers | {"measured": self.measured.to_dict(), "schedule": json.loads(self.schedule.to_json())}

    def to_json(self) -> str:
        """Write the plan as JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read what `to_json` wrote. Raises `InputError` for anything else."""
        try:
            data = json.loads(text)
            data.pop("gap")
            schedule = Schedule.from_json(json.dumps(data.pop("schedule")))
            plan = typed(cls(measured=MeasuredChain.from_dict(data.pop("measured")), schedule=schedule, **data))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"this text is not a plan that lowmem.torch wrote: {error}.") from None
        chain, frozen = plan.chain, plan.measured.frozen_peak
        traces = (simulate(chain, plan.schedule), simulate(chain, PLANNERS["store_all"](chain)))
        found = [(max(trace.peak_bytes, frozen), trace.cost) for trace in traces]
        if found != [(plan.peak_bytes, plan.cost), (plan.store_all_bytes, plan.store_all_cost)]:
            raise InputError("this plan was altered: its schedule does not take what it says. Plan anew.")
        return plan


def _seconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f} ms"


def plan(
    model: "torch.nn.Module | Sequence[torch.nn.Module] | MeasuredChain",
    sample: "torch.Tensor | tuple[torch.Tensor, ...] | None" = None,
    budget: int | str | None = None,
    *,
    strategy: str = "optimal",
    segments: int | None = None,
    loss: "Callable[[Any], torch.Tensor] | None" = None,
    accumulating: bool = False,
    rounds: int = ROUNDS,
) -> Plan:
    """Plan the steps of a chain.

    model, sample, loss, rounds: as for `measure`; or in their place what `measure` returned.
    budget: bytes (int), text such as "2GiB", or a share of what storing everything takes, such as "40%". It limits all
    that a step allocates, gradients of parameters included, parameters and batch not.
    strategy: "optimal" (the cheapest for the budget; without one, everything is stored), or a rule that knows no
    budget and is refused where it exceeds one: "sqrt", "segments" (every `segments`-th output is kept), "store_all".
    accumulating: the gradients of parameters are there before a step, which adds to them.

    Raises `BudgetError`, with the least that works, where nothing fits.
    """
    if isinstance(model, MeasuredChain):
        measured = model
    elif sample is None:
        raise InputError("a sample is needed to measure the model on: lowmem.torch.plan(model, sample, budget).")
    else:
        measured = measure(model, sample, loss=loss, rounds=rounds)
    lookup("strategy", strategy, dict.fromkeys(STRATEGIES))
    chain = measured.chain(accumulating=accumulating)
    everything = simulate(chain, PLANNERS["store_all"](chain))
    whole = max(everything.peak_bytes, measured.frozen_peak)
    limit = _limit(budget, whole)
    bound = everything.cost
    if (segments is not None) != (strategy == "segments"):
        raise InputError('segments= goes with strategy="segments", which needs it, and with no other.')
    if strategy == "optimal" and limit is not None:
        try:
            best = best_schedule(chain, limit)
        except BudgetError as error:
            raise _refused(max(error.minimum, measured.frozen_peak), limit, measured) from None
        schedule, bound = best.schedule, best.lower_bound
    else:
        options = {} if segments is None else {"segments": segments}
        schedule = PLANNERS["store_all" if strategy == "optimal" else strategy](chain, **options)
    trace = simulate(chain, schedule)
    peak = max(trace.peak_bytes, measured.frozen_peak)
    if limit is not None and peak > limit:
        if strategy == "optimal":  # what is frozen runs the same in every plan
            raise _refused(peak, limit, measured)
        raise BudgetError(
            f'strategy="{strategy}" takes {format_bytes(peak)}, more than the budget of '
            f'{format_bytes(limit)}. Leave the strategy out, or give budget="{ceil_bytes(peak)}".',
            budget=limit,
            minimum=peak,
        )
    return Plan(
        measured=measured,
        schedule=schedule,
        strategy=strategy,
        budget=limit,
        accumulating=accumulating,
        peak_bytes=peak,
        cost=trace.cost,
        lower_bound=bound,
        store_all_bytes=whole,
        store_all_cost=everything.cost,
    )


def _limit(budget: int | str | None, whole: int) -> int | None:
    """Return a budget in bytes; "40%" is a share of `whole`."""
    if isinstance(budget, str) and budget.strip().endswith("%"):
        share = budget.strip()[:-1]
        try:
            percent = float(share)
        except ValueError:
            percent = 0.0
        if not 0 < percent < inf:
            raise InputError(
                f'cannot read {shown(budget)} as a share. Write it as "40%" of what storing everything takes.'
            )
        return times(share, whole) // 100
    return None if budget is None else parse_bytes(budget)


def _refused(least: int, budget: int, measured: MeasuredChain) -> BudgetError:
    """Return the error that names the least budget and what it is needed for."""
    gradients = sum(stage.gradient_bytes for stage in measured.stages)
    return BudgetError(
        f"{format_bytes(budget)} is less than the {format_bytes(least)} that a step of this model needs "
        f"(gradients of parameters {format_bytes(gradients)} of it, at the end). "
        f'Try budget="{ceil_bytes(least)}", or a smaller batch.',
        budget=budget,
        minimum=least,
    )
