"""The estimators beside scikit-learn's own: its checks, its tools, the same steps; and what lowmem adds to them."""

import doctest
import pickle
import re
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import lowmem as lm

pytest.importorskip("sklearn")

import joblib
from sklearn import neural_network as theirs
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, make_multilabel_classification
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from lowmem import sklearn as ours
from lowmem.nn.optimizers import OPTIMIZERS
from lowmem.planning.engines.machine import DiskTier
from lowmem.schedule.disk.transfers import DiskRates
from lowmem.sklearn import MLPClassifier, MLPRegressor, _estimators, _training
from lowmem.sklearn._prediction import TILE
from lowmem.sklearn._training import Samples
from lowmem.sklearn._validation import HeldOut

Array = NDArray[Any]

README = Path(__file__).resolve().parent.parent.parent / "README.md"

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SMALL: dict[str, Any] = {"hidden_layer_sizes": (16, 12), "max_iter": 8, "random_state": 3}


def digits(samples: int = 500) -> tuple[Array, Array]:
    x, y = load_digits(return_X_y=True)
    return x[:samples] / 16, y[:samples]


def diabetes() -> tuple[Array, Array]:
    x, y = load_diabetes(return_X_y=True)
    return x, (y - y.mean()) / y.std()


def weights(samples: int) -> Array:
    return np.random.default_rng(0).uniform(0, 3, samples)


