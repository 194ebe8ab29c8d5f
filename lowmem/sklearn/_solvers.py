"""scikit-learn's solvers: lowmem's optimizers with a penalty of the weights, and Adam's ε at scikit-learn's place."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.nn.optimizers import SGD, Adam, AdamW
from lowmem.nn.penalty import Penalised

Array = NDArray[np.floating[Any]]

LEAST_RATE = 1e-6
"""The rate at which learning_rate="adaptive" ends training, as in scikit-learn."""


class Solver(Penalised):
    """An optimizer with scikit-learn's penalty: λ is alpha over the sum of the batch's weights."""

    def set_rate(self, lr: float, states: Iterable[Array]) -> None:
        """Change the learning rate between steps. states: the solver's arrays, or pieces of them."""
        self.lr = lr


class PenalisedSGD(Solver, SGD):
    """SGD as in scikit-learn: a gradient enters the velocity multiplied by the learning rate of its own step."""

    def set_rate(self, lr: float, states: Iterable[Array]) -> None:
        """Change the learning rate, and divide the velocity by the change: lowmem multiplies it by the rate later."""
        if lr != self.lr:
            for v in states:
                np.multiply(v, self.lr / lr, out=v)
        self.lr = lr


class PenalisedAdam(Solver, Adam):
    """Adam as in scikit-learn: `epsilon` is added to sqrt(v), and not to sqrt(v̂)."""

    epsilon: float = 1e-8

    def begin_step(self) -> None:
        """Count a step, and set the ε for sqrt(v̂) that equals `epsilon` for sqrt(v)."""
        super().begin_step()
        self.eps = self.epsilon / (1.0 - self.beta2**self.step_count) ** 0.5


class PenalisedAdamW(Solver, AdamW):
    """AdamW: besides the step, weights shrink by η λ w; biases do not."""


DESCENTS = ("sgd", "momentum", "nesterov")
SOLVERS: Mapping[str, str] = MappingProxyType(dict.fromkeys(DESCENTS, "sgd") | {"adam": "adam", "adamw": "adamw"})
"""The family of each solver."""


def solver(parameters: Mapping[str, Any]) -> Solver:
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
