"""Between two meetings lanes may be in any order: checked without threads, by orders that no machine would take."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.network.layers.base import Call
from tests.helpers import Array, batch, flat, names, stirred

THREADS = 3
KINDS: list[dict[str, Any]] = [
    {"residual": False, "norm": None, "dropout": 0.0},
    {"residual": True, "norm": None, "dropout": 0.0},
    {"residual": "learned", "norm": None, "dropout": 0.3},
    {"residual": "learned", "norm": "layer", "dropout": 0.0},
    {"residual": False, "norm": "rms", "dropout": 0.3},
]
SHAPES = {
    "even": (6, *[10] * 5, 4),
    "ragged": (6, 3, 12, 12, 1, 1, 9, 9, 2),  # rows of other widths, and layers with fewer outputs than lanes
}
PLANS: list[dict[str, Any]] = [
    {"strategy": "store_all"},
    {"strategy": "store_all", "optimizer": "adam"},
    {"strategy": "recompute_all", "micro_batch": 7},
    {"strategy": "sqrt", "optimizer": "momentum"},
    {"strategy": "sqrt", "optimizer": "sgd", "micro_batch": 8},
    {"strategy": "recompute_all", "optimizer": "sgd"},
]


def between_meetings(calls: Sequence[Call], wait: Callable[[], None]) -> list[list[Call]]:
    """Cut the calls of a lane where it waits."""
    parts: list[list[Call]] = [[]]
    for function, arguments in flat(calls):
        if function == wait:
            parts.append([])
        else:
            parts[-1].append((function, arguments))
    return parts


def run_in(order: str, calls: Sequence[Sequence[Call]], wait: Callable[[], None]) -> None:
    """Run the calls of all lanes in this thread: lane after lane, the last one first, or by lot."""
    rng = np.random.default_rng(0)
    lanes = [between_meetings(own, wait) for own in calls]
    assert len({len(parts) for parts in lanes}) == 1, "lanes wait for each other equally often"
    for parts in zip(*lanes, strict=True):
        left = [lane for lane, part in enumerate(parts) for _ in part]
        if order == "last first":
            left.reverse()
        elif order == "by lot":
            rng.shuffle(left)
        queues = [iter(part) for part in parts]
        for lane in left:
            function, arguments = next(queues[lane])
            function(*arguments)


def two_steps(plan: lm.Plan, order: str, x: Array, y: Array) -> bytes:
    """Return the bits of two steps in which lanes are run in that order."""
    mlp = stirred(plan.architecture)
    backprop = lm.Backprop(mlp, plan, lm.make_optimizer(plan.optimizer, lr=0.01) if plan.optimizer else None)
    lanes = backprop._training.lanes
    lanes.run = lambda task: run_in(order, task.args[0], lanes.wait)  # type: ignore[method-assign, attr-defined]
    losses = [backprop(x, y)[0] for _ in range(2)]
    gradients = [array for its in backprop.gradients.arrays for array in its.values()]
    return b"".join(array.tobytes() for array in (np.array(losses), *gradients, mlp.parameters))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS, ids=names)
def test_the_order_of_lanes_between_meetings_changes_no_bit(kind: dict[str, Any], shape: str) -> None:
    for activation in ("tanh", "silu"):
        architecture = lm.Architecture(SHAPES[shape], activation, **kind)
        x, y = batch(architecture, 20)
        for options in PLANS:
            plan = lm.plan(architecture, len(x), None, **options, threads=THREADS)
            assert plan.lanes == THREADS
            expected = two_steps(plan, "first first", x, y)
            for order in ("last first", "by lot"):
                assert two_steps(plan, order, x, y) == expected, (activation, order, options)
