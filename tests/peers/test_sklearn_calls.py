"""Calls of `fit` and `partial_fit` that are refused, broken off or made at the same time: what they leave behind."""

import copy
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import lowmem as lm

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from lowmem.nn.penalty import Penalised
from lowmem.sklearn import MLPClassifier, MLPRegressor
from lowmem.sklearn._solvers import PenalisedAdam

Array = NDArray[Any]

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((50, 4)).astype(np.float32), np.arange(50) % 3
OPTIONS: dict[str, Any] = {"hidden_layer_sizes": (16, 16), "random_state": 0, "max_iter": 4}


def begun(calls: int = 3, **options: Any) -> MLPClassifier:
    """Return a classifier after some partial fits, of one step each."""
    model = MLPClassifier(**OPTIONS | options)
    for _ in range(calls):
        model.partial_fit(X, Y, classes=[0, 1, 2])
    return model


def assert_same_bits(one: Any, other: Any) -> None:
    for mine, theirs in zip(one.coefs_ + one.intercepts_, other.coefs_ + other.intercepts_, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def public(model: Any) -> dict[str, str]:
    """Return the attributes that users see, as text."""
    return {name: repr(value) for name, value in vars(model).items() if not name.startswith("_")}


class Updates:
    """Updates of layers, three in each step of these networks, in one of which something happens."""

    def __init__(self) -> None:
        self.left = 0
        self.act: Callable[[], None] = no_memory

    def at(self, number: int, act: Callable[[], None]) -> None:
        """Call `act` before an update, counted from 1 from now on."""
        self.left, self.act = number, act

    def happen(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.act()


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> Updates:
    updates = Updates()

    def rule(self: PenalisedAdam, *arrays: Any) -> None:
        updates.happen()
        Penalised.rule(self, *arrays)

    monkeypatch.setattr(PenalisedAdam, "rule", rule, raising=False)
    return updates


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def no_memory() -> None:
    raise MemoryError


REFUSED: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
    ({"memory_limit": 1000}, (X, Y)),
    ({"hidden_layer_sizes": (16, 17)}, (X, Y)),
    ({"early_stopping": True}, (X, Y)),
    ({}, (X[:, :3], Y)),
    ({}, (X, Y + 1)),
    ({}, (X, Y[1:])),
    ({}, (X, Y, -np.ones(50))),
    ({}, (X.astype(np.float64) * 1e300, Y)),
    ({"batch_size": 7}, (X.astype(np.float64) * 1e300, Y)),
]


@pytest.mark.filterwarnings("ignore:batch_size")
@pytest.mark.parametrize(("changes", "arguments"), REFUSED)
def test_a_refused_partial_fit_changes_nothing(changes: dict[str, Any], arguments: tuple[Any, ...]) -> None:
    model = begun()
    expected, attributes = copy.deepcopy(model), public(model)
    parameters = {name: model.get_params()[name] for name in changes}
    model.set_params(**changes)
    with pytest.raises(ValueError, match="."):
        model.partial_fit(*arguments)
    model.set_params(**parameters)
    assert public(model) == attributes
    assert_same_bits(model, expected)
    assert_same_bits(model.partial_fit(X, Y), expected.partial_fit(X, Y))


def test_a_refused_fit_changes_nothing() -> None:
    model = begun()
    expected, attributes = copy.deepcopy(model), public(model)
    for arguments in [(X[:, :3], Y + 5, -np.ones(50)), (X * np.nan, Y)]:
        with pytest.raises(ValueError, match="."):
            model.fit(*arguments)
    with pytest.raises(lm.BudgetError):
        model.set_params(memory_limit=1000).fit(X, Y)
    model.set_params(memory_limit=None)
    assert public(model) == attributes
    assert_same_bits(model.partial_fit(X, Y), expected.partial_fit(X, Y))


@pytest.mark.parametrize("y", [Y, np.arange(50) == 7])
def test_samples_that_cannot_be_held_out_are_refused_before_anything_is_lost(y: Array) -> None:
    model = begun()
    expected, attributes = copy.deepcopy(model), public(model)
    with pytest.raises(ValueError, match="validation set is too small|least populated class"):
        model.set_params(early_stopping=True, validation_fraction=0.02).fit(X, y)
    model.set_params(early_stopping=False, validation_fraction=0.1)
    assert public(model) == attributes
    assert_same_bits(model.partial_fit(X, Y), expected.partial_fit(X, Y))


@pytest.mark.filterwarnings("default")
def test_warnings_name_the_line_of_the_caller() -> None:
    with pytest.warns(UserWarning, match=r"is clipped|hasn't converged") as told:
        MLPClassifier(**OPTIONS, batch_size=99).fit(X, Y)
    assert [Path(one.filename) for one in told] == [Path(__file__)] * 2


def test_a_refused_first_call_leaves_an_estimator_that_is_not_fitted() -> None:
    model = MLPClassifier(**OPTIONS, memory_limit=1000)
    attributes = public(model)
    with pytest.raises(lm.BudgetError):
        model.partial_fit(X, Y, classes=[0, 1, 2])
    assert public(model) == attributes
    with pytest.raises(ValueError, match="classes must be passed"):
        model.set_params(memory_limit=None).partial_fit(X, Y)


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_copies_go_on_by_themselves(twin: Callable[[Any], Any]) -> None:
    model, expected = begun(), begun(5)
    copies = [twin(model), twin(twin(model))]
    for one in [*copies, model]:
        assert_same_bits(one.partial_fit(X, Y).partial_fit(X, Y), expected)
        assert one._training.optimizer.step_count == 5


def test_ctrl_c_waits_for_the_end_of_the_step(updates: Updates) -> None:
    model, expected = begun(), begun(4)
    attributes = public(model)
    updates.at(2, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        model.partial_fit(X, Y)
    assert public(model) == attributes
    assert_same_bits(model, expected)
    assert_same_bits(model.partial_fit(X, Y), expected.partial_fit(X, Y))


def test_ctrl_c_ends_an_epoch_behind_the_step_at_hand(updates: Updates) -> None:
    model, expected = MLPClassifier(**OPTIONS, batch_size=25, shuffle=False), begun(batch_size=25, shuffle=False)
    for _ in range(3):
        model.partial_fit(X, Y, classes=[0, 1, 2])
    updates.at(2, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        model.partial_fit(X, Y)
    assert_same_bits(model, expected.partial_fit(X[:25], Y[:25]))


def test_who_handles_ctrl_c_lets_training_go_on(updates: Updates) -> None:
    heard = list[int]()
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        updates.at(2, ctrl_c)
        model = begun(batch_size=20)
        updates.at(8, ctrl_c)  # in the last step of an epoch
        model.partial_fit(X, Y)
        assert heard == [signal.SIGINT] * 2
    finally:
        signal.signal(signal.SIGINT, before)
    assert_same_bits(model, begun(4, batch_size=20))


@pytest.mark.parametrize("error", [ctrl_c, no_memory])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_first_fit_that_is_broken_off_leaves_no_fitted_estimator(
    updates: Updates, error: Callable[[], None], earlier: bool
) -> None:
    model, untouched = MLPClassifier(**OPTIONS), MLPClassifier(**OPTIONS)
    if earlier:
        model.fit(X, Y)
    updates.at(2, error)
    with pytest.raises((KeyboardInterrupt, MemoryError)):
        model.fit(X, Y)
    assert public(model) == public(untouched)
    with pytest.raises(NotFittedError):
        model.predict(X)
    assert_same_bits(model.fit(X, Y), untouched.fit(X, Y))


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_first_call_that_is_broken_off_begins_anew(updates: Updates, method: str) -> None:
    more = {} if method == "fit" else {"classes": [0, 1, 2]}
    model = MLPClassifier(**OPTIONS)
    updates.at(2, no_memory)
    with pytest.raises(MemoryError):
        getattr(model, method)(X, Y, **more)
    assert_same_bits(getattr(model, method)(X, Y, **more), getattr(MLPClassifier(**OPTIONS), method)(X, Y, **more))


@pytest.mark.parametrize("early_stopping", [False, True])
def test_ctrl_c_after_an_epoch_ends_the_fit_with_a_warning(updates: Updates, early_stopping: bool) -> None:
    model = MLPClassifier(**OPTIONS, early_stopping=early_stopping)
    updates.at(5, ctrl_c)
    with pytest.warns(UserWarning, match="interrupted by user"):
        model.fit(X, Y)
    assert (model.n_iter_, len(model.loss_curve_), model.t_) == (1, 1, 45 if early_stopping else 50)
    assert model.report_.steps == 2  # the second epoch's too
    model.predict(X)


def test_a_warm_start_that_ctrl_c_ends_keeps_an_estimator_that_works(updates: Updates) -> None:
    model = MLPClassifier(**OPTIONS, warm_start=True).fit(X, Y)
    attributes = public(model)
    updates.at(2, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y)
    assert public(model) == attributes
    assert model.predict(X).shape == (50,)
    model.fit(X, Y)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_epochs_of_a_fit_that_fails_are_not_told(updates: Updates, early_stopping: bool) -> None:
    model = MLPClassifier(**OPTIONS, warm_start=True, early_stopping=early_stopping).fit(X, Y)
    attributes = public(model)
    updates.at(8, no_memory)
    with pytest.raises(MemoryError):
        model.fit(X, Y)
    assert public(model) == attributes


def test_pickles_name_what_earlier_ones_named() -> None:
    pickled = pickle.dumps(begun())
    assert b"lowmem.sklearn._training" in pickled
    assert b"_session" not in pickled
    assert b"_attempt" not in pickled


def test_half_a_step_is_refused_until_a_new_fit(updates: Updates) -> None:
    model = begun()
    updates.at(2, no_memory)
    with pytest.raises(MemoryError):
        model.partial_fit(X, Y)
    for broken in (model, pickle.loads(pickle.dumps(model)), copy.copy(model)):
        for call in (broken.partial_fit, broken.score, broken.set_params(warm_start=True).fit):
            with pytest.raises(lm.InputError, match="was broken off, and its network may be half updated. Fit it"):
                call(X, Y)
    model.set_params(warm_start=False).fit(X, Y).partial_fit(X, Y)
    assert model.score(X, Y) > 0


def test_early_stopping_has_whole_parameters_to_return_to(updates: Updates) -> None:
    model = MLPClassifier(**OPTIONS, early_stopping=True, warm_start=True).fit(X, Y)
    expected = copy.deepcopy(model)
    updates.at(2, no_memory)
    with pytest.raises(MemoryError):
        model.fit(X, Y)
    assert_same_bits(model, expected)
    model.predict(X)


# Weights and data ------------------------------------------------------------------------------------------------

FULL = np.ones(50)
NO_WEIGHTS: list[tuple[Any, Any, str]] = [
    ({0: float("nan"), 1: 1, 2: 1}, None, r"^class_weight\[0\] must be a number of at least 0; got nan\.$"),
    ({0: -1, 1: 1, 2: 1}, None, r"^class_weight\[0\] must be a number of at least 0; got -1\.$"),
    ({0: 1, 1: float("inf"), 2: 1}, None, r"^class_weight\[1\] must be a number"),
    ({0: "a", 1: 1, 2: 1}, None, r"^class_weight\[0\] must be a number"),
    ({0: 0, 1: 0, 2: 0}, None, "^class_weight is 0 for every sample; at least one sample needs a weight above 0"),
    ({0: 0, 1: 1, 2: 1}, Y == 0, "^sample_weight times class_weight is 0 for every sample"),
    ({0: 1e-60, 1: 1e-60, 2: 1e-60}, None, "^class_weight is too small for float32: 1e-60 at most"),
    (None, FULL * 1e-44, "^sample_weight is too small for float32"),
    (None, FULL * 1e300, "^sample_weight is too large for float32: up to 1e\\+300"),
    ({0: 1e200, 1: 1, 2: 1}, FULL * 1e200, "^sample_weight times class_weight is too large for float32"),
]


@pytest.mark.parametrize(("class_weight", "sample_weight", "message"), NO_WEIGHTS)
def test_weights_that_train_nothing_are_refused_by_name(class_weight: Any, sample_weight: Any, message: str) -> None:
    model = begun()
    expected = copy.deepcopy(model)
    model.set_params(class_weight=class_weight)
    for call in (model.fit, model.partial_fit):
        with pytest.raises(lm.InputError, match=message):
            call(X, Y, sample_weight)
    assert_same_bits(model.set_params(class_weight=None).partial_fit(X, Y), expected.partial_fit(X, Y))


@pytest.mark.parametrize("weight", [1e308, 1e-308])
def test_weights_of_float64_have_room_too(weight: float) -> None:
    for model in (MLPClassifier(**OPTIONS), MLPRegressor(**OPTIONS)):
        with pytest.raises(lm.InputError, match="^sample_weight is too (large|small) for float64"):
            model.fit(X.astype(np.float64), Y, FULL * weight)


@pytest.mark.parametrize("weight", [1e30, 1e-30])
def test_of_weights_the_ratios_count(weight: float) -> None:
    one, other = (MLPClassifier(**OPTIONS, alpha=0.0).fit(X, Y, FULL * factor) for factor in (1, weight))
    np.testing.assert_allclose(one.loss_curve_, other.loss_curve_, rtol=1e-5)


def test_early_stopping_wants_weights_on_both_sides() -> None:
    one = np.zeros(50)
    one[7] = 1
    with pytest.raises(lm.InputError, match="early_stopping: all samples with a weight above 0 are on one side"):
        MLPClassifier(**OPTIONS, early_stopping=True).fit(X, Y, one)


def test_numbers_too_large_for_the_network_are_refused_before_anything_is_lost() -> None:
    model = MLPRegressor(**OPTIONS, dtype="float32").fit(X, Y)
    expected = copy.deepcopy(model)
    for x, y, name in [(X.astype(np.float64) * 1e300, Y, "X"), (X, Y * 1e300, "y")]:
        with pytest.raises(lm.InputError, match=f"^{name} has values up to .* too large for float32"):
            model.fit(x, y)
    assert_same_bits(model, expected)


def test_masked_values_are_refused_by_name() -> None:
    model = MLPClassifier(**OPTIONS).fit(np.ma.masked_array(X, np.zeros_like(X, bool)), Y)  # nothing is masked
    masked = np.ma.masked_where(Y == 0, Y)
    rows = np.ma.masked_less(X, 0)
    for name, arguments in [
        ("X", (rows, Y)),
        ("X", (list(rows), Y)),
        ("y", (X, masked)),
        ("sample_weight", (X, Y, masked)),
    ]:
        for call in (model.fit, model.partial_fit):
            with pytest.raises(lm.InputError, match=rf"^{name} has \d+ masked values, and masks are not read"):
                call(*arguments)
    with pytest.raises(lm.InputError, match=r"^X has \d+ masked values"):
        model.predict(rows)


def test_tensors_are_read_unless_they_require_grad() -> None:
    torch = pytest.importorskip("torch")
    x, y = torch.tensor(X), torch.tensor(Y)
    model = MLPClassifier(**OPTIONS).fit(x, y)
    assert_same_bits(model, MLPClassifier(**OPTIONS).fit(X, Y))
    for call in (model.fit, model.partial_fit, model.score):
        with pytest.raises(lm.InputError, match=r"^X is a tensor that requires grad, .* Pass X\.detach\(\)\.$"):
            call(x.requires_grad_(), y)


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "boolean", "int8[pyarrow]"])
def test_tables_of_dtypes_that_may_miss_values_are_read(dtype: str) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    numbers = np.asarray(X > 0, np.int64)
    table = pandas.DataFrame(numbers, columns=list("abcd")).astype(dtype)
    series = pandas.Series(Y % 2).astype(dtype)
    model = MLPClassifier(**OPTIONS).fit(table, series, pandas.Series(FULL, dtype="Float64"))
    assert_same_bits(model, MLPClassifier(**OPTIONS).fit(numbers.astype(float), Y % 2, FULL))
    for data in [(table.mask(table == 0), series), (table, series.mask(series == 0))]:
        with pytest.raises(ValueError, match="contains NaN"):
            MLPClassifier(**OPTIONS).fit(*data)


def test_a_disk_may_be_a_path(tmp_path: Path) -> None:
    model = clone(MLPClassifier(**OPTIONS, disk=tmp_path)).fit(X, Y)
    assert_same_bits(model, MLPClassifier(**OPTIONS, disk=str(tmp_path)).fit(X, Y))
    with pytest.raises(lm.InputError, match="does not exist"):
        MLPClassifier(**OPTIONS, disk=tmp_path / "nowhere").fit(X, Y)


# Threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_second_thread_is_refused_and_changes_nothing(updates: Updates, method: str) -> None:
    model, expected = begun(), begun(4)
    refusals: list[str] = []

    def second() -> None:
        with pytest.raises(lm.InputError) as refusal:
            getattr(model, method)(X, Y)
        refusals.append(str(refusal.value))

    def at_once() -> None:
        thread = Thread(target=second)
        thread.start()
        thread.join()

    updates.at(2, at_once)
    model.partial_fit(X, Y)
    assert refusals == [
        "this estimator trains in another thread at the moment. Train one for each thread, such as "
        "sklearn.base.clone(estimator)."
    ]
    assert_same_bits(model, expected)
    assert_same_bits(model.partial_fit(X, Y), expected.partial_fit(X, Y))


def test_another_thread_predicts_meanwhile(updates: Updates) -> None:
    model, shapes = begun(), list[tuple[int, ...]]()

    def meanwhile() -> None:
        thread = Thread(target=lambda: shapes.append(model.predict(X).shape))
        thread.start()
        thread.join()

    updates.at(2, meanwhile)
    model.partial_fit(X, Y)
    assert shapes == [(50,)]


class Within:
    """A callback that calls something at the end of each epoch."""

    def __init__(self, act: Callable[[Any], object]) -> None:
        self.act, self.results = act, list[object]()

    def setup(self, estimator: Any, context: Any) -> None:
        pass

    def teardown(self, estimator: Any, context: Any) -> None:
        self.results.append("teardown")

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        pass

    def on_fit_task_end(self, estimator: Any, context: Any, **given: Any) -> None:
        if context.task_name == "epoch":
            self.results.append(self.act(estimator))


def test_callbacks_predict_copy_and_pickle_within_a_fit() -> None:
    callback = Within(lambda model: len(pickle.dumps(copy.copy(model).predict(X))) > 0)
    MLPClassifier(**OPTIONS).set_callbacks(callback).fit(X, Y)
    assert callback.results == [True] * 4 + ["teardown"]


def test_a_callback_that_fits_its_estimator_is_refused_and_torn_down() -> None:
    callback = Within(lambda model: model.fit(X, Y))
    model = MLPClassifier(**OPTIONS).set_callbacks(callback)
    with pytest.raises(lm.InputError, match="this estimator trains at the moment, from which this call comes"):
        model.fit(X, Y)
    assert callback.results == ["teardown"]
    assert not any(name.startswith("_callback") for name in vars(model))


def test_regressors_are_refused_alike() -> None:
    model = MLPRegressor(**OPTIONS).partial_fit(X, Y)
    expected = copy.deepcopy(model)
    with pytest.raises(ValueError, match="."):
        model.partial_fit(X, np.c_[Y, Y])
    assert_same_bits(model.partial_fit(X, Y), expected.partial_fit(X, Y))
