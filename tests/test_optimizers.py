"""Optimizers: their update is the textbook's, chunk by chunk, and bad settings are refused."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import lowmem as lm
from lowmem.nn.optimizers import OPTIMIZERS, Optimizer
from lowmem.planning.engines.choice import why_not_native

Array = NDArray[Any]
Rule = Callable[[Array, Array, dict[str, Array], int], Array]


def sgd(lr: float, mu: float = 0.0, nesterov: bool = False, decay: float = 0.0) -> Rule:
    """Return SGD's update as its formula."""

    def rule(w: Array, g: Array, memory: dict[str, Array], step: int) -> Array:
        g = g + decay * w
        memory["v"] = mu * memory.get("v", 0 * w) + g
        return w - lr * (g + mu * memory["v"] if nesterov else memory["v"])

    return rule


def adam(
    lr: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, decay: float = 0.0, decoupled: bool = False
) -> Rule:
    """Return Adam's update as its formula."""

    def rule(w: Array, g: Array, memory: dict[str, Array], step: int) -> Array:
        if decoupled:
            w = w - lr * decay * w
        else:
            g = g + decay * w
        memory["m"] = b1 * memory.get("m", 0 * w) + (1 - b1) * g
        memory["v"] = b2 * memory.get("v", 0 * w) + (1 - b2) * g * g
        m, v = memory["m"] / (1 - b1**step), memory["v"] / (1 - b2**step)
        return w - lr * m / (np.sqrt(v) + eps)

    return rule


CASES: list[tuple[Callable[[], Optimizer], Rule]] = [
    (lambda: lm.SGD(0.1), sgd(0.1)),
    (lambda: lm.SGD(0.1, weight_decay=0.3), sgd(0.1, decay=0.3)),
    (lambda: lm.SGD(0.1, momentum=0.8), sgd(0.1, 0.8)),
    (lambda: lm.SGD(0.1, momentum=0.8, weight_decay=0.3), sgd(0.1, 0.8, decay=0.3)),
    (lambda: lm.SGD(0.1, momentum=0.8, nesterov=True), sgd(0.1, 0.8, nesterov=True)),
    (lambda: lm.SGD(0.1, momentum=0.8, nesterov=True, weight_decay=0.3), sgd(0.1, 0.8, nesterov=True, decay=0.3)),
    (lambda: lm.Adam(0.1), adam(0.1)),
    (lambda: lm.Adam(0.1, beta1=0.5, beta2=0.7, eps=0.01), adam(0.1, 0.5, 0.7, 0.01)),
    (lambda: lm.Adam(0.1, beta1=0.0, beta2=0.0), adam(0.1, 0.0, 0.0)),
    (lambda: lm.Adam(0.1, weight_decay=0.3), adam(0.1, decay=0.3)),
    (lambda: lm.AdamW(0.1, weight_decay=0.3), adam(0.1, decay=0.3, decoupled=True)),
    (lambda: lm.AdamW(0.1), adam(0.1)),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_an_update_is_its_formula(case: tuple[Callable[[], Optimizer], Rule], dtype: str, tolerance: float) -> None:
    optimizer, rule = case[0](), case[1]
    rng = np.random.default_rng(0)
    w = rng.standard_normal(50).astype(dtype)
    expected, memory = w.astype(float), dict[str, Array]()
    states = tuple(np.zeros_like(w) for _ in range(optimizer.states))
    scratch = tuple(np.empty_like(w) for _ in range(OPTIMIZERS[optimizer.name].scratch))
    for step in range(1, 11):
        optimizer.lr = 0.1
        g = rng.standard_normal(50)
        g[:5] = 0.0
        expected = rule(expected, g, memory, step)
        optimizer.begin_step()
        optimizer.update(w, g.astype(dtype), states, scratch)
        np.testing.assert_allclose(w, expected, rtol=tolerance, atol=tolerance)
    assert optimizer.step_count == 10
    assert w.dtype == dtype


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_chunks_are_updated_alike_wherever_they_are_cut(name: str) -> None:
    rng = np.random.default_rng(0)
    w, g = rng.standard_normal((2, 100))
    whole, cut = lm.make_optimizer(name, weight_decay=0.1), lm.make_optimizer(name, weight_decay=0.1)
    other, spent = w.copy(), g.copy()
    one = tuple(np.zeros(100) for _ in range(whole.states))
    two = tuple(np.zeros(100) for _ in range(whole.states))
    scratch = (np.empty(100),)
    whole.begin_step()
    whole.update(w, g, one, scratch)
    cut.begin_step()
    for part in (slice(0, 37), slice(37, 100)):
        cut.update(other[part], spent[part], tuple(state[part] for state in two), (scratch[0][part],))
    assert np.array_equal(w, other)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_the_learning_rate_may_change_between_steps() -> None:
    optimizer, w = lm.SGD(0.5), np.ones(3)
    for lr, expected in ((0.5, 0.5), (0.25, 0.25), (0.0, 0.25)):
        optimizer.lr = lr
        optimizer.begin_step()
        optimizer.update(w, np.ones(3), (), ())
        assert np.array_equal(w, np.full(3, expected))


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_make_optimizer_gives_usual_settings(name: str) -> None:
    optimizer = lm.make_optimizer(name)
    assert optimizer.name == name
    assert optimizer.states == OPTIMIZERS[name].states
    assert optimizer.lr == (1e-3 if name.startswith("adam") else 0.01)
    assert optimizer.weight_decay == 0
    assert optimizer.step_count == 0
    assert isinstance(optimizer, lm.Adam if name.startswith("adam") else lm.SGD)
    other = lm.make_optimizer(name, lr=0.5, weight_decay=0.25)
    assert (other.name, other.lr, other.weight_decay) == (name, 0.5, 0.25)


def test_make_optimizer_refuses_other_names_with_the_nearest_known() -> None:
    with pytest.raises(lm.InputError, match="Did you mean 'momentum'"):
        lm.make_optimizer("momentun")
    with pytest.raises(lm.InputError, match="unknown optimizer"):
        lm.make_optimizer(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda bad: lm.SGD(bad), "lr"),
        (lambda bad: lm.SGD(0.1, weight_decay=bad), "weight_decay"),
        (lambda bad: lm.SGD(0.1, momentum=bad), "momentum"),
        (lambda bad: lm.Adam(bad), "lr"),
        (lambda bad: lm.Adam(beta1=bad), "beta1"),
        (lambda bad: lm.Adam(beta2=bad), "beta2"),
        (lambda bad: lm.Adam(eps=bad), "eps"),
        (lambda bad: lm.AdamW(weight_decay=bad), "weight_decay"),
        (lambda bad: lm.make_optimizer("sgd", weight_decay=bad), "weight_decay"),
    ],
)
@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf"), "fast", None, [1, 2]])
def test_settings_that_make_no_sense_are_refused(make: Callable[[Any], Optimizer], name: str, bad: Any) -> None:
    with pytest.raises(lm.InputError, match=f"^{name} must be a number of at least 0"):
        make(bad)


