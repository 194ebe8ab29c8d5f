"""Measure planning: seconds, memory, cost and proven gap over chains and budgets, each case in fresh processes.

For every case: seconds for the schedule (`Planner`, given the chain) and, for networks, for all of `lowmem.plan`; the
resident peak after the former, imports included; cost relative to storing everything; the proven gap; the window of
the table. Modules are imported and the chain is built before the clock starts. Of chains of up to 200 layers the gap
is told once more by a table of all segments, however long that takes: it says whether the schedule or the bound is
to blame for what lies between them.

Where the PyPI package rockmate is installed (`pip install --no-deps rockmate` is enough, without a GPU or PyTorch),
its C solver of rotor's dynamic programme (Beaumont et al., arXiv:1911.13214) is timed on the same chains, on 500
levels of memory as is its habit. The two models differ: rotor runs every layer of a segment again before its backward,
also the last one, and charges its output. Under equal accounting both schedules are run by `lowmem.schedule.simulate`,
rotor's without those runs that no backward needs, and lowmem plans for the bytes that rotor's schedule takes there.

Run from the repository's root: python -m scripts.benchmark_planning [--quick]
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from random import Random
from statistics import median
from time import perf_counter
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np  # noqa: F401 - planners import it when they make a table: here, so that no clock runs

import lowmem as lm
from lowmem.chain import Chain
from lowmem.common.tables import Table
from lowmem.measure.memory import reset_resident_peak, resident_peak
from lowmem.planning.network_chain import network_chain
from lowmem.schedule import PLANNERS, Backward, Forward, Loss, Op, Schedule, simulate
from lowmem.schedule.least import least_memory
from lowmem.schedule.optimal.planner import Planner
from lowmem.schedule.optimal.table import Limits
from lowmem.schedule.optimal.table import Table as FullTable
from lowmem.units import format_bytes
from scripts.measuring import Case, in_fresh_process, note, run_script

KINDS = ("iid", "iid16", "runs", "pyramid")
"""Widths of hidden layers, 32 to 512: independent, multiples of 16, twenty layers of one width each, ever narrower."""

SHARES = (50, 25, 10, 5, 2)
"""Budgets in percent of the peak of storing everything."""

FEW_SLOTS = 6
"""States of mean size above the least memory: budgets for few slots."""

BATCH, INPUTS, CLASSES, RUNS = 512, 64, 10, 2
LEVELS = 500
"""Memory levels of rotor's table."""

FULL, FINE = 200, 64
"""Layers up to which all segments are looked at, for the bound alone, and the levels of a mean state then."""


def cases(quick: bool) -> Iterator[Case]:
    """Yield all cases, or a few quick ones."""
    for layers in (200,) if quick else (200, 1000):
        for kind in KINDS[::3] if quick else KINDS:
            for share in (25, 5) if quick else SHARES:
                yield {"layers": layers, "kind": kind, "share": share}
            yield {"layers": layers, "kind": kind, "slots": FEW_SLOTS}
    for layers in (1000, 10_000) if quick else (1000, 10_000, 100_000):
        for share in (10,) if quick else (50, 10, 1):
            yield {"layers": layers, "kind": "even" if layers < 100_000 else "abstract", "share": share}
    if find_spec("rockmate"):
        for kind in KINDS[:1] if quick else KINDS:
            for share in (10,) if quick else (25, 10, 5):
                yield {"layers": 100 if quick else 200, "kind": kind, "share": share, "rotor": True}
    else:
        note("rockmate is not installed: no comparison with rotor.")


