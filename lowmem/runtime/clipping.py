"""Clipping by norm: the common norm of all gradients is cut, and only then are the layers updated.

Either all gradients are gathered, or a step is run twice: the first run takes the norm, layer by layer, and the second
one updates each layer right after its backward. That takes twice the compute and one layer's gradient at a time.

R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", arXiv:1211.5063 (2013).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import fsum, isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.errors import InputError, NonFiniteError
from lowmem.network.layers.base import Call
from lowmem.network.specs import CHUNK
from lowmem.nn.mlp import MLP
from lowmem.nn.optimizers import Optimizer
from lowmem.planning.plan import Account, Plan
from lowmem.runtime.backprop import Backprop, Gradients

Array = NDArray[Any]


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
            raise _overflow(norm)
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

    def account(self) -> Account[int | None]:
        """See `Backprop.account`."""
        account = super().account()
        optimizer = (account.optimizer or 0) + self._working.nbytes
        return replace(account, optimizer=optimizer, statistics=(account.statistics or 0) + self._running.nbytes)

    def _norm(self) -> float:
        """Return the norm of all gradients, summed chunk by chunk, the chunks in double precision."""
        total = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(self._flat), CHUNK):
                g = self._flat[start : start + CHUNK]
                total += float(np.dot(g, g))
        return sqrt(total) if total >= 0 else total


class RehearsedBackprop(Backprop):
    """The same by a plan made with rehearse=True: each call runs the step twice, and updates in the second run."""

    def __init__(self, mlp: MLP, plan: Plan, optimizer: Optimizer, clip_norm: float, *, seed: int = 0) -> None:
        if not plan.rehearsed or plan.optimizer != optimizer.name:
            raise InputError(f"this needs a plan made with rehearse=True and optimizer={optimizer.name!r}.")
        self._cut = _Cut(optimizer)
        super().__init__(mlp, plan, self._cut, seed=seed)
        self.clip_norm = clip_norm
        self._running = np.empty_like(mlp.running)

    def step(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        run: Callable[[Sequence[Call]], None],
        weights: NDArray[Any] | None = None,
    ) -> tuple[float, Gradients]:
        """Run one step on a batch; see `Backprop.step`."""
        cut = self._cut
        np.copyto(self._running, self.mlp.running)
        cut.begin()
        super().step(x, y, run, weights)
        norm = cut.norm()
        np.copyto(self.mlp.running, self._running)  # running statistics moved, and will move again
        if not isfinite(norm):
            cut.step_count -= 1
            raise _overflow(norm)
        cut.apply(min(1.0, self.clip_norm / norm) if norm else 1.0)
        return super().step(x, y, run, weights)

    def account(self) -> Account[int | None]:
        """See `Backprop.account`."""
        account = super().account()
        return replace(account, statistics=(account.statistics or 0) + self._running.nbytes)


class _Cut(Optimizer):
    """Another optimizer, which first only looks at gradients and then gets them multiplied by a factor."""

    def __init__(self, inner: Optimizer) -> None:
        self._inner, self._looks, self._factor = inner, True, 1.0
        self._squares: list[float] = []

    @property
    def name(self) -> str:
        """The other's name."""
        return self._inner.name

    @property
    def step_count(self) -> int:
        """The other's steps."""
        return self._inner.step_count

    @step_count.setter
    def step_count(self, steps: int) -> None:
        self._inner.step_count = steps

    def begin(self) -> None:
        """Begin to look."""
        self._looks = True
        self._squares.clear()

    def norm(self) -> float:
        """Return the norm of all that was seen; the sum is exact, so that the order of lanes does not matter."""
        finite = all(map(isfinite, self._squares))
        return sqrt(fsum(self._squares)) if finite else float("nan")

    def apply(self, factor: float) -> None:
        """Begin to update."""
        self._looks, self._factor = False, factor

    def begin_step(self) -> None:
        """Count a step when its first run begins."""
        if self._looks:
            self._inner.begin_step()

    def update(self, w: Array, g: Array, states: tuple[Array, ...], scratch: tuple[Array, ...]) -> None:
        """Look at a chunk, or update it."""
        if self._looks:
            self._squares.append(float(np.dot(g, g)))
            return
        if self._factor < 1:
            np.multiply(g, self._factor, out=g)
        self._inner.update(w, g, states, scratch)

    def rule(self, w: Array, g: Array, states: tuple[Array, ...], scratch: tuple[Array, ...]) -> None:
        """Do what the other does."""
        self._inner.rule(w, g, states, scratch)


def _overflow(norm: float) -> NonFiniteError:
    """Return the error of gradients without a finite norm."""
    return NonFiniteError(
        f"the norm of the gradients became {norm}: they overflowed. The parameters are those before this step. Try a "
        "smaller learning rate, scaled inputs or another initialiser."
    )
