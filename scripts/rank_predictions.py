"""Does predicted time rank plans as measured time does? Spearman's rank correlation, network by network.

The plans of a network (strategies, budgets, passes) are run in interleaved rounds in one process; predictions come
from the cost model that was measured on this machine.

Run from the repository's root: python -m scripts.rank_predictions
"""

from collections.abc import Mapping
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import lowmem as lm
from scripts.measuring import Case, in_fresh_process, note, run_script

NETWORKS = (
    lm.Architecture((64, *[128] * 60, 10), "relu"),
    lm.Architecture((64, *[256] * 40, 10), "gelu"),
    lm.Architecture((64, *[300, 80, 200, 40] * 12, 10), "tanh"),
    lm.Architecture((64, *range(400, 40, -8), 10), "silu"),
)
BATCH, ROUNDS = 512, 5
REQUESTS: tuple[dict[str, Any], ...] = (
    {},
    {"strategy": "sqrt"},
    {"strategy": "revolve", "slots": 3},
    {"micro_batch": 128},
    {"micro_batch": 32},
    *({"budget": f"{share}% of activations"} for share in (70, 50, 25, 12)),
)


def measure(case: Case) -> Case:
    """Measure one network in this process, and its cost model if there is none for this machine."""
    network = NETWORKS[case["network"]]
    predicted, measured = compared(network, lm.calibrated())
    correlation = np.corrcoef(ranks(predicted), ranks(measured))[0, 1]
    return {
        "network": str(network),
        "batch": BATCH,
        "rank_correlation": round(float(correlation), 3),
        "predicted_seconds": predicted,
        "measured_seconds": measured,
    }


def everything(quick: bool, environment: Mapping[str, str]) -> list[Case]:
    """Measure every network, each in a fresh process."""
    records = []
    for number in range(1 if quick else len(NETWORKS)):
        records.append(in_fresh_process("scripts.rank_predictions", {"network": number}, environment))
        note(f"{records[-1]['network']}: {records[-1]['rank_correlation']}")
    return records


def compared(network: lm.Architecture, costs: lm.CostModel) -> tuple[list[float], list[float]]:
    """Return predicted and measured seconds of each request's plan."""
    mlp = lm.MLP(network)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, network.widths[0]), np.float32)
    y = rng.integers(0, network.widths[-1], BATCH)
    runs = [lm.Backprop(mlp, lm.plan(network, BATCH, costs=costs, **request)) for request in REQUESTS]
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(1 + ROUNDS):
        for run, seconds in zip(runs, times, strict=True):
            start = perf_counter()
            run(x, y)
            seconds.append(perf_counter() - start)
    predicted = [run.plan.seconds for run in runs if run.plan.seconds is not None]
    return predicted, [median(seconds[1:]) for seconds in times]


def ranks(numbers: list[float]) -> list[int]:
    """Return the place of each number among all."""
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    return [order.index(place) for place in range(len(numbers))]


if __name__ == "__main__":
    run_script("Rank plans by predicted and by measured time.", "rank_predictions", measure, everything, ("numpy",))
