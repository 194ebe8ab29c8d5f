"""The adversarial trial: random networks, trainings, kills, mutated files and junk calls against the promises.

networks: random networks and plans. The budget is kept when every allocation is traced, and gradients have the bits of
    storing everything, on both engines; every budget from the least one on is planned.
trainers: random trainings with evaluation. The budget is kept, another plan gives the same bits, and a run that is
    saved after some epochs and resumed by another plan ends with the same bits.
kills: processes that train are killed at random moments and resumed, to the same bits.
files: mutated files of data and mutated saved runs are read or refused in one line (scripts.fuzz_readers).
calls: calls with junk end in a result or in one line (scripts.junk_calls).

Number n of a seed is the same case whoever tries it. Run from the repository's root:
python -m scripts.hostile_trial [--quick] [--only networks] [--networks 2000] ... [--seed N] [--json FILE]
"""

import argparse
import gc
import json
import multiprocessing
import random
import sys
import tempfile
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

import lowmem as lm
from lowmem.common.tables import Table
from lowmem.network.layers import NORMS
from lowmem.network.specs import ACTIVATIONS, LOSSES
from lowmem.nn.optimizers import OPTIMIZERS
from scripts import fuzz_readers, junk_calls, kill_and_resume

ROOM = 64 << 10
"""Bytes that a promise leaves to what is not counted."""

Array = np.ndarray[Any, Any]
Found = tuple[Counter[str], list[str]]
"""How often what was tried, and what broke, in lines."""


def network(rng: random.Random) -> lm.Architecture:
    """Return a random network."""
    layers, most = rng.choice((2, 6, 20, 60)), rng.choice((4, 40, 120))
    count = rng.randint(1, layers)
    widths = [rng.randint(1, most) for _ in range(count + 1)]
    if rng.random() < 0.5:
        widths[1:-1] = [widths[0]] * (count - 1)
    loss = rng.choice(sorted(LOSSES))
    options: dict[str, Any] = {}
    if rng.random() < 0.5:
        options |= {"norm": rng.choice([None, *NORMS]), "residual": rng.choice([False, True, "scaled", "learned"])}
        options["dropout"] = rng.choice((0.0, 0.0, 0.2))
    if loss == "cross_entropy" and rng.random() < 0.2:
        options["label_smoothing"] = 0.1
    dtype = rng.choice(("float32", "float32", "float64"))
    return lm.Architecture(tuple(widths), rng.choice(sorted(ACTIVATIONS)), loss, dtype, **options)


def samples(architecture: lm.Architecture, rows: int, seed: int) -> tuple[Array, Array]:
    """Return random samples that fit a network and its loss."""
    rng = np.random.default_rng(seed)
    x, outputs = rng.standard_normal((rows, architecture.widths[0])), architecture.widths[-1]
    if architecture.loss_facts.labels:
        return x.astype(architecture.dtype), rng.integers(0, outputs, rows)
    y = rng.random((rows, outputs)) if architecture.loss == "bce" else rng.poisson(2.0, (rows, outputs)) * 1.0
    return x.astype(architecture.dtype), y.astype(architecture.dtype)


