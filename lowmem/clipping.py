"""Clipping by norm: all gradients are gathered, their common norm is cut, and only then are the layers updated.

R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", arXiv:1211.5063 (2013).
"""

from dataclasses import replace
from math import isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.errors import InputError, NonFiniteError
from lowmem.executor import Backprop, Gradients
from lowmem.facts import CHUNK
from lowmem.nn.mlp import MLP
from lowmem.nn.optimizers import Optimizer
from lowmem.plans import Plan


class ClippedBackprop(Backprop):
    """`Backprop` with an update, by a plan that gathers the gradients: g ← g min(1, clip_norm / |g|), then update.

    |g| is the Euclidean norm over the gradients of all weights and biases together.
    """

    def __init__(self, mlp: MLP, plan: Plan, optimizer: Optimizer, clip_norm: float, *, seed: int = 0) -> None:
        if not plan.gathered or plan.optimizer != optimizer.name:
            raise InputError(f"clipping by norm needs a plan made with gather=True and optimizer={optimizer.name!r}.")
        super().__init__(mlp, replace(plan, optimizer=None), seed=seed)
        self.plan, self.clip_norm, self._update = plan, clip_norm, optimizer
        architecture, parameters = mlp.architecture, mlp.parameters
        self.optimizer_state = tuple(np.zeros_like(parameters) for _ in range(optimizer.states))
        self._working = np.zeros(plan.optimizer_scratch, architecture.dtype)
        gathered = self._training.totals or self._training.gradients
        self._flat: NDArray[Any] = gathered.flat
        self._running = np.empty_like(mlp.running)

    def __call__(
        self, x: NDArray[Any], y: NDArray[Any], weights: NDArray[Any] | None = None
    ) -> tuple[float, Gradients]:
        """Run one step on a batch; see `Backprop.__call__`."""
        self.steps = self._update.step_count  # dropout goes by the optimizer's count, which a saved run keeps
        np.copyto(self._running, self.mlp.running)
        loss, _ = super().__call__(x, y, weights)
        norm = self._norm()
        if not isfinite(norm):
            np.copyto(self.mlp.running, self._running)  # running statistics moved as layers were reversed
            raise NonFiniteError(
                f"the norm of the gradients became {norm}: they overflowed. The parameters are those before this "
                "step. Try a smaller learning rate, scaled inputs or another initialiser."
            )
        self._update.begin_step()
        factor = min(1.0, self.clip_norm / norm) if norm else 1.0
        chunk = len(self._working) or CHUNK
        for start in range(0, len(self._flat), chunk):
            part = slice(start, start + chunk)
            g = self._flat[part]
            if factor < 1:
                np.multiply(g, factor, out=g)
            scratch = (self._working[: len(g)],) if len(self._working) else ()
            states = tuple(state[part] for state in self.optimizer_state)
            self._update.update(self.mlp.parameters[part], g, states, scratch)
        return loss, Gradients((), ())

    def account(self) -> dict[str, int]:
        """See `Backprop.account`."""
        made = super().account()
        made["optimizer"] += self._working.nbytes
        return made | ({"statistics": made["statistics"] + self._running.nbytes} if len(self._running) else {})

    def _norm(self) -> float:
        """Return the norm of all gradients, summed chunk by chunk, the chunks in double precision."""
        total = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(self._flat), CHUNK):
                g = self._flat[start : start + CHUNK]
                total += float(np.dot(g, g))
        return sqrt(total) if total >= 0 else total
