"""What classifier and regressor share: checks of input, a planned session, and epochs by the rules of scikit-learn."""

import warnings
from abc import ABC, abstractmethod
from dataclasses import replace
from numbers import Integral, Real
from os import PathLike
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight, validate_data

from lowmem.common.checks import check_range
from lowmem.errors import InputError
from lowmem.network.architecture import Architecture
from lowmem.network.specs import ACTIVATIONS
from lowmem.nn.initialisers import SCHEMES
from lowmem.planning.choose import STRATEGIES
from lowmem.sklearn._attempt import Steps
from lowmem.sklearn._fitted import Fitted
from lowmem.sklearn._input import check_readable
from lowmem.sklearn._session import Session
from lowmem.sklearn._solvers import LEAST_RATE, SOLVERS, solver
from lowmem.sklearn._training import (
    Batches,
    Paused,
    Samples,
    Terms,
    batch_bytes,
    clipped_batch,
    network,
    plan_within_limit,
    whole_sizes,
)
from lowmem.sklearn._validation import HeldOut
from lowmem.sklearn._weights import check_weights
from lowmem.training.signals import INTERRUPT, HeldSignals

Array = NDArray[Any]
Self = TypeVar("Self", bound="BaseMLP")

ALIASES = {"logistic": "sigmoid"}
"""Names that scikit-learn has for activations of lowmem's, where the two differ."""

_POSITIVE = Interval(Integral, 1, None, closed="left")
_FRACTION = Interval(Real, 0, 1, closed="left")


