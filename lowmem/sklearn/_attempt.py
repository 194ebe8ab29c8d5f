"""What a call of `fit` or `partial_fit` leaves behind if it fails: all attributes of before, and no half of a step.

An estimator trains for one thread at a time. A call that is refused changes nothing. One that fails later leaves the
attributes of before; a network that it goes on with has then learned from the steps that were finished. A first fit
frees the network of before as it begins, and leaves an estimator that is not fitted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from lowmem.common.turns import Turn
from lowmem.errors import DiskError, InputError, NonFiniteError

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E", bound="Attempted")


class Steps:
    """The steps that change one network, each of which is finished or remembered.

    torn: True while a step runs, and after one that was broken off: then parameters may be half updated.
    running: True while a step runs.
    """

    def __init__(self, *, torn: bool = False) -> None:
        self.torn, self.running = torn, False

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Change the network."""
        self.torn = self.running = True
        try:
            yield
            self.torn = False
        except (InputError, NonFiniteError):  # parameters are those before the step
            self.torn = False
            raise
        except DiskError as error:
            self.torn = error.torn is not False
            raise
        finally:
            self.running = False

    def check(self, *, to_read: bool = False) -> None:
        """Raise `InputError` after a step that was broken off.

        to_read: the network is not trained now, so that another thread may train it at the moment.
        """
        if self.torn and not (to_read and self.running):
            raise InputError(
                "a step of this estimator was broken off, and its network may be half updated. Fit it anew, with "
                "fit and warm_start=False, or go on with a copy of before."
            )


class Attempt:
    """The call that trains an estimator at the moment.

    turn: held by the call.
    before: attributes that the estimator gets back if the call fails.
    """

    def __init__(self) -> None:
        self.turn = Turn("this estimator trains", "Train one for each thread, such as sklearn.base.clone(estimator).")
        self.before: dict[str, Any] = {}

    def carry(self, training: object) -> None:
        """Give the estimator this solver with its arrays back, in place of the one of before; None for no solver."""
        self.before.pop("_training", None)
        if training is not None:
            self.before["_training"] = training

    def forget(self) -> None:
        """Let go of all that was learned before: its memory is needed now."""
        self.before = {name: value for name, value in self.before.items() if not _is_learned(name)}


class Attempted:
    """An object of which one thread at a time calls methods that `all_or_nothing` decorates."""

    @property
    def _attempt(self) -> Attempt:
        """What the calls share; no part of a copy or a pickle."""
        attempt: Attempt = self.__dict__.setdefault("_attempts", Attempt())
        return attempt


LEARNED = ("_network", "_steps", "_training", "_labels", "_columns", "_mask_seed", "_waited")
"""Attributes that a fit sets, besides those that end with an underscore."""


def _is_learned(name: str) -> bool:
    return name in LEARNED or (name.endswith("_") and not name.startswith("_"))


def all_or_nothing(method: Callable[Concatenate[E, P], R]) -> Callable[Concatenate[E, P], R]:
    """Let one thread at a time call a method, and give the object its attributes back if the call fails.

    It goes outside of scikit-learn's decorators, which tear callbacks down. The method says by `_attempt` what cannot
    come back. Raises `InputError` while another call trains the object.
    """

    @wraps(method)
    def attempted(self: E, /, *args: P.args, **kwargs: P.kwargs) -> R:
        attempt = self._attempt
        with attempt.turn:
            attempt.before = dict(vars(self))
            lengths = {name: len(value) for name, value in attempt.before.items() if isinstance(value, list)}
            try:
                return method(self, *args, **kwargs)
            except BaseException:
                for name in lengths.keys() & attempt.before.keys():
                    del attempt.before[name][lengths[name] :]  # losses and scores of epochs
                self.__dict__ = attempt.before
                raise
            finally:
                attempt.before = {}

    return attempted
