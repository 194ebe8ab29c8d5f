"""Fit the bytes of Python objects per kind (`lowmem.planning.engines.overhead.BYTES`) on traced allocations.

Run it after a change to the binding: it prints the table to paste, and how far the estimate lies above what was
traced. The fit minimises the sum of overestimates under the condition that no case is underestimated.

python -m scripts.fit_overhead
"""

import gc
import random
import tracemalloc
from typing import Any

import numpy as np
from scipy.optimize import linprog

import lowmem as lm
from lowmem.network.specs import ACTIVATIONS
from lowmem.planning.request import PlanRequest

CASES = 160
MARGIN = 1.02
"""By what the fitted bytes are multiplied, for cases that were not drawn."""


LEAST = {"layers": 600, "parts": 100, "steps": 100, "calls": 180, "sweeps": 72, "reversals": 72, "in place": 8}
LEAST |= {"places": 100, "workspaces": 50, "views": 150, "chunks": 150, "states": 100}
"""What objects of these kinds take at least, so that the fit stays close for networks unlike those drawn."""


def main() -> None:
    """Trace random bindings, fit, print."""
    rng = random.Random(0)
    for deep in (False, True):
        one(rng, deep=deep)  # brings the modules, whose memory is no binding's
    traced = [one(rng, deep=case % 2 == 1) for case in range(CASES)]
    kinds = [*traced[0][0]]
    matrix = np.array([[numbers[kind] for kind in kinds] for numbers, _ in traced], float)
    target = np.array([size for _, size in traced], float)
    fit = linprog(
        (1 / target) @ matrix, A_ub=-matrix, b_ub=-target, bounds=[(LEAST.get(kind, 0), None) for kind in kinds]
    )
    sizes = np.ceil(fit.x * MARGIN)
    for kind, size in zip(kinds, sizes, strict=True):
        print(f'    "{kind}": {size:.0f},')
    above = matrix @ sizes / target - 1
    print(f"above the traced bytes: median {np.median(above):.1%}, most {np.max(above):.1%}")


def one(rng: random.Random, *, deep: bool) -> tuple[dict[str, int], int]:
    """Bind one random network and plan; return the counts, and the traced bytes beyond those of arrays.

    deep: the layers have skips, norms and dropout.
    """
    layers = int(np.exp(rng.uniform(0, np.log(500))))
    width = rng.choice([1, 8, 32, 64])
    # Of one width, ragged with few or many different widths, or in turns: each fills the tables of views otherwise.
    widths = rng.sample(range(1, width + 1), min(width, rng.choice([1, 2, 6, 64])))
    has: dict[str, Any] = {}
    if deep:
        has = {
            "residual": rng.choice([False, True, "scaled", "learned"]),
            "norm": rng.choice([None, "layer", "rms", "batch"]),
            "dropout": rng.choice([0.0, 0.1]),
        }
    architecture = lm.Architecture(
        (8, *[rng.choice(widths) for _ in range(layers)], 5),
        rng.choice(sorted(ACTIVATIONS)),
        dtype=rng.choice(["float32", "float64"]),
        **has,
    )
    batch = rng.choice([3, 64, 512, 700, 2048, *([20_000] if layers < 100 else [])])
    name = rng.choice([None, "sgd", "adam"])
    micro = rng.choice([None, None, max(1, batch // 3)]) if has.get("norm") != "batch" else None
    strategy = rng.choice(["store_all", "sqrt", "recompute_all", "revolve", "segments"])
    options: dict[str, dict[str, Any]] = {
        "revolve": {"slots": rng.randint(0, 9)},
        "segments": {"segments": rng.randint(1, 9)},
    }
    x, y = np.zeros((batch, 8), architecture.dtype), np.zeros(batch, int)
    optimizer = None if name is None else lm.make_optimizer(name)
    gc.collect()
    tracemalloc.start()
    plan = lm.plan(architecture, batch, None, name, strategy, micro_batch=micro, **options.get(strategy, {}))
    gc.collect()
    tracemalloc.reset_peak()  # what planning took for a moment is not training's
    backprop = lm.Backprop(lm.MLP(architecture), plan, optimizer)
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
    return request.objects.counts(plan.program)


if __name__ == "__main__":
    main()