@pytest.mark.parametrize("make", [lambda: lm.SGD(momentum=1.0), lambda: lm.Adam(beta1=1), lambda: lm.Adam(beta2=1.5)])
def test_running_means_need_a_share_below_one(make: Callable[[], Optimizer]) -> None:
    with pytest.raises(lm.InputError, match="and below 1"):
        make()


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(lm.InputError, match=r"Try momentum=0\.9"):
        lm.SGD(nesterov=True)


JUNK: list[Any] = ["0.1", None, np.array([0.1]), float("nan"), float("inf"), -1.0, True]


@pytest.mark.parametrize("kind", [lm.SGD, lm.Adam, lm.AdamW])
@pytest.mark.parametrize("value", JUNK, ids=repr)
def test_a_setting_is_checked_when_it_is_set_as_by_the_constructor(kind: type[Optimizer], value: Any) -> None:
    optimizer = kind(0.1)
    before = optimizer.settings()
    for name, of in kind.tunable.items():
        if of is bool:
            continue
        with pytest.raises(lm.InputError) as by_constructor:
            kind(**{name: value})
        with pytest.raises(lm.InputError) as when_set:
            setattr(optimizer, name, value)
        assert str(when_set.value) == str(by_constructor.value)
    assert optimizer.settings() == before
    optimizer.lr = np.float32(0.5)  # type: ignore[assignment]
    assert type(optimizer.lr) is float
    if value is not None:
        with pytest.raises(lm.InputError, match="clip_value must be a positive number"):
            optimizer.clip_value = value


@pytest.mark.parametrize("engine", ["numpy", "native"])
@pytest.mark.parametrize(
    ("optimizer", "name", "value", "words"),
    [
        (lm.SGD(0.1), "momentum", 0.9, "plan counts optimizer='sgd'; got 'momentum'"),
        (lm.SGD(0.1, momentum=0.9), "momentum", 0.0, "plan counts optimizer='momentum'; got 'sgd'"),
        (lm.SGD(0.1, momentum=0.9, nesterov=True), "momentum", 0.0, "nesterov needs a momentum above 0"),
    ],
)
def test_a_setting_that_makes_another_optimizer_is_refused_before_the_step_and_breaks_nothing(
    optimizer: Optimizer, name: str, value: float, words: str, engine: str
) -> None:
    if engine == "native" and why_not_native() is not None:
        pytest.skip("the compiled engine is not here")
    x, y = np.ones((8, 4), np.float32), np.zeros(8, int)
    trainer = lm.Trainer(lm.MLP(lm.Architecture((4, 5, 3))), copy.deepcopy(optimizer), batch_size=8, engine=engine)
    list(trainer.epochs((x, y), 1))
    before = trainer.mlp.parameters.copy()
    setattr(trainer.optimizer, name, value)
    with pytest.raises(lm.InputError, match=words):
        list(trainer.epochs((x, y), 1))
    assert np.array_equal(trainer.mlp.parameters, before)
    setattr(trainer.optimizer, name, getattr(optimizer, name))
    list(trainer.epochs((x, y), 1))
