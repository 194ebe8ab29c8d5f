"""Prediction by tiles of one fixed number of rows: what a sample gets does not depend on those beside it.

BLAS chooses kernels by the shape of a product and shares it among threads, so that the last bits of a row's outputs
depend on how many rows there are. Here every product has `TILE` rows, the last tile filled up with what was there
before, and one thread; so they do not, as far as BLAS treats all rows of one product alike. OpenBLAS does so in
float64 and with AVX-512; its float32 kernels for AVX2 round rows differently by their place. Large predictions have
several threads, each with tiles of its own.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.cores import cores
from lowmem.network.architecture import Architecture
from lowmem.nn.mlp import MLP
from lowmem.runtime.blas_threads import at_most
from lowmem.runtime.prediction import runner_bytes, runner_of

Array = NDArray[Any]

TILE = 128
"""Rows: enough for products at nearly full speed, few enough for a single sample to come back quickly."""

LEAST_WORK = 1 << 28
"""FLOPs from which tiles are shared by threads."""


class Tiles:
    """A network run forward, `TILE` rows at a time, in memory that is made once."""

    def __init__(self, mlp: MLP) -> None:
        dtype, widths = mlp.parameters.dtype, mlp.architecture.widths
        self._x = np.zeros((TILE, widths[0]), dtype)
        self._outputs = np.empty((TILE, widths[-1]), dtype)
        self._runner = runner_of(mlp, TILE, lanes=1)

    def outputs(self, x: Array, rows: slice | Array) -> Array:
        """Return the outputs s^(L) of at most `TILE` rows of x, which is cast, to be used before the next call."""
        if isinstance(rows, slice):
            count = len(x[rows])
            np.copyto(self._x[:count], x[rows], casting="unsafe")
        else:
            count = len(rows)
            for place, row in enumerate(rows):  # x[rows] would be a copy
                self._x[place] = x[row]
        with np.errstate(over="ignore", invalid="ignore"):
            self._runner.into(self._x, self._outputs)
        return self._outputs[:count]


def tile_bytes(architecture: Architecture) -> int:
    """Return the bytes that `Tiles` owns for such a network."""
    widths = architecture.widths
    return TILE * (widths[0] + widths[-1]) * architecture.item_bytes + runner_bytes(architecture, TILE)


def predict_into(result: Array, mlp: MLP, x: Array, of: Callable[[Array], Array], rows: Array | None = None) -> Array:
    """Write to `result`, (samples, ...), what `of` makes of the outputs s^(L) of tiles, and return it.

    x: (samples, n_0), any real dtype. rows: the samples wanted, all of them if None.
    """
    count = len(result)
    flops = 2.0 * mlp.architecture.parameters * count
    threads = cores() if flops >= LEAST_WORK and count > TILE else 1

    def work(first: int) -> None:
        tiles = Tiles(mlp)
        for start in range(first * TILE, count, threads * TILE):
            part = slice(start, min(start + TILE, count))
            result[part] = of(tiles.outputs(x, part if rows is None else rows[part]))

    with at_most(1):
        if threads == 1:
            work(0)
            return result
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(work, first) for first in range(threads)]:
                done.result()
    return result


def softmax(s: Array) -> Array:
    """Return e^s / Σ e^s of each row."""
    e = np.exp(s - s.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def log_softmax(s: Array) -> Array:
    """Return the logarithm of `softmax`, finite where that is 0."""
    shifted = s - s.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def logistic(s: Array) -> Array:
    """Return 1 / (1 + e^-s), exact to the last bits on both sides."""
    e = np.exp(-np.abs(s))
    return np.where(s >= 0, 1, e) / (1 + e)


def log_logistic(s: Array) -> Array:
    """Return the logarithm of `logistic`, finite where that is 0."""
    return np.asarray(np.minimum(s, 0) - np.log1p(np.exp(-np.abs(s))))


PROBABILITIES: Mapping[tuple[str, bool], Callable[[Array], Array]] = MappingProxyType(
    {
        ("softmax", False): softmax,
        ("softmax", True): log_softmax,
        ("logistic", False): logistic,
        ("logistic", True): log_logistic,
    }
)
"""By the name of the last layer's σ, and whether the logarithm is wanted."""


def predicted_by(mlp: MLP) -> Callable[[Array], Array]:
    """Return what turns the outputs of a network for numbers into predictions."""
    return np.exp if mlp.architecture.loss_facts.logarithm else lambda s: s