def try_networks(numbers: range, seed: int) -> Found:
    """Plan and run random networks in random ways; see above."""
    counts: Counter[str] = Counter()
    broke = []
    warm_up()
    for number in numbers:
        rng = random.Random(f"{seed} network {number}")
        architecture, rows = network(rng), rng.choice((2, 9, 64, 300, 700))
        optimizer, engine = rng.choice([None, *sorted(OPTIMIZERS)]), rng.choice(("numpy", None))
        x, y = samples(architecture, rows, number)
        counts["networks"] += 1
        stored: dict[int, bytes] = {}
        for _ in range(4):
            options = plan_options(rng, architecture, rows, {"optimizer": optimizer, "engine": engine})
            what = f"network {number}: {architecture}, batch {rows}, {options}"
            try:
                plan = lm.plan(architecture, rows, **options)
            except lm.BudgetError as error:
                counts["refused"] += 1
                if "budget" in options and isinstance(options["budget"], int):
                    broke.append(f"{what}: refused: {error}")
                elif error.minimum is not None:
                    again = lm.plan(architecture, rows, **options | {"budget": error.minimum})
                    if again.peak_bytes > error.minimum:
                        broke.append(f"{what}: advice {error.minimum} gives {again.peak_bytes}")
                continue
            counts["plans"] += 1
            counts[f"engine {plan.engine}"] += 1
            if plan.budget and plan.peak_bytes > plan.budget:
                broke.append(f"{what}: promises {plan.peak_bytes} of {plan.budget}")
            peak, bits = one_step(architecture, plan, optimizer, x, y)
            if peak > plan.peak_bytes + ROOM:
                broke.append(f"{what}: traced {peak}, promised {plan.peak_bytes}")
            counts["most over, bytes"] = max(counts["most over, bytes"], peak - plan.peak_bytes)
            size = plan.micro_batch
            if size not in stored:
                whole = lm.plan(architecture, rows, None, optimizer, "store_all", micro_batch=size, engine=engine)
                stored[size] = one_step(architecture, whole, optimizer, x, y)[1]
            if bits != stored[size]:
                broke.append(f"{what}: other bits than storing everything in passes of {size}")
    return counts, broke


def plan_options(
    rng: random.Random, architecture: lm.Architecture, rows: int, fixed: dict[str, Any]
) -> dict[str, Any]:
    """Return random keywords of `lowmem.plan`, those that are fixed among them."""
    size = None if architecture.couples else rng.choice((None, None, rng.randint(1, rows)))
    options = fixed | {"micro_batch": size}
    match rng.randrange(4):
        case 0:
            strategy = rng.choice(("store_all", "sqrt", "recompute_all", "segments", "revolve"))
            more = {"segments": {"segments": rng.randint(1, 9)}, "revolve": {"slots": rng.randint(0, 9)}}
            return options | {"strategy": strategy, **more.get(strategy, {})}
        case 1:
            return options | {"budget": f"{rng.randint(5, 100)}% of activations"}
        case _:
            try:
                least = lm.plan(architecture, rows, 1, **options).peak_bytes
            except lm.BudgetError as error:
                least = error.minimum
            most = lm.plan(architecture, rows, None, strategy="store_all", **options).peak_bytes
            where = rng.choice((0.0, rng.random() ** 3, rng.random()))
            return options | {"budget": least + int(where * max(most - least, 0))}


def one_step(
    architecture: lm.Architecture, plan: lm.Plan, optimizer: str | None, x: Array, y: Array
) -> tuple[int, bytes]:
    """Run two steps; return the peak of all that was allocated, and the bits of losses, gradients and parameters.

    Where the network overflows, the step that found it counts as one whose loss is not a number.
    """
    gc.collect()
    free_lists()  # tracing 38,000 tuples would take longer than all steps of most networks
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        mlp = lm.MLP(architecture, seed=3)
        made = None if optimizer is None else lm.make_optimizer(optimizer, lr=1e-3)
        backprop = lm.Backprop(mlp, plan, made, seed=1)
        losses = []
        gradients = None
        with np.errstate(all="ignore"):
            try:
                for _ in range(2):
                    loss, gradients = backprop(x, y)
                    losses.append(loss)
            except lm.NonFiniteError:  # then of every plan; the parameters are those before the step
                losses.append(float("nan"))
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    bits = np.array(losses).tobytes() + mlp.parameters.tobytes()
    if gradients is not None and optimizer is None:
        bits += b"".join(w.tobytes() for w in gradients.weights) + b"".join(b.tobytes() for b in gradients.biases)
    return peak, bits


def warm_up() -> None:
    """Train, so that what is imported or cached at first use is not taken for a part of what is tried."""
    for engine in ("numpy", None):
        for loss in ("cross_entropy", "bce"):
            architecture = lm.Architecture((4, 6, 3), loss=loss, norm="batch", dropout=0.1)
            one = lm.Trainer(lm.MLP(architecture), batch_size=5, engine=engine, clip_norm=1.0)
            list(one.epochs(samples(architecture, 18, 0), 1, samples(architecture, 7, 0)))
            one.evaluate(samples(architecture, 9, 0))


