"""`MLPClassifier` and `MLPRegressor`: the parameters of scikit-learn, in its order, and then lowmem's own."""

from collections.abc import Sequence
from numbers import Real
from os import PathLike
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin, _fit_context
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import _check_partial_fit_first_call

from lowmem.sklearn._attempt import all_or_nothing
from lowmem.sklearn._base import BaseMLP
from lowmem.sklearn._prediction import PROBABILITIES, predict_into, predicted_by
from lowmem.sklearn._targets import Labels, labels_of
from lowmem.sklearn._weights import ClassWeight, refuse_balanced, with_classes

Array = NDArray[Any]


class MLPClassifier(ClassifierMixin, BaseMLP):
    """A multilayer perceptron that classifies, trained inside a memory limit.

    These arguments are those of scikit-learn's `MLPClassifier`: hidden_layer_sizes, activation, solver, alpha,
    batch_size, learning_rate, learning_rate_init, power_t, max_iter, shuffle, random_state, tol, verbose, warm_start,
    momentum (below 1), nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon,
    n_iter_no_change. With equal arguments, data and integer `random_state`, both estimators begin with the same
    weights, see the same batches and take the same steps, but for rounding. These are new, or take more values:

    activation: also every other activation of lowmem ("gelu", "silu", ...). "logistic" and "sigmoid" are the same.
    solver: "sgd" and "adam"; "momentum" and "nesterov", which are "sgd" without and with `nesterovs_momentum`; and
        "adamw", where alpha is decoupled from the gradient and not divided by the batch. There is no "lbfgs", which
        needs all samples at once.
    memory_limit: what `fit` may allocate: bytes, text such as "64MiB", or "50%" of what storing everything takes. The
        limit counts the parameters, the solver's arrays, gradients, activations, batches, encoded targets, the order
        of the samples, and with early_stopping the best parameters. It counts neither X and y nor the interpreter and
        its libraries. Each process of `n_jobs` has a limit of its own. A limit that is too low is refused with the
        lowest that works. None stores everything.
    strategy, threads: as in `lowmem.plan`. Bits depend on threads, and left out they are as many as the process is
        told: joblib tells each process of `n_jobs` a share of them. threads=1 gives the same bits for every `n_jobs`.
    disk, disk_limit: a folder to which activations and the solver's arrays may go where memory_limit asks for it, and
        the bytes that they may take there. Parameters stay in memory: `coefs_` shows them, and pickles hold them.
    dtype: of the network: "float32", "float64", or "auto", which is float32 for X in float32 and float64 otherwise. X
        is not copied: where it has another dtype, is memory-mapped or strided, each batch is gathered and cast.
    initialiser: a scheme of `lowmem.nn.initialisers`, such as "orthogonal" for deep networks. None initialises as
        scikit-learn does.
    residual, norm, dropout: as in `lowmem.Architecture`.
    class_weight: a dictionary {class: weight}, or "balanced", as elsewhere in scikit-learn.

    Weights of samples must not be negative, and X must not be sparse. Callbacks (`set_callbacks`) hear of every epoch.
    `fit` frees the solver's arrays. Between calls of `partial_fit`, they and the memory of a step are held, and a
    pickle contains the solver's arrays. A call that is refused changes nothing. Ctrl-C waits for the end of a step; it
    ends a `fit` with a warning once an epoch is over, and is raised before. One thread at a time trains an estimator.

    The attributes are those of scikit-learn: classes_, loss_, best_loss_, loss_curve_, validation_scores_, t_,
    n_iter_, best_validation_score_, coefs_ and intercepts_ (views), n_features_in_, feature_names_in_, n_layers_,
    n_outputs_, out_activation_; and also plan_ and report_, the `lowmem.Plan` and `lowmem.Report` of the last fit.

    Example:
        >>> from lowmem.sklearn import MLPClassifier
        >>> from sklearn.datasets import load_digits
        >>> X, y = load_digits(return_X_y=True)
        >>> model = MLPClassifier((64, 64), memory_limit="1MiB", random_state=0).fit(X / 16, y)
        >>> model.score(X / 16, y) > 0.99
        True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseMLP._parameter_constraints,
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
    }
    _numeric = False

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        memory_limit: int | str | None = None,
        strategy: str = "auto",
        threads: int | None = None,
        disk: str | PathLike[str] | None = None,
        disk_limit: int | str | None = None,
        dtype: str = "auto",
        initialiser: str | None = None,
        residual: bool = False,
        norm: str | None = None,
        dropout: float = 0.0,
        class_weight: ClassWeight = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.memory_limit = memory_limit
        self.strategy = strategy
        self.threads = threads
        self.disk = disk
        self.disk_limit = disk_limit
        self.dtype = dtype
        self.initialiser = initialiser
        self.residual = residual
        self.norm = norm
        self.dropout = dropout
        self.class_weight = class_weight

    @all_or_nothing
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> "MLPClassifier":
        """Fit to X (samples, features) and labels y (samples,), or an indicator matrix y (samples, labels)."""
        return self._learn(X, y, sample_weight, incremental=False)

    @all_or_nothing
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        classes: ArrayLike | None = None,
    ) -> "MLPClassifier":
        """Train for one epoch. classes: all classes that will ever come; the first call needs them."""
        refuse_balanced(self.class_weight)
        _check_partial_fit_first_call(self, classes)
        return self._learn(X, y, sample_weight, incremental=True, classes=classes)

    def predict(self, X: ArrayLike) -> Array:
        """Return the class of each sample, or an indicator matrix of labels."""
        samples = self._readable(X)
        several = self._labels.several
        result = np.empty((len(samples), self.n_outputs_) if several else len(samples), self._labels.decoded)
        return predict_into(result, self._network, samples, self._labels.decode)

    def predict_proba(self, X: ArrayLike) -> Array:
        """Return the probability of each class, (samples, classes), in the order of `classes_`."""
        return self._probabilities(X, logarithm=False)

    def predict_log_proba(self, X: ArrayLike) -> Array:
        """Return the logarithm of `predict_proba`, which is finite even where a probability rounds to 0."""
        return self._probabilities(X, logarithm=True)

    def _probabilities(self, X: ArrayLike, *, logarithm: bool) -> Array:
        samples, kind = self._readable(X), self._labels.kind
        if len(self.classes_) == 1 and kind == "binary":
            return np.full((len(samples), 1), 0.0 if logarithm else 1.0, self._network.parameters.dtype)
        sigma = PROBABILITIES[self.out_activation_, logarithm]

        def both(s: Array) -> Array:
            return sigma(np.hstack([-s, s]))

        result = np.empty((len(samples), len(self.classes_)), self._network.parameters.dtype)
        return predict_into(result, self._network, samples, both if kind == "binary" else sigma)

    def _targets(self, y: Array, classes: ArrayLike | None, *, first: bool) -> Array:
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if first:
            self._labels: Labels = labels_of(y, classes)
            self.classes_ = self._labels.classes
        return self._labels.encode(y)

    def _head(self) -> tuple[int, str, str]:
        return self._labels.outputs, self._labels.loss, self._labels.activation

    def _all_weights(self, y: Array, sample_weight: Array | None) -> Array | None:
        return with_classes(self.class_weight, y, sample_weight)

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401 - scikit-learn is untyped
        """Return the properties that scikit-learn asks of an estimator."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(RegressorMixin, BaseMLP):
    """A multilayer perceptron that predicts numbers, trained inside a memory limit.

    loss: "squared_error", which is ½ r² as in scikit-learn; "huber", which is ½ r² up to |r| = 1 and |r| - ½ beyond;
        "absolute_error", |r|; "quantile", by which a prediction has the share `quantile` of the targets below it; or
        "poisson", for counts: the network's output is the logarithm of what is predicted, as in scikit-learn, whose
        loss also has a term that no prediction changes.
    quantile: of the loss "quantile", between 0 and 1.

    `MLPClassifier` describes all other arguments and attributes, and what differs from scikit-learn.

    Example:
        >>> from lowmem.sklearn import MLPRegressor
        >>> import numpy as np
        >>> X = np.linspace(-1, 1, 200)[:, None]
        >>> model = MLPRegressor(hidden_layer_sizes=(32, 32), max_iter=500, random_state=0).fit(X, X.ravel() ** 2)
        >>> model.score(X, X.ravel() ** 2) > 0.9
        True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions({"squared_error", "huber", "absolute_error", "quantile", "poisson"})],
        "quantile": [Interval(Real, 0, 1, closed="neither")],
    }
    _numeric = True

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        memory_limit: int | str | None = None,
        strategy: str = "auto",
        threads: int | None = None,
        disk: str | PathLike[str] | None = None,
        disk_limit: int | str | None = None,
        dtype: str = "auto",
        initialiser: str | None = None,
        residual: bool = False,
        norm: str | None = None,
        dropout: float = 0.0,
        quantile: float = 0.5,
    ) -> None:
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.memory_limit = memory_limit
        self.strategy = strategy
        self.threads = threads
        self.disk = disk
        self.disk_limit = disk_limit
        self.dtype = dtype
        self.initialiser = initialiser
        self.residual = residual
        self.norm = norm
        self.dropout = dropout
        self.quantile = quantile

    @all_or_nothing
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> "MLPRegressor":
        """Fit to X (samples, features) and numbers y, (samples,) or (samples, outputs)."""
        return self._learn(X, y, sample_weight, incremental=False)

    @all_or_nothing
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> "MLPRegressor":
        """Train for one epoch."""
        return self._learn(X, y, sample_weight, incremental=True)

    def predict(self, X: ArrayLike) -> Array:
        """Return the prediction for each sample, (samples,) or (samples, outputs)."""
        samples = self._readable(X)
        result = np.empty((len(samples), self.n_outputs_), self._network.parameters.dtype)
        predict_into(result, self._network, samples, predicted_by(self._network))
        return result[:, 0] if self.n_outputs_ == 1 else result

    def _targets(self, y: Array, classes: ArrayLike | None, *, first: bool) -> Array:
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        targets: Array = y.reshape(len(y), -1)
        self._columns = targets.shape[1]
        return targets

    def _head(self) -> tuple[int, str, str]:
        names = {"squared_error": "mse", "absolute_error": "mae"}
        return self._columns, names.get(self.loss, self.loss), "exp" if self.loss == "poisson" else "identity"

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401 - scikit-learn is untyped
        """Return the properties that scikit-learn asks of an estimator."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
