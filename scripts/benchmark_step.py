"""Time of a training step: over its floor, beside PyTorch's, and against the memory that the plan takes.

Over the floor (`scripts.turns`), the time of a step's matrix products alone: both in one process, in turns (A B A B)
of so many steps as take a tenth of a second. A ratio is that of a turn and the floor's turn before it; the median of
all counts. Against PyTorch: in fresh processes, alternately, over several rounds; everything stored, PyTorch with its
default allocator. Elapsed time counts, of all cores. What the traffic of stored states costs is seen by the same
products with a state for each layer. PyTorch's products alone are timed too, in turns with its step:
where its BLAS is faster than NumPy's, that is part of the difference.

The frontier: fresh processes again, one for each budget, and for each number of segments of checkpoint_sequential at
its best in memory: allocator tuned, parameters updated in hooks (see `scripts.compare_peers`, which measures memory,
the resident peak above the process's floor). Then each takes turns with the products of lowmem's step, in its process:
what else the machine does slows both.

Needs PyTorch (`pip install -e ".[peers]"`). Run from the repository's root:
python -m scripts.benchmark_step [--brief] [--quick] [--only L,n,B] [--threads N]
"""

from argparse import ArgumentTypeError
from collections.abc import Iterator, Mapping
from statistics import median
from time import perf_counter
from typing import Any

from lowmem.common.tables import Table
from lowmem.units import format_bytes
from scripts import compare_peers
from scripts.compare_peers import MMAP, STEP_MAKERS, batch, lowmem_plan
from scripts.measuring import Case, in_fresh_process, note, run_script
from scripts.turns import floor_step, in_turns, over, quartiles, turns_of

Shape = tuple[int, int, int]
"""Hidden layers, their width, rows of a batch."""

SHAPES: tuple[Shape, ...] = (
    (50, 1024, 1024),
    (200, 256, 2048),
    (1000, 256, 1024),
    (12, 4096, 256),
    (200, 128, 1024),
    (100, 256, 128),
    (100, 64, 64),
)
ACTIVATIONS = ("relu", "tanh", "gelu", "silu")
OTHERS: tuple[tuple[Shape, Case], ...] = (
    ((200, 256, 2048), {"activation": "gelu", "residual": True}),
    ((12, 4096, 256), {"activation": "relu", "optimizer": "adam"}),
    ((200, 256, 2048), {"activation": "relu", "inference": True}),
)
"""Other networks, optimizers and uses, beside PyTorch: LayerNorm, gelu and dropout with skips; Adam, fused there."""
INPUTS, CLASSES = 64, 10
RATE = 1e-6
"""Small: some cases run thousands of steps on one batch."""

ROUNDS, SECONDS = 2, 1.0
"""Of fresh processes; for each side in a process."""
LEAST_TURNS = (3, 3)
"""In each round, however long they take."""

FRONTIER: Shape = (200, 256, 2048)
SHARES = (100, 50, 25, 12, 6, 3)
"""Budgets in percent of the activations of storing everything."""
SEGMENTS, FRONTIER_STEPS, FRONTIER_TURNS = (5, 10, 14, 20, 40), 3, 4
PLANNED = ("arena_bytes", "flop_factor", "strategy")
"""What is kept of a plan, beside the peak that it promises."""

QUICK: Shape = (20, 64, 256)

BRIEF_FLOPS, LONG_FLOPS = 4e10, 1e10
"""With --brief: of a step's products at most, by fewer layers; above the second number relu and gelu alone are run."""


# In a fresh process ----------------------------------------------------------------------------------------------


def measure(case: Case) -> Case:
    """Measure one case in this process: turns, or time and memory of a point of the frontier."""
    if case["part"] == "frontier":
        return measure_point(case)
    x, y = batch(case)
    steps = {"floor": floor_step(case)}
    if case["library"] == "lowmem":
        steps["floor_with_states"] = floor_step(case, keep_states=True)
    steps[case["library"]] = STEP_MAKERS[case["library"]](case, x, y)
    return in_turns(steps, case["seconds"], case["least"])


def measure_point(case: Case) -> Case:
    """Measure the memory of a point of the frontier, or only that before it, and then its time."""
    found, step = compare_peers.measure_memory(case)
    if step is None:
        return found
    steps = {"floor": floor_step(case | {"library": "lowmem"}), "step": step}
    found |= in_turns(steps, case["seconds"], case["least"])
    if case["library"] == "torch":
        return found
    plan = lowmem_plan(case)
    return found | {"promised_bytes": plan.peak_bytes} | {name: getattr(plan, name) for name in PLANNED}


# Over the floor, and beside PyTorch ------------------------------------------------------------------------------


def shape_case(shape: Shape, activation: str, threads: int | None) -> Case:
    """Describe a network and its batch."""
    hidden, width, rows = shape
    case: Case = {"hidden": hidden, "width": width, "widths": [INPUTS, *[width] * hidden, CLASSES], "batch": rows}
    return case | {"activation": activation, "rate": RATE} | ({} if threads is None else {"threads": threads})