class BaseMLP(CallbackSupportMixin, Fitted, ABC):
    """A multilayer perceptron as an estimator; `MLPClassifier` and `MLPRegressor` describe it."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", _POSITIVE],
        "activation": [StrOptions({*ACTIVATIONS, *ALIASES})],
        "solver": [StrOptions(set(SOLVERS))],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), _POSITIVE],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [_POSITIVE],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [_FRACTION],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [_FRACTION],
        "beta_1": [_FRACTION],
        "beta_2": [_FRACTION],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [_POSITIVE, Options(Real, {np.inf})],
        "memory_limit": [None, str, _POSITIVE],
        "strategy": [StrOptions(set(STRATEGIES))],
        "threads": [None, _POSITIVE],
        "disk": [None, str, PathLike],
        "disk_limit": [None, str, _POSITIVE],
        "dtype": [StrOptions({"auto", "float32", "float64"})],
        "initialiser": [None, StrOptions(set(SCHEMES))],
        "residual": ["boolean"],
        "norm": [None, str],
        "dropout": [_FRACTION],
    }

    _numeric: ClassVar[bool]
    _mask_seed: int

    # What the two differ in ------------------------------------------------------------------------------------

    @abstractmethod
    def _targets(self, y: Array, classes: ArrayLike | None, *, first: bool) -> Array:
        """Return the targets that the network learns from.

        y: as given to `fit`.
        classes: all classes that will ever come, None to take those of y.
        first: True at the first fit, which decides what the targets mean.
        """

    @abstractmethod
    def _head(self) -> tuple[int, str, str]:
        """Return the number of outputs, lowmem's name of the loss, and scikit-learn's name of the last layer's σ."""

    def _all_weights(self, y: Array, sample_weight: Array | None) -> Array | None:
        """Return the weights of the samples, those of their classes included; None if all are 1."""
        return sample_weight

    # Fitting ---------------------------------------------------------------------------------------------------

    def _learn(
        self: Self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        *,
        incremental: bool,
        classes: ArrayLike | None = None,
    ) -> Self:
        """Fit, or train for one epoch if `incremental`; see `fit` and `partial_fit`."""
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        first = not hasattr(self, "_network") or not (self.warm_start or incremental)
        if not first:
            self._steps.check()
        check_readable(X=X, y=y, sample_weight=sample_weight)
        context = self._init_callback_context(max_subtasks=1 if incremental else self.max_iter)
        x, labels = validate_data(self, X, y, multi_output=True, dtype="numeric", y_numeric=self._numeric, reset=first)
        own = None if sample_weight is None else _check_sample_weight(sample_weight, x, ensure_non_negative=True)
        given = {"X": x, "y": labels, "metadata": None if own is None else {"sample_weight": own}}
        context.call_on_fit_task_begin(estimator=self, **given)
        targets = self._targets(labels, classes, first=first)
        parts = {"sample_weight": own, "class_weight": getattr(self, "class_weight", None)}
        named = " times ".join(name for name, part in parts.items() if part is not None)
        samples = Samples(x, targets, self._all_weights(labels, own), named=named)
        random = check_random_state(self.random_state)
        session, batches, held_out = self._prepared(samples, random, first=first, incremental=incremental)
        self._iterate(session, batches, held_out, context, given, incremental=incremental)
        accuracy = None if self._numeric else self.best_validation_score_
        self.plan_, self.report_ = session.plan, session.report(self.loss_, accuracy)
        session.close()
        if incremental:
            self._training = session
        context.call_on_fit_task_end(estimator=self, **given, reconstruction_attributes=dict)
        return self

    def _prepared(
        self, samples: Samples, random: np.random.RandomState, *, first: bool, incremental: bool
    ) -> tuple[Session, Batches, HeldOut | None]:
        """Plan, make the network if it is the first fit, and allocate what the epochs need.

        Returns the session, the batches to train on, and the samples held out for early stopping, if there are any.
        """
        architecture = self._architecture(samples, first=first)
        check_range(samples.x, np.dtype(architecture.dtype), "X")
        if samples.y.dtype.kind == "f":
            check_range(samples.y, np.dtype(architecture.dtype), "y")
        if samples.weights is not None:
            check_weights(samples.weights, architecture.dtype, samples.named)
        held_rows = HeldOut.size(len(samples.x), self.validation_fraction) if self.early_stopping else 0
        count = max(len(samples.x) - held_rows, 1)
        rows = clipped_batch(self.batch_size, count, architecture)
        buffers = batch_bytes(samples, count, rows, architecture)
        if self.early_stopping:
            buffers += HeldOut.bytes_for(architecture, held_rows)
        disk = (self.disk, self.disk_limit)
        terms = Terms(rows, self.memory_limit, self.strategy, self.threads, buffers, bool(count % rows), disk)
        shuffled = random if self.shuffle else None
        earlier: Session | Paused | None = self.__dict__.pop("_training", None)
        if isinstance(earlier, Session) and incremental and earlier.terms.cover(terms):
            batches = Batches(samples, rows, architecture, shuffled)
            earlier.begin(self.alpha)
            return earlier, batches, None
        paused = None if earlier is None else earlier.paused()
        self._attempt.carry(paused)
        del earlier  # frees its arena
        if self.early_stopping:
            HeldOut.check(samples, self.validation_fraction, stratified=not self._numeric and self._head()[0] == 1)
        optimizer = paused.optimizer if paused is not None and incremental else solver(self.get_params(deep=False))
        planned = plan_within_limit(architecture, optimizer, terms)
        if not incremental:  # from here on nothing is refused
            self._attempt.carry(paused := None)
        if first:
            self._begin(architecture, random)
        if self.early_stopping != (self.validation_scores_ is not None):  # a warm start that stops by another rule
            self._judge_anew()
        held_out = None
        if self.early_stopping:  # before the arena is allocated, as choosing the samples takes memory for a moment
            held_out = HeldOut(samples, self._network, random, self.validation_fraction, classifies=not self._numeric)
            samples = replace(samples, rows=held_out.training_rows())
        batches = Batches(samples, rows, architecture, shuffled)
        session = Session(
            self._network,
            planned,
            optimizer,
            alpha=self.alpha,
            terms=terms,
            steps=self._steps,
            states=() if paused is None else paused.states,
            seed=self._mask_seed,
        )
        if incremental and not first:
            self._attempt.carry(session)
        return session, batches, held_out

    def _architecture(self, samples: Samples, *, first: bool) -> Architecture:
        """Return the network that the parameters describe.

        first: False if there is a network already. Raises `InputError` if the parameters describe another one.
        """
        hidden = whole_sizes(self.hidden_layer_sizes)
        dtype = str(self.dtype)
        if dtype == "auto":
            dtype = "float32" if samples.x.dtype == np.float32 else "float64"
            if not first:  # samples of another dtype are cast, a batch at a time
                dtype = self._network.architecture.dtype
        outputs, loss, _ = self._head()
        options = {"residual": self.residual, "norm": self.norm, "dropout": self.dropout}
        chosen: dict[str, Any] = {name: value for name, value in options.items() if value}
        if loss == "quantile":
            chosen["quantile"] = self.get_params(deep=False)["quantile"]
        activation = str(ALIASES.get(self.activation, self.activation))
        widths = (samples.x.shape[1], *hidden, outputs)
        architecture = Architecture(widths, activation, loss, dtype, **chosen)
        if not first and architecture != self._network.architecture:
            raise InputError(
                f"the parameters now ask for another network ({architecture}) than the one that was fitted "
                f"({self._network.architecture}). Use a new estimator, or fit with warm_start=False."
            )
        return architecture

    def _begin(self, architecture: Architecture, random: np.random.RandomState) -> None:
        """Free an earlier network, make a new one, and begin the record of its training."""
        self._attempt.forget()
        self.__dict__.pop("_network", None)
        self._network = network(architecture, random, activation=self.activation, initialiser=self.initialiser)
        self._steps = Steps()
        # Drawn only with dropout: without, the random state must move as in scikit-learn.
        self._mask_seed = int(random.randint(2**31 - 1)) if self.dropout else 0
        self.n_layers_ = len(architecture.widths)
        self.n_outputs_, _, self.out_activation_ = self._head()
        self.n_iter_ = self.t_ = self._waited = 0
        self.loss_curve_: list[float] = []
        self._judge_anew()

    def _judge_anew(self) -> None:
        """Forget the best loss and the best score so far."""
        self.best_loss_: float | None = None if self.early_stopping else np.inf
        self.validation_scores_: list[float] | None = [] if self.early_stopping else None
        self.best_validation_score_: float | None = -np.inf if self.early_stopping else None

    def _iterate(
        self,
        session: Session,
        batches: Batches,
        held_out: HeldOut | None,
        context: Any,  # noqa: ANN401 - scikit-learn is untyped
        given: dict[str, Any],
        *,
        incremental: bool,
    ) -> None:
        """Run epochs until the loss, or the score of the samples held out, stops getting better.

        context, given: for the callbacks of scikit-learn.
        incremental: run one epoch.
        """
        self.n_iter_ = 0
        attributes = dict if held_out is None else held_out.attributes  # of an estimator that ended here
        try:
            for _ in range(1 if incremental else self.max_iter):
                task = context.subcontext(task_name="epoch")
                task.call_on_fit_task_begin(estimator=self, **given)
                loss = session.epoch(batches)
                with HeldSignals(INTERRUPT).held():
                    self._note(loss, batches.samples, held_out)
                    if self.learning_rate == "invscaling" and SOLVERS[self.solver] == "sgd":
                        rate = self.learning_rate_init / (self.t_ + 1) ** self.power_t
                        session.set_rate(rate)
                    enough = self._waited > self.n_iter_no_change and self._stops(session)
                asked = task.call_on_fit_task_end(estimator=self, **given, reconstruction_attributes=attributes)
                if enough or asked or incremental:
                    return
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization hasn't "
                "converged yet.",
                ConvergenceWarning,
                stacklevel=6,
            )
        except KeyboardInterrupt:
            if not self.n_iter_ or self._steps.torn:
                raise
            warnings.warn("Training interrupted by user.", stacklevel=6)
        finally:
            if held_out is not None:
                with HeldSignals(INTERRUPT).held(), self._steps.whole():
                    held_out.restore()

    def _note(self, loss: float, samples: int, held_out: HeldOut | None) -> None:
        """Record an epoch, and count the epochs since the loss or the score was last better by `tol`."""
        self.n_iter_ += 1
        self.t_ += samples
        self.loss_ = loss
        self.loss_curve_.append(loss)
        if self.verbose:
            print(f"Iteration {self.n_iter_}, loss = {loss:.8f}")
        if held_out is None:
            assert self.best_loss_ is not None
            better = loss <= self.best_loss_ - self.tol
            self.best_loss_ = min(loss, self.best_loss_)
        else:
            assert self.best_validation_score_ is not None
            assert self.validation_scores_ is not None
            score = held_out.score()
            self.validation_scores_.append(score)
            if self.verbose:
                print(f"Validation score: {score:f}")
            better = not score < self.best_validation_score_ + self.tol
            if score > self.best_validation_score_:
                self.best_validation_score_ = score
                held_out.keep()
        self._waited = 0 if better else self._waited + 1

    def _stops(self, session: Session) -> bool:
        """Return True if training ends because it no longer gets better; "adaptive" first lowers the learning rate."""
        what = "Validation score" if self.early_stopping else "Training loss"
        reason = f"{what} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} consecutive epochs."
        rate = session.optimizer.lr
        ends = self.learning_rate != "adaptive" or SOLVERS[self.solver] != "sgd" or rate <= LEAST_RATE
        if not ends:
            session.set_rate(rate / 5)
            self._waited = 0
        if self.verbose:
            print(reason, "Stopping." if ends else f"Setting learning rate to {rate / 5:f}")
        return ends
