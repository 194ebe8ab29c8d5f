"""Calls of public names with junk in place of arguments: the answer shall be a result, or one line of lowmem's own.

Run from the repository's root: python -m scripts.junk_calls [CALLS [SEED]]
"""

import inspect
import random
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import chdir
from typing import Any

import numpy as np

import lowmem as lm
from lowmem.chain import Chain
from lowmem.measure.learning import EpochRecord
from lowmem.schedule import PLANNERS, simulate
from lowmem.units import parse_bytes

ARCH = lm.Architecture((4, 6, 6, 3))
X = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
Y = np.arange(20) % 3
SECONDS, WAITING = 20, 600
"""Seconds that a call may compute, and that it may take in all: a busy machine makes no call a slow one."""

CHAIN = Chain.abstract(forward=[1, 1, 1], backward=[1, 1, 1], state_bytes=[1, 1, 1, 1])
OWN: dict[str, dict[str, Any]] = {"revolve": {"slots": 1}, "segments": {"segments": 2}, "optimal": {"budget": 3}}

JUNK: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 2.5, -0.0, float("nan"), float("inf"), 10**9, 2**63, 10**400, 1j),
    *("", "x", "adam", "sgd", "64KiB", "1TiB", "50%", "-1", "cosine", "store_all", b"x", "a\0b", "\ud800"),
    *([], [1], [4, 5, 3], (4, 5, 2), (), {}, {"a": 1}, {1: 2}, set(), [[1, 2], [3]], [None], ["x", 1], range(3)),
    *(np.float32(1.5), np.int64(4), np.array([1, 2]), np.zeros((3, 4)), np.zeros((3, 4), "f4"), np.array(["a"])),
    *(np.array([object()]), np.datetime64("2020-01-01"), object(), object, len, lambda *a, **k: None),
    *(ARCH, lm.LearningRate(0.1)),
    # Arrays that would do, but for where they lie, how they are written, or what hides in them.
    *(np.repeat(X, 2, axis=0)[::2], np.asfortranarray(X), X.astype(">f4"), np.ma.array(X, mask=X > 0), X * np.nan),
    *(np.repeat(Y, 2)[::2], Y.astype(">i8"), np.frombuffer(b" " + Y.tobytes(), np.uint8)[1:].view(Y.dtype), Y[:2], -Y),
    *(np.zeros((20, 3), "f4"), np.zeros((2, 3), "f4"), np.zeros((20, 3)), np.zeros((20, 6), "f4")[:, ::2]),
]


def network() -> lm.MLP:
    """Return a network that calls are made with."""
    return lm.MLP(ARCH)


def backprop() -> lm.Backprop:
    """Return what makes steps, and evaluates."""
    return lm.Backprop(network(), lm.plan(ARCH, 20))


def trainer() -> lm.Trainer:
    """Return a trainer that has trained an epoch."""
    one = lm.Trainer(network(), lm.Adam(), batch_size=8)
    list(one.epochs((X, Y), 1))
    return one


def calls() -> dict[str, tuple[Callable[[], Callable[..., Any]], tuple[Any, ...], dict[str, Any]]]:
    """Return by name what makes a callable, and arguments with which it works."""
    plan = lm.plan(ARCH, 8)
    of_plots: dict[str, Any] = {
        "memory_timeline": plan,
        "schedule_diagram": plan,
        "frontier": lm.compare(ARCH, 8, ["99%"]),
        "scaling": [plan],
        "learning_curves": [EpochRecord(1, 1, 0.5)],
        "side_by_side": {"plan": plan},
        "report_html": lm.Report(plan, None, 1, 0.1, 1, 1.0),
    }
    table: dict[str, Any] = {
        "Architecture": (lambda: lm.Architecture, ((4, 5, 3),), {}),
        "MLP": (lambda: lm.MLP, (ARCH,), {"seed": 0}),
        "plan": (lambda: lm.plan, (ARCH, 8), {"budget": None, "optimizer": None, "strategy": "auto"}),
        "compare": (lambda: lm.compare, (ARCH, 8), {"budgets": ["90%"]}),
        "minimum_budget": (lambda: lm.minimum_budget, (ARCH, 8), {}),
        "largest_batch": (lambda: lm.largest_batch, (ARCH, "64KiB"), {}),
        "deepest": (lambda: lm.deepest, (lm.Architecture((4, 6, 3)), 8, "64KiB"), {}),
        "Trainer": (lambda: lm.Trainer, (network(), None), {"batch_size": 8}),
        "Backprop": (lambda: lm.Backprop, (network(), plan), {}),
        "make_optimizer": (lambda: lm.make_optimizer, ("adam",), {}),
        "Adam": (lambda: lm.Adam, (), {"lr": 0.1}),
        "AdamW": (lambda: lm.AdamW, (), {"lr": 0.1}),
        "SGD": (lambda: lm.SGD, (), {"lr": 0.1}),
        "LearningRate": (lambda: lm.LearningRate, (0.1,), {}),
        "LearningRate.at": (lambda: lm.LearningRate(0.1).at, (3,), {}),
        "export_torch": (lambda: lm.export_torch, (network(), "net.safetensors"), {}),
        "import_torch": (lambda: lm.import_torch, ("net.safetensors",), {}),
        "Trainer.epochs": (lambda: trainer().epochs, ((X, Y), 1), {}),
        "Trainer.evaluate": (lambda: trainer().evaluate, ((X, Y),), {}),
        "Trainer.save": (lambda: trainer().save, ("run",), {}),
        "Trainer.resume": (lambda: lm.Trainer.resume, ("run",), {}),
        "Backprop.step": (backprop, (X, Y), {"weights": None}),
        "Backprop.forward": (lambda: backprop().forward, (X, np.zeros((20, 3), np.float32)), {}),
        "Backprop.loss": (lambda: backprop().loss, (np.zeros((20, 3), np.float32), Y), {}),
        "MLP.predict": (lambda: network().predict, (X,), {}),
        "Chain.abstract": (lambda: Chain.abstract, (), dict(forward=[1], backward=[1], state_bytes=[1, 1])),
        "simulate": (lambda: simulate, (CHAIN, PLANNERS["store_all"](CHAIN)), {}),
        "parse_bytes": (lambda: parse_bytes, ("1MiB",), {}),
    }
    table |= {name: (lambda name=name: PLANNERS[name], (CHAIN,), OWN.get(name, {})) for name in PLANNERS}
    return table | {name: (lambda name=name: getattr(lm.plots, name), (one,), {}) for name, one in of_plots.items()}