def step_record(case: Case, rounds: int, seconds: float, environment: Mapping[str, str]) -> Case:
    """Measure lowmem and PyTorch, each with its floor, in alternate processes; seconds: for each side in a process."""
    case = case | {"part": "step", "budget": None, "segments": None, "hook": False}
    ours: list[Case] = []
    theirs: list[Case] = []
    for least in LEAST_TURNS[:rounds]:
        request = case | {"seconds": seconds, "least": least}
        for library, found in (("lowmem", ours), ("torch", theirs)):
            found.append(in_fresh_process("scripts.benchmark_step", request | {"library": library}, environment))
    floor, with_states, lowmem = ([found[name] for found in ours] for name in ("floor", "floor_with_states", "lowmem"))
    torch, torch_floor = ([found[name] for found in theirs] for name in ("torch", "floor"))
    of_rounds = [median(b["seconds"]) / median(a["seconds"]) for a, b in zip(lowmem, torch, strict=True)]
    record = case | {
        "floor": summary(floor),
        "floor_with_states": summary(with_states),
        "lowmem": summary(lowmem) | {"losses": lowmem[0]["losses"]},
        "torch": summary(torch) | {"losses": torch[0]["losses"]},
        "torch_floor": summary(torch_floor),
        "over_floor": over(floor, lowmem),
        "torch_over_lowmem": {"of_rounds": of_rounds},
    }
    record["torch_over_lowmem"]["median"] = record["torch"]["seconds"] / record["lowmem"]["seconds"]
    return record


def summary(found: list[Case]) -> Case:
    """Return median and quartiles over the turns of all rounds."""
    turns = turns_of(found)
    return {
        "seconds": median(turns),
        "quartiles": quartiles(turns),
        "cpu_seconds": median(seconds for one in found for seconds in one["cpu_seconds"]),
        "turns": len(turns),
        "steps_of_turn": [one["steps_of_turn"] for one in found],
    }


# The frontier ----------------------------------------------------------------------------------------------------


def frontier_cases(shape: Shape, quick: bool, threads: int | None) -> Iterator[Case]:
    """Yield lowmem's budgets and PyTorch's settings."""
    case = shape_case(shape, "relu", threads)
    case |= {"part": "frontier", "steps": 2 if quick else FRONTIER_STEPS}
    case |= {"seconds": 0.3 if quick else SECONDS, "least": FRONTIER_TURNS}
    for share in SHARES[:3] if quick else SHARES:
        yield case | {"library": "lowmem", "name": "lowmem", "budget": f"{share}% of activations"}
    torch = case | {"library": "torch", "name": "PyTorch", "allocator": "glibc", "segments": None, "hook": False}
    yield torch
    tuned = {"name": "checkpoint_sequential", "allocator": "mmap", "environment": MMAP, "hook": True}
    for count in SEGMENTS[:2] if quick else SEGMENTS:
        yield torch | tuned | {"segments": count}


def frontier_records(
    shape: Shape, quick: bool, rounds: int, environment: Mapping[str, str], threads: int | None
) -> Iterator[Case]:
    """Measure all points of the frontier in interleaved rounds."""
    cases = list(frontier_cases(shape, quick, threads))
    found: list[list[Case]] = [[] for _ in cases]
    for _ in range(rounds):
        for case, results in zip(cases, found, strict=True):
            results.append(measured_apart(case, environment, only_floor=False))
            found_over = over([results[-1]["floor"]], [results[-1]["step"]])
            note(f"{point_name(case)}: {found_over['median']:.3f} x")
    floors: dict[str, int] = {}
    for case, results in zip(cases, found, strict=True):
        kind = case.get("allocator", "lowmem")
        if kind not in floors:
            floors[kind] = measured_apart(case, environment, only_floor=True)["floor_bytes"]
        yield case | point(results, floors[kind])


def measured_apart(case: Case, environment: Mapping[str, str], *, only_floor: bool) -> Case:
    """Measure a point, or its floor of memory, in a fresh process."""
    variables = environment | case.get("environment", {})
    return in_fresh_process("scripts.benchmark_step", case | {"only_floor": only_floor}, variables)


def point(results: list[Case], floor_bytes: int) -> Case:
    """Return medians and spread over all rounds of a point; what a plan says is the same in each."""
    floor, steps = ([found[name] for found in results] for name in ("floor", "step"))
    plan = {name: results[0][name] for name in ("promised_bytes", *PLANNED) if name in results[0]}
    return plan | {
        **summary(steps),
        "over_floor": over(floor, steps),
        "above_floor_bytes": median(found["peak_bytes"] - floor_bytes for found in results),
        "losses": results[0]["losses"],
    }


def point_name(case: Case) -> str:
    """Name a point for people."""
    return f"{case['name']} {case.get('budget') or case.get('segments') or ''}".strip()


