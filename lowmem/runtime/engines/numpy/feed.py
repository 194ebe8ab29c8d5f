"""What changes from step to step."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


@dataclass(slots=True)
class Feed:
    """The caller's batch, cut in row tiles, and the loss that comes out.

    Bound calls hold the lists; a step refills them in place.

    x: the rows of a pass, one matrix.
    scale: turns a sum of losses into their mean.
    loss: the sum over the passes so far.
    """

    x: list[Array] = field(default_factory=list)
    x_tiles: list[Array] = field(default_factory=list)
    y_tiles: list[NDArray[Any]] = field(default_factory=list)
    w_tiles: list[Array | None] = field(default_factory=list)
    scale: float = 1.0
    loss: float = 0.0

    def fill(self, x: Array, y: NDArray[Any], w: Array | None, bounds: Sequence[tuple[int, int]]) -> None:
        """Point at the rows of one pass, and at their weights if they have any; bounds: of tiles."""
        self.x[:] = (x,)
        self.x_tiles[:] = [x[start:stop] for start, stop in bounds]
        self.y_tiles[:] = [y[start:stop] for start, stop in bounds]
        self.w_tiles[:] = [None if w is None else w[start:stop] for start, stop in bounds]

    def clear(self) -> None:
        """Let go of the caller's arrays."""
        for held in (self.x, self.x_tiles, self.y_tiles, self.w_tiles):
            held.clear()
