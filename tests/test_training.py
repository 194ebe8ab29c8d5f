"""What surrounds the steps: losses that are not finite, early stopping, the journal, and progress."""

import contextlib
import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import lowmem as lm
from lowmem.errors import Origin, StepNumber
from lowmem.network.batch_rows import check_batches
from lowmem.runtime.nonfinite import where_it_began
from lowmem.training.callbacks.journal import Journal

Array = NDArray[Any]
ARCH = lm.Architecture((4, 8, 8, 3))
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((40, 4)).astype(np.float32), RNG.integers(0, 3, 40)


# Losses that are not finite --------------------------------------------------------------------------------------


def with_a_bad_sample(row: int) -> Array:
    """Return inputs of which one sample overflows in the network, though it is finite itself."""
    x = X.copy()
    x[row] = 1e38
    return x


def steep() -> lm.MLP:
    """Return a network whose first layer enlarges its input."""
    mlp = lm.MLP(ARCH)
    mlp.weights[0][:] = 9
    return mlp


def test_a_loss_that_is_not_finite_stops_with_step_layer_and_last_save(tmp_path: Path) -> None:
    trainer, path = lm.Trainer(lm.MLP(ARCH), lm.SGD(0.1), batch_size=10, seed=1), tmp_path / "run"
    list(trainer.epochs((X, Y), 1, save_to=path))
    trainer.mlp.weights[1][:] = 1e38
    before = trainer.mlp.parameters.copy()
    words = (
        r"At step 5 \(epoch 2, batch 1\) it began with the output of layer 2\. The last good save is .*run \(step 4\)"
    )
    with pytest.raises(lm.NonFiniteError, match=words) as error:
        list(trainer.epochs((X, Y), 1, save_to=path))
    assert "\n" not in str(error.value)
    assert (error.value.layer, error.value.step) == (2, StepNumber(5, 2, 1))
    assert error.value.last_save == f"{path} (step 4)"
    assert np.array_equal(trainer.mlp.parameters, before)
    assert lm.Trainer.resume(path).epochs_done == 1


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_the_layer_where_it_began_is_found(activation: str) -> None:
    architecture = lm.Architecture((4, 8, 8, 8, 3), activation)
    for layer in (1, 2, 3, 4):
        mlp = lm.MLP(architecture)
        mlp.biases[2][:] = 9 * (layer == 4)  # so that no two terms of layer 4 cancel
        mlp.weights[layer - 1][:] = 1e38
        bounded = activation == "tanh" and layer < 4  # σ(∞) = 1: nothing but large numbers came out
        origin = Origin() if bounded else Origin(layer)
        assert where_it_began(mlp, np.repeat(np.abs(X) + 9, 3, axis=0)) == origin, layer
        mlp.biases[layer - 1][2] = np.nan
        assert where_it_began(mlp, X) == Origin(layer, parameters=True)
    assert where_it_began(lm.MLP(architecture), X) == Origin()


def test_skipping_leaves_out_the_bad_steps_alone() -> None:
    trainer = lm.Trainer(steep(), lm.Adam(0.01), batch_size=10, seed=1, non_finite="skip")
    (epoch,) = trainer.epochs((with_a_bad_sample(7), Y), 1)
    assert (epoch.skipped, epoch.samples) == (1, 30)
    assert math.isfinite(epoch.loss)
    assert trainer.optimizer.step_count == 3
    other = lm.Trainer(steep(), lm.Adam(0.01), batch_size=10, seed=1)
    with pytest.raises(lm.NonFiniteError, match=r"At step \d .*Nothing was saved"):
        list(other.epochs((with_a_bad_sample(7), Y), 1))


def test_skipping_does_not_go_on_without_hope() -> None:
    trainer = lm.Trainer(steep(), batch_size=10, non_finite="skip")
    with pytest.raises(lm.NonFiniteError, match="no step of epoch 1 had a finite loss"):
        list(trainer.epochs((np.full_like(X, 1e38), Y), 1))
    trainer = lm.Trainer(lm.MLP(ARCH), batch_size=10, non_finite="skip")
    epochs = trainer.epochs((X, Y), 1)
    trainer.mlp.weights[0][0, 0] = np.nan
    with pytest.raises(lm.NonFiniteError, match="the parameters of layer 1"):
        next(epochs)
    with pytest.raises(lm.InputError, match="unknown value of non_finite 'ignore'. Known: skip, stop"):
        lm.Trainer(lm.MLP(ARCH), batch_size=10, non_finite="ignore")  # type: ignore[arg-type]


# Early stopping, journal, progress -------------------------------------------------------------------------------


def test_training_stops_early_when_nothing_gets_better() -> None:
    trainer = lm.Trainer(lm.MLP(ARCH), lm.SGD(0.0), batch_size=40)
    assert [epoch.number for epoch in trainer.epochs((X * 0, Y * 0), 9, patience=3)] == [1, 2, 3, 4]
    learning = lm.Trainer(lm.MLP(ARCH), lm.Adam(0.001), batch_size=40)
    assert len(list(learning.epochs((X, Y), 9, patience=1))) == 9


def test_with_validation_data_their_loss_is_what_counts() -> None:
    trainer = lm.Trainer(lm.MLP(ARCH), lm.Adam(0.05), batch_size=40)
    epochs = list(trainer.epochs((X, Y), 200, (-X, Y), patience=2))
    assert len(epochs) < 200
    losses = [epoch.validation_loss for epoch in epochs if epoch.validation_loss is not None]
    assert min(losses) == losses[-3]
    assert epochs[-1].loss < epochs[-3].loss
    with pytest.raises(lm.InputError, match="patience must be"):
        trainer.epochs((X, Y), 1, patience=0)


