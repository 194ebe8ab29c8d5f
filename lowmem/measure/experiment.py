"""What one plan promises and what it takes, measured in a fresh process.

A process that has run something else holds memory that this plan does not need, so each measurement gets a process of
its own: `python -m lowmem.measure.experiment` reads one request as JSON from standard input and writes one
`Measurement` as JSON.
"""

import gc
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.process_memory import resident
from lowmem.errors import LowmemError, RunError
from lowmem.measure.calibration import product_rate
from lowmem.measure.expected import copied
from lowmem.measure.memory import SampledPeak, TracedPeak, resident_peak_of
from lowmem.measure.provenance import here_and_now
from lowmem.measure.report import Report
from lowmem.measure.step_profile import Progress, StepProfile, memory_over_work, profile_step
from lowmem.network.architecture import Architecture
from lowmem.network.tiles import lane_rows
from lowmem.nn.mlp import MLP
from lowmem.nn.optimizers import make_optimizer
from lowmem.planning.choose import plan
from lowmem.planning.plan import Account, Plan
from lowmem.runtime.backprop import Backprop
from lowmem.runtime.blas_threads import at_most, threads_of


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a plan promised, and what running it took. Sizes are bytes, times are seconds.

    strategy, budget, micro_batch, forward_runs, flop_factor, planned_flops, store_all_arena, promised_peak,
        promised_arena, bookkeeping: as the plan says.
    traced_peak: peak of all that Python and NumPy allocated for training, over two steps.
    made: the arrays in that peak, by the names of `plan.account()`.
    arena_written: bytes of the arena that a step wrote to, in blocks of 4 KiB.
    floor: resident memory before the plan was made.
    resident_above_floor: peak of resident memory over the same two steps, without the floor and the tables of tracing.
    step_seconds: median time of the steps that followed.
    cpu_seconds: median time that the processor spent on these steps.
    spread: by how much the timed steps differ at most, relative to their median.
    steps: how many steps were run in all.
    loss: of the last timed step.
    profile: by phase, the FLOPs counted and the median time.
    memory_over_work: pairs of FLOPs done and bytes resident above the floor, along a pass.
    product_rate: FLOPs a second of matrix products alone, by as many threads as the plan was asked to use.
    """

    strategy: str
    budget: int | None
    micro_batch: int
    forward_runs: int
    flop_factor: float
    planned_flops: int
    store_all_arena: int
    promised_peak: int
    promised_arena: int
    bookkeeping: int
    traced_peak: int
    made: dict[str, int]
    arena_written: int
    floor: int
    resident_above_floor: int
    step_seconds: float
    cpu_seconds: float
    spread: float
    steps: int
    loss: float
    profile: dict[str, Any]
    memory_over_work: list[tuple[float, int]]
    product_rate: float

    def report(self, plan: Plan) -> Report:
        """Return the report of the plan that was measured."""
        return Report(
            plan=plan,
            traced_peak=self.traced_peak,
            resident_peak=self.floor + self.resident_above_floor,
            seconds_per_step=self.step_seconds,
            steps=self.steps,
            loss=self.loss,
            floor=self.floor,
            arrays=Account.from_dict(self.made),
            arena_written=self.arena_written,
            profile=StepProfile(self.profile["flops"], self.profile["seconds"]),
            product_rate=self.product_rate,
            memory_over_work=[(flops, size) for flops, size in self.memory_over_work],
            spread=self.spread,
            provenance=here_and_now(),
        )


def measure(request: Mapping[str, Any]) -> Measurement:
    """Plan, bind and run in this process.

    request: the fields of an `Architecture`; keywords of `lowmem.plan` (batch_size, budget, strategy, optimizer,
        micro_batch, segments, slots, threads, engine, disk, disk_limit, shards); and steps, the number of steps to
        time.
    """
    shape = {field.name for field in fields(Architecture) if field.init}
    architecture = Architecture.from_dict({name: value for name, value in request.items() if name in shape})
    rows, optimizer = request["batch_size"], request.get("optimizer")
    x, y = _batch(architecture, rows)
    _warm_up(request.get("disk"))
    gc.collect()
    TracedPeak().stop()  # makes room for names, which is no part of a plan
    floor = resident()
    options: dict[str, Any] = {
        name: request.get(name)
        for name in ("micro_batch", "segments", "slots", "threads", "engine", "disk", "disk_limit")
    }
    options["shards"] = request.get("shards", 1)
    planned = plan(architecture, rows, request.get("budget"), optimizer, request.get("strategy", "auto"), **options)
    gc.collect()
    traced = TracedPeak()  # tracing makes planning several times as slow
    planned = copied(planned)
    gc.collect()  # freed tuples, which Python keeps at hand, count as held
    traced.restart()  # the peak of copying is not that of training
    mlp = MLP(architecture, disk=planned.disk if planned.streams[0] else None)
    backprop = Backprop(mlp, planned, make_optimizer(optimizer, lr=1e-6) if optimizer else None)
    backprop.arena.mark()
    peak = resident_peak_of(lambda: (backprop(x, y), backprop(x, y))) - tracemalloc.get_tracemalloc_memory()
    traced_peak = traced.stop()
    written = backprop.arena.written()
    timed = _timed(backprop, x, y, request.get("steps", 3))
    sampled, progress = SampledPeak(), Progress()
    with sampled:
        profile_step(backprop, x, y, progress)
    # As the step multiplies: in lanes of one thread each, or with the threads that BLAS gets.
    with at_most(1) if planned.engine == "native" else threads_of(planned):
        products = planned.lanes * product_rate(architecture, lane_rows(planned.micro_batch, planned.lanes))
    return Measurement(
        strategy=planned.strategy,
        budget=planned.budget,
        micro_batch=planned.micro_batch,
        forward_runs=planned.forward_runs,
        flop_factor=planned.flop_factor,
        planned_flops=planned.flops,
        store_all_arena=planned.store_all_bytes,
        promised_peak=planned.peak_bytes,
        promised_arena=planned.arena_bytes,
        bookkeeping=planned.overhead_bytes,
        traced_peak=traced_peak,
        made=backprop.account().to_dict(),
        arena_written=written,
        floor=floor,
        resident_above_floor=peak - floor,
        memory_over_work=[(flops, size - floor) for flops, size in memory_over_work(sampled, progress)],
        product_rate=products,
        **timed,
    )


def _timed(backprop: Backprop, x: NDArray[Any], y: NDArray[Any], steps: int) -> dict[str, Any]:
    """Time plain and profiled steps in turns; return the fields of a `Measurement` that come from them."""
    elapsed, processor, profiles, loss = [], [], [], 0.0
    for _ in range(steps):
        start = perf_counter(), process_time()
        loss = backprop(x, y)[0]
        elapsed.append(perf_counter() - start[0])
        processor.append(process_time() - start[1])
        profiles.append(profile_step(backprop, x, y))
    return {
        "step_seconds": median(elapsed),
        "cpu_seconds": median(processor),
        "spread": (max(elapsed) - min(elapsed)) / median(elapsed),
        "steps": 2 * steps + 3,
        "loss": loss,
        "profile": StepProfile.median(profiles).to_dict(),
    }


def measure_apart(request: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Measurement:
    """Measure as `measure` does, in a fresh process.

    environment: variables that the process gets besides those of this one.

    Raises `RunError` with the last line that the process wrote if it fails.
    """
    done = subprocess.run(
        [sys.executable, "-m", "lowmem.measure.experiment"],
        input=json.dumps(dict(request)),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | dict(environment or {}),
    )
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise RunError(f"measuring {request.get('strategy', 'auto')} failed: {last}")
    return Measurement(**json.loads(done.stdout))


DISTURBED, TRIES = 0.2, 3
"""Spread above which other processes have disturbed a measurement, and how often one is taken at most."""


def measure_undisturbed(request: Mapping[str, Any]) -> Measurement:
    """Measure as `measure_apart` does, again where repeats differ by more than `DISTURBED`; return the calmest."""
    calmest = measure_apart(request)
    for _ in range(TRIES - 1):
        if calmest.spread <= DISTURBED:
            break
        calmest = min(calmest, measure_apart(request), key=lambda measured: measured.spread)
    return calmest


def _batch(architecture: Architecture, rows: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return random inputs and targets; time and memory do not depend on their values."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, architecture.widths[0]), np.dtype(architecture.dtype).type)
    if architecture.loss_facts.labels:
        return x, rng.integers(0, architecture.widths[-1], rows)
    return x, rng.random((rows, architecture.widths[-1]), np.dtype(architecture.dtype).type)


def _warm_up(disk: str | None) -> None:
    """Run a step of a tiny network, so that the modules and BLAS buffers of every plan are part of the floor.

    disk: the folder of the plan to be measured: a plan with one loads further modules, about 2 MiB.
    """
    architecture = Architecture((8, *[64] * 20, 4), "gelu")
    if disk is not None:
        plan(architecture, 64, "60% of activations", "sgd", disk=disk)
    tiny = plan(architecture, 64, "60% of activations", "sgd")
    Backprop(MLP(architecture), tiny, make_optimizer("sgd"))(*_batch(architecture, 64))


def main() -> int:
    """Measure the request on standard input, and write the measurement to standard output."""
    try:
        print(json.dumps(asdict(measure(json.load(sys.stdin)))))
    except LowmemError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
