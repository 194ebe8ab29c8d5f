"""Scores beside scikit-learn's."""

import numpy as np
import pytest

from lowmem.runtime.scores import ClassScores, NumberScores

metrics = pytest.importorskip("sklearn.metrics")


def test_scores_of_classes_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    true, taken = rng.integers(0, 6, 500), rng.integers(0, 6, 500)
    scores = ClassScores.of(6)
    scores.add(taken, true)
    assert np.array_equal(scores.confusion, metrics.confusion_matrix(true, taken))
    theirs = metrics.precision_recall_fscore_support(true, taken)
    for key, values in zip(("precision", "recall", "f1", "samples"), theirs, strict=True):
        assert [row[key] for row in scores.per_class()] == pytest.approx(list(values))


def test_scores_of_numbers_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(300, 3)) * [1, 10, 100] + 1e4
    s = y + rng.normal(size=(300, 3))
    scores = NumberScores()
    scores.add(s, y)
    assert scores.r2 == pytest.approx(metrics.r2_score(y, s))
    assert scores.mae == pytest.approx(metrics.mean_absolute_error(y, s))
    assert scores.rmse == pytest.approx(np.sqrt(metrics.mean_squared_error(y, s)))
