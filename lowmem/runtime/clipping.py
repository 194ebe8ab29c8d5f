"""Clipping by norm: the common norm of all gradients is cut, and only then are the layers updated.

Either all gradients are gathered, or a step is run twice: the first run takes the norm, layer by layer, and the second
one updates each layer right after its backward. That takes twice the compute and one layer's gradient at a time.

R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", arXiv:1211.5063 (2013).
"""

from dataclasses import replace
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.errors import InputError, NonFiniteError
from lowmem.nn.mlp import MLP
from lowmem.nn.optimizers import Optimizer
from lowmem.planning.plan import Account, Plan
from lowmem.runtime.arena import Array
from lowmem.runtime.backprop import Backprop
from lowmem.runtime.collectives.group import Group
from lowmem.runtime.engines.calls import CarryOut


class ClippedBackprop(Backprop):
    """`Backprop` with gradients cut before the update: g ← g min(1, clip_norm / |g|).

    |g| is the Euclidean norm over the gradients of all parameters together. The plan has an optimizer and was made
    with gather=True, which keeps the gradients of all layers, or with rehearse=True, which runs each step twice.
    """

    def __init__(
        self,
        mlp: MLP,
        plan: Plan,
        optimizer: Optimizer,
        clip_norm: float,
        *,
        seed: int = 0,
        group: Group | None = None,
    ) -> None:
        if not (plan.gathered or plan.rehearsed) or plan.optimizer != optimizer.name:
            raise InputError(
                "clipping by norm needs a plan made with gather=True or rehearse=True, and with "
                f"optimizer={optimizer.name!r}."
            )
        super().__init__(mlp, plan, optimizer, seed=seed, group=group)
        self.clip_norm = clip_norm
        self._running = np.empty_like(mlp.running)

    def _train(
        self, x: Array, y: NDArray[Any], weights: Array | None, whole: int | None, carry_out: CarryOut | None
    ) -> float:
        """Take the norm in a first run, then update: see `Backprop._train`."""
        running = self.mlp.running
        np.copyto(self._running, running)
        loss = self.engine.run(x, y, weights, step=self.steps, scale=None, whole=whole, carry_out=carry_out)
        norm = self.engine.norm(carry_out=carry_out)
        if not isfinite(norm):
            np.copyto(running, self._running)  # running statistics moved as layers were reversed
            raise NonFiniteError(
                f"the norm of the gradients became {norm}: they overflowed. The parameters are those before this "
                "step. Try a smaller learning rate, scaled inputs or another initialiser."
            )
        scale = min(1.0, self.clip_norm / norm) if norm else 1.0
        if self.plan.gathered:
            self.engine.update(scale, carry_out=carry_out)
            return loss
        np.copyto(running, self._running)  # they move again in the second run
        return self.engine.run(x, y, weights, step=self.steps, scale=scale, whole=whole, carry_out=carry_out)

    def account(self) -> Account[int | None]:
        """Return the bytes of the arrays that were allocated; see `Backprop.account`."""
        account = super().account()
        return replace(account, statistics=(account.statistics or 0) + self._running.nbytes)
