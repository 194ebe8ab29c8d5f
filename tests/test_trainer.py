"""The trainer: it learns, repeats to the bit, evaluates without a trace, and refuses what cannot work."""

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import lowmem as lm
from lowmem.data.dataset import from_arrays
from lowmem.training.loop import Epoch

Array = NDArray[Any]
ARCH = lm.Architecture((2, 16, 16, 3), "tanh")


def clusters(samples: int, seed: int = 0) -> tuple[Array, Array]:
    """Return points around three centres, and which centre each belongs to."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, samples)
    centres = np.array([[0, 2], [2, -1], [-2, -1]])
    return (centres[y] + 0.4 * rng.standard_normal((samples, 2))).astype(np.float32), y


def trained(
    seed: int = 0, epochs: int = 3, samples: int = 200, validation: Any = None, **options: Any
) -> tuple[lm.Trainer, list[Epoch]]:
    options = {"batch_size": 32, **options}
    trainer = lm.Trainer(lm.MLP(ARCH, 1), lm.Adam(0.01), seed=seed, **options)
    return trainer, list(trainer.epochs(clusters(samples), epochs, validation))


# Learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"strategy": "sqrt"}, {"micro_batch": 10}, {"budget": "100%"}])
def test_it_learns_what_can_be_told_apart(options: dict[str, Any]) -> None:
    trainer, epochs = trained(epochs=15, validation=clusters(90, 1), **options)
    assert epochs[-1].loss < 0.1 < epochs[0].loss
    assert epochs[-1].accuracy is not None
    assert epochs[-1].accuracy > 0.97
    x, y = clusters(90, 2)
    assert np.mean(trainer.mlp.predict(x).argmax(axis=1) == y) > 0.97


@pytest.mark.parametrize(("loss", "outputs"), [("mse", 2), ("huber", 1), ("bce", 2)])
def test_it_learns_targets_too(loss: str, outputs: int) -> None:
    architecture = lm.Architecture((2, 16, outputs), "softplus", loss, "float64")
    x, labels = clusters(200)
    y = (labels[:, None] == np.arange(outputs)).astype(np.float32)
    trainer = lm.Trainer(lm.MLP(architecture), lm.Adam(0.02), batch_size=32)
    epochs = list(trainer.epochs((x, y if outputs > 1 else y[:, 0]), 20, (x, y)))
    assert epochs[-1].loss < 0.5 * epochs[0].loss
    assert epochs[-1].accuracy is None
    assert epochs[-1].validation_loss == pytest.approx(epochs[-1].loss, rel=0.5)


def test_epochs_are_counted_and_say_what_was_trained() -> None:
    trainer, epochs = trained()
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert all(epoch.samples == 200 for epoch in epochs)
    assert all(epoch.validation_loss is None is epoch.accuracy for epoch in epochs)
    assert all(epoch.samples_per_second > 0 for epoch in epochs)
    more = list(trainer.epochs(clusters(200), 2))
    assert [epoch.number for epoch in more] == [4, 5]


def test_the_loss_of_an_epoch_is_the_mean_over_its_samples_before_each_update() -> None:
    # Without learning every batch sees the same weights, and the last one has 8 samples only.
    trainer = lm.Trainer(lm.MLP(ARCH, 1), lm.SGD(0.0), batch_size=32)
    (epoch,) = trainer.epochs(clusters(200), 1)
    assert epoch.loss == pytest.approx(trainer.evaluate(clusters(200))[0], rel=1e-6)


# Same bits -------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_under_every_budget() -> None:
    first, epochs = trained()
    for options in ({}, {"strategy": "recompute_all"}, {"strategy": "revolve", "slots": 1}, {"budget": "200%"}):
        again, other = trained(**options)
        assert np.array_equal(again.mlp.parameters, first.mlp.parameters)
        assert [epoch.loss for epoch in other] == [epoch.loss for epoch in epochs]


def test_another_seed_gives_another_order() -> None:
    assert not np.array_equal(trained(seed=1)[0].mlp.parameters, trained(seed=0)[0].mlp.parameters)


def test_training_in_two_goes_gives_the_bits_of_one() -> None:
    first, _ = trained(epochs=4)
    second, _ = trained(epochs=2)
    list(second.epochs(clusters(200), 2))
    assert np.array_equal(first.mlp.parameters, second.mlp.parameters)


def test_an_epoch_is_the_steps_of_its_batches() -> None:
    from lowmem.data.batches import ArrayBatches

    trainer, _ = trained(epochs=2)
    mlp, optimizer = lm.MLP(ARCH, 1), lm.Adam(0.01)
    backprop = lm.Backprop(mlp, lm.plan(ARCH, 32, None, "adam"), optimizer)
    batches = ArrayBatches(*clusters(200), 32, "float32", 1.0, 0, labels=True)
    for epoch in range(2):
        sizes = [len(batch) for batch in batches.epoch(epoch) if backprop(batch.x, batch.y)]
        assert sizes == [32] * 6 + [8]
    assert np.array_equal(mlp.parameters, trainer.mlp.parameters)


# Validation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 31, 32, 100, 601])
@pytest.mark.parametrize(("batch_size", "micro_batch"), [(32, None), (32, 10), (600, None), (600, 7)])
def test_validation_is_loss_and_accuracy_of_the_weights_after_the_epoch(
    samples: int, batch_size: int, micro_batch: int | None
) -> None:
    x, y = clusters(samples, 5)
    trainer, epochs = trained(validation=(x, y), batch_size=batch_size, micro_batch=micro_batch)
    outputs = trainer.mlp.predict(x).astype(float)
    log_sum = np.log(np.exp(outputs).sum(axis=1))
    assert epochs[-1].validation_loss == pytest.approx(np.mean(log_sum - outputs[np.arange(samples), y]), rel=1e-5)
    assert epochs[-1].accuracy == np.mean(outputs.argmax(axis=1) == y)


def test_validating_changes_nothing_in_training() -> None:
    assert np.array_equal(
        trained(validation=clusters(70, 1))[0].mlp.parameters,
        trained()[0].mlp.parameters,
    )


def test_evaluating_changes_nothing() -> None:
    data = clusters(70, 1)
    trainer, _ = trained(epochs=1)
    before = trainer.mlp.parameters.copy()
    steps = trainer.optimizer.step_count
    result = trainer.evaluate(data)
    assert trainer.evaluate(from_arrays(*data)) == result
    assert np.array_equal(trainer.mlp.parameters, before)
    assert trainer.optimizer.step_count == steps
    assert trainer.report().steps == 7
    list(trainer.epochs(clusters(200), 2))
    assert np.array_equal(trainer.mlp.parameters, trained(epochs=3)[0].mlp.parameters)


def test_evaluating_is_possible_before_the_first_epoch_is_run() -> None:
    trainer = lm.Trainer(lm.MLP(ARCH, 1), batch_size=32)
    epochs = trainer.epochs(clusters(200), 1)
    loss, accuracy = trainer.evaluate(clusters(200))
    assert accuracy is not None
    assert next(epochs).loss < loss


# Batches and data ------------------------------------------------------------------------------------------------


def test_a_batch_larger_than_the_data_is_all_of_the_data() -> None:
    trainer, epochs = trained(samples=20, batch_size=64)
    assert [epoch.samples for epoch in epochs] == [20] * 3
    assert trainer.report().steps == 3


def test_data_may_be_stored_in_other_dtypes() -> None:
    x, y = clusters(200)
    whole = np.round(x * 20).astype(np.int8)
    results = []
    for data in (
        (whole, y.astype(np.uint8)),
        (whole.astype(float), y),
        (whole.astype(np.float32), y.astype(np.int16)),
    ):
        trainer = lm.Trainer(lm.MLP(ARCH, 1), batch_size=32)
        list(trainer.epochs(data, 2))
        results.append(trainer.mlp.parameters)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_data_are_only_read() -> None:
    x, y = clusters(200)
    x.flags.writeable = y.flags.writeable = False
    trainer = lm.Trainer(lm.MLP(ARCH, 1), batch_size=32)
    list(trainer.epochs((x, y), 1, (x, y)))


# Refusals --------------------------------------------------------------------------------------------------------

X, Y = clusters(50)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((X[:, :1], Y), r"the data has 1 features and the network 2 inputs; make the network with widths\[0\]=1"),
        ((X, Y + 1), r"labels up to 3 and the network 3 outputs; make the network with widths\[-1\]=4"),
        ((X, Y + 0.5), "integer labels"),
        ((X, np.eye(3)[Y]), "integer labels"),
        ((X, Y[:-1]), "check that they belong together"),
        ((X[:0], Y[:0]), "at least one sample"),
        ((np.where(X > 2, np.nan, X), Y), "NaN or infinite"),
        ((X.astype("U4"), Y), "numbers are needed"),
        ((X,), r"must be a pair \(x, y\) of arrays or a Dataset; got tuple"),
        (X, r"must be a pair \(x, y\) of arrays or a Dataset; got ndarray"),
        (None, r"must be a pair \(x, y\) of arrays or a Dataset; got NoneType"),
    ],
)
def test_data_that_do_not_fit_are_refused_at_the_call(data: Any, words: str) -> None:
    trainer = lm.Trainer(lm.MLP(ARCH), batch_size=32)
    with pytest.raises(lm.InputError, match=words) as error:
        trainer.epochs(data, 1)
    assert "\n" not in str(error.value)
    if data is not None:
        trainer = lm.Trainer(lm.MLP(ARCH), batch_size=32)
        with pytest.raises(lm.InputError, match=words.replace("the data", "the validation data")):
            trainer.epochs((X, Y), 1, data)


@pytest.mark.parametrize(
    ("loss", "y", "words"),
    [
        ("mse", np.zeros((50, 2)), r"has 2 target columns and the network 3 outputs; make .* widths\[-1\]=2"),
        ("huber", np.zeros(50), "has 1 target column and the network 3 outputs"),
        ("mse", Y, "these are labels: use the loss cross_entropy"),
        ("bce", np.full((50, 3), 1.5), "has targets from 1.5 to 1.5, and bce needs them from 0 to 1"),
        ("bce", np.full((50, 3), -0.5), "bce needs them from 0 to 1"),
        ("mse", np.full((50, 3), 1e300), "too large for float32"),
        ("cross_entropy", np.full(50, 0x7FF0000000000001).view(float), "y.0. holds NaN"),  # a NaN that signals
    ],
)
def test_targets_that_do_not_fit_are_refused_at_the_call(loss: str, y: Array, words: str) -> None:
    trainer = lm.Trainer(lm.MLP(lm.Architecture((2, 16, 3), loss=loss)), batch_size=32)
    with pytest.raises(lm.InputError, match=words):
        trainer.epochs((X, y), 1)


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", None, True])
def test_the_number_of_epochs_is_positive_and_whole(count: Any) -> None:
    trainer = lm.Trainer(lm.MLP(ARCH), batch_size=32)
    with pytest.raises(lm.InputError, match="epochs must be a positive whole number"):
        trainer.epochs((X, Y), count)


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"batch_size": 2.5},
        {"batch_size": 32, "strategy": "magic"},
        {"batch_size": 32, "micro_batch": 33},
        {"batch_size": 32, "budget": "lots"},
        {"batch_size": 32, "segments": 2},
    ],
    ids=str,
)
def test_a_trainer_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(lm.InputError):
        lm.Trainer(lm.MLP(ARCH), **wrong)


@pytest.mark.parametrize("seed", [-1, 1.5, "0"])
def test_a_seed_that_is_none_is_refused_before_training(seed: Any) -> None:
    mlp = lm.MLP(ARCH)
    before = mlp.parameters.copy()
    with pytest.raises(lm.InputError, match="seed"):
        lm.Trainer(mlp, batch_size=32, seed=seed).epochs((X, Y), 1)
    assert np.array_equal(mlp.parameters, before)


def test_a_budget_counts_the_batch_buffers_and_is_refused_before_training() -> None:
    architecture = lm.Architecture((5000, 4, 3))
    x = np.zeros((300, 5000), np.float32)
    y = np.zeros(300, int)
    needs = lm.Trainer(lm.MLP(architecture), batch_size=256).plan.peak_bytes
    trainer = lm.Trainer(lm.MLP(architecture), batch_size=256, budget=needs + 10_000)
    with pytest.raises(lm.BudgetError) as error:
        trainer.epochs((x, y), 1)
    assert error.value.minimum > needs + x[:256].nbytes
    again = lm.Trainer(lm.MLP(architecture), batch_size=256, budget=error.value.minimum)
    list(again.epochs((x, y), 1))
    assert again.plan.peak_bytes == error.value.minimum


def test_a_loss_that_overflows_stops_training_with_one_clear_error() -> None:
    trainer = lm.Trainer(lm.MLP(replace(ARCH, activation="relu")), lm.SGD(1e30), batch_size=32)
    with pytest.raises(lm.NonFiniteError, match="Try a smaller learning rate"):
        list(trainer.epochs((X * 1e6, Y), 5))


# The report ------------------------------------------------------------------------------------------------------


def test_there_is_nothing_to_report_before_the_first_epoch() -> None:
    trainer = lm.Trainer(lm.MLP(ARCH), batch_size=32)
    with pytest.raises(lm.InputError, match="nothing to report before the first epoch"):
        trainer.report()
    trainer.epochs((X, Y), 1)
    with pytest.raises(lm.InputError, match="nothing to report before the first epoch"):
        trainer.report()


def test_there_is_nothing_to_evaluate_in_before_data_have_been_seen() -> None:
    with pytest.raises(lm.InputError, match="call that first"):
        lm.Trainer(lm.MLP(ARCH), batch_size=32).evaluate((X, Y))


def test_a_report_puts_the_promise_beside_the_measurement() -> None:
    trainer, epochs = trained(validation=clusters(50, 1), budget="100%")
    report = trainer.report()
    assert report.plan is trainer.plan
    assert report.steps == 21
    assert report.loss == epochs[-1].loss
    assert report.accuracy == epochs[-1].accuracy
    assert report.resident_peak > report.plan.peak_bytes
    assert report.seconds_per_step == pytest.approx(epochs[-1].seconds / 7)
    text = str(report)
    for words in ("budget", "peak memory of training", "not traced", "whole process", "held-out accuracy"):
        assert words in text
    numbers = report.to_dict()
    assert numbers["plan"]["peak_bytes"] == trainer.plan.peak_bytes
    assert numbers["traced_peak_bytes"] is None


def test_tables_of_planning_keep_to_what_they_may_take() -> None:
    architecture = lm.Architecture((16, *[64] * 150, 4), "tanh")
    peaks = []
    for table_bytes in (None, 1 << 20):
        tracemalloc.start()
        mlp = lm.MLP(architecture)
        tracemalloc.reset_peak()
        lm.Trainer(mlp, lm.SGD(), batch_size=512, budget="20% of activations", table_bytes=table_bytes)
        peaks.append(tracemalloc.get_traced_memory()[1] - mlp.parameters.nbytes)
        tracemalloc.stop()
    assert peaks[1] < peaks[0] / 2


@pytest.mark.parametrize("engine", ["numpy", None])
@pytest.mark.parametrize("batch_size", [2, 3, 40])
def test_validation_has_the_same_bits_under_every_strategy(engine: str | None, batch_size: int) -> None:
    seen = set()
    for strategy in ("store_all", "sqrt", "recompute_all"):
        mlp = lm.MLP(lm.Architecture((2, *[31] * 8, 3), "identity"), 5)
        options: dict[str, Any] = {"strategy": strategy, "micro_batch": batch_size, "engine": engine}
        trainer = lm.Trainer(mlp, lm.SGD(1e-3), batch_size=batch_size, **options)
        (epoch,) = trainer.epochs(clusters(60), 1, clusters(50))
        seen.add((epoch.loss, epoch.validation_loss, epoch.accuracy))
    assert len(seen) == 1