def spoilt(
    rng: random.Random, call: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Return arguments with one or two of them replaced by junk, or added."""
    arguments, keywords = list(given), dict(named)
    names = [name for name in inspect.signature(call).parameters if name not in ("self", "changes", "options")]
    for _ in range(rng.choice([1, 1, 2])):
        if arguments and rng.random() < 0.5:
            arguments[rng.randrange(len(arguments))] = rng.choice(JUNK)
        elif names:
            name = rng.choice(names)
            if name in names[: len(arguments)]:
                arguments[names.index(name)] = rng.choice(JUNK)
            else:
                keywords[name] = rng.choice(JUNK)
    return arguments, keywords


def use(name: str, result: Any) -> None:  # noqa: ANN401 - of any call
    """Use what a call returned, as junk may show only then."""
    if name == "Trainer.epochs":
        for number, _ in enumerate(result):
            if number > 1:
                break
    elif name == "Trainer":
        list(result.epochs((X, Y), 1, save_to="used"))
    elif name == "MLP":
        result.predict(np.zeros((2, result.architecture.widths[0])))


class SlowError(BaseException):
    """A call that takes too long."""


def too_slow(*_: object) -> None:
    """Break a call off, as the handler of an alarm."""
    raise SlowError


def allow(computing: float, waiting: float) -> None:
    """Let what follows compute and wait for so many seconds; 0 for ever."""
    signal.setitimer(signal.ITIMER_PROF, computing)
    signal.setitimer(signal.ITIMER_REAL, waiting)


def raw_errors(seed: int, count: int) -> list[str]:
    """Make `count` junk calls, and return those that ended in anything but a result or one line of lowmem's own.

    Files are written to a temporary folder.
    """
    rng, raw = random.Random(seed), []
    before = {number: signal.signal(number, too_slow) for number in (signal.SIGPROF, signal.SIGALRM)}
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        table = calls()
        lm.export_torch(network(), "net.safetensors")
        trainer().save("run")
        try:
            for _ in range(count):
                name = rng.choice(sorted(table))
                make, given, named = table[name]
                call = make()
                arguments, keywords = spoilt(rng, call, given, named)
                what = f"{name}(*{arguments!r:.150}, **{keywords!r:.150})"
                allow(SECONDS, WAITING)
                said = answer(name, call, arguments, keywords)
                allow(0, 0)
                raw += [f"{what}: {said}"] if said else []
        finally:
            allow(0, 0)
            for number, handler in before.items():
                signal.signal(number, handler)
    return raw


def answer(name: str, call: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]) -> str:
    """Make a call; return "" for a result or one line, and anything else that came."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            use(name, call(*arguments, **keywords))
    except lm.LowmemError as error:
        return str(error) if "\n" in str(error) else ""
    except (Exception, SlowError) as error:
        if callable(keywords.get("on_step")):
            return ""  # what a function of the caller's raises is the caller's
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> None:
    """Make junk calls, and print those that were answered by anything else than a result or one line."""
    count, seed = (int(text) for text in [*sys.argv[1:], "5000", "0"][:2])
    raw = raw_errors(seed, count)
    print("\n".join([*raw, f"{count:,} junk calls, {len(raw)} raw errors"]))
    sys.exit(bool(raw))


if __name__ == "__main__":
    main()
