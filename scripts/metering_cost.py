"""What metering costs: steps under each meter beside plain ones, in turns, in one process.

"sampled" has the thread that reads resident memory every 10 ms; "profiled" has it too, and times every call and counts
its FLOPs; "traced" has Python's tracing of allocations; "nothing" is a plain step again, and shows the noise. A turn
is some steps inside one meter. Of each turn the ratio to the plain ones before and after it is taken, so that what the
neighbours do to a round is in both; the median over rounds counts. The bar for the first two is 2 %, on networks large
enough for memory to matter.

Run from the repository's root: python -m scripts.metering_cost [--quick]
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from statistics import median
from time import process_time

import numpy as np

import lowmem as lm
from lowmem.measure.memory import SampledPeak, TracedPeak
from lowmem.measure.step_profile import profile_step
from scripts.measuring import Case, in_fresh_process, note, run_script

INPUTS, CLASSES = 64, 10

Meter = Callable[[], AbstractContextManager[object]]
"""Makes what a turn runs inside."""


def measure(case: Case) -> Case:
    """Measure one case in this process: median ratios of processor time, metered over plain."""
    network = lm.Architecture((INPUTS, *[case["width"]] * case["hidden"], CLASSES), case["activation"])
    plan = lm.plan(network, case["batch"], case["budget"], "sgd")
    backprop = lm.Backprop(lm.MLP(network), plan, lm.SGD(1e-6))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((case["batch"], INPUTS), np.float32)
    y = rng.integers(0, CLASSES, (case["batch"],))
    meters: dict[str, Meter] = {
        "nothing": nullcontext,
        "sampled": SampledPeak,
        "profiled": SampledPeak,
        "traced": _tracing,
    }
    steps = {name: partial(backprop, x, y) for name in meters} | {
        "profiled": partial(profile_step, backprop, x, y, [])
    }

    def seconds(step: Callable[[], object], meter: Meter) -> float:
        """Return the processor time of a turn, that of the meter's thread included."""
        start = process_time()
        with meter():
            for _ in range(case["steps"]):
                step()
        return process_time() - start

    plain = partial(seconds, partial(backprop, x, y), nullcontext)
    ratios: dict[str, list[float]] = {name: [] for name in meters}
    plain()
    for _ in range(case["rounds"]):
        for name, meter in meters.items():
            # Before and after: what drifts meanwhile is in neither.
            before, metered, after = plain(), seconds(steps[name], meter), plain()
            ratios[name].append(2 * metered / (before + after))
    return case | {"strategy": plan.strategy, "ratios": {name: median(row) for name, row in ratios.items()}}


@contextmanager
def _tracing() -> Iterator[None]:
    """Trace allocations."""
    traced = TracedPeak()
    yield
    traced.stop()


def cases(quick: bool) -> list[Case]:
    """List what is measured."""
    shapes = [(200, 256, 2048, "relu", 1, 5), (50, 1024, 1024, "relu", 1, 5), (200, 256, 2048, "gelu", 1, 5)]
    shapes += [(100, 128, 512, "relu", 10, 5), (20, 32, 64, "relu", 200, 5)]
    if quick:
        shapes = [(40, 128, 512, "relu", 10, 3), (20, 32, 64, "relu", 100, 3)]
    return [
        dict(zip(("hidden", "width", "batch", "activation", "steps", "rounds"), shape, strict=True))
        | {"budget": budget}
        for shape in shapes
        for budget in (None, "25% of activations")
    ]


def everything(quick: bool, environment: Mapping[str, str]) -> list[Case]:
    """Measure all cases, each in a fresh process."""
    records = []
    for case in cases(quick):
        records.append(in_fresh_process("scripts.metering_cost", case, environment))
        note(str(records[-1]))
    return records


if __name__ == "__main__":
    run_script("Measure what metering costs.", "metering_cost", measure, everything, ("numpy",))
