"""Queries of the planner: what each strategy would take, how little is enough, how much fits."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

from lowmem.common.tables import Table
from lowmem.errors import BudgetError, InputError, shown
from lowmem.network.architecture import AnyNetwork, Architecture, architecture_of
from lowmem.nn.penalty import own_rule
from lowmem.planning.candidates import Candidates
from lowmem.planning.choose import Named, optimizer_name, plan, with_costs
from lowmem.planning.cost_model import CostModel
from lowmem.planning.machine import DiskTier, disk_tier
from lowmem.planning.plan import Plan
from lowmem.planning.request import PlanRequest, update_mode
from lowmem.units import format_bytes, format_seconds, parse_bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """One row of a comparison: what was asked, the plan if one fits, and the least budget that works."""

    asked: str
    plan: Plan | None
    minimum: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Strategies and budgets side by side for one network and batch size."""

    architecture: Architecture
    batch_size: int
    answers: tuple[Answer, ...]

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the rows for JSON."""
        return [
            {"asked": answer.asked, "fits": answer.plan is not None, "minimum_budget": answer.minimum}
            | ({"plan": answer.plan.to_dict()} if answer.plan else {})
            for answer in self.answers
        ]

    def table(self) -> Table:
        """Return one row for each strategy and budget."""
        columns = [
            "",
            "strategy",
            "pass",
            "peak",
            "activations",
            "of storing all",
            "layer forwards",
            "FLOP factor",
            "time",
        ]
        rows = [_cells(answer) for answer in self.answers]
        if any(answer.plan is not None and answer.plan.disk for answer in self.answers):
            columns.append("on disk")
            for row, answer in zip(rows, self.answers, strict=True):
                row.append(format_bytes(answer.plan.disk_bytes) if answer.plan and answer.plan.disk_bytes else "")
        return Table(f"{self.architecture}\nbatch {self.batch_size}", columns, rows)

    def __str__(self) -> str:
        """Show the comparison as a table."""
        return str(self.table())


def _cells(answer: Answer) -> list[str]:
    """Write one row of the table."""
    plan = answer.plan
    if plan is None:
        return [answer.asked, "does not fit", "", f"needs {format_bytes(answer.minimum)}", "", "", "", "", ""]
    return [
        answer.asked,
        plan.strategy,
        f"{plan.micro_batch}",
        format_bytes(plan.peak_bytes),
        format_bytes(plan.arena_bytes),
        f"{plan.arena_bytes / plan.store_all_bytes:.1%}",
        f"{plan.forward_runs:,}",
        f"{plan.flop_factor:.3f}",
        "" if plan.seconds is None else format_seconds(plan.seconds),
    ]


def compare(
    architecture: AnyNetwork,
    batch_size: int,
    budgets: Sequence[int | str] = (),
    optimizer: str | Named | None = None,
    *,
    micro_batch: int | None = None,
    costs: CostModel | None = None,
    threads: int | None = None,
    engine: str | None = None,
    disk: str | PathLike[str] | DiskTier | None = None,
    disk_limit: int | str | None = None,
) -> Comparison:
    """Compare the fixed strategies, and the cheapest plan for each budget.

    budgets: as in `lowmem.plan`, as many as wanted. A budget that does not fit is a row that says so. optimizer,
    micro_batch, costs, threads, engine, disk, disk_limit: as in `lowmem.plan`. With a disk, each budget is a
        row without it and one with it.

    >>> import lowmem as lm
    >>> arch = lm.Architecture(widths=(64, *[128] * 50, 10))
    >>> for row in lm.compare(arch, batch_size=512, budgets=["50%", "1MiB"]).to_dict():
    ...     print(row["asked"], row["fits"])
    store_all True
    sqrt True
    recompute_all True
    budget 50% True
    budget 1MiB False
    """
    architecture, answers = architecture_of(architecture), []
    options: dict[str, Any] = {"micro_batch": micro_batch, "costs": costs, "threads": threads, "engine": engine}
    requests: list[tuple[str, dict[str, Any]]] = [("", {})]
    tier = disk_tier(disk, disk_limit)
    if tier is not None:
        options = with_costs(options, tier, architecture, optimizer, batch_size)
        requests.append((" and disk", {"disk": options.pop("disk")}))
    for strategy in ("store_all", "sqrt", "recompute_all"):
        fixed = plan(architecture, batch_size, None, optimizer, strategy, **options)
        answers.append(Answer(strategy, fixed, fixed.peak_bytes))
    for budget in _listed(budgets):
        asked = budget if isinstance(budget, str) else format_bytes(parse_bytes(budget))
        for name, more in requests:
            try:
                cheapest = plan(architecture, batch_size, budget, optimizer, **options, **more)
                answers.append(Answer(f"budget {asked}{name}", cheapest, cheapest.peak_bytes))
            except BudgetError as error:
                answers.append(Answer(f"budget {asked}{name}", None, error.minimum))
    return Comparison(architecture, batch_size, tuple(answers))


def _listed(budgets: object) -> list[int | str]:
    """Return budgets given as a sequence. Raises `InputError` for anything else, one budget among it."""
    if isinstance(budgets, str | bytes) or not isinstance(budgets, Iterable):
        raise InputError(f'budgets must be a list, such as ["50%", "24MiB"]; got {shown(budgets)}.')
    return list(budgets)


def minimum_budget(
    architecture: AnyNetwork,
    batch_size: int,
    optimizer: str | Named | None = None,
    *,
    micro_batch: int | None = None,
) -> int:
    """Return the least budget in bytes, as `plan.peak_bytes` counts, for which `lowmem.plan` finds a plan.

    >>> import lowmem as lm
    >>> arch = lm.Architecture(widths=(64, *[128] * 50, 10))
    >>> least = lm.minimum_budget(arch, batch_size=512)
    >>> lm.plan(arch, batch_size=512, budget=least).peak_bytes == least
    True
    """
    name = optimizer_name(optimizer)
    update = update_mode(name, gather=False, rehearse=False)
    rule = own_rule(optimizer)
    request = PlanRequest(
        architecture_of(architecture), batch_size, micro_batch, optimizer=name, own_rule=rule, update=update
    )
    return Candidates(request, None).least.peak_bytes


def largest_batch(architecture: AnyNetwork, budget: int | str, optimizer: str | Named | None = None) -> int:
    """Return the largest batch size, run in one pass, that fits the budget.

    Raises `BudgetError` if not even one sample does, `InputError` for a budget in percent, whose meaning would
    change with the batch.

    >>> import lowmem as lm
    >>> arch = lm.Architecture(widths=(64, *[128] * 50, 10))
    >>> rows = lm.largest_batch(arch, budget="12MiB")
    >>> lm.minimum_budget(arch, rows) <= 12 * 2**20 < lm.minimum_budget(arch, rows + 1)
    True
    """
    if isinstance(budget, str) and "%" in budget:
        raise InputError(f'a share such as "{budget}" depends on the batch; give the budget in bytes.')
    limit = parse_bytes(budget)

    def fits(batch: int) -> bool:
        return minimum_budget(architecture, batch, optimizer) <= limit

    if not fits(1):
        plan(architecture, 1, limit, optimizer)  # raises with the account
    return largest_number(fits)


def deepest(architecture: AnyNetwork, batch_size: int, budget: int | str, optimizer: str | Named | None = None) -> int:
    """Return how many hidden layers fit the budget, of the width that all hidden layers of `architecture` have.

    A batch is run in one pass. Raises `BudgetError` if not even one layer fits, `InputError` if the hidden widths
    differ or the budget is in percent, whose meaning would change with the depth.

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
    if isinstance(budget, str) and "%" in budget:
        raise InputError(f'a share such as "{budget}" depends on the depth; give the budget in bytes.')
    limit = parse_bytes(budget)

    def network(layers: int) -> Architecture:
        return replace(architecture, widths=(inputs, *hidden[:1] * layers, outputs))

    def fits(layers: int) -> bool:
        return minimum_budget(network(layers), batch_size, optimizer) <= limit

    if not fits(1):
        plan(network(1), batch_size, limit, optimizer)  # raises with the account
    return largest_number(fits)


def largest_number(fits: Callable[[int], bool]) -> int:
    """Return the largest number for which `fits` holds; it holds for 1, and fails for ever from somewhere on."""
    low, high = 1, 2
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
