"""Measure what plans promise: strategies and budgets over depths and widths, each in a fresh process.

For every case: the promised peak and arena; the traced peak (every allocation through Python and NumPy, from the plan
and the parameters on, over a warm-up and the timed steps) and, of that, the arena's block; the resident peak above the
process's floor (imports, the batch, and what a step of a tiny network leaves behind); the time of a step. The floor is
taken before the network is made. What tracing itself takes, and only that, is subtracted from the resident peak.
Planning is over when the peaks begin: on uneven chains its tables take memory of their own for a moment.

Run from the repository's root: python -m scripts.profile_memory [--quick]
"""

import gc
import tracemalloc
from collections.abc import Mapping
from math import log2

import numpy as np
import psutil  # noqa: F401 - `lowmem.meter` needs it: here, so that it is part of the floor

import lowmem as lm
from lowmem import arena
from lowmem.meter import TracedPeak, reset_resident_peak, resident, resident_peak
from scripts.measuring import Case, Timer, in_fresh_process, note, run_script

DEEP_SHARES, WIDE_SHARES = (100, 50, 25, 12, 6, 3), (100, 50, 25, 16, 12, 8)
"""Budgets in percent of the activations of storing everything, for 200 and for 50 layers."""

INPUTS, CLASSES = 64, 10


def measure(case: Case) -> Case:
    """Measure one case in this process and return it with promise and measurement."""
    architecture = architecture_of(case)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((case["batch"], INPUTS)).astype(architecture.dtype)
    y = rng.integers(0, CLASSES, (case["batch"],))
    warm_up()
    gc.collect()
    floor = resident()
    traced = TracedPeak()
    plan = plan_of(architecture, case)
    gc.collect()
    tracemalloc.reset_peak()
    backprop = lm.Backprop(lm.MLP(architecture), plan, lm.SGD(1e-4))
    reset_resident_peak()
    timer = Timer()
    for _ in range(1 + case["steps"]):
        with timer:
            backprop(x, y)
    tracing = tracemalloc.get_tracemalloc_memory()
    peak, traced_peak = resident_peak() - tracing, traced.bytes()
    in_arena = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, arena.__file__)])
    traced.stop()
    return (
        case
        | {
            "layers": architecture.layers,
            "budget_bytes": plan.budget,
            "planned_strategy": plan.strategy,
            "micro_batch": plan.micro_batch,
            "flop_factor": plan.flop_factor,
            "forward_runs": plan.forward_runs,
            "promised_peak_bytes": plan.peak_bytes,
            "promised_arena_bytes": plan.arena_bytes,
            "store_all_arena_bytes": plan.store_all_bytes,
            "bookkeeping_bytes": plan.bookkeeping_bytes,
            "traced_peak_bytes": traced_peak,
            "traced_arena_bytes": max(trace.size for trace in in_arena.traces),
            "floor_bytes": floor,
            "resident_peak_bytes": peak,
            "resident_above_floor_bytes": peak - floor,
        }
        | timer.medians()
    )


def architecture_of(case: Case) -> lm.Architecture:
    """Return the network of a case: `hidden` layers of one width between the inputs and the classes."""
    return lm.Architecture((INPUTS, *[case["width"]] * case["hidden"], CLASSES), case["activation"])


def plan_of(architecture: lm.Architecture, case: Case) -> lm.Plan:
    """Return the plan of a case; where not even the least memory fits the budget, that of least memory."""
    budget, strategy, slots = case.get("budget"), case["strategy"], case.get("slots")
    try:
        return lm.plan(architecture, case["batch"], budget, "sgd", strategy, slots=slots)
    except lm.BudgetError as error:
        return lm.plan(architecture, case["batch"], error.minimum, "sgd", strategy)


def warm_up() -> None:
    """Run a step of a tiny network, so that modules and BLAS buffers, which any use takes, are part of the floor."""
    tiny = lm.Architecture((8, *[64] * 20, CLASSES), "gelu")
    plan = lm.plan(tiny, 64, "60% of activations", "sgd")
    lm.Backprop(lm.MLP(tiny), plan, lm.SGD())(np.ones((64, 8), "float32"), np.zeros(64, np.intp))


def cases(quick: bool) -> list[Case]:
    """List what is measured: budgets on three shapes, and strategies over depths and widths."""
    shapes = [
        (200, 256, 2048, "relu", DEEP_SHARES),
        (200, 256, 2048, "gelu", DEEP_SHARES),
        (50, 1024, 1024, "relu", WIDE_SHARES),
    ]
    depths, widths = [25, 50, 100, 200, 400], [64, 256]
    if quick:
        shapes, depths, widths = (
            [(20, 64, 256, "relu", WIDE_SHARES), (20, 64, 256, "gelu", WIDE_SHARES)],
            [10, 20],
            [32],
        )
    listed: list[Case] = []
    for hidden, width, batch, activation, shares in shapes:
        shape = {"hidden": hidden, "width": width, "batch": batch, "activation": activation}
        listed += [
            shape | {"family": "budgets", "strategy": "auto", "budget": f"{share}% of activations", "steps": 1}
            for share in shares
        ]
    for width in widths:
        for hidden in depths:
            shape = {"hidden": hidden, "width": width, "batch": 256, "activation": "relu"}
            deep = shape | {"family": "depths", "steps": 2}
            listed += [deep | {"strategy": strategy} for strategy in ("store_all", "sqrt")]
            listed.append(deep | {"strategy": "revolve", "slots": round(log2(hidden))})
    return listed


def everything(quick: bool, environment: Mapping[str, str]) -> list[Case]:
    """Measure all cases, each in a fresh process."""
    records = []
    for case in cases(quick):
        record = in_fresh_process("scripts.profile_memory", case, environment)
        records.append(record)
        note(
            f"{case['hidden']} x {case['width']} {case['activation']} {case['strategy']} {case.get('budget', '')}: "
            f"promised {record['promised_peak_bytes'] / 2**20:.1f}, traced {record['traced_peak_bytes'] / 2**20:.1f}, "
            f"resident {record['resident_above_floor_bytes'] / 2**20:.1f} MiB, {record['cpu_seconds']:.3f} s"
        )
    return records


if __name__ == "__main__":
    run_script(
        "Measure what plans promise, in memory and time.", "profile_memory", measure, everything, ("numpy", "psutil")
    )