def free_lists() -> int:
    """Let CPython fill its lists of freed tuples, 2,000 of each size, and return the bytes that this takes.

    A collection empties these lists, and steps fill them again. They are no part of training.
    """
    before = tracemalloc.get_traced_memory()[0]
    held = [tuple([size] * size) for size in range(1, 20) for _ in range(2_000)]
    held.clear()
    return tracemalloc.get_traced_memory()[0] - before


def try_trainers(numbers: range, seed: int) -> Found:
    """Train random networks on random data; see above."""
    counts: Counter[str] = Counter()
    broke = []
    warm_up()
    for number in numbers:
        rng = random.Random(f"{seed} trainer {number}")
        architecture, count = network(rng), rng.choice((30, 200, 700))
        x, y = samples(architecture, count, number)
        if rng.random() < 0.4:
            x = np.abs(x * 20).astype(rng.choice(("u1", "f8", "f2", "i4")))
        held = max(2, count // 5)
        train, validation = (x[held:], y[held:]), (x[:held].astype(rng.choice((x.dtype.str, "f8"))), y[:held])
        size = rng.choice((2, 16, 64, 1000))
        if architecture.couples and len(train[0]) % min(size, len(train[0])) == 1:
            size += 1
        options: dict[str, Any] = {"batch_size": size, "seed": number, "engine": rng.choice(("numpy", None))}
        if rng.random() < 0.3 and not architecture.couples:
            options["clip_norm"] = 1.0
        what = f"trainer {number}: {architecture}, {count} samples of {x.dtype}, {options}"
        name = rng.choice(sorted(OPTIMIZERS))
        try:
            broke += [
                f"{what}: {words}" for words in trained(rng, architecture, name, train, validation, options, counts)
            ]
        except lm.NonFiniteError:
            counts["not finite"] += 1
        except Exception as error:
            broke.append(f"{what}: {type(error).__name__}: {error}")
    return counts, broke


def trained(
    rng: random.Random,
    architecture: lm.Architecture,
    name: str,
    train: tuple[Array, Array],
    validation: tuple[Array, Array],
    options: dict[str, Any],
    counts: Counter[str],
) -> list[str]:
    """Train in one way and in another, and save and resume between; return what broke."""

    def trainer(**more: Any) -> lm.Trainer:  # noqa: ANN401 - keywords of the trainer
        return lm.Trainer(lm.MLP(architecture, 5), lm.make_optimizer(name, lr=1e-4), **options | more)

    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        one = trainer()
        epochs = one.epochs(train, 3, validation)
        gc.collect()
        before += free_lists()
        tracemalloc.reset_peak()  # planning is over
        losses = [(epoch.loss, epoch.validation_loss) for epoch in epochs]
        by_hand = one.evaluate(validation)[0]
        one.evaluate(train)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    counts["trainings"] += 1
    counts["most over, bytes"] = max(counts["most over, bytes"], peak - one.plan.peak_bytes)
    broke = [] if peak <= one.plan.peak_bytes + ROOM else [f"traced {peak}, promised {one.plan.peak_bytes}"]
    broke += [] if by_hand == losses[-1][1] else [f"evaluates to {by_hand}, and to {losses[-1][1]} in training"]
    other = {"strategy": rng.choice(("recompute_all", "sqrt", "store_all")), "micro_batch": one.plan.micro_batch}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run")
        first = trainer(**other)
        seen = [(epoch.loss, epoch.validation_loss) for epoch in first.epochs(train, 1, validation)]
        first.save(path)
        second = lm.Trainer.resume(path, strategy="auto", budget=None)
        seen += [(epoch.loss, epoch.validation_loss) for epoch in second.epochs(train, 2, validation)]
        counts["resumed"] += 1
    if np.array(seen).tobytes() != np.array(losses).tobytes():
        broke.append(f"{other} and resumed: losses {seen}, and {losses}")
    if second.mlp.parameters.tobytes() != one.mlp.parameters.tobytes():
        broke.append(f"{other} and resumed: other parameters")
    return broke


def try_kills(numbers: range, seed: int) -> Found:
    """Kill and resume trainings, as many times as there are numbers, in lots of ten."""
    counts: Counter[str] = Counter()
    broke = []
    kinds = kill_and_resume.KINDS
    while counts["kills"] < len(numbers):
        lot = min(10, len(numbers) - counts["kills"])
        run = numbers.start + counts["runs"]
        flags = (*kill_and_resume.FLAGS, *kinds[run % len(kinds)])
        came = kill_and_resume.kill_and_compare(lot, seed * 1000 + run, flags)
        counts.update(kills=max(came.kills, 1), runs=1, unsaved=came.unsaved, same=came.same)
        broke += [] if came.same else [f"killed with {flags}, seed {seed * 1000 + run}: other weights"]
    return counts, broke


def try_files(numbers: range, seed: int) -> Found:
    """Open mutated files."""
    outcomes, broke = fuzz_readers.fuzzed(numbers, seed)
    counts: Counter[str] = Counter(files=len(numbers))
    for held in outcomes.values():
        counts.update({name: number for name, number in held.items() if name in ("read", "refused")})
    return counts, broke


def try_calls(numbers: range, seed: int) -> Found:
    """Make junk calls."""
    broke = junk_calls.raw_errors(seed * 1000 + numbers.start, len(numbers))
    return Counter(calls=len(numbers)), broke


PARTS: dict[str, tuple[Callable[[range, int], Found], int, int]] = {
    "networks": (try_networks, 2_000, 20),
    "trainers": (try_trainers, 500, 6),
    "kills": (try_kills, 200, 0),
    "files": (try_files, 100_000, 300),
    "calls": (try_calls, 5_000, 100),
}
"""What tries each part, how many times in full, and how many times with `--quick`."""


def tried(part: str, first: int, count: int, seed: int, workers: int) -> Found:
    """Try a part in several processes."""
    step = 1 if part in ("networks", "trainers", "files") else 0
    if step:
        shares = [range(first + worker, first + count, workers) for worker in range(workers)]
    else:  # these are tried in lots
        each = -(-count // workers)
        shares = [range(first + n, first + min(n + each, count)) for n in range(0, count, each)]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        results = pool.starmap(PARTS[part][0], [(share, seed) for share in shares if len(share)])
    counts: Counter[str] = Counter()
    for held, _ in results:
        most = max(counts["most over, bytes"], held["most over, bytes"])
        counts.update(held)
        counts["most over, bytes"] = most
    return +counts, [finding for _, findings in results for finding in findings]


def main() -> None:
    """Try all parts, and print what was tried and what broke."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a small share of each part, without kills")
    parser.add_argument("--only", choices=tuple(PARTS), help="one part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, to go on in pieces")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the figures there, a line for each part")
    for part, (_, full, _) in PARTS.items():
        parser.add_argument(f"--{part}", type=int, metavar="N", help=f"how many (default {full:,})")
    arguments = parser.parse_args()
    rows, broke = [], list[str]()
    warnings.simplefilter("ignore")
    for part, (_, full, few) in PARTS.items():
        count = getattr(arguments, part)
        count = (few if arguments.quick else full) if count is None else count
        if arguments.only not in (None, part) or not count:
            continue
        begin = monotonic()
        counts, findings = tried(part, arguments.first, count, arguments.seed, arguments.workers)
        figures = {name: number for name, number in counts.items() if number}
        seconds = monotonic() - begin
        rows.append([part, ", ".join(f"{name} {number:,}" for name, number in figures.items()), str(len(findings))])
        rows[-1].append(f"{seconds:.0f}")
        broke += findings
        if arguments.json is not None:
            line = {"part": part, "seed": arguments.seed, "first": arguments.first, "tried": figures}
            with arguments.json.open("a") as out:
                out.write(json.dumps(line | {"broke": len(findings), "seconds": round(seconds)}) + "\n")
    print(Table("Adversarial trial", ("part", "tried", "broke", "seconds"), rows))
    print("\n".join(broke[:50]))
    sys.exit(bool(broke))


if __name__ == "__main__":
    main()
