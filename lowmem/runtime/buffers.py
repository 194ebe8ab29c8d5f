"""Which arrays shaped like the parameters a plan calls for: gradients and the optimizer's. Decided here alone."""

import numpy as np
from numpy.typing import NDArray

from lowmem.nn.mlp import LayerViews, SharedViews
from lowmem.nn.optimizers import OPTIMIZERS
from lowmem.planning.plan import Plan

Array = NDArray[np.floating]


class Buffers:
    """The gradient buffers of a plan, and the arrays of its optimizer.

    | a plan with                           | gradients of       | and                                  |
    |---------------------------------------|--------------------|--------------------------------------|
    | no optimizer, or gathered; one pass   | all layers         |                                      |
    | an update fused into the backward     | one layer at a time|                                      |
    | several passes                        | one layer at a time| their sums over the passes, of all   |

    written: where the gradients of a layer are written.
    totals: where those of several passes are summed up; None if there is one pass.
    states: the optimizer's arrays. scratch: the numbers that an update works in.
    """

    def __init__(self, plan: Plan) -> None:
        architecture, dtype = plan.architecture, plan.architecture.dtype
        wanted = plan.gradient_buffers
        of_all = LayerViews(architecture, np.zeros(architecture.parameters, dtype)) if wanted.all_layers else None
        largest = max(layer.size for layer in architecture.each_layer)
        of_one = SharedViews(architecture, np.zeros(largest, dtype)) if wanted.one_layer else None
        self.written: LayerViews = of_all if of_one is None else of_one  # type: ignore[assignment]
        self.totals: LayerViews | None = of_all if plan.micro_batches > 1 else None
        states = 0 if plan.optimizer is None else OPTIMIZERS[plan.optimizer].states
        self.states: tuple[Array, ...] = tuple(np.zeros(architecture.parameters, dtype) for _ in range(states))
        self.scratch: Array = np.zeros(plan.optimizer_scratch, dtype)

    @property
    def gradients(self) -> LayerViews:
        """What the optimizer or the caller reads: the sums where there are several passes."""
        return self.written if self.totals is None else self.totals

    def into(self, *, first: bool) -> LayerViews:
        """Return where a pass writes its gradients: the first of several writes the sums at once."""
        return self.totals if self.totals is not None and first else self.written

    @property
    def gradient_bytes(self) -> int:
        """Bytes of the gradients' arrays."""
        return self.written.flat.nbytes + (0 if self.totals is None else self.totals.flat.nbytes)

    @property
    def optimizer_bytes(self) -> int:
        """Bytes of the optimizer's arrays and of what an update works in."""
        return sum(array.nbytes for array in (*self.states, self.scratch))
