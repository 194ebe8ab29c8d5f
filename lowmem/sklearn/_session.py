"""A session: a network trained by a bound plan and with a solver, epoch after epoch; and what is left between two."""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.disk import parts
from lowmem.data.samples import Batch
from lowmem.measure.memory import resident_peak
from lowmem.measure.report import Report
from lowmem.nn.mlp import MLP
from lowmem.nn.penalty import Spans
from lowmem.planning.plan import Plan
from lowmem.runtime.backprop import Backprop
from lowmem.sklearn._attempt import Steps
from lowmem.sklearn._solvers import PenalisedAdamW, Solver
from lowmem.sklearn._training import SCALES, Batches, Paused, Terms
from lowmem.training.signals import INTERRUPT, HeldSignals

if TYPE_CHECKING:
    from lowmem.common.disk.paged_array import PagedArray

Array = NDArray[Any]


class Session:
    """Trains a network, by a bound plan and with a solver, epoch after epoch.

    alpha: scikit-learn's factor of the penalty.
    terms: what the plan was made for.
    steps: of the network.
    states: the solver's arrays from an earlier session; none for a new solver.
    seed: determines the masks of dropout.
    """

    def __init__(
        self,
        mlp: MLP,
        plan: Plan,
        optimizer: Solver,
        *,
        alpha: float,
        terms: Terms,
        steps: Steps,
        states: "Sequence[Array | PagedArray]" = (),
        seed: int = 0,
    ) -> None:
        self.mlp, self.plan, self.optimizer, self.terms = mlp, plan, optimizer, terms
        self.backprop = Backprop(mlp, plan, optimizer, seed=seed)
        for mine, earlier in zip(self.states, states, strict=False):
            parts.copy(mine, earlier)
        self._whole, self.steps, self.steps_of_epoch = steps.whole, 0, 0
        self.seconds = 0.0
        self._scale = SCALES[mlp.architecture.loss].loss(mlp.architecture.widths[-1])
        self._weights = [w.reshape(-1) for w in mlp.weights]
        self.begin(alpha)

    def begin(self, alpha: float) -> None:
        """Prepare for epochs whose penalty has the factor alpha."""
        self.alpha, self.optimizer.weights = alpha, Spans(self.mlp.weights)

    @property
    def states(self) -> "tuple[Array | PagedArray, ...]":
        """The solver's arrays; each has the shape of the parameters."""
        return self.backprop.buffers.paged_states or self.backprop.optimizer_state

    def set_rate(self, lr: float) -> None:
        """Change the learning rate between steps."""
        self.optimizer.set_rate(lr, (piece for array in self.states for piece in parts.cut(array, changed=True)))

    def epoch(self, batches: Batches) -> float:
        """Run one epoch and return its loss as scikit-learn defines it.

        That is the mean of the batches' losses weighted by their rows, penalty included. A batch whose samples all
        have the weight 0 is passed over. In the main thread, a first Ctrl-C waits until the step at hand is finished.
        Raises `NonFiniteError` if the loss overflows.
        """
        begin, before, total, through = perf_counter(), self.steps, 0.0, False
        signals, left = HeldSignals(INTERRUPT), batches.epoch(0)
        while not through:  # a noted signal has its effect behind the `with`, and its handler may let training go on
            with signals.held():
                for batch in left:
                    total += self._step(batch, *batches.weighed(batch))
                    if signals.noted is not None:
                        break
                else:
                    through = True
        self.steps_of_epoch, self.seconds = self.steps - before, perf_counter() - begin
        return total / batches.samples

    def _step(self, batch: Batch, weights: Array | None, mass: float) -> float:
        """Run one step and return the loss of all its samples. mass: the sum of their weights."""
        if mass <= 0:
            return 0.0
        loss = self._penalise(mass)
        with self._whole():
            loss += self.backprop(batch.x, batch.y, weights)[0] * self._scale
        self.steps += 1
        return loss * len(batch)

    def _penalise(self, mass: float) -> float:
        """Set λ for the next step, and return the penalty ½ λ |w|². mass: the sum of the batch's weights."""
        if isinstance(self.optimizer, PenalisedAdamW):
            self.optimizer.penalty = self.alpha
            return 0.0
        self.optimizer.penalty = self.alpha / mass
        if not self.alpha:
            return 0.0
        return 0.5 * self.optimizer.penalty * sum(float(np.dot(w, w)) for w in self._weights)

    def report(self, loss: float, accuracy: float | None) -> Report:
        """Return the report of the plan, with the time of a step in the last epoch.

        loss: of the last epoch.
        accuracy: of the samples held out, None if there are none.
        """
        return Report(
            plan=self.plan,
            traced_peak=None,
            resident_peak=resident_peak(),
            seconds_per_step=self.seconds / max(self.steps_of_epoch, 1),
            steps=self.steps,
            loss=loss,
            accuracy=accuracy,
            arrays=replace(self.backprop.account(), batch=None),
        )

    def paused(self) -> Paused:
        """Return what another session needs to go on; the arrays are those of this one.

        The solver is a copy, as one that makes the steps of a `Backprop` cannot make those of another one.
        """
        return Paused(copy(self.optimizer), self.states)

    def close(self) -> None:
        """Forget where the weights are in memory, as another session may have them elsewhere."""
        self.optimizer.weights = None