def traced_peak(work: Callable[[], object]) -> int:
    """Return the most bytes that Python and NumPy held for `work` above what they held before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [MLPClassifier(), MLPRegressor(), MLPClassifier(memory_limit="2MiB", activation="gelu")]
)
@pytest.mark.filterwarnings("ignore")
def test_every_check_of_scikit_learn_passes(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


# The same steps as scikit-learn's --------------------------------------------------------------------------------

X, Y = digits()
SETTINGS: list[tuple[str, Array, Array, dict[str, Any]]] = [
    ("MLPClassifier", X, Y, {}),
    ("MLPClassifier", X, Y, {"alpha": 3.0, "activation": "logistic", "batch_size": 64}),
    ("MLPClassifier", X, Y > 4, {"alpha": 3.0, "solver": "sgd", "learning_rate_init": 0.1}),
    ("MLPClassifier", X, Y, {"solver": "sgd", "momentum": 0.0, "shuffle": False, "activation": "identity"}),
    ("MLPClassifier", X, Y, {"solver": "sgd", "learning_rate": "invscaling", "activation": "tanh", "power_t": 0.2}),
    ("MLPClassifier", X, Y, {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.5, "n_iter_no_change": 1}),
    ("MLPClassifier", X, Y > 4, {"early_stopping": True, "n_iter_no_change": 2, "max_iter": 40}),
    ("MLPClassifier", *make_multilabel_classification(200, random_state=0), {"early_stopping": True}),
    ("MLPRegressor", *diabetes(), {"alpha": 1.0}),
    ("MLPRegressor", diabetes()[0], np.c_[diabetes()[1], diabetes()[1] ** 2], {"early_stopping": True}),
    ("MLPRegressor", *diabetes(), {"tol": 0.05, "n_iter_no_change": 2, "max_iter": 100, "epsilon": 1e-2}),
]


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize(("name", "x", "y", "options"), SETTINGS)
def test_the_same_seed_takes_the_same_steps_as_scikit_learn(
    name: str, x: Array, y: Array, options: dict[str, Any], weighted: bool
) -> None:
    mine, other = (getattr(home, name)(**SMALL | options) for home in (ours, theirs))
    for model in (mine, other):
        model.fit(x, y, sample_weight=weights(len(x)) if weighted else None)
    assert_alike(mine, other)
    assert np.mean(mine.predict(x) == other.predict(x)) == 1 or name == "MLPRegressor"
    np.testing.assert_allclose(mine.score(x, y), other.score(x, y), rtol=1e-9)


def assert_alike(mine: Any, other: Any) -> None:
    names = ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_")
    assert {n: getattr(mine, n) for n in names} == {n: getattr(other, n) for n in names}
    for attribute in ("loss_curve_", "loss_", "best_loss_", "validation_scores_", "best_validation_score_"):
        assert (getattr(mine, attribute) is None) == (getattr(other, attribute) is None)
        if getattr(mine, attribute) is not None:
            np.testing.assert_allclose(getattr(mine, attribute), getattr(other, attribute), rtol=1e-9)
    for array, expected in zip(mine.coefs_ + mine.intercepts_, other.coefs_ + other.intercepts_, strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_partial_and_warm_fits_take_the_same_steps_too(solver: str) -> None:
    options = SMALL | {"solver": solver, "max_iter": 3, "learning_rate": "invscaling", "warm_start": True}
    mine, other = MLPClassifier(**options), theirs.MLPClassifier(**options)
    for start in (0, 170, 340):
        part = slice(start, start + 170)
        for model in (mine, other):
            model.partial_fit(X[part], Y[part], classes=np.arange(10))
    assert_alike(mine, other)
    for model in (mine, other):
        model.fit(X, Y)
    assert_alike(mine, other)


def test_float32_stays_and_other_types_become_float64_unless_asked() -> None:
    narrow = MLPClassifier(**SMALL).fit(X.astype(np.float32), Y)
    other = theirs.MLPClassifier(**SMALL).fit(X.astype(np.float32), Y)
    assert narrow.coefs_[0].dtype == narrow.predict_proba(X).dtype == np.float32
    np.testing.assert_allclose(narrow.loss_curve_, other.loss_curve_, rtol=1e-4)
    whole = (X * 16).astype(np.uint8)
    assert MLPClassifier(**SMALL).fit(whole, Y).coefs_[0].dtype == np.float64
    assert MLPClassifier(**SMALL, dtype="float32").fit(whole, Y).coefs_[0].dtype == np.float32


# Its tools -------------------------------------------------------------------------------------------------------


def test_pipelines_searches_in_two_processes_and_cross_validation_work() -> None:
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(**SMALL | {"max_iter": 30}, memory_limit="1MiB"))
    search = GridSearchCV(pipeline, {"mlpclassifier__alpha": [1e-4, 1e3]}, n_jobs=2, cv=2, error_score="raise")
    assert search.fit(X, Y).best_params_ == {"mlpclassifier__alpha": 1e-4}
    scores = cross_val_score(MLPRegressor(**SMALL | {"max_iter": 200}, early_stopping=True), *diabetes(), cv=3)
    assert scores.shape == (3,)
    assert clone(search.best_estimator_[-1]).get_params() == search.best_estimator_[-1].get_params()


def test_pickle_and_joblib_give_the_network_back(tmp_path: Path) -> None:
    model = MLPClassifier(**SMALL).fit(X, Y)
    path = tmp_path / "model.joblib"
    joblib.dump(model, path)
    for again in (pickle.loads(pickle.dumps(model)), joblib.load(path), joblib.load(path, mmap_mode="r")):
        np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
        again.coefs_[0][:] = 0  # still views of what predicts
        assert not np.array_equal(again.predict_proba(X), model.predict_proba(X))
    assert len(pickle.dumps(model)) < 2 * model._network.parameters.nbytes + 20_000


def test_a_pickled_partial_fit_goes_on_to_the_same_bits() -> None:
    straight = MLPClassifier(**SMALL).partial_fit(X, Y, classes=np.arange(10))
    again = pickle.loads(pickle.dumps(straight))
    for model in (straight, again):
        model.partial_fit(X[:200], Y[:200]).partial_fit(X, Y)
    for mine, other in zip(straight.coefs_, again.coefs_, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_running_statistics_are_pickled_and_are_those_of_the_best_epoch() -> None:
    model = MLPClassifier(**SMALL, norm="batch").fit(X, Y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    mlp = model._network
    held_out = HeldOut(Samples(X, Y), mlp, np.random.RandomState(0), 0.1, classifies=True)
    held_out.keep()
    expected = mlp.predict(X)
    mlp.learned += 1
    np.testing.assert_array_equal(held_out.attributes()["_network"].predict(X), expected)
    held_out.restore()
    np.testing.assert_array_equal(mlp.predict(X), expected)


class Watcher:
    """A callback that counts epochs, and ends the fit after some."""

    def __init__(self, most: int) -> None:
        self.most, self.scores, self.events = most, list[float](), list[str]()

    def setup(self, estimator: Any, context: Any) -> None:
        self.events.append("setup")

    def teardown(self, estimator: Any, context: Any) -> None:
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        pass

    def on_fit_task_end(
        self, estimator: Any, context: Any, *, X: Any = None, y: Any = None, fitted_estimator: Any = None
    ) -> bool:
        if context.task_name == "epoch":
            self.scores.append(fitted_estimator.score(X, y))
        return len(self.scores) >= self.most


@pytest.mark.parametrize("early_stopping", [False, True])
def test_callbacks_see_every_epoch_and_may_end_the_fit(early_stopping: bool) -> None:
    watcher = Watcher(most=4)
    model = MLPClassifier(**SMALL, early_stopping=early_stopping).set_callbacks(watcher).fit(X, Y)
    assert model.n_iter_ == len(watcher.scores) == 4
    assert watcher.events == ["setup", "teardown"]
    assert watcher.scores[-1] == model.score(X, Y)


# What lowmem adds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [np.float32, np.float64, np.uint8])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_the_memory_limit_is_kept_and_x_is_not_copied(stored: type, early_stopping: bool) -> None:
    rng = np.random.default_rng(0)
    x: Array = rng.integers(0, 9, (20_000, 256)).astype(stored)
    y = rng.integers(0, 3, 20_000)
    options: dict[str, Any] = {"hidden_layer_sizes": [32] * 12, "max_iter": 1, "batch_size": 500, "dtype": "float32"}
    model = MLPClassifier(**options, memory_limit="40% of activations", early_stopping=early_stopping)
    clone(model).fit(x[:1000], y[:1000])  # what is loaded at the first fit is no fit's
    peak = traced_peak(lambda: model.fit(x, y))
    assert model.plan_.arena_bytes < model.plan_.store_all_bytes / 2
    numbering = 20_000 * 8 * 4  # of classes and samples, given back before the first step
    assert peak <= max(model.plan_.peak_bytes, numbering) + (64 << 10) < x.nbytes
    assert traced_peak(lambda: model.predict(x)) <= 20_000 * 8 + (1 << 20)


def test_the_best_parameters_are_counted_too() -> None:
    x = X.astype(np.float32)
    model = MLPClassifier((600, 600), max_iter=2, early_stopping=True).fit(x, Y)
    peak = traced_peak(lambda: model.fit(x, Y))
    assert model._network.parameters.nbytes > 1_500_000
    assert peak <= model.plan_.peak_bytes + (64 << 10)


def test_memory_mapped_samples_are_read_by_batch_to_the_same_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30_000, 64), np.float32), rng.standard_normal(30_000)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    model, other = (MLPRegressor(**SMALL | {"max_iter": 1}, memory_limit="2MiB") for _ in "ab")
    other.fit(x, y)
    assert traced_peak(lambda: model.fit(mapped, y)) < x.nbytes / 2
    np.testing.assert_array_equal(model.predict(mapped), other.predict(x))
    assert traced_peak(lambda: model.predict(mapped)) < x.nbytes / 2


def test_strided_samples_are_not_copied_either() -> None:
    x: Array = np.asfortranarray(np.random.default_rng(0).standard_normal((20_000, 64), np.float32))
    y = x[:, 0]
    model, other = (MLPRegressor(**SMALL | {"max_iter": 1}) for _ in "ab")
    other.fit(np.ascontiguousarray(x), np.ascontiguousarray(y))
    assert traced_peak(lambda: model.fit(x, y)) < x.nbytes / 2
    np.testing.assert_array_equal(model.coefs_[0], other.coefs_[0])


@pytest.mark.parametrize("solver", ["sgd", "adam", "adamw"])
def test_estimators_train_on_the_engine_that_is_chosen(solver: str) -> None:
    assert MLPClassifier(**SMALL, solver=solver).fit(X, Y).plan_.engine == lm.plan((4, 8, 3), 8).engine


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("hidden", [(), (1,), (33, 65), (100,), (256, 256)])
def test_a_prediction_does_not_depend_on_the_samples_beside_it(hidden: tuple[int, ...], dtype: type) -> None:
    rng = np.random.default_rng(0)
    w: Array = rng.standard_normal((65, 33)).astype(dtype)
    if len(np.unique(np.repeat(w[:1], TILE, axis=0) @ w.T, axis=0)) > 1:
        pytest.skip("this BLAS rounds rows of one product differently by their place")
    x: Array = rng.standard_normal((700, 501)).astype(dtype)
    model = MLPClassifier(hidden, max_iter=1, random_state=0).fit(x[:200], rng.integers(0, 3, 200))
    whole, shuffled = model.predict_proba(x), rng.permutation(700)
    np.testing.assert_array_equal(model.predict_proba(x[shuffled]), whole[shuffled])
    for rows in (slice(0, 1), slice(699, 700), slice(5, 133), slice(130, 531)):
        np.testing.assert_array_equal(model.predict_proba(x[rows]), whole[rows])


def test_threads_share_large_predictions_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MLPClassifier(**SMALL).fit(X, Y)
    whole = model.predict_proba(X)
    monkeypatch.setattr("lowmem.sklearn._prediction.LEAST_WORK", 0)
    monkeypatch.setattr("lowmem.sklearn._prediction.cores", lambda: 3)
    np.testing.assert_array_equal(model.predict_proba(X), whole)
    monkeypatch.setattr("lowmem.sklearn._prediction.TILE", 32)
    np.testing.assert_array_equal(model.predict(X), MLPClassifier(**SMALL).fit(X, Y).predict(X))


def test_a_memory_limit_changes_no_bits() -> None:
    options: dict[str, Any] = {"hidden_layer_sizes": [24] * 20, "max_iter": 3, "random_state": 0}
    free = MLPClassifier(**options).fit(X, Y)
    with pytest.raises(lm.BudgetError) as refused:
        MLPClassifier(**options, memory_limit=1).fit(X, Y)
    for limit in ("25% of activations", refused.value.minimum):
        model = MLPClassifier(**options, memory_limit=limit).fit(X, Y)
        assert model.plan_.forward_runs > free.plan_.forward_runs
        np.testing.assert_array_equal(model._network.parameters, free._network.parameters)


def test_with_threads_given_processes_of_joblib_change_no_bits() -> None:
    model = MLPClassifier([256, 256], max_iter=2, random_state=0, batch_size=200, threads=1)
    options: dict[str, Any] = {"cv": 2, "scoring": "neg_log_loss", "return_estimator": True}
    alone, shared = (cross_validate(model, X, Y, n_jobs=jobs, **options) for jobs in (1, 2))
    for one, other in zip(alone["estimator"], shared["estimator"], strict=True):
        np.testing.assert_array_equal(one._network.parameters, other._network.parameters)


def test_a_limit_that_cannot_work_is_refused_in_the_estimators_words() -> None:
    with pytest.raises(lm.BudgetError, match="memory_limit.*needs") as refused:
        MLPClassifier(**SMALL, memory_limit="10KiB").fit(X, Y)
    assert "budget=" not in str(refused.value)
    MLPClassifier(**SMALL, memory_limit=refused.value.minimum).fit(X, Y)


def test_what_a_fit_took_is_told() -> None:
    model = MLPClassifier(**SMALL, early_stopping=True).fit(X, Y)
    assert model.report_.plan is model.plan_
    assert model.report_.accuracy == model.best_validation_score_
    assert "peak memory of training" in str(model.report_)
    assert model.report_.steps == model.n_iter_ * 3


def test_weights_and_views_are_the_networks_own() -> None:
    model = MLPClassifier(**SMALL).fit(X, Y)
    assert [w.shape for w in model.coefs_] == [(64, 16), (16, 12), (12, 10)]
    assert [b.shape for b in model.intercepts_] == [(16,), (12,), (10,)]
    assert all(np.shares_memory(w, model._network.parameters) for w in model.coefs_ + model.intercepts_)
    with pytest.raises(AttributeError, match="before it is fitted"):
        MLPClassifier().coefs_  # noqa: B018 - the look is what fails


@pytest.mark.parametrize("solver", ["momentum", "nesterov", "adamw"])
@pytest.mark.parametrize("activation", ["gelu", "leaky_relu"])
def test_what_only_lowmem_has_learns_too(solver: str, activation: str) -> None:
    options = SMALL | {"max_iter": 60, "learning_rate_init": 3e-3 if solver == "adamw" else 0.05}
    model = MLPClassifier(**options, solver=solver, activation=activation, initialiser="orthogonal")
    assert model.fit(X, Y).score(X, Y) > 0.9


def test_adamw_shrinks_weights_and_leaves_biases() -> None:
    x, y = np.zeros((50, 3)), np.zeros(50)
    options: dict[str, Any] = {"alpha": 0.5, "learning_rate_init": 0.1, "max_iter": 4, "shuffle": False}
    model = MLPRegressor(**SMALL | options, solver="adamw", tol=0.0)
    plain = clone(model).set_params(alpha=0.0)
    for each in (model, plain):
        each.fit(x, y)
    np.testing.assert_allclose(model.coefs_[0], plain.coefs_[0] * (1 - 0.05) ** 4, rtol=1e-12)  # it has no gradient


def test_huber_is_less_drawn_to_outliers_than_the_squared_error() -> None:
    x = np.linspace(-1, 1, 200)[:, None]
    y = np.c_[x, -x]
    y[::20] += 30
    fits = [MLPRegressor(loss, **SMALL | {"max_iter": 300}).fit(x, y) for loss in ("squared_error", "huber")]
    squared, robust = (np.abs(fit.predict(x) - np.c_[x, -x]).mean() for fit in fits)
    assert robust < squared / 3


@pytest.mark.parametrize("early", [False, True])
def test_poisson_takes_the_steps_of_scikit_learn(early: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 4))
    y = rng.poisson(np.exp(x[:, :2].sum(axis=1) / 2), 300).astype(float)
    options = SMALL | {"loss": "poisson", "early_stopping": early, "max_iter": 20}
    model, other = MLPRegressor(**options).fit(x, y), theirs.MLPRegressor(**options).fit(x, y)
    for one, two in zip(model.coefs_, other.coefs_, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(model.predict(x), other.predict(x), rtol=1e-6)
    assert model.out_activation_ == other.out_activation_ == "exp"
    assert early is False or model.validation_scores_ == pytest.approx(other.validation_scores_, rel=1e-6)


def test_quantiles_and_absolute_errors_are_fitted() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2000, 1))
    y = x[:, 0] + rng.exponential(1.0, 2000)
    options = SMALL | {"max_iter": 60, "learning_rate_init": 3e-3}
    for quantile in (0.1, 0.9):
        model = MLPRegressor("quantile", quantile=quantile, **options).fit(x, y)
        assert np.mean(y < model.predict(x)) == pytest.approx(quantile, abs=0.05)
    median, absolute = (
        MLPRegressor("quantile", **options).fit(x, y),
        MLPRegressor("absolute_error", **options).fit(x, y),
    )
    assert np.mean(y < median.predict(x)) == pytest.approx(0.5, abs=0.05)
    assert np.mean(y < absolute.predict(x)) == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match="quantile"):
        MLPRegressor("quantile", quantile=1.5).fit(x, y)


def test_a_last_batch_of_one_sample_is_refused_with_a_norm_over_the_batch() -> None:
    with pytest.raises(ValueError, match=r"The last batch of 41 samples .* has one\. Give batch_size=19"):
        MLPClassifier(norm="batch", batch_size=20).fit(X[:41], Y[:41])


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_what_scikit_learn_has_besides_is_what_the_comparison_lists(name: str) -> None:
    model, other = getattr(ours, name)(max_iter=2), getattr(theirs, name)(max_iter=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, Y)
        other.fit(X, Y)
    assert other.get_params().keys() - model.get_params().keys() == {"max_fun"}
    assert {key for key in vars(other) if key.endswith("_")} - set(dir(model)) == set()
    page = (Path(__file__).parents[2] / "docs" / "comparison.md").read_text(encoding="utf-8")
    assert "`max_fun`" in page


@pytest.mark.parametrize("sizes", [(8.7,), 8.7, (8, 2.0), (0,), ("8",), [None]])
def test_layers_that_are_no_whole_numbers_are_refused(sizes: Any) -> None:
    for estimator in (MLPClassifier, theirs.MLPClassifier):
        with pytest.raises((ValueError, TypeError)):
            estimator(sizes).fit(X, Y)


def test_class_weights_are_weights_of_samples() -> None:
    model = MLPClassifier(**SMALL, class_weight={k: 1.0 + k for k in range(10)}).fit(X, Y, sample_weight=weights(500))
    other = MLPClassifier(**SMALL).fit(X, Y, sample_weight=weights(500) * (1.0 + Y))
    np.testing.assert_allclose(model.coefs_[0], other.coefs_[0])
    with pytest.raises(ValueError, match="balanced"):
        MLPClassifier(class_weight="balanced").partial_fit(X, Y, classes=np.arange(10))
    with pytest.raises(ValueError, match="[Nn]egative"):
        MLPClassifier(**SMALL).fit(X, Y, sample_weight=-weights(500))


def test_batches_of_no_weight_are_passed_over() -> None:
    w = np.r_[np.zeros(200), np.ones(300)]
    model = MLPClassifier(**SMALL | {"shuffle": False}).fit(X, Y, sample_weight=w)
    other = MLPClassifier(**SMALL | {"shuffle": False}).fit(X[200:], Y[200:])
    np.testing.assert_array_equal(model.coefs_[0], other.coefs_[0])


def test_probabilities_keep_their_tails() -> None:
    model = MLPClassifier((), max_iter=1, random_state=0).fit(X, Y > 4)
    model.coefs_[0][:], model.intercepts_[0][:] = 0, -500
    assert model.predict_proba(X[:1])[0, 1] == pytest.approx(np.exp(-500), rel=1e-12)
    np.testing.assert_allclose(model.predict_log_proba(X[:1]), [[0, -500]], atol=1e-200)


def test_labels_of_any_type_come_back() -> None:
    names = np.array(["even", "odd"])[Y % 2]
    model = MLPClassifier(**SMALL | {"max_iter": 60}).fit(X, names)
    assert set(model.predict(X)) == {"even", "odd"}
    assert model.score(X, names) > 0.9
    with pytest.raises(ValueError, match="classes not in"):
        MLPClassifier(**SMALL).partial_fit(X, names, classes=["even", "uneven"])


def test_a_warm_start_of_another_network_is_refused() -> None:
    model = MLPClassifier(**SMALL, warm_start=True).fit(X, Y)
    with pytest.raises(lm.InputError, match="another network"):
        model.set_params(hidden_layer_sizes=(5,)).fit(X, Y)
    model.set_params(hidden_layer_sizes=(16, 12), early_stopping=True).fit(X, Y)
    assert model.validation_scores_


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path.cwd())
    return done.stdout.strip()


def test_scipy_stats_is_loaded_when_it_is_used() -> None:
    state = "import sys; later = lambda: type(sys.modules['scipy.stats']).__name__ == '_Later'\n"
    fit = "from lowmem.sklearn import MLPRegressor as M; M(max_iter=1, tol=9).fit([[1.0], [2.0]], [1.0, 2.0])\n"
    use = "from scipy.stats import norm; import scipy.stats.distributions; assert norm.cdf(0) == 0.5\n"
    quiet = "import warnings; warnings.simplefilter('ignore')\n"
    assert run(f"{state}{quiet}{fit}print(later())\n{use}print(later())") == "True\nFalse"
    assert run(f"{state}import sklearn.base\n{fit}print(later())") == "False"


def test_without_scikit_learn_the_extra_is_named() -> None:
    code = "import sys; sys.modules['sklearn'] = None\ntry: import lowmem.sklearn\nexcept ImportError as e: print(e)"
    assert "pip install 'lowmem[sklearn]'" in run(code)


def test_the_examples_of_the_docstrings_and_the_readme_hold() -> None:
    assert doctest.testmod(_estimators).failed == 0
    found = re.findall(r"^```pycon\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    example = doctest.DocTestParser().get_doctest("\n".join(found), {}, "README.md", str(README), 0)
    assert example.examples
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example).failed == 0


@pytest.mark.parametrize(
    "kind", [{"residual": True, "norm": "layer", "dropout": 0.1}, {"residual": True, "norm": "batch"}]
)
def test_estimators_have_residual_layers_norms_and_dropout(kind: dict[str, Any]) -> None:
    X, y = load_digits(return_X_y=True)
    X = X / 16
    model = MLPClassifier((32,) * 12, max_iter=25, random_state=0, **kind).fit(X[:1400], y[:1400])
    assert model.score(X[1400:], y[1400:]) > 0.88
    assert model.plan_.architecture.norm == kind["norm"]
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))
    assert np.array_equal(model.predict_proba(X[7:8]), model.predict_proba(X)[7:8])


def test_early_stopping_gives_back_the_running_statistics_of_the_best_epoch() -> None:
    X, y = load_digits(return_X_y=True)
    mlp = lm.MLP(lm.Architecture((64, 16, 16, 10), norm="batch"))
    held_out = HeldOut(Samples(X, y), mlp, np.random.RandomState(0), 0.1, classifies=True)
    mlp.running[:] = 3
    mlp.parameters[:] = 0.5
    held_out.keep()
    mlp.running[:] = 7
    mlp.parameters[:] = 0.7
    assert held_out.attributes()["_network"].running[0] == 3
    assert mlp.running[0] == 7
    held_out.restore()
    assert (mlp.running[0], mlp.parameters[0]) == (3, 0.5)


def test_masks_of_dropout_follow_the_random_state() -> None:
    X, y = load_digits(return_X_y=True)

    def learnt(random_state: int, **options: Any) -> NDArray[Any]:
        model = MLPClassifier((8, 8), dropout=0.5, max_iter=2, random_state=random_state, **options)
        return np.asarray(model.fit(X[:200] / 16, y[:200]).coefs_[0])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two epochs are too few to converge
        assert np.array_equal(learnt(3), learnt(3))
        seeds = {MLPClassifier((8,), dropout=0.5, max_iter=1, random_state=n).fit(X, y)._mask_seed for n in range(4)}
    assert len(seeds) == 4


def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let plans count on a fast disk, whatever else the machine is doing."""
    rates = DiskRates((1,), (1e12,), (1e12,))
    monkeypatch.setattr(_training, "disk_tier", lambda folder, limit: DiskTier(folder, rates) if folder else None)


