"""Promise and reality of one plan, measured in a fresh process.

A process that has run something else holds memory that this plan does not need, so each measurement gets its own:
`python -m lowmem.measurement` reads one request as JSON from standard input and writes one `Measurement` as JSON.
"""

import gc
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from lowmem.architecture import Architecture
from lowmem.errors import LowmemError, RunError
from lowmem.executor import Backprop
from lowmem.meter import TracedPeak, reset_resident_peak, resident, resident_peak
from lowmem.nn.mlp import MLP
from lowmem.nn.optimizers import make_optimizer
from lowmem.planning import plan
from lowmem.profiling import profile_step


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a plan promised, and what running it took. Bytes and seconds.

    promised_peak, promised_arena: as the plan says. traced_peak: all that Python and NumPy allocated for it, over two
    steps. resident_above_floor: the peak of resident memory above what the process held before the plan was made,
    tracing's own tables taken off. arena: bytes of the arena that was made.
    step_seconds: median over the steps behind the first. profile: FLOPs counted and seconds, by phase.
    """

    strategy: str
    budget: int | None
    micro_batch: int
    flop_factor: float
    planned_flops: int
    store_all_arena: int
    promised_peak: int
    promised_arena: int
    traced_peak: int
    arena: int
    floor: int
    resident_above_floor: int
    step_seconds: float
    profile: dict[str, Any]


def measure(request: Mapping[str, Any]) -> Measurement:
    """Plan, bind and run in this process.

    request: widths, activation, loss, dtype, batch_size, and what `lowmem.plan` takes (budget, strategy, optimizer,
    micro_batch, segments, slots), and steps, how many are timed.
    """
    architecture = Architecture(request["widths"], request["activation"], request["loss"], request["dtype"])
    rows, optimizer = request["batch_size"], request.get("optimizer")
    x, y = _batch(architecture, rows)
    _warm_up()
    gc.collect()
    floor = resident()
    traced = TracedPeak()
    options: dict[str, Any] = {name: request.get(name) for name in ("micro_batch", "segments", "slots")}
    made = plan(architecture, rows, request.get("budget"), optimizer, request.get("strategy", "auto"), **options)
    gc.collect()
    tracemalloc.reset_peak()  # planning is over, and what it took for a moment is not training's
    backprop = Backprop(MLP(architecture), made, make_optimizer(optimizer, lr=1e-6) if optimizer else None)
    reset_resident_peak()
    backprop(x, y)
    backprop(x, y)
    tables = tracemalloc.get_tracemalloc_memory()
    peak = resident_peak() - tables
    traced_peak = traced.stop()
    seconds = []
    for _ in range(request.get("steps", 3)):
        start = perf_counter()
        backprop(x, y)
        seconds.append(perf_counter() - start)
    return Measurement(
        strategy=made.strategy,
        budget=made.budget,
        micro_batch=made.micro_batch,
        flop_factor=made.flop_factor,
        planned_flops=made.flops,
        store_all_arena=made.store_all_bytes,
        promised_peak=made.peak_bytes,
        promised_arena=made.arena_bytes,
        traced_peak=traced_peak,
        arena=backprop.arena_bytes,
        floor=floor,
        resident_above_floor=peak - floor,
        step_seconds=median(seconds),
        profile=profile_step(backprop, x, y).to_dict(),
    )


def measure_apart(request: Mapping[str, Any]) -> Measurement:
    """Do the same in a fresh process. Raises `RunError` with what that process said if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "lowmem.measurement"],
        input=json.dumps(dict(request)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise RunError(f"measuring {request.get('strategy', 'auto')} failed: {last}")
    return Measurement(**json.loads(done.stdout))


def _batch(architecture: Architecture, rows: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return random inputs and targets: what they are changes neither time nor memory."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, architecture.widths[0]), np.dtype(architecture.dtype).type)
    if architecture.loss_facts.labels:
        return x, rng.integers(0, architecture.widths[-1], rows)
    return x, rng.random((rows, architecture.widths[-1]), np.dtype(architecture.dtype).type)


def _warm_up() -> None:
    """Run a step of a tiny network, so that modules and BLAS buffers, which any use takes, are part of the floor."""
    architecture = Architecture((8, *[64] * 20, 4), "gelu")
    tiny = plan(architecture, 64, "60% of activations", "sgd")
    Backprop(MLP(architecture), tiny, make_optimizer("sgd"))(*_batch(architecture, 64))


def main() -> int:
    """Measure what standard input asks for."""
    try:
        print(json.dumps(asdict(measure(json.load(sys.stdin)))))
    except LowmemError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
