"""Weights of samples and of classes: what they mean, under every loss, and that they cost what is counted."""

from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.data import from_arrays
from lowmem.facts import LOSSES
from tests.helpers import batch, randomised


def gradients(architecture: lm.Architecture, x: Any, y: Any, weights: Any = None, **options: Any) -> tuple[float, Any]:
    """Return the loss and all gradients in one array."""
    plan = lm.plan(architecture, len(x), **options)
    loss, found = lm.Backprop(randomised(architecture), plan)(x, y, weights)
    parts = [part.ravel().copy() for pair in zip(found.weights, found.biases, strict=True) for part in pair]
    return loss, np.concatenate(parts)


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("micro_batch", [None, 5])
def test_a_weight_of_two_is_a_sample_twice_and_of_zero_none(loss: str, micro_batch: int | None) -> None:
    architecture = lm.Architecture((4, 6, 3), "tanh", loss, "float64")
    x, y = batch(architecture, 16)
    times = np.arange(16) % 3
    weighted = gradients(architecture, x, y, times.astype(float), micro_batch=micro_batch)
    repeated = gradients(architecture, np.repeat(x, times, axis=0), np.repeat(y, times, axis=0))
    share = times.sum() / 16  # the mean is over all 16 samples
    assert weighted[0] == pytest.approx(repeated[0] * share, rel=1e-12)
    np.testing.assert_allclose(weighted[1], repeated[1] * share, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_weights_of_one_give_the_bits_of_none_under_every_strategy(loss: str) -> None:
    architecture = lm.Architecture((4, 6, 6, 6, 3), "relu", loss)
    x, y = batch(architecture, 600)
    plain = gradients(architecture, x, y)
    for strategy in ("store_all", "recompute_all"):
        same = gradients(architecture, x, y, np.ones(600, np.float32), strategy=strategy)
        assert same[0] == plain[0]
        assert np.array_equal(same[1], plain[1])


ARCH = lm.Architecture((4, 8, 3))
X, Y = batch(ARCH, 50)


def trained(data: Any, **options: Any) -> Any:
    trainer = lm.Trainer(lm.MLP(ARCH), lm.SGD(0.1), batch_size=16, **options)
    list(trainer.epochs(data, 2))
    return trainer.mlp.parameters


def test_class_weights_are_the_weights_of_their_samples() -> None:
    weights = np.array([0.5, 2.0, 1.0])
    of_samples = trained(from_arrays(X, Y, weights=weights[Y]))
    assert np.array_equal(trained((X, Y), class_weights=[0.5, 2, 1]), of_samples)
    assert not np.array_equal(trained((X, Y)), of_samples)
    both = trained(from_arrays(X, Y, weights=np.full(50, 2)), class_weights=weights / 2)
    assert np.array_equal(both, of_samples)


def test_evaluation_is_not_weighted() -> None:
    trainer = lm.Trainer(lm.MLP(ARCH), lm.SGD(0.0), batch_size=50, class_weights=[3, 3, 3])
    data = from_arrays(X, Y, weights=np.full(50, 5.0))
    (epoch,) = trainer.epochs(data, 1, data)
    assert epoch.validation_loss is not None
    assert epoch.loss == pytest.approx(15 * epoch.validation_loss, rel=1e-5)


def test_weights_are_counted_and_saved(tmp_path: Any) -> None:
    data = from_arrays(X, Y, weights=np.ones(50))
    batcher = data.batches(16, ARCH, 0)
    assert batcher.nbytes == data.batch_bytes(16, ARCH)
    assert data.batches(16, ARCH, None).nbytes == data.batch_bytes(16, ARCH, shuffled=False)
    assert data.take(np.array([1, 2])).weights is not None
    trainer = lm.Trainer(lm.MLP(ARCH), batch_size=16, class_weights=[1, 2, 3])
    list(trainer.epochs(data, 1))
    trainer.save(tmp_path / "run")
    again = lm.Trainer.resume(tmp_path / "run")
    for one in (trainer, again):
        list(one.epochs(data, 1))
    assert np.array_equal(trainer.mlp.parameters, again.mlp.parameters)


@pytest.mark.parametrize("wrong", [[1, 2], [1, 2, -1], [1, 2, float("nan")], [1, 2, float("inf")]])
def test_class_weights_that_make_no_sense_are_refused(wrong: list[float]) -> None:
    with pytest.raises(lm.InputError, match="weights"):
        lm.Trainer(lm.MLP(ARCH), batch_size=16, class_weights=wrong)
    with pytest.raises(lm.InputError, match="needs a loss of labels"):
        lm.Trainer(lm.MLP(lm.Architecture((4, 3), loss="mse")), batch_size=16, class_weights=[1, 1, 1])


@pytest.mark.parametrize(
    "wrong", [np.ones(49), np.ones((50, 1)), -np.ones(50), np.zeros(50), np.full(50, np.nan), ["a"] * 50]
)
def test_sample_weights_that_make_no_sense_are_refused(wrong: Any) -> None:
    with pytest.raises(lm.InputError, match="weights"):
        from_arrays(X, Y, weights=wrong)
    with pytest.raises(lm.InputError, match="weights must be float32 numbers"):
        lm.Backprop(lm.MLP(ARCH), lm.plan(ARCH, 50))(X, Y, wrong)
