"""Where did it go wrong? Finds the layer at which numbers stop being finite, once a loss is not."""

from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import finite
from lowmem.errors import NonFiniteError, Origin
from lowmem.nn.forward import Forward
from lowmem.nn.mlp import MLP

ROWS = 32
"""Samples that are looked at together: little memory, as this happens when little may be left."""


def overflowed(loss: float, where: str = "") -> NonFiniteError:
    """Return the error of a loss that is not finite, found before any parameter has changed. where: on which rank."""
    return NonFiniteError(
        f"the loss became {loss}{where}: the outputs of the network overflowed. The parameters are those before this "
        "step. Try a smaller learning rate, scaled inputs or another initialiser."
    )


def where_it_began(mlp: MLP, x: NDArray[Any]) -> Origin:
    """Return at which layer the first number that is not finite appears, parameters first, for a batch (rows, n_0)."""
    if (damaged := mlp.first_not_finite()) is not None:
        return Origin(damaged, parameters=True)
    rows, widths = min(ROWS, len(x)), mlp.architecture.widths
    runner, out = Forward(mlp, rows), np.empty((rows, widths[-1]), mlp.parameters.dtype)
    first = len(widths)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(x), rows):
            part = x[start : start + rows]
            with closing(mlp.in_turn()) as layers:
                for _, (layer, state) in zip(layers, runner.states(part, out[: len(part)]), strict=True):
                    if layer >= first or not finite(state):
                        first = min(first, layer)
                        break
    return Origin(None if first == len(widths) else first)
