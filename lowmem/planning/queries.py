"""Strategies and budgets compared: what each would take, and what it would cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from lowmem.common.checks import as_list
from lowmem.common.tables import Table
from lowmem.errors import BudgetError, InputError, shown
from lowmem.network.architecture import AnyNetwork, Architecture, architecture_of
from lowmem.planning.choose import Named, plan, with_costs
from lowmem.planning.cost_model import CostModel
from lowmem.planning.engines.machine import DiskTier, disk_tier
from lowmem.planning.plan import Plan
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
    shards: int = 1,
    ranks: int = 1,
) -> Comparison:
    """Compare the fixed strategies, and the cheapest plan for each budget.

    budgets: as in `lowmem.plan`, as many as wanted. A budget that does not fit is a row that says so. optimizer,
    micro_batch, costs, threads, engine, disk, disk_limit, shards, ranks: as in `lowmem.plan`. With a disk, each budget
        is a row without it and one with it.

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
    options |= {"shards": shards, "ranks": ranks}
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
    listed = as_list(budgets)
    if listed is None:
        raise InputError(f'budgets must be a list, such as ["50%", "24MiB"]; got {shown(budgets)}.')
    return listed
