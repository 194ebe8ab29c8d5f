"""Measure what plans promise: strategies and budgets over depths and widths, each in a fresh process.

Every record is a case with what `lowmem.measure.experiment` found for it ("measured": promise, traced and resident
peaks, what was written of the arena, FLOPs and seconds by phase). Where not even the least memory fits the share of a
case, the plan of least memory is measured.

Run from the repository's root: python -m scripts.profile_memory [--brief] [--quick]
"""

from collections.abc import Mapping
from dataclasses import asdict
from math import log2
from typing import Any

import lowmem as lm
from lowmem.measure.experiment import measure_apart
from scripts.measuring import Case, note, run_script

DEEP_SHARES, WIDE_SHARES = (100, 50, 25, 12, 6, 3), (100, 50, 25, 16, 12, 8)
"""Budgets in percent of the activations of storing everything, for 200 and for 50 layers."""

INPUTS, CLASSES = 64, 10


def measured(case: Case, environment: Mapping[str, str]) -> Case:
    """Return the case with what was measured, but for the single samples of memory."""
    network = lm.Architecture((INPUTS, *[case["width"]] * case["hidden"], CLASSES), case["activation"])
    options: dict[str, Any] = {name: case.get(name) for name in ("strategy", "slots", "budget")}
    try:
        lm.plan(network, case["batch"], optimizer="sgd", **options)
    except lm.BudgetError as error:
        options["budget"] = error.minimum
    request = {
        "widths": network.widths,
        "activation": network.activation,
        "loss": network.loss,
        "dtype": network.dtype,
        "batch_size": case["batch"],
        "optimizer": "sgd",
        "steps": case["steps"],
    }
    found = asdict(measure_apart(request | options, environment))
    del found["memory_over_work"]
    return case | {"measured": found}


def cases(quick: bool, brief: bool) -> list[Case]:
    """List what is measured: budgets on three shapes, and strategies over depths and widths."""
    shapes: list[tuple[int, int, int, str, tuple[int, ...]]] = [
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
    if brief:
        shapes = [(*shape[:4], shape[4][::2]) for shape in shapes]
        depths = depths[1::2]
    listed: list[Case] = []
    for hidden, width, batch, activation, shares in shapes:
        shape = {"hidden": hidden, "width": width, "batch": batch, "activation": activation}
        listed += [
            # Three steps where the ratio of backward to forward is read off: a single one is the neighbours' guess.
            shape | {"family": "budgets", "strategy": "auto", "budget": f"{share}% of activations", "steps": steps}
            for share, steps in zip(shares, (3, *[1] * len(shares)), strict=False)
        ]
    for width in widths:
        for hidden in depths:
            shape = {"hidden": hidden, "width": width, "batch": 256, "activation": "relu"}
            deep = shape | {"family": "depths", "steps": 2}
            listed += [deep | {"strategy": strategy} for strategy in ("store_all", "sqrt")]
            listed.append(deep | {"strategy": "revolve", "slots": round(log2(hidden))})
    return listed


def everything(quick: bool, environment: Mapping[str, str], brief: bool = False) -> list[Case]:
    """Measure all cases, each in a fresh process."""
    records = []
    for case in cases(quick, brief):
        record = measured(case, environment)
        records.append(record)
        found = record["measured"]
        note(
            f"{case['hidden']} x {case['width']} {case['activation']} {case['strategy']} {case.get('budget', '')}: "
            f"promised {found['promised_peak'] / 2**20:.1f}, traced {found['traced_peak'] / 2**20:.1f}, "
            f"resident {found['resident_above_floor'] / 2**20:.1f} MiB, {found['cpu_seconds']:.3f} s, backward over "
            f"forward {found['profile']['backward_over_forward']['seconds']:.2f}"
        )
    return records


if __name__ == "__main__":
    run_script(
        "Measure what plans promise, in memory and time.",
        "profile_memory",
        None,
        everything,
        ("numpy",),
        brief="every second budget and depth",
    )
