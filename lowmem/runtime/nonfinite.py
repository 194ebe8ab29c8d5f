"""Where did it go wrong? Finds the layer at which numbers stop being finite, once a loss is not."""

from collections.abc import Generator
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


def each_block(mlp: MLP) -> Generator[NDArray[Any]]:
    """Yield the parameters of each layer, flat. Of a network on a disk only those of a layer are in memory."""
    with closing(mlp.in_turn()) as layers:
        for layer in layers:
            yield mlp.blocks[layer - 1]


def finite_parameters(mlp: MLP) -> bool:
    """Say whether all parameters are finite."""
    with closing(each_block(mlp)) as blocks:
        return all(map(finite, blocks))


def where_it_began(mlp: MLP, x: NDArray[Any]) -> Origin:
    """Return at which layer the first number that is not finite appears, parameters first, for a batch (rows, n_0)."""
    with closing(each_block(mlp)) as blocks:
        for layer, block in enumerate(blocks, start=1):
            if not finite(block):
                return Origin(layer, parameters=True)
    rows, widths = min(ROWS, len(x)), mlp.architecture.widths
    runner, out = Forward(mlp, rows), np.empty((rows, widths[-1]), mlp.parameters.dtype)
    first = len(widths)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(x), rows):
            part = x[start : start + rows]
            with closing(each_block(mlp)) as blocks:
                for _, (layer, state) in zip(blocks, runner.states(part, out[: len(part)]), strict=True):
                    if layer >= first or not finite(state):
                        first = min(first, layer)
                        break
    return Origin(None if first == len(widths) else first)
