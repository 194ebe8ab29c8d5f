"""The fitted half of an estimator: its network as arrays, and what copies and pickles of it hold."""

from copy import deepcopy
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from lowmem.nn.mlp import MLP
from lowmem.sklearn._attempt import Attempted, Steps
from lowmem.sklearn._input import check_readable
from lowmem.sklearn._session import Session
from lowmem.sklearn._training import Paused

Array = NDArray[Any]
Self = TypeVar("Self", bound="Fitted")


class Fitted(Attempted, BaseEstimator):  # type: ignore[misc, unused-ignore]
    """An estimator with a network.

    _network, _steps: there once it is fitted: the network, and the steps that change it.
    _training: there after `partial_fit`: the solver with its arrays.
    """

    _network: MLP
    _steps: Steps
    _training: Session | Paused

    def _readable(self, X: ArrayLike) -> Array:
        """Return samples to predict, which are not copied, checked."""
        check_is_fitted(self)
        self._steps.check(to_read=True)
        check_readable(X=X)
        checked: Array = validate_data(self, X, dtype="numeric", reset=False)
        return checked

    @property
    def coefs_(self) -> list[Array]:
        """The weights of each layer, views of shape (n_{l-1}, n_l); writing into them changes the network."""
        return [w.T for w in self._fitted("coefs_").weights]

    @property
    def intercepts_(self) -> list[Array]:
        """The biases of each layer, views of shape (n_l,)."""
        return list(self._fitted("intercepts_").biases)

    def _fitted(self, name: str) -> MLP:
        if not hasattr(self, "_network"):
            raise AttributeError(f"{type(self).__name__} has no {name} before it is fitted.")
        return self._network

    def __sklearn_is_fitted__(self) -> bool:
        """Say whether there is a network."""
        return hasattr(self, "_network")

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: all that was learned, and between partial fits also the solver's arrays."""
        state = dict(super().__getstate__())
        state.pop("_attempts", None)
        mlp: MLP | None = state.pop("_network", None)
        if mlp is not None:
            state["_stored"] = (mlp.architecture, mlp.learned)
        steps: Steps | None = state.pop("_steps", None)
        if steps is not None and steps.torn:
            state["_torn"] = True
        training: Session | Paused | None = state.pop("_training", None)
        if training is not None:
            state["_training"] = training.paused().in_memory()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore what was pickled; the network's arrays are copied."""
        state = dict(state)
        stored, torn = state.pop("_stored", None), state.pop("_torn", False)
        super().__setstate__(state)
        if stored is not None:
            architecture, learned = stored
            self._network, self._steps = MLP.empty(architecture), Steps(torn=torn)
            np.copyto(self._network.learned, learned)

    def __copy__(self: Self) -> Self:
        """Return a shallow copy, with a network and a solver of its own: a solver counts the steps of one network."""
        state = self.__getstate__()
        if "_training" in state:
            state["_training"] = deepcopy(state["_training"])
        twin = type(self).__new__(type(self))
        twin.__setstate__(state)
        return twin
