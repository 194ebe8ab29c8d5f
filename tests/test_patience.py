"""Early stopping: the network and the saved run have the best weights, and the run can go on from its last ones."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import lowmem as lm
from lowmem.training.saved_run import open_run

Array = NDArray[Any]
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((60, 4)).astype(np.float32), RNG.integers(0, 3, 60)
HELD = RNG.standard_normal((30, 4)).astype(np.float32), RNG.integers(0, 3, 30)
ARCH = lm.Architecture((4, 16, 16, 3))
OF_EVERY_KIND = lm.Architecture((4, 16, 16, 3), norm="batch", residual="learned", dropout=0.1)


def fitted(architecture: lm.Architecture = ARCH, **options: Any) -> lm.Trainer:
    """Return a trainer that soon learns its few samples by heart."""
    return lm.Trainer(lm.MLP(architecture), lm.Adam(0.02), batch_size=20, **options)


def on_held_out(mlp: lm.MLP) -> tuple[float, float]:
    """Return loss and accuracy on the held-out samples, by the formula."""
    s = mlp.predict(HELD[0]).astype(np.float64)
    log = s - s.max(axis=1, keepdims=True)
    log -= np.log(np.exp(log).sum(axis=1, keepdims=True))
    return float(-log[np.arange(30), HELD[1]].mean()), float(np.mean(s.argmax(axis=1) == HELD[1]))


@pytest.mark.parametrize("architecture", [ARCH, OF_EVERY_KIND], ids=["plain", "rich"])
@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_network_and_saved_run_have_the_best_weights(
    tmp_path: Path, architecture: lm.Architecture, metric: Any
) -> None:
    trainer = fitted(architecture)
    epochs = list(
        trainer.epochs((X, Y), 60, HELD, patience=4, patience_metric=metric, save_to=tmp_path / "run", save_every=7)
    )
    assert len(epochs) < 60
    value = {"loss": lambda e: -e.validation_loss, "accuracy": lambda e: e.accuracy}[metric]
    best: lm.Epoch = max(epochs, key=value)
    assert trainer.best_epoch == best.number == epochs[-1].number - 4
    for mlp in (trainer.mlp, open_run(tmp_path / "run").network()):
        assert on_held_out(mlp) == pytest.approx((best.validation_loss, best.accuracy), rel=1e-5)
    assert trainer.evaluate(HELD) == (best.validation_loss, best.accuracy)
    assert (trainer.report().loss, trainer.report().accuracy) == (best.loss, best.accuracy)


def test_the_best_weights_are_kept_to_the_end_without_an_early_one(tmp_path: Path) -> None:
    trainer = fitted()
    epochs = list(trainer.epochs((X, Y), 12, HELD, patience=12, save_to=tmp_path / "run"))
    assert len(epochs) == 12
    best = min(epochs, key=lambda epoch: epoch.validation_loss or 0)
    assert best.number < 12
    assert on_held_out(trainer.mlp)[0] == pytest.approx(best.validation_loss, rel=1e-5)
    assert np.array_equal(open_run(tmp_path / "run").network().learned, trainer.mlp.learned)


@pytest.mark.parametrize("architecture", [ARCH, OF_EVERY_KIND], ids=["plain", "rich"])
def test_a_run_that_ended_early_goes_on_from_its_last_weights(tmp_path: Path, architecture: lm.Architecture) -> None:
    plain = fitted(architecture)
    expected = [epoch.validation_loss for epoch in plain.epochs((X, Y), 20, HELD)]
    for resumed in (False, True):
        trainer = fitted(architecture)
        first = list(trainer.epochs((X, Y), 20, HELD, patience=2, save_to=tmp_path / "run"))
        assert len(first) < 20
        assert not np.array_equal(trainer.mlp.learned, plain.mlp.learned)
        if resumed:
            trainer = lm.Trainer.resume(tmp_path / "run")
        second = list(trainer.epochs((X, Y), None, HELD, until=20))
        assert [epoch.validation_loss for epoch in first + second] == expected
        assert np.array_equal(trainer.mlp.learned, plain.mlp.learned)


def test_a_run_that_ended_early_leaves_what_others_trained_since(tmp_path: Path) -> None:
    first = fitted(OF_EVERY_KIND)
    list(first.epochs((X, Y), 20, HELD, patience=2, save_to=tmp_path / "run"))
    list(first.epochs((X, Y), 20, HELD, patience=2))  # nobody else has touched the network
    second = lm.Trainer(first.mlp, lm.SGD(0.01), batch_size=20)
    list(second.epochs((X, Y), 2))
    theirs = first.mlp.learned.copy()
    for patience in (None, 2):
        with pytest.raises(lm.InputError, match=r"its network was changed since, .* Trainer\.resume goes on with "):
            first.epochs((X, Y), 1, HELD, patience=patience)
    assert np.array_equal(first.mlp.learned, theirs)
    list(second.epochs((X, Y), 1))


def test_a_run_broken_off_while_it_waits_resumes_to_the_same_bits(tmp_path: Path) -> None:
    whole, options = fitted(OF_EVERY_KIND), {"patience": 6, "patience_metric": "accuracy"}
    list(whole.epochs((X, Y), 40, HELD, **options))  # type: ignore[arg-type]
    for steps in range(1, 3 * (whole.epochs_done - 1), 5):
        left, trainer = [steps], fitted(OF_EVERY_KIND)

        def stop(done: int, count: int, left: list[int] = left) -> None:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(trainer.epochs((X, Y), 40, HELD, on_step=stop, **options))  # type: ignore[arg-type]
        trainer.save(tmp_path / "run")
        again = lm.Trainer.resume(tmp_path / "run")
        list(again.epochs((X, Y), None, HELD, **options))  # type: ignore[arg-type]
        assert again.epochs_done == whole.epochs_done
        assert again.best_epoch == whole.best_epoch
        assert np.array_equal(again.mlp.learned, whole.mlp.learned)


def losses(*values: float) -> Callable[..., Any]:
    """Return an evaluation that tells these losses in turn."""
    left = iter(values)
    return lambda *arguments: (next(left), 0.5)


def test_a_gain_that_is_too_small_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    told = (1.0, 0.9, 0.95, 0.84, 0.83, 0.82, 0.6, 0.5, 0.55, 0.58, 0.1)
    monkeypatch.setattr("lowmem.training.loop.Stepper.evaluate", losses(*told))
    epochs = fitted().epochs((X, Y), 20, HELD, patience=3, min_improvement=0.15)
    # 0.84 gains more than 0.15 on 1.0; 0.83 and 0.82 gain too little on 0.84, 0.6 enough, and nothing enough on 0.6.
    assert [epoch.validation_loss for epoch in epochs] == list(told[:-1])


def test_the_smallest_gain_decides_which_weights_are_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowmem.training.loop.Stepper.evaluate", losses(1.0, 0.97, 0.99, 0.98))
    trainer = fitted()
    epochs = trainer.epochs((X, Y), 9, HELD, patience=3, min_improvement=0.1)
    seen = [(epoch.validation_loss, trainer.mlp.learned.copy()) for epoch in epochs]
    assert [loss for loss, _ in seen] == [1.0, 0.97, 0.99, 0.98]
    assert np.array_equal(trainer.mlp.learned, seen[1][1])


def test_a_loss_that_is_not_finite_is_no_improvement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = float("nan")
    monkeypatch.setattr("lowmem.training.loop.Stepper.evaluate", losses(nan, 2.0, nan, float("inf"), nan))
    trainer = fitted()
    epochs = list(trainer.epochs((X, Y), 9, HELD, patience=3, save_to=tmp_path / "run"))
    assert (len(epochs), trainer.best_epoch) == (5, 2)
    assert open_run(tmp_path / "run").position.best == 2.0


def test_more_data_or_another_metric_begin_a_new_comparison(tmp_path: Path) -> None:
    trainer = fitted()
    list(trainer.epochs((X, Y), 60, HELD, patience=2, save_to=tmp_path / "run"))
    other = lm.Trainer.resume(tmp_path / "run")
    list(other.epochs((X, Y), 1, HELD, patience=2, patience_metric="accuracy"))
    assert other.best_epoch == other.epochs_done
    other = lm.Trainer.resume(tmp_path / "run")
    list(other.epochs((-X, Y), 1, HELD, patience=2))
    assert other.best_epoch == other.epochs_done


def test_the_plan_counts_the_second_copy_of_the_weights() -> None:
    architecture = lm.Architecture((4, 300, 300, 3))
    without, kept = (lm.Trainer(lm.MLP(architecture), batch_size=20) for _ in range(2))
    list(without.epochs((X, Y), 1, HELD))
    held = kept.epochs((X, Y), 9, HELD, patience=1)
    assert kept.plan.peak_bytes - without.plan.peak_bytes == kept.mlp.learned.nbytes
    next(held)
    tracemalloc.start()
    more = list(held)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert more
    assert peak < 64 << 10
    tight = lm.Trainer(lm.MLP(architecture), batch_size=20, budget=without.plan.peak_bytes + 4000)
    with pytest.raises(lm.BudgetError):
        tight.epochs((X, Y), 9, HELD, patience=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patience_metric": "accuracy"}, "patience_metric goes with patience=N"),
        ({"min_improvement": 0.1}, "min_improvement goes with patience=N"),
        ({"patience": 1, "patience_metric": "acc"}, "unknown patience_metric 'acc'. Did you mean 'accuracy'"),
        ({"patience": 1, "min_improvement": -1}, "min_improvement must be"),
        ({"patience": 1, "min_improvement": float("nan")}, "min_improvement must be"),
        ({"patience": 1, "patience_metric": "accuracy", "validation": None}, "needs validation data"),
        ({"until": 3}, "give one"),
        ({"count": None, "until": 0}, "until must be a positive whole number"),
        ({"on_evaluation": 3}, "on_evaluation must be a function of two numbers"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"count": 3, "validation": HELD} | options
    with pytest.raises(lm.InputError) as error:
        fitted().epochs((X, Y), **given)
    assert words in str(error.value)


def test_accuracy_needs_a_loss_of_labels() -> None:
    trainer = lm.Trainer(lm.MLP(lm.Architecture((4, 3), loss="mse")), batch_size=20)
    with pytest.raises(lm.InputError, match="needs a loss of labels"):
        trainer.epochs((X, np.eye(3)[Y]), 3, (X, np.eye(3)[Y]), patience=1, patience_metric="accuracy")


def test_until_counts_all_epochs_and_count_those_that_come() -> None:
    trainer = fitted()
    assert [epoch.number for epoch in trainer.epochs((X, Y), until=2)] == [1, 2]
    assert [epoch.number for epoch in trainer.epochs((X, Y), 2)] == [3, 4]
    assert [epoch.number for epoch in trainer.epochs((X, Y), until=5)] == [5]
    with pytest.raises(lm.InputError, match=r"has 5 epochs already; until=6 or more goes on"):
        trainer.epochs((X, Y), until=5)


def test_evaluation_is_told_and_timed() -> None:
    told: list[tuple[int, int]] = []
    validation = np.repeat(HELD[0], 20, axis=0), np.repeat(HELD[1], 20)
    trainer = fitted()
    epoch = next(trainer.epochs((X, Y), 1, validation, on_evaluation=lambda *numbers: told.append(numbers)))
    assert told == [(number, 30) for number in range(1, 31)]  # no more rows at a time than a pass has
    assert epoch.validation_seconds > 0
    assert epoch.samples_per_second == pytest.approx(60 / (epoch.seconds + epoch.validation_seconds))


def test_a_rate_that_has_fallen_to_0_is_refused_and_can_be_replaced(tmp_path: Path) -> None:
    trainer = fitted(schedule="cosine")
    list(trainer.epochs((X, Y), 2, save_to=tmp_path / "run"))
    for other in (trainer, lm.Trainer.resume(tmp_path / "run")):
        with pytest.raises(lm.InputError, match=r"falls to 0 at step 6, .* Resume it with schedule=0\.02, a constant"):
            other.epochs((X, Y), 1)
    trainer.schedule = 0.01
    again = lm.Trainer.resume(tmp_path / "run", schedule=0.01)
    for other in (trainer, again):
        (epoch,) = other.epochs((X, Y), 1)
        assert epoch.learning_rate == 0.01
    assert np.array_equal(trainer.mlp.parameters, again.mlp.parameters)
