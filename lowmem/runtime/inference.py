"""Forward only: loss, accuracy and outputs over data of any size, in memory for a few samples."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.data.samples import Batches
from lowmem.nn.losses import LossScratch, check_targets, fold_of, loss_scale
from lowmem.nn.mlp import MLP
from lowmem.runtime.prediction import runner_of

Array = NDArray[Any]


def evaluate(
    batches: Batches,
    outputs: Array,
    forward: Callable[[Array, Array], None],
    loss: Callable[[Array, Array], float],
    *,
    labels: bool,
    watch: Callable[[Array, Array], None] | None = None,
) -> tuple[float, float | None]:
    """Return the mean loss and, where targets are labels, the accuracy over one pass in the order of the data.

    outputs: memory for those of a batch. forward: writes the outputs for x. loss: the mean of a batch, which may spend
    the outputs. watch: gets outputs and targets of each batch before that.
    """
    total, correct, samples = 0.0, 0, 0
    for batch in batches.epoch(0):
        s = outputs[: len(batch)]
        forward(batch.x, s)
        if labels:
            correct += int(np.count_nonzero(s.argmax(axis=1) == batch.y))
        if watch is not None:
            watch(s, batch.y)
        total += loss(s, batch.y) * len(batch)
        samples += len(batch)
    return total / samples, correct / samples if labels else None


class Inference:
    """A network run forward for up to `rows` samples at a time: one state travels, in memory that is made once."""

    def __init__(self, mlp: MLP, rows: int = 256) -> None:
        self.mlp, self.rows, architecture = mlp, rows, mlp.architecture
        facts, width, dtype = architecture.loss_facts, architecture.widths[-1], mlp.parameters.dtype
        self._runner = runner_of(mlp, rows)
        self._outputs = np.empty((rows, width), dtype)
        self._tiles = [np.empty((rows, width), dtype) for _ in range(facts.scratch)]
        self._rows = [np.empty(rows, dtype) for _ in range(facts.row_scratch)]
        self._starts = np.arange(rows if facts.labels else 0) * width

    def outputs(self, batches: Batches) -> Iterator[Array]:
        """Yield the outputs s^(L) of each batch, valid until the next one is asked for."""
        for batch in batches.epoch(0):
            self._forward(batch.x, self._outputs[: len(batch)])
            yield self._outputs[: len(batch)]

    def evaluate(
        self, batches: Batches, watch: Callable[[Array, Array], None] | None = None
    ) -> tuple[float, float | None]:
        """Return the mean loss and, where targets are labels, the accuracy.

        watch: gets outputs and targets of each batch, (rows, n_L) and (rows,) or (rows, n_L), to gather more.
        """
        labels = self.mlp.architecture.loss_facts.labels
        return evaluate(batches, self._outputs, self._forward, self._loss, labels=labels, watch=watch)

    def _forward(self, x: Array, out: Array) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            self._runner.into(x, out)

    def _loss(self, outputs: Array, y: Array) -> float:
        """Return the mean loss of a batch; its outputs are spent."""
        architecture, rows = self.mlp.architecture, len(outputs)
        check_targets(architecture.loss, y, rows, architecture.widths[-1], architecture.dtype)
        scale = loss_scale(architecture.loss, rows, architecture.widths[-1])
        scratch = LossScratch(
            tiles=tuple(tile[:rows] for tile in self._tiles),
            rows=tuple(vector[:rows] for vector in self._rows),
            index=np.empty(len(self._starts[:rows]), np.intp),
            starts=self._starts[:rows],
        )
        return fold_of(architecture)(outputs, y, scale, scratch) * scale
