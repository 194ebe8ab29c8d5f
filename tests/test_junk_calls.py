"""Whatever is given to a public name, the answer is a result or one line that says what is needed."""

import inspect
import random
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.chain import Chain
from lowmem.schedule import PLANNERS, simulate
from lowmem.units import parse_bytes

ARCH = lm.Architecture((4, 6, 6, 3))
X = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
Y = np.arange(20) % 3
CHAIN = Chain.abstract(forward=[1, 1, 1], backward=[1, 1, 1], state_bytes=[1, 1, 1, 1])
OWN: dict[str, dict[str, Any]] = {"revolve": {"slots": 1}, "segments": {"segments": 2}, "optimal": {"budget": 3}}

JUNK: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 2.5, -0.0, float("nan"), float("inf"), 10**9, 2**63, 10**400, 1j),
    *("", "x", "adam", "sgd", "64KiB", "1TiB", "50%", "-1", "cosine", "store_all", b"x", "a\0b", "\ud800"),
    *([], [1], [4, 5, 3], (4, 5, 2), (), {}, {"a": 1}, {1: 2}, set(), [[1, 2], [3]], [None], ["x", 1], range(3)),
    *(np.float32(1.5), np.int64(4), np.array([1, 2]), np.zeros((3, 4)), np.zeros((3, 4), "f4"), np.array(["a"])),
    *(np.array([object()]), np.datetime64("2020-01-01"), object(), object, len, lambda *a, **k: None),
    *(ARCH, lm.LearningRate(0.1)),
]


def network() -> lm.MLP:
    return lm.MLP(ARCH)


def trainer() -> lm.Trainer:
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
        "Backprop.step": (lambda: lm.Backprop(network(), lm.plan(ARCH, 20)), (X, Y), {"weights": None}),
        "MLP.predict": (lambda: network().predict, (X,), {}),
        "Chain.abstract": (lambda: Chain.abstract, (), dict(forward=[1], backward=[1], state_bytes=[1, 1])),
        "simulate": (lambda: simulate, (CHAIN, PLANNERS["store_all"](CHAIN)), {}),
        "parse_bytes": (lambda: parse_bytes, ("1MiB",), {}),
    }
    table |= {name: (lambda name=name: PLANNERS[name], (CHAIN,), OWN.get(name, {})) for name in PLANNERS}
    return table | {name: (lambda name=name: getattr(lm.plots, name), (one,), {}) for name, one in of_plots.items()}


def spoilt(rng: random.Random, call: Callable[..., Any], given: Any, named: Any) -> tuple[list[Any], dict[str, Any]]:
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


def use(name: str, result: Any) -> None:
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


def too_slow(*arguments: Any) -> None:
    raise SlowError


def raw_errors(seed: int, count: int) -> list[str]:
    """Make `count` junk calls, and return those that ended in anything but a result or one line of lowmem's own."""
    rng, table, raw = random.Random(seed), calls(), []
    lm.export_torch(network(), "net.safetensors")
    trainer().save("run")
    for _ in range(count):
        name = rng.choice(sorted(table))
        make, given, named = table[name]
        call = make()
        arguments, keywords = spoilt(rng, call, given, named)
        what = f"{name}(*{arguments!r:.150}, **{keywords!r:.150})"
        signal.alarm(20)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                use(name, call(*arguments, **keywords))
        except lm.LowmemError as error:
            if "\n" in str(error):
                raw.append(f"{what}: {error}")
        except (Exception, SlowError) as error:
            raw.append(f"{what}: {type(error).__name__}: {error}")
        finally:
            signal.alarm(0)
    return raw


def test_junk_calls_end_in_a_result_or_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGALRM, too_slow)
    try:
        assert raw_errors(0, 400) == []
    finally:
        signal.signal(signal.SIGALRM, before)


# What is plain is taken -------------------------------------------------------------------------------------------


def test_names_and_numbers_stand_for_optimizers_and_schedules() -> None:
    def parameters(optimizer: Any, schedule: Any = None) -> Any:
        one = lm.Trainer(network(), optimizer, batch_size=8, schedule=schedule)
        list(one.epochs((X, Y), 2))
        return one.mlp.parameters

    assert np.array_equal(parameters("adam"), parameters(lm.Adam()))
    assert np.array_equal(parameters("nesterov"), parameters(lm.make_optimizer("nesterov")))
    assert np.array_equal(parameters("sgd", 0.1), parameters(lm.SGD(0.1)))
    assert np.array_equal(parameters("sgd", "constant"), parameters("sgd"))
    # Two epochs of 20 samples in batches of 8 have 6 steps.
    assert np.array_equal(parameters("sgd", "cosine"), parameters("sgd", lm.LearningRate(0.01, "cosine", steps=6)))
    with pytest.raises(lm.InputError, match=r'schedule="step" needs to know how often the rate falls'):
        parameters("sgd", "step")


def test_a_cosine_by_name_is_saved_with_its_end(tmp_path: Path) -> None:
    whole = lm.Trainer(network(), "sgd", batch_size=8, schedule="cosine")
    list(whole.epochs((X, Y), 4))
    first = lm.Trainer(network(), "sgd", batch_size=8, schedule="cosine")
    next(first.epochs((X, Y), 4, save_to=tmp_path / "run"))
    again = lm.Trainer.resume(tmp_path / "run")
    list(again.epochs((X, Y)))
    assert np.array_equal(again.mlp.parameters, whole.mlp.parameters)


def test_networks_and_widths_stand_for_architectures() -> None:
    mlp = lm.MLP((4, 6, 6, 3), seed=0)
    assert mlp.architecture == ARCH
    assert np.array_equal(mlp.parameters, network().parameters)
    for given in (mlp, (4, 6, 6, 3), [4, 6, 6, 3]):
        assert lm.plan(given, 8).to_dict() == lm.plan(ARCH, 8).to_dict()
        assert lm.minimum_budget(given, 8) == lm.minimum_budget(ARCH, 8)
        assert lm.compare(given, 8, ["99%"]).to_dict() == lm.compare(ARCH, 8, ["99%"]).to_dict()
        assert lm.largest_batch(given, "96KiB") == lm.largest_batch(ARCH, "96KiB")
        assert lm.deepest(given, 8, "96KiB") == lm.deepest(ARCH, 8, "96KiB")


def test_lists_are_predicted() -> None:
    mlp = network()
    assert np.array_equal(mlp.predict(X.tolist()), mlp.predict(X))
    with pytest.raises(lm.InputError, match="the rows of x differ in length"):
        mlp.predict([[1, 2, 3, 4], [1]])


def test_errors_show_junk_in_one_line() -> None:
    with pytest.raises(lm.InputError) as error:
        lm.SGD(np.zeros((40, 40)))  # type: ignore[arg-type]
    assert len(str(error.value)) < 160
    assert "\n" not in str(error.value)