def test_a_disk_changes_no_bit_of_an_estimator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((600, 40)).astype(np.float32), rng.integers(0, 3, 600)
    with pytest.raises(lm.InputError, match="does not exist"):
        MLPClassifier((9,), memory_limit="1GiB", disk=str(tmp_path / "nowhere")).fit(x, y)
    fast_disk(monkeypatch)
    options: dict[str, Any] = {"batch_size": 300, "max_iter": 3, "random_state": 0, "dtype": "float32"}
    plain = MLPClassifier((96,) * 20, **options).fit(x, y)
    limit = plain.plan_.peak_bytes - plain.plan_.arena_bytes * 3 // 5
    spilled = MLPClassifier((96,) * 20, memory_limit=limit, disk=str(tmp_path), **options).fit(x, y)
    assert spilled.plan_.disk_bytes > 0
    assert list(tmp_path.iterdir()) == []
    for one, other in zip(plain.coefs_, spilled.coefs_, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "solver",
    [
        {"solver": "adam"},
        {"solver": "sgd", "learning_rate": "invscaling"},
        {"solver": "adamw", "learning_rate_init": 0.01},
    ],
    ids=lambda solver: solver["solver"],
)
def test_the_solvers_arrays_on_a_disk_change_no_bit_of_an_estimator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solver: dict[str, Any]
) -> None:
    fast_disk(monkeypatch)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((90, 40)).astype(np.float32), rng.integers(0, 3, 90)
    options: dict[str, Any] = {"batch_size": 40, "max_iter": 3, "random_state": 0, "dtype": "float32", "threads": 1}
    plain = MLPClassifier((256,) * 8, **options, **solver).fit(x, y)
    states = OPTIMIZERS[str(plain.plan_.optimizer)].states
    limit = plain.plan_.peak_bytes - states * plain._network.parameters.nbytes // 3
    spilled = MLPClassifier((256,) * 8, memory_limit=limit, disk=str(tmp_path), **options, **solver).fit(x, y)
    assert spilled.plan_.streams == (False, True)
    assert spilled.plan_.peak_bytes <= limit
    for model in (plain, spilled):  # partial fits go on with arrays of their own, on the disk and through a pickle
        model.partial_fit(x, y, classes=[0, 1, 2])
    again = [pickle.loads(pickle.dumps(model)) for model in (plain, spilled)]
    for model in again:
        model.partial_fit(x, y)
    for one, other in zip(again[0].coefs_, again[1].coefs_, strict=True):
        np.testing.assert_array_equal(one, other)
    assert list(tmp_path.iterdir()) == []
