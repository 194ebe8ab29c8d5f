"""`lowmem profile`: runs strategies and budgets, each in a fresh process, and compares promise and measurement."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from lowmem.cli.options import (
    add_inputs,
    add_json,
    add_network,
    add_planning,
    check_budget,
    cost_model,
    disk_options,
    network_of,
)
from lowmem.cli.outputs import FIGURES, PAGES, check_output, output_file, save_figure, write_output
from lowmem.common.checks import positive
from lowmem.common.cores import cores
from lowmem.common.files import check_apart
from lowmem.common.tables import Table
from lowmem.errors import BudgetError, InputError
from lowmem.network.architecture import Architecture
from lowmem.planning.choose import plan
from lowmem.planning.cost_model import CostModel
from lowmem.planning.plan import Plan
from lowmem.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lowmem.measure.experiment import Measurement
    from lowmem.measure.report import Report
    from lowmem.plots import Point

HELP = "Run strategies and budgets, each in a fresh process, and compare promises with measurements."

SHARES = tuple(f"{share}% of activations" for share in (50, 25, 12, 6))
"""The budgets that are run unless --budget names others."""

STARVED = 0.8
"""A step whose threads got less of the processor time than this was disturbed, even if all repeats were alike."""

Row = tuple[str, "Measurement", "Report"]
"""The name of a request, its measurement, and its report."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    add_inputs(parser)
    add_network(parser)
    add_planning(parser, optimizer="sgd", budgets=True)
    parser.add_argument(
        "--strategies",
        default="store_all,sqrt",
        metavar="A,B",
        help="strategies to run besides the budgets (default store_all,sqrt)",
    )
    parser.add_argument("--steps", type=int, default=3, metavar="N", help="number of steps to time (default 3)")
    parser.add_argument(
        "--plot", type=output_file, metavar="FILE", help="write a figure of compute versus memory: .svg, .png or .pdf"
    )
    parser.add_argument(
        "--html", type=output_file, metavar="FILE", help="write a report with figures to one HTML file"
    )
    parser.add_argument(
        "--no-calibrate",
        action="store_true",
        help="predict no times: predictions need costs measured on this machine (see lowmem calibrate)",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure every request, and print the table."""
    check_budget(arguments.budget)
    network = network_of(arguments)
    check_output(arguments.plot, "the figure", FIGURES)
    check_output(arguments.html, "the report", PAGES)
    check_apart({"plot": arguments.plot, "html": arguments.html})
    positive("--steps", arguments.steps)
    rows = list(_measure(arguments, network))
    if not rows:
        raise InputError("nothing is left to measure: every budget is too small. Give larger ones, or --strategies.")
    table = partial(_table, network, arguments.batch)
    if arguments.plot is not None:
        save_figure(_frontier(rows), arguments.plot)
    if arguments.html is not None:
        write_output(arguments.html, _html(rows, table).encode())
    print(json.dumps(_answer(arguments, network, rows)) if arguments.json else table(rows))
    return 0


def _answer(arguments: argparse.Namespace, network: Architecture, rows: Sequence[Row]) -> dict[str, Any]:
    """Return what --json prints: the machine, what was asked, and a row for each request."""
    from lowmem.measure.experiment import DISTURBED
    from lowmem.measure.provenance import here_and_now

    names = (
        *("batch", "budget", "strategies", "micro_batch", "optimizer", "threads", "engine"),
        *("shards", "disk", "disk_limit", "steps"),
    )
    return {
        "provenance": here_and_now().to_dict(),
        "flags": {name: getattr(arguments, name) for name in names},
        "network": network.to_dict(),
        "disturbed_above": DISTURBED,
        "rows": [_record(*row) for row in rows],
    }


def _record(name: str, measured: "Measurement", report: "Report") -> dict[str, Any]:
    """Return a row as JSON holds it."""
    timing = {"predicted_seconds": report.plan.seconds, "disturbed": _disturbed(measured, report)}
    timing["processor_share"] = _share(measured, report)
    return {"asked": name, **asdict(measured), **timing, "report": report.to_dict()}


def _measure(arguments: argparse.Namespace, network: Architecture) -> Iterator[Row]:
    """Yield a row for each request. Budgets that are too small are left out, with a line on standard error.

    All requests are planned before the first one is run, so that bad input is refused before anything is measured.
    """
    from lowmem.measure.experiment import measure_undisturbed

    common: dict[str, Any] = {
        **network.to_dict(),
        "batch_size": arguments.batch,
        "micro_batch": arguments.micro_batch,
        "threads": arguments.threads,
        "engine": arguments.engine,
        "shards": arguments.shards,
        "disk": arguments.disk,
        "disk_limit": arguments.disk_limit,
        "optimizer": arguments.optimizer,
        "steps": arguments.steps,
    }
    budgets = [budget.strip() for budget in arguments.budget.split(",")] if arguments.budget else SHARES
    requests = [(name.strip(), {"strategy": name.strip()}) for name in arguments.strategies.split(",") if name.strip()]
    requests += [(f"budget {budget}", {"budget": budget}) for budget in budgets]
    fitting, disk = [], disk_options(arguments)
    for name, request in requests:
        options: dict[str, Any] = request | {
            "micro_batch": arguments.micro_batch,
            "threads": arguments.threads,
            "engine": arguments.engine,
            "shards": arguments.shards,
            **disk,
        }
        try:
            planned = plan(network, arguments.batch, optimizer=arguments.optimizer, **options)
            fitting.append((name, request, planned))
        except BudgetError as error:
            print(f"lowmem: {name} is left out: it needs {format_bytes(error.minimum)}", file=sys.stderr)
    # The costs of the pieces are those of all cores: they say nothing of fewer threads.
    fewer = arguments.threads is not None and arguments.threads < cores()
    costs = None if fewer else cost_model(arguments, network.dtype)
    for name, request, planned in fitting:
        measured = measure_undisturbed(common | request)
        yield name, measured, measured.report(_timed(planned, costs))


def _timed(planned: Plan, costs: CostModel | None) -> Plan:
    """Return the plan with the seconds that a cost model predicts for it."""
    if costs is None or planned.disk is not None:  # plans with a disk are made by time
        return planned
    how: dict[str, Any] = {"micro_batch": planned.micro_batch, "threads": planned.threads, "engine": planned.engine}
    again = plan(
        planned.architecture, planned.batch_size, None, planned.optimizer, planned.schedule, costs=costs, **how
    )
    return replace(planned, seconds=again.seconds)


def _share(measured: "Measurement", report: "Report") -> float:
    """Return the processor time of a step over what its threads could have had; 1 is all."""
    return measured.cpu_seconds / (report.plan.lanes * measured.step_seconds)


def _disturbed(measured: "Measurement", report: "Report") -> bool:
    """Say whether the time of a step is no fact. A step with a disk may wait for it, with the processor idle."""
    from lowmem.measure.experiment import DISTURBED

    starved = report.plan.disk is None and _share(measured, report) < STARVED
    return measured.spread > DISTURBED or starved


def _table(network: Architecture, batch: int, rows: Sequence[Row]) -> Table:
    """Return promises beside measurements, one row for each run; disturbed ones are marked."""
    from lowmem.measure.report import difference

    base = rows[0][1].step_seconds if rows else 1.0
    cells = [
        [
            name.removeprefix("budget "),
            format_bytes(m.promised_peak),
            f"{format_bytes(m.traced_peak)} ({difference(m.promised_peak, m.traced_peak)})",
            format_bytes(m.resident_above_floor) if m.resident_above_floor > 0 else "not seen",
            f"{m.promised_arena / m.store_all_arena:.1%}",
            f"{m.flop_factor:.3f}",
            "" if report.plan.seconds is None else format_seconds(report.plan.seconds),
            f"{format_seconds(m.step_seconds)}{' *' * _disturbed(m, report)}",
            f"{m.step_seconds / base:.2f}",
            f"{report.backward_over_forward[1]:.2f}",
            f"{report.flop_rate / m.product_rate:.0%}",
        ]
        for name, m, report in rows
    ]
    columns = ["", "promised", "traced", "resident", "arena", "FLOPs", "predicted", "step", "time", "bwd/fwd", "speed"]
    note = _note(rows)
    return Table(f"{network}\nbatch {batch}", columns, cells, note)


def _note(rows: Sequence[Row]) -> str:
    """Return what stands below the table."""
    from lowmem.measure.experiment import DISTURBED

    note = (
        "promised, traced: peak of all that training allocates. resident: peak above the process before the plan.\n"
        "arena, FLOPs: relative to storing everything. time: relative to the first row. bwd/fwd: time of backward\n"
        "over that of forward; the rule of thumb is 2. speed: FLOPs a second over those of matrix products alone."
    )
    if any(m.resident_above_floor <= 0 for _, m, _ in rows):
        note += "\nnot seen: what the process holds varies by more than training adds."
    if any(report.plan.seconds is not None for *_, report in rows):
        note += (
            "\npredicted: time of the pieces of a step on this machine. It leaves out the update, and Python's share\n"
            "of a step: some 0.1 ms, which is most of the step of a small network."
        )
    if any(_disturbed(m, report) for _, m, report in rows):
        note += (
            f"\n*: disturbed. Repeats differ by more than {DISTURBED:.0%}, however often tried, or other processes\n"
            f"took more than {1 - STARVED:.0%} of the processor time of the step's threads."
        )
    return note


def _points(rows: Sequence[Row]) -> list["Point"]:
    """Return planned FLOPs and measured time of each run, both relative to storing everything."""
    from lowmem.plots import Point

    base = next((m.step_seconds for _, m, _ in rows if m.strategy == "store_all"), rows[0][1].step_seconds)
    points = []
    for _, m, _ in rows:
        memory = m.promised_arena / m.store_all_arena
        points.append(Point(m.strategy, memory, m.flop_factor))
        points.append(Point(m.strategy, m.arena_written / m.store_all_arena, m.step_seconds / base, measured=True))
    return points


def _frontier(rows: Sequence[Row]) -> "Figure":
    """Return a figure of compute versus memory, as planned and as measured."""
    from lowmem.plots import frontier

    label = "relative to storing everything: FLOPs planned, time measured"
    return frontier(_points(rows), compute_label=label, whole=rows[0][1].store_all_arena)


def _html(rows: Sequence[Row], table: Callable[[Sequence[Row]], Table]) -> str:
    """Return a page of HTML: the table, the figure, and the report of each run, the cheapest first."""
    from lowmem.plots.page import page, report_sections

    rows = sorted(rows, key=lambda row: (row[1].flop_factor, -row[1].promised_peak))
    overview: list[tuple[str, Any]] = [
        ("Promised and measured", table(rows)),
        ("Compute versus memory", _frontier(rows)),
    ]
    note = str(rows[0][2].provenance or "")
    parts = [(name, report_sections(report)) for name, _, report in rows]
    return page("lowmem profile", overview, note=note, parts=parts)