# Running ---------------------------------------------------------------------------------------------------------


def everything(
    quick: bool,
    environment: Mapping[str, str],
    only: Shape | None = None,
    threads: int | None = None,
    brief: bool = False,
) -> list[Case]:
    """Measure all shapes and the frontier, or one shape."""
    begin = perf_counter()
    shapes, frontier = ((QUICK,), QUICK) if quick else (SHAPES, FRONTIER)
    shapes = shapes if only is None else (only,)
    rounds, seconds = (1, 0.3) if quick else (1, 0.5) if brief else (ROUNDS, SECONDS)
    records = []

    def measure_step(shape: Shape, changes: Case) -> None:
        whole = changes == {"activation": "relu"} and shape == frontier  # as deep as the frontier
        case = shape_case(shallower(shape) if brief and not whole else shape, changes["activation"], threads) | changes
        records.append(step_record(case, rounds, seconds, environment))
        note(" | ".join(step_cells(records[-1])))

    for shape in shapes:
        for activation in ACTIVATIONS:
            if not (brief and flops(shape) > LONG_FLOPS and activation in ("tanh", "silu")):
                measure_step(shape, {"activation": activation})
    for shape, changes in () if quick else OTHERS:
        if shape in shapes:
            measure_step(shape, changes)
    points = []
    if frontier in shapes:
        points = list(frontier_records(frontier, quick, rounds, environment, threads))  # as deep as in other scripts
    columns = ["hidden, width, batch", "floor ms", "lowmem", "PyTorch", "over floor", "quartiles", "PyTorch/lowmem"]
    note(str(Table("Step times", [*columns, "of rounds", "losses"], list(map(step_cells, records)))))
    if points:
        columns = ["", "arena", "memory", "ms", "over floor", "quartiles"]
        note(str(Table("Frontier", columns, list(map(point_cells, points)))))
    note(f"{perf_counter() - begin:.0f} s in all")
    return records + points


def flops(shape: Shape) -> float:
    """Return the FLOPs of the products of a step, but for the first and the last layer."""
    hidden, width, rows = shape
    return 6.0 * hidden * width**2 * rows


def shallower(shape: Shape) -> Shape:
    """Return the shape with so many hidden layers that a step takes `BRIEF_FLOPS` at most, three at least."""
    hidden, width, rows = shape
    return max(3, min(hidden, int(BRIEF_FLOPS / flops((1, width, rows))))), width, rows


def step_cells(record: Case) -> list[str]:
    """Write a row of the table of steps."""
    over, beside = record["over_floor"], record["torch_over_lowmem"]
    ours, theirs = record["lowmem"]["losses"], record["torch"]["losses"]
    return [
        f"{record['hidden']}, {record['width']}, {record['batch']} {variant(record)}",
        *(f"{1e3 * record[name]['seconds']:.4g}" for name in ("floor", "lowmem", "torch")),
        f"{over['median']:.3f} x",
        "{:.3f} to {:.3f}".format(*over["quartiles"]),
        f"{beside['median']:.3f} x",
        f"{min(beside['of_rounds']):.3f} to {max(beside['of_rounds']):.3f}",
        f"{max(abs(a / b - 1) for a, b in zip(ours, theirs, strict=True)):.0e}",
    ]


def variant(record: Case) -> str:
    """Name the network, optimizer or use of a record."""
    if record.get("residual"):
        return f"residual, LayerNorm, {record['activation']}, dropout"
    if record.get("inference"):
        return f"{record['activation']}, inference"
    activation = str(record["activation"])
    return f"{activation}, {record['optimizer']}" if "optimizer" in record else activation


def point_cells(record: Case) -> list[str]:
    """Write a row of the table of the frontier."""
    return [
        point_name(record),
        format_bytes(record["arena_bytes"]) if "arena_bytes" in record else "",
        format_bytes(record["above_floor_bytes"]),
        f"{1e3 * record['seconds']:.4g}",
        f"{record['over_floor']['median']:.3f} x",
        "{:.3f} to {:.3f}".format(*record["over_floor"]["quartiles"]),
    ]


def shape_of(text: str) -> Shape:
    """Read "L,n,B"."""
    try:
        hidden, width, rows = map(int, text.split(","))
    except ValueError:
        hidden = width = rows = 0
    if min(hidden, width, rows) < 1:
        raise ArgumentTypeError(f"three positive whole numbers are needed, such as 200,256,2048; got {text!r}")
    return hidden, width, rows


ONLY: dict[str, Any] = {
    "type": shape_of,
    "metavar": "L,n,B",
    "help": "one case: hidden layers, width, batch; printed, not kept",
}

if __name__ == "__main__":
    run_script(
        "Time a training step: over its floor, beside PyTorch, and against memory.",
        "benchmark_step",
        measure,
        everything,
        ("numpy", "torch"),
        ONLY,
        brief="fewer layers and rounds, long steps with relu and gelu alone",
    )