def test_the_journal_has_a_line_for_each_event(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event": "torn by a kill')
    trainer = lm.Trainer(lm.MLP(ARCH), batch_size=10)
    epochs = list(trainer.epochs((X, Y), 2, (X, Y), journal=path, save_to=tmp_path / "run"))
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert [line["event"] for line in lines] == ["begin", "epoch", "epoch", "end"]
    assert [line["loss"] for line in lines[1:3]] == [epoch.loss for epoch in epochs]
    assert lines[0]["plan"]["peak_bytes"] == trainer.plan.peak_bytes
    assert "(step 8)" in lines[-1]["saved"]
    assert all("time" in line for line in lines)


def test_a_journal_ends_with_the_layer_that_failed_and_the_last_save(tmp_path: Path) -> None:
    trainer, path = lm.Trainer(lm.MLP(ARCH), batch_size=10), tmp_path / "journal.jsonl"
    list(trainer.epochs((X, Y), 1, save_to=tmp_path / "run"))
    trainer.mlp.weights[1][:] = 1e38
    with pytest.raises(lm.NonFiniteError) as error:
        list(trainer.epochs((X, Y), 1, save_to=tmp_path / "run", journal=path))
    last = json.loads(path.read_text().splitlines()[-1])
    assert (last["event"], last["steps"], last["layer"]) == ("non-finite", 4, 2)
    assert (last["saved"], last["error"]) == (error.value.last_save, str(error.value))


def test_a_run_whose_last_save_failed_still_ends_its_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, path = lm.Trainer(lm.MLP(ARCH), batch_size=10), tmp_path / "journal.jsonl"

    def full(path: object) -> None:
        raise lm.SaveError("the disk is full.")

    monkeypatch.setattr(trainer, "save", full)
    with pytest.warns(RuntimeWarning, match="Training goes on"), pytest.raises(lm.SaveError, match="the disk is full"):
        list(trainer.epochs((X, Y), 1, save_to=tmp_path / "run", journal=path))
    assert json.loads(path.read_text().splitlines()[-1])["event"] == "end"


def test_a_journal_that_cannot_be_written_is_refused_at_once_and_later_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(lm.InputError, match="cannot write the journal"):
        lm.Trainer(lm.MLP(ARCH), batch_size=10).epochs((X, Y), 1, journal=tmp_path)
    journal = Journal(tmp_path / "journal")
    (tmp_path / "journal").unlink()
    (tmp_path / "journal").mkdir()
    with pytest.warns(RuntimeWarning, match="the journal ends here"):
        journal.write("one")
    journal.write("two")


def test_each_step_is_told() -> None:
    seen: list[tuple[int, int]] = []
    trainer = lm.Trainer(lm.MLP(ARCH), batch_size=15)
    list(trainer.epochs((X, Y), 2, on_step=lambda done, count: seen.append((done, count))))
    assert seen == [(1, 3), (2, 3), (3, 3)] * 2


def test_an_epoch_says_what_the_process_held() -> None:
    (epoch,) = lm.Trainer(lm.MLP(ARCH), batch_size=10).epochs((X, Y), 1)
    assert epoch.peak_bytes > 10 * 2**20


# A single sample ---------------------------------------------------------------------------------------------------

NORMED = lm.Architecture((4, 8, 8, 3), norm="batch")
ALONE = 'norm="batch" compares the samples of a batch and learns nothing of one.'


def test_a_norm_over_the_batch_refuses_a_single_sample() -> None:
    with pytest.raises(lm.InputError, match=f"{ALONE} Give batch_size=2 or more"):
        lm.plan(NORMED, 1)
    with pytest.raises(lm.InputError, match="batch_size=2 or more"):
        lm.Trainer(lm.MLP(NORMED), batch_size=1)
    backprop = lm.Backprop(lm.MLP(NORMED), lm.plan(NORMED, 8))
    with pytest.raises(lm.InputError, match="Pass at least two rows"):
        backprop(X[:1], Y[:1])
    assert np.isfinite(backprop(X[:2], Y[:2])[0])


def test_checking_the_last_batch_of_many_samples_takes_no_memory() -> None:
    for architecture, samples, rows in ((ARCH, 10**8, 10**7), (NORMED, 10**8, 10**7), (NORMED, 10**8 + 1, 10**7)):
        tracemalloc.start()
        with contextlib.suppress(lm.InputError):
            check_batches(architecture, samples, rows)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * 1024


@pytest.mark.parametrize(
    ("rows", "batch", "advice"),
    [(40, 13, "Give batch_size=12 or one sample more"), (1, 8, "Give more samples"), (3, 2, "Give one sample more")],
)
def test_a_last_batch_of_one_sample_is_refused_before_the_first_epoch(rows: int, batch: int, advice: str) -> None:
    with pytest.raises(lm.InputError, match=advice):
        lm.Trainer(lm.MLP(NORMED), batch_size=batch).epochs((X[:rows], Y[:rows]), 1)
    list(lm.Trainer(lm.MLP(ARCH), batch_size=batch).epochs((X[:rows], Y[:rows]), 1))
    trainer = lm.Trainer(lm.MLP(NORMED), batch_size=12)
    list(trainer.epochs((X, Y), 1, (X[:1], Y[:1])))
