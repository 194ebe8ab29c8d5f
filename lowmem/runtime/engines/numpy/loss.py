"""The loss of a pass: the outputs of the last layer become δ^(L), tile by tile."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowmem.network.architecture import Architecture
from lowmem.network.tiles import aligned, tile_rows
from lowmem.nn.layers.base import Tiles, counts, numbers
from lowmem.nn.losses import LossScratch, check_targets, fold_of, loss_scale
from lowmem.runtime.arena import Arena, Array, Bounds
from lowmem.runtime.engines.numpy.feed import Feed
from lowmem.runtime.nonfinite import overflowed

if TYPE_CHECKING:
    from lowmem.runtime.collectives.sums import ShardSums


class LossKernel:
    """The loss of one network, in working memory of an arena."""

    def __init__(self, architecture: Architecture, arena: Arena, rows: int, sums: ShardSums | None = None) -> None:
        self.architecture, self._sums = architecture, sums
        self._arena, self._fold = arena, fold_of(architecture)
        self._flops = architecture.loss_flops(1) // architecture.widths[-1]  # for each number
        labels = architecture.loss_facts.labels
        self.starts = np.arange(tile_rows(rows) if labels else 0) * architecture.widths[-1]
        """Where each row of a tile starts, to which labels are added."""

    @counts(lambda own, tiles, feed, scratch: own._flops * numbers(tiles))
    def run(self, tiles: Tiles, feed: Feed, scratch: Sequence[LossScratch]) -> None:
        """Turn outputs s^(L) into δ^(L) and add up the loss.

        Raises `NonFiniteError` if it is not finite: no parameter has changed by then.
        """
        total = 0.0
        for s, y, w, work in zip(tiles, feed.y_tiles, feed.w_tiles, scratch, strict=True):
            total += self._fold(s, y, feed.scale, work, w)
        if self._sums is not None:
            self._sums.add_loss(total)
            return
        if not isfinite(total):
            raise overflowed(total)
        feed.loss += total

    def mean(self, outputs: Array, y: NDArray[Any], bounds: Bounds) -> float:
        """Return the mean loss of outputs s^(L), which are spent; bounds: of their tiles."""
        architecture, rows, width = self.architecture, len(outputs), self.architecture.widths[-1]
        check_targets(architecture.loss, y, rows, width, architecture.dtype)
        scale, total = loss_scale(architecture.loss, rows, width), 0.0
        for (start, stop), work in zip(bounds, self.scratch(0, bounds, tile_rows(rows)), strict=True):
            total += self._fold(outputs[start:stop], y[start:stop], scale, work)
        return total * scale

    def scratch(self, offset: int, bounds: Bounds, tile: int) -> list[LossScratch]:
        """Return the working memory for each row tile, of at most `tile` rows, at byte `offset` of the arena."""
        facts, arena, width = self.architecture.loss_facts, self._arena, self.architecture.widths[-1]
        matrices = arena.scratch(offset, bounds, tile, (width,) * facts.scratch)
        vector = aligned(tile * arena.item.itemsize)
        vectors = offset + facts.scratch * aligned(tile * width * arena.item.itemsize)
        index = vectors + facts.row_scratch * vector
        of_tiles = []
        for (start, stop), tiles in zip(bounds, matrices, strict=True):
            count = stop - start
            rows = tuple(arena.matrix(vectors + n * vector, 1, count)[0] for n in range(facts.row_scratch))
            labels = np.ndarray(count if facts.labels else 0, np.intp, arena.buffer, index if facts.labels else 0)
            of_tiles.append(LossScratch(tiles, rows, labels, self.starts[:count]))
        return of_tiles
