"""What a busy machine costs: a training step, an evaluation and a profile, alone and beside processes that never rest.

The network has 60 layers of 128, the batch 1024. Each figure comes from fresh processes, alone and beside other ones
in turns, `ROUNDS` times each; the median counts. Two processes that want all of two cores leave half of them, so that
twice as long is what nobody can go below. By default there are as many as cores.

Run from the repository's root: python -m scripts.busy_machine [--quick] [--threads N]
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from time import perf_counter

import numpy as np

import lowmem as lm
from lowmem.common.tables import Table
from lowmem.measure.step_profile import profile_step
from scripts.measuring import Case, in_fresh_process, note, run_script

NETWORK, BATCH, ROWS = lm.Architecture((64, *[128] * 60, 10), "relu"), 1024, 10_240
SMALL = lm.Architecture((64, *[32] * 6, 10), "relu")
ROUNDS, STEPS = 5, 12
WORK = ("training step", "evaluation", "profile")
RESTLESS = "while True: pass"
"""What the others run."""


def measure(case: Case) -> Case:
    """Return the seconds that one kind of work takes in this process, the first time not counted."""
    network, rng = SMALL if case["quick"] else NETWORK, np.random.default_rng(0)
    rows = BATCH if case["quick"] else ROWS
    x = rng.standard_normal((rows, network.widths[0]), np.float32)
    y = rng.integers(0, network.widths[-1], rows)
    trainer = lm.Trainer(lm.MLP(network), optimizer="sgd", batch_size=BATCH)
    next(iter(trainer.epochs((x, y), 1)))
    backprop = lm.Backprop(lm.MLP(network), lm.plan(network, BATCH))
    run: Callable[[], object] = {
        "training step": lambda: backprop(x[:BATCH], y[:BATCH]),
        "evaluation": lambda: trainer.evaluate((x, y)),
        "profile": lambda: profile_step(backprop, x[:BATCH], y[:BATCH]),
    }[case["work"]]
    seconds = []
    for _ in range(1 + (2 if case["quick"] else STEPS)):
        begin = perf_counter()
        run()
        seconds.append(perf_counter() - begin)
    return {"seconds": median(seconds[1:]), "worst": max(seconds[1:])}


@contextmanager
def beside(count: int) -> Iterator[None]:
    """Let so many processes run that never rest."""
    others = [subprocess.Popen([sys.executable, "-c", RESTLESS]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def everything(quick: bool, environment: Mapping[str, str]) -> list[Case]:
    """Measure each kind of work, alone and beside others in turns."""
    others, records = os.cpu_count() or 1, []
    for work in WORK:
        found: dict[int, list[Case]] = {0: [], others: []}
        for number in range(1 if quick else ROUNDS):
            for count, results in found.items():
                with beside(count):
                    case = {"work": work, "quick": quick, "round": number, "beside": count}
                    results.append(in_fresh_process("scripts.busy_machine", case, environment))
        alone, busy = (median(result["seconds"] for result in results) for results in found.values())
        times = [b["seconds"] / a["seconds"] for a, b in zip(*found.values(), strict=True)]
        records.append({"work": work, "beside": others, "alone": alone, "busy": busy, "times": times})
        note(f"{work}: {busy / alone:.2f} times as long beside {others}")
    rows = [[r["work"], f"{1e3 * r['alone']:.4g}", f"{r['busy'] / r['alone']:.2f} x"] for r in records]
    note(str(Table("Beside restless processes", ["", "alone (ms)", "beside"], rows)))
    return records


if __name__ == "__main__":
    run_script("Time work on a busy machine.", "busy_machine", measure, everything, ("numpy",))
