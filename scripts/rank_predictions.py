"""Does predicted time rank plans as measured time does? Spearman's rank correlation, network by network.

The plans of a network (strategies, budgets, passes) are run in interleaved rounds in one process; predictions come
from the cost model that was measured on this machine.

Run from the repository's root: python -m scripts.rank_predictions
"""

import json
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import lowmem as lm

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


def main() -> None:
    """Measure every network and print a record for each."""
    costs = lm.calibrated()
    for network in NETWORKS:
        predicted, measured = compared(network, costs)
        correlation = np.corrcoef(ranks(predicted), ranks(measured))[0, 1]
        record = {
            "network": str(network),
            "batch": BATCH,
            "rank_correlation": round(float(correlation), 3),
            "predicted_seconds": predicted,
            "measured_seconds": measured,
        }
        print(json.dumps(record), flush=True)


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
    main()
