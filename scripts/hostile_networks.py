"""Random networks, plans and trainings against the promises, for the adversarial trial (scripts.hostile_trial)."""

import gc
import random
import tempfile
import traceback
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import lowmem as lm
from lowmem.errors import Advice
from lowmem.network.layers import NORMS
from lowmem.network.specs import ACTIVATIONS, LOSSES
from lowmem.nn.optimizers import OPTIMIZERS

ROOM = 64 << 10
"""Bytes that a promise leaves to what is not counted."""

Array = np.ndarray[Any, Any]
Found = tuple[Counter[str], list[str]]
"""How often what was tried, and what broke, in lines."""


def described(error: BaseException) -> str:
    """Return an error in a line, with the place where it was raised."""
    *_, place = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"


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
    """Plan and run random networks in random ways; see the trial."""
    counts: Counter[str] = Counter()
    broke = []
    for number in numbers:
        rng = random.Random(f"{seed} network {number}")
        architecture, rows = network(rng), rng.choice((2, 9, 64, 300, 700))
        fixed = {"optimizer": rng.choice([None, *sorted(OPTIMIZERS)]), "engine": rng.choice(("numpy", None))}
        x, y = samples(architecture, rows, number)
        counts["networks"] += 1
        stored: dict[int, bytes] = {}
        for _ in range(4):
            what, options = f"network {number}: {architecture}, batch {rows}, {fixed}", fixed
            try:
                options = plan_options(rng, architecture, rows, fixed)
                found = planned_and_run(architecture, options, x, y, stored, counts)
            except Exception as error:
                found = [described(error)]
            broke += [f"{what}, {options}: {words}" for words in found]
    return counts, broke


def planned_and_run(
    architecture: lm.Architecture,
    options: dict[str, Any],
    x: Array,
    y: Array,
    stored: dict[int, bytes],
    counts: Counter[str],
) -> list[str]:
    """Plan and run a network; return what broke.

    stored: the bits of storing everything, by the rows of a pass; what is missing is added.
    """
    rows, optimizer, budget = len(x), options["optimizer"], options.get("budget")
    try:
        plan = lm.plan(architecture, rows, **options)
    except lm.BudgetError as error:
        counts["refused"] += 1
        if isinstance(budget, int):
            return [f"refused: {error}"]
        return advice_that_fails(error, architecture, rows, options)
    counts["plans"] += 1
    counts[f"engine {plan.engine}"] += 1
    broke = []
    if plan.budget and plan.peak_bytes > plan.budget:
        broke.append(f"promises {plan.peak_bytes} of {plan.budget}")
    peak, bits = one_step(architecture, plan, optimizer, x, y)
    if peak > plan.peak_bytes + ROOM:
        broke.append(f"traced {peak}, promised {plan.peak_bytes}")
    counts["most over, bytes"] = max(counts["most over, bytes"], peak - plan.peak_bytes)
    size = plan.micro_batch
    if size not in stored:
        whole = lm.plan(architecture, rows, None, optimizer, "store_all", micro_batch=size, engine=options["engine"])
        stored[size] = one_step(architecture, whole, optimizer, x, y)[1]
    if bits != stored[size]:
        broke.append(f"other bits than storing everything in passes of {size}")
    return broke


def advice_that_fails(
    error: lm.BudgetError, architecture: lm.Architecture, rows: int, options: dict[str, Any]
) -> list[str]:
    """Return which budgets that a refusal names do not work: the bytes, and the words."""
    words = [one.value for one in error.advice if isinstance(one, Advice) and one.keyword == "budget"]
    broke = []
    for budget in [error.minimum, *words]:
        try:
            plan = lm.plan(architecture, rows, **options | {"budget": budget})
        except lm.BudgetError as again:
            broke.append(f"advice {budget}: {again}")
        else:
            broke += [f"advice {budget} gives {plan.peak_bytes}"] if plan.peak_bytes > (plan.budget or 0) else []
    return broke


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


def table_of_names() -> int:
    """Return the bytes of the interpreter's table of interned names, if it has grown since tracing began; 0 if not.

    CPython keeps every name and every part of a path once, in a dictionary that nobody sees. Once in some 40 trainings
    of a process it is full and made anew, as a block of a size that nothing else has: 16 bytes for each of 2/3 of its
    2^k slots, an index of 4 bytes for each slot, and a header of 32 (Python 3.11's Objects/dictobject.c).
    """
    sizes = {32 + 4 * 2**k + 16 * (2 ** (k + 1) // 3) for k in range(16, 20)}
    seen = [trace.size for trace in tracemalloc.take_snapshot().traces]
    return sum(size for size in seen if any(0 <= size - of_table <= 64 for of_table in sizes))


def try_trainers(numbers: range, seed: int) -> Found:
    """Train random networks on random data; see the trial."""
    counts: Counter[str] = Counter()
    broke = []
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
            broke.append(f"{what}: {described(error)}")
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
        if peak > one.plan.peak_bytes + ROOM and (table := table_of_names()):
            counts["the interpreter's table grew"] += 1
            peak -= table
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
        try:
            first.save(path)
        except lm.SaveError as error:  # of what is finite enough to train for, and not to go on from
            if "holds NaN or infinity" not in str(error):
                raise
            counts["not finite"] += 1
            return broke
        second = lm.Trainer.resume(path, strategy="auto", budget=None)
        seen += [(epoch.loss, epoch.validation_loss) for epoch in second.epochs(train, 2, validation)]
        counts["resumed"] += 1
    if np.array(seen).tobytes() != np.array(losses).tobytes():
        broke.append(f"{other} and resumed: losses {seen}, and {losses}")
    if second.mlp.parameters.tobytes() != one.mlp.parameters.tobytes():
        broke.append(f"{other} and resumed: other parameters")
    return broke
