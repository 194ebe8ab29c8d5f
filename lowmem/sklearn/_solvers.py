"""scikit-learn's solvers: lowmem's optimizers with a penalty of the weights, and Adam's ε at scikit-learn's place.

The penalty is added to a chunk just before its update, so that it takes no array and no pass of its own.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.nn.optimizers import SGD, Adam, AdamW, Optimizer

Array = NDArray[np.floating[Any]]

LEAST_PENALTY = 1e-20
"""A smaller λ counts as 0: g / λ would overflow in float32."""

LEAST_RATE = 1e-6
"""The rate at which learning_rate="adaptive" ends training, as in scikit-learn."""


class Spans:
    """Where weights lie in memory: it tells weights from biases in a chunk of the parameters."""

    def __init__(self, weights: Sequence[Array]) -> None:
        spans = sorted((_address(w), w.nbytes) for w in weights)
        self._starts = [start for start, _ in spans]
        self._stops = [start + size for start, size in spans]

    def within(self, chunk: Array) -> slice:
        """Return the part of a chunk that holds weights. chunk: parameters of one layer."""
        start, item = _address(chunk), chunk.itemsize
        place = bisect_right(self._starts, start + chunk.nbytes - 1) - 1
        if place < 0:
            return slice(0, 0)
        first, last = max(self._starts[place], start), min(self._stops[place], start + chunk.nbytes)
        return slice((first - start) // item, max(last - start, first - start) // item)


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


class Penalised(Optimizer):
    """An optimizer that adds λ w to the gradient of weights, and nothing to that of biases.

    penalty: λ, set before each step: scikit-learn's alpha over the sum of the batch's weights.
    weights: where the weights lie; None adds nothing.
    """

    penalty: float = 0.0
    weights: Spans | None = None

    def update(self, w: Array, g: Array, states: tuple[Array, ...], scratch: tuple[Array, ...]) -> None:
        """Update a chunk; see `Optimizer.update`."""
        if self.weights is not None and self.penalty > LEAST_PENALTY:
            part = self.weights.within(w)
            self.penalise(w[part], g[part])
        super().update(w, g, states, scratch)

    def penalise(self, w: Array, g: Array) -> None:
        """Add the penalty to weights and their gradient: g + λ w as (g / λ + w) λ, without a working array."""
        np.divide(g, self.penalty, out=g)
        np.add(g, w, out=g)
        np.multiply(g, self.penalty, out=g)

    def set_rate(self, lr: float, states: Sequence[Array]) -> None:
        """Change the learning rate between steps. states: the solver's arrays."""
        self.lr = lr


class PenalisedSGD(Penalised, SGD):
    """SGD as in scikit-learn: a gradient enters the velocity multiplied by the learning rate of its own step."""

    def set_rate(self, lr: float, states: Sequence[Array]) -> None:
        """Change the learning rate, and divide the velocity by the change: lowmem multiplies it by the rate later."""
        if lr != self.lr:
            for v in states:
                np.multiply(v, self.lr / lr, out=v)
        self.lr = lr


class PenalisedAdam(Penalised, Adam):
    """Adam as in scikit-learn: `epsilon` is added to sqrt(v), and not to sqrt(v̂)."""

    epsilon: float = 1e-8

    def begin_step(self) -> None:
        """Count a step, and set the ε for sqrt(v̂) that equals `epsilon` for sqrt(v)."""
        super().begin_step()
        self.eps = self.epsilon / (1.0 - self.beta2**self.step_count) ** 0.5


class PenalisedAdamW(Penalised, AdamW):
    """AdamW: besides the step, weights shrink by η λ w; biases do not."""

    def penalise(self, w: Array, g: Array) -> None:
        """Shrink the weights by η λ w."""
        np.multiply(w, 1.0 - self.lr * self.penalty, out=w)


DESCENTS = ("sgd", "momentum", "nesterov")
SOLVERS: Mapping[str, str] = MappingProxyType(dict.fromkeys(DESCENTS, "sgd") | {"adam": "adam", "adamw": "adamw"})
"""The family of each solver."""


def solver(parameters: Mapping[str, Any]) -> Penalised:
    """Return the solver that an estimator's parameters describe, before its first step."""
    name, lr = parameters["solver"], parameters["learning_rate_init"]
    if name in DESCENTS:
        momentum = parameters["momentum"]
        nesterov = name == "nesterov" or (name == "sgd" and parameters["nesterovs_momentum"])
        return PenalisedSGD(lr, momentum=momentum, nesterov=nesterov and momentum > 0)
    kind = PenalisedAdamW if name == "adamw" else PenalisedAdam
    adam = kind(lr, beta1=parameters["beta_1"], beta2=parameters["beta_2"], eps=parameters["epsilon"])
    if isinstance(adam, PenalisedAdam):
        adam.epsilon = parameters["epsilon"]
    return adam