def network(case: Case) -> lm.Architecture:
    """Return the network of a case, the same for all budgets."""
    rng, layers = Random(case["layers"]), case["layers"] - 1
    match case["kind"]:
        case "iid":
            hidden = [rng.randint(32, 512) for _ in range(layers)]
        case "iid16":
            hidden = [16 * rng.randint(2, 32) for _ in range(layers)]
        case "runs":
            hidden = [width for _ in range(0, layers, 20) for width in [rng.randint(32, 512)] * 20][:layers]
        case "pyramid":
            hidden = [512 - 480 * n // layers for n in range(layers)]
        case _:
            hidden = [64] * layers
    return lm.Architecture((INPUTS, *hidden, CLASSES))


def chain_of(case: Case) -> Chain:
    """Return the chain of a case."""
    layers = case["layers"]
    if case["kind"] != "abstract":
        return network_chain(network(case), BATCH)
    return Chain.abstract(forward=[1] * layers, backward=[2] * layers, state_bytes=[1] * (layers + 1))


def measure(case: Case) -> Case:
    """Measure one case in this process."""
    chain = chain_of(case)
    stored = simulate(chain, PLANNERS["store_all"](chain))
    least = simulate(chain, least_memory(chain)).peak_bytes
    budget = stored.peak_bytes * case.get("share", 100) // 100
    if "slots" in case:
        budget = least + case["slots"] * sum(stage.state_bytes for stage in chain.stages) // chain.length
    if budget < least:
        return case | {"skipped": f"the least is {least / stored.peak_bytes:.1%}"}
    if case.get("rotor"):
        return case | beside_rotor(chain, budget)
    begin = perf_counter()
    planner = Planner(chain, budget)
    best = planner.best(budget)
    seconds = perf_counter() - begin
    measured = case | {
        "seconds": seconds,
        "resident_peak_bytes": resident_peak(),
        "cost_factor": best.cost / stored.cost,
        "gap": best.gap,
        "window": planner.window,
    }
    if case["layers"] <= FULL:
        measured["full_gap"] = min(best.gap, max(0.0, 1 - full_bound(chain, budget) / best.cost))
    if case["kind"] == "abstract" or "slots" in case:
        return measured
    del planner, best  # their tables are not the plan's
    reset_resident_peak()
    begin = perf_counter()
    try:
        plan = lm.plan(network(case), BATCH, f"{case['share']}% of activations", "sgd")
    except lm.BudgetError:  # what a schedule adds in Python's objects and gaps of the arena does not fit
        return measured
    return measured | {
        "plan_seconds": perf_counter() - begin,
        "plan_flop_factor": plan.flop_factor,
        "plan_gap": plan.gap,
        "plan_resident_peak_bytes": resident_peak(),
    }


def full_bound(chain: Chain, budget: int) -> float:
    """Return the least cost that any persistent schedule can have, by a table of all segments, whatever it takes."""
    chain = chain.reversal
    sizes = [stage.state_bytes for stage in chain.stages[:-1]]
    quantum = max(sum(sizes) // len(sizes) // FINE, 1)
    table = FullTable(chain, budget, quantum, down=True, limits=Limits(1e13, 8 << 30))
    table.grow()
    return table.lower(table.top) + Planner(chain, budget).fixed_cost


# Rotor -----------------------------------------------------------------------------------------------------------


def beside_rotor(chain: Chain, budget: int) -> Case:
    """Solve a chain with rotor and with lowmem, and compare under lowmem's accounting."""
    solver = rotor_solver()
    begin = perf_counter()
    table = solver.RkTable(rotor_chain(chain, budget), LEVELS)
    table.get_opt(LEVELS)
    sequence = table.build_sequence(LEVELS)
    seconds = perf_counter() - begin
    replayed = simulate(chain, Schedule("rotor", tuple(as_ops(sequence))))
    begin = perf_counter()
    best = Planner(chain, replayed.peak_bytes).best(replayed.peak_bytes)
    return {
        "seconds": perf_counter() - begin,
        "gap": best.gap,
        "rotor_seconds": seconds,
        "rotor_peak_of_budget": replayed.peak_bytes / budget,
        "cost_over_rotor": best.cost / replayed.cost,
    }


def rotor_solver() -> ModuleType:
    """Return rockmate's C solver without the rest of that package, which needs PyTorch and more."""
    (root,) = find_spec("rockmate").submodule_search_locations  # type: ignore[union-attr, misc]
    for name in ("rockmate", "rockmate.solvers", "rockmate.solvers.rk_rotor"):
        package = ModuleType(name)
        package.__path__ = ["/".join([root, *name.split(".")[1:]])]
        sys.modules[name] = package
    return import_module("rockmate.solvers.rk_rotor.csolver")


def rotor_chain(chain: Chain, budget: int) -> SimpleNamespace:
    """Describe a chain in rotor's terms, sizes in levels and rounded up: what a layer keeps is its output.

    Working memory is left out, in rotor's favour: it counts input and output of a running layer, lowmem runs in place.
    """
    length = chain.length
    levels = [-(-LEVELS * chain.state_bytes(layer) // budget) for layer in range(length + 1)]
    forward = [float(stage.forward) for stage in chain.stages]
    nothing = [0] * (length + 1)
    return SimpleNamespace(
        ln=length,
        nb_sol=[1] * (length + 1),
        fw=[[cost] for cost in [*forward, 0.0]],
        bw=[[float(stage.backward)] for stage in chain.stages] + [[0.0]],
        ff_fw=[*forward, 0.0],
        cw=[*levels, 0],
        cbw=[[level] for level in [0, *levels[1:], 0]],
        fwd_tmp=[[0] for _ in nothing],
        bwd_tmp=[[0] for _ in nothing],
        ff_fwd_tmp=nothing,
    )


def as_ops(sequence: Sequence[Any]) -> Iterator[Op]:
    """Translate rotor's sequence: Fc i, Fn i+1, ... is a sweep, Fe i keeps the output of a layer, Bwd i reverses it.

    A layer that rotor runs just before its own backward need not run: our backward does not use its output.
    """
    first = 0
    for op, following in pairwise([*sequence, None]):
        kind, coming = type(op).__name__, type(following).__name__
        match kind.removeprefix("Seq").removeprefix("Block"):
            case "Loss":
                yield Loss()
            case "Bwd":
                yield Backward(op.index + 1)
            case "Fe" if coming != "SeqBlockBwd" or following.index != op.index:
                yield Forward(op.index + 1, op.index + 1)
            case "Fc" | "Fn" as step:
                first = op.index + 1 if step == "Fc" else first
                if coming != "SeqBlockFn":
                    yield Forward(first, op.index + 1)


# Running ---------------------------------------------------------------------------------------------------------


def everything(quick: bool, environment: Mapping[str, str]) -> list[Case]:
    """Measure all cases: of every number the median over so many processes."""
    records = []
    for case in cases(quick):
        runs = [in_fresh_process("scripts.benchmark_planning", case, environment) for _ in range(1 if quick else RUNS)]
        records.append({name: middle([run[name] for run in runs]) for name in runs[0]})
        note(str(records[-1]))
    note(str(Table("", ["case", *COLUMNS], [[name_of(record), *cells(record)] for record in records])))
    return records


def middle(values: list[Any]) -> Any:  # noqa: ANN401 - of numbers the median, of all else the first
    """Return the median of numbers; what is no number is the same in all runs."""
    return median(values) if all(isinstance(value, int | float) for value in values) else values[0]


COLUMNS = ("seconds", "plan", "peak RSS", "cost", "gap", "window", "rotor s", "of rotor's cost")


def name_of(record: Case) -> str:
    """Name a case for people."""
    budget = f"{record['slots']} slots" if "slots" in record else f"{record['share']} %"
    return f"{record['layers']:,} {record['kind']} {budget}"


def cells(record: Case) -> list[str]:
    """Write one row of the table, a blank where a number does not apply."""
    if "skipped" in record:
        return [record["skipped"], *[""] * (len(COLUMNS) - 1)]
    formats = {
        "seconds": "{:.2f}",
        "plan_seconds": "{:.2f}",
        "resident_peak_bytes": "",
        "cost_factor": "{:.4f}",
        "gap": "{:.3%}",
        "window": "{}",
        "rotor_seconds": "{:.2f}",
        "cost_over_rotor": "{:.4f}",
    }
    values = [(record.get(name), text) for name, text in formats.items()]
    return ["" if value is None else text.format(value) if text else format_bytes(value) for value, text in values]


if __name__ == "__main__":
    run_script(
        "Measure planning: seconds, memory, cost and proven gap.",
        "benchmark_planning",
        measure,
        everything,
        ("numpy", "rockmate"),
    )
