"""Fit the bytes of Python objects per kind (`lowmem.planning.overhead.BYTES`) on traced allocations of real bindings.

Run it after a change to the binding: it prints the table to paste, and how far the estimate lies above what was
traced. The fit minimises the sum of overestimates under the condition that no case is underestimated.
"""

import gc
import random
import tracemalloc
from typing import Any

import numpy as np
from scipy.optimize import linprog

import lowmem as lm
from lowmem.network.specs import ACTIVATIONS
from lowmem.planning.accounting import object_counts
from lowmem.planning.overhead import counts
from lowmem.planning.request import PlanRequest

OF_STAGES = ("parts", "sites", "gathered", "whole")
"""Kinds that plain networks have none of, fitted after all others."""


def main() -> None:
    """Trace random bindings, fit, print."""
    rng = random.Random(0)
    fitted: dict[str, float] = {}
    for stages, count in ((False, 200), (True, 150)):
        rows, seen = [], []
        for _ in range(count):
            numbers, traced = one(rng, stages=stages)
            rows.append(numbers)
            seen.append(traced)
        kinds = [kind for kind in rows[0] if (kind in OF_STAGES) == stages]
        known = np.array([sum(size * numbers[kind] for kind, size in fitted.items()) for numbers in rows])
        matrix, target = (
            np.array([[numbers[kind] for kind in kinds] for numbers in rows], float),
            np.array(seen) - known,
        )
        weights = 1 / np.array(seen, float)
        fit = linprog(weights @ matrix, A_ub=-matrix, b_ub=-target, bounds=[(0, None)] * len(kinds))
        above = (matrix @ fit.x - target) * weights
        for kind, size in zip(kinds, fit.x, strict=True):
            fitted[kind] = float(np.ceil(size * 1.02))
            print(f'    "{kind}": {fitted[kind]:.0f},')
        print(f"above the traced bytes: median {np.median(above):.1%}, most {np.max(above):.1%}")


def one(rng: random.Random, *, stages: bool) -> tuple[dict[str, int], int]:
    """Bind one random network and plan; return the counts, and the traced bytes beyond those of arrays."""
    layers = int(np.exp(rng.uniform(0, np.log(1000))))
    width = rng.choice([1, 8, 32, 64])
    # Of one width, ragged with few or many different widths, or in turns: each fills the tables of views otherwise.
    kinds = rng.sample(range(1, width + 1), min(width, rng.choice([1, 2, 6, 64])))
    hidden = [rng.choice(kinds) for _ in range(layers)]
    micro = None
    has: dict[str, Any] = {}
    if stages:
        has = {
            "residual": rng.choice([False, True, "scaled", "learned"]),
            "norm": rng.choice([None, "layer", "rms", "batch"]),
            "dropout": rng.choice([0.0, 0.1]),
        }
    architecture = lm.Architecture(
        (8, *hidden, 5), rng.choice(sorted(ACTIVATIONS)), dtype=rng.choice(["float32", "float64"]), **has
    )
    batch = rng.choice([3, 64, 512, 700, 2048, *([20_000] if layers < 100 else [])])
    optimizer = rng.choice([None, "sgd", "adam"])
    if has.get("norm") != "batch":
        micro = rng.choice([None, None, max(1, batch // 3)])
    strategy = rng.choice(["store_all", "sqrt", "recompute_all", "revolve", "segments"])
    options: dict[str, dict[str, Any]] = {
        "revolve": {"slots": rng.randint(0, 9)},
        "segments": {"segments": rng.randint(1, 9)},
    }
    x, y = np.zeros((batch, 8), architecture.dtype), np.zeros(batch, int)
    made = None if optimizer is None else lm.make_optimizer(optimizer)
    gc.collect()
    tracemalloc.start()
    chosen = {"micro_batch": micro, "threads": 1} | options.get(strategy, {})  # what lanes add is set by hand
    plan = lm.plan(architecture, batch, None, optimizer, strategy, **chosen)
    gc.collect()  # what planning took for a moment is not training's
    mlp = lm.MLP(architecture)
    backprop = lm.Backprop(mlp, plan, made)
    bound = tracemalloc.get_traced_memory()[1]  # binding itself needs tables that are dropped afterwards
    backprop(x, y)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    arrays = plan.peak_bytes - plan.overhead_bytes
    return counts_of(plan), max(bound, held) - arrays


def counts_of(plan: lm.Plan) -> dict[str, int]:
    """Return the counts that the planner made for this plan."""
    request = PlanRequest(
        plan.architecture,
        plan.batch_size,
        plan.micro_batch,
        optimizer=plan.optimizer,
        update=plan.update,
        threads=1,
    )
    return counts(plan.architecture, plan.program, **object_counts(request))


if __name__ == "__main__":
    main()
