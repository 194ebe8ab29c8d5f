"""The floor of a training step, and the time of steps that take turns in one process.

The floor is the time of a step's matrix products alone (L forward, L weight-gradient, L-1 input-gradient), back to
back with `out=` in float32. It has weights of its own for every layer, as any step must read them, and otherwise as
few arrays as will do: two states, two deltas, one gradient. So it pays for no traffic of memory that some plan saves;
with a state for each layer it took 1 to 4 % longer (200 layers of 256, batch 2048).
"""

from collections.abc import Mapping
from statistics import median, quantiles
from time import perf_counter, process_time, sleep
from typing import Any

import numpy as np

from scripts.compare_peers import Array, Step, weights
from scripts.measuring import Case

TURN = 0.1
"""Seconds: about as long is a turn of short steps; a longer step is a turn alone."""

PAUSE = 0.1
"""Seconds before a turn. BLAS's threads wait by spinning, also for some time after a product has returned: what is
timed right behind another side's products is slowed by them. So the first step of a turn is not counted either."""

KEPT_LOSSES = 3
"""Of the first steps, the warm-up's among them."""


def floor_step(case: Case, *, keep_states: bool = False) -> Step:
    """Return the matrix products of a step, and nothing else: NumPy's, or PyTorch's where that is the library.

    keep_states: every layer has a state of its own, in place of two that serve all.
    """
    widths, rows = case["widths"], case["batch"]
    ws: Any = list(weights(widths, "tanh"))  # of variance 1 / n: products alone then keep their size
    gradient = np.zeros(max(w.size for w in ws), np.float32)
    gs: Any = [gradient[: w.size].reshape(w.shape) for w in ws]
    states: Any = _apart(widths, rows) if keep_states else _in_turn(widths, rows)
    deltas: Any = _in_turn(widths, rows)
    # Where products begin stays as it is: what one step left there would shrink or grow with every step.
    states[0], deltas[-1] = (np.full((rows, width), 1e-2, np.float32) for width in (widths[0], widths[-1]))
    multiply: Any = np.matmul
    if case["library"] == "torch":
        import torch

        multiply = torch.mm
        ws, gs, states, deltas = ([torch.from_numpy(array) for array in arrays] for arrays in (ws, gs, states, deltas))

    def step() -> float:
        for layer, w in enumerate(ws):
            multiply(states[layer], w.T, out=states[layer + 1])
        for layer in range(len(ws) - 1, -1, -1):
            multiply(deltas[layer + 1].T, states[layer], out=gs[layer])
            if layer:
                multiply(deltas[layer + 1], ws[layer], out=deltas[layer])
        return 0.0

    return step


def _in_turn(widths: list[int], rows: int) -> list[Array]:
    """Return an array (rows, n_l) for each width, in the memory of two."""
    two = np.full((2, rows * max(widths)), 1e-2, np.float32)  # written: touched before any clock runs
    return [two[place % 2, : rows * width].reshape(rows, width) for place, width in enumerate(widths)]


def _apart(widths: list[int], rows: int) -> list[Array]:
    """Return an array (rows, n_l) for each width."""
    return [np.full((rows, width), 1e-2, np.float32) for width in widths]


def in_turns(steps: Mapping[str, Step], seconds: float, least: int) -> Case:
    """Time steps in turns, of so many steps each side, for so many seconds each and at least so many turns.

    The last one is warmed up, which loads and starts what the others use too. Returns for each the seconds of a step,
    elapsed and of processors, turn by turn, and the first losses.
    """
    *_, name = steps
    begin = perf_counter()
    losses = [steps[name]()]
    count = max(1, int(TURN / (perf_counter() - begin)))
    found: Case = {name: {"seconds": [], "cpu_seconds": [], "losses": [], "steps_of_turn": count} for name in steps}
    found[name]["losses"] = losses
    begin = perf_counter()
    while len(found[name]["seconds"]) < least or perf_counter() - begin < seconds * len(steps):
        for side, step in steps.items():
            _take(step, count, found[side])
    return found


def _take(step: Step, count: int, found: Case) -> None:
    """Run one turn and add what its steps took, but for the first one, and the first losses."""
    sleep(PAUSE)
    losses = [step()]
    begin = perf_counter(), process_time()
    losses += [step() for _ in range(count)]
    found["seconds"].append((perf_counter() - begin[0]) / count)
    found["cpu_seconds"].append((process_time() - begin[1]) / count)
    found["losses"] = [*found["losses"], *losses][:KEPT_LOSSES]


def over(floor: list[Case], steps: list[Case], seconds: str = "seconds") -> Case:
    """Return median and quartiles of the ratios of turns to the floor's turns before them, of all rounds.

    seconds: elapsed ones, or "cpu_seconds".
    """
    pairs = zip(turns_of(floor, seconds), turns_of(steps, seconds), strict=True)
    ratios = [step / products for products, step in pairs]
    return {"median": median(ratios), "quartiles": quartiles(ratios)}


def turns_of(found: list[Case], seconds: str = "seconds") -> list[float]:
    """Return the seconds of every turn of all rounds."""
    return [each for one in found for each in one[seconds]]


def quartiles(values: list[float]) -> list[float]:
    """Return the first and the third quartile."""
    first, _, third = quantiles(values, n=4, method="inclusive")
    return [first, third]
