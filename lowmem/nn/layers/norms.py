"""Normalisation on the way into a layer: LayerNorm, RMSNorm and BatchNorm, one small class each.

y = γ ⊙ x̂ + β, where x̂ is the state less its mean, over its deviation. Forward writes x̂ to any place. Backward turns
dy into dh with the sums dγ = Σ dy ⊙ x̂ and dβ = Σ dy: with dx̂ = dy ⊙ γ and ⟨·⟩ the mean that x̂ was made with,

    dh = (dx̂ - ⟨dx̂⟩ - x̂ ⟨dx̂ ⊙ x̂⟩) / deviation,

without ⟨dx̂⟩ where no mean was taken off.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from lowmem.network.layers.norms import EPSILON, NORMS, Norm
from lowmem.nn.layers.base import Array, Arrays, Context, Tiles

MOMENTUM = 0.1
"""Share of a step's statistics in the running ones, as in PyTorch."""


class NormKernels(ABC):
    """The kernels of one kind of normalisation. name: a key of `NORMS`."""

    name: ClassVar[str]

    @property
    def norm(self) -> Norm:
        """What is known of it before anything runs."""
        return NORMS[self.name]

    def observe(self, context: Context, tiles: Tiles, work: Tiles) -> None:  # noqa: B027 - most have nothing to do
        """Look at the whole batch before its first tile is normalised; only some need to."""

    @abstractmethod
    def normalise(
        self, context: Context, h: Array, out: Array, work: Array, columns: Sequence[Array], inverse: Array | None
    ) -> None:
        """Write x̂ to `out`, which may be h; inverse: (rows, 1), gets 1/deviation where it is kept by rows."""

    @abstractmethod
    def pull_back(
        self, context: Context, x: Array, dy: Array, work: Array, columns: Sequence[Array], inverse: Array | None
    ) -> None:
        """Turn a tile's x̂ into dh, given dy, which is spent; `sums` has been called."""

    def affine(self, arrays: Arrays, x: Array, out: Array) -> None:
        """Write y = γ ⊙ x̂ + β to `out`, which may be x."""
        np.multiply(x, arrays["gain"], out)
        if self.norm.shifts:
            np.add(out, arrays["shift"], out)

    def sums(self, ones: Array, x: Array, dy: Array, work: Array, partial_sums: Array) -> None:
        """Write a tile's part of dγ and dβ to the rows of `partial_sums`."""
        np.multiply(dy, x, work)
        np.matmul(ones[: len(x)], work, partial_sums[0])
        if self.norm.shifts:
            np.matmul(ones[: len(x)], dy, partial_sums[1])

    def couple(self, context: Context, xs: Tiles, dys: Tiles, into: Arrays) -> None:  # noqa: B027 - as `observe`
        """Finish the backward of a whole batch, where that needs the sums; into: the gradients, dγ and dβ included."""


class LayerNorm(NormKernels):
    """Mean and deviation of each row.

    J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", arXiv:1607.06450 (2016). Matches
    `torch.nn.LayerNorm`.
    """

    name = "layer"

    def normalise(
        self, context: Context, h: Array, out: Array, work: Array, columns: Sequence[Array], inverse: Array | None
    ) -> None:
        """See `NormKernels.normalise`."""
        mean, own = columns
        inverse = own if inverse is None else inverse
        np.add.reduce(h, axis=1, out=mean, keepdims=True)
        np.multiply(mean, 1 / h.shape[1], mean)
        np.subtract(h, mean, out)
        np.multiply(out, out, work)
        _inverse_deviation(work, inverse)
        np.multiply(out, inverse, out)

    def pull_back(
        self, context: Context, x: Array, dy: Array, work: Array, columns: Sequence[Array], inverse: Array | None
    ) -> None:
        """See `NormKernels.pull_back`."""
        mean, along = columns
        np.multiply(dy, context.arrays["gain"], dy)
        np.add.reduce(dy, axis=1, out=mean, keepdims=True)
        np.multiply(mean, 1 / x.shape[1], mean)
        _scale_by_overlap(x, dy, work, along)
        np.subtract(dy, mean, dy)
        np.subtract(dy, x, dy)
        assert inverse is not None
        np.multiply(dy, inverse, x)


class RMSNorm(NormKernels):
    """Root mean square of each row; nothing is taken off, and there is no shift.

    B. Zhang, R. Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467 (2019). Matches
    `torch.nn.RMSNorm` with eps=1e-5.
    """

    name = "rms"

    def normalise(
        self, context: Context, h: Array, out: Array, work: Array, columns: Sequence[Array], inverse: Array | None
    ) -> None:
        """See `NormKernels.normalise`."""
        inverse = columns[0] if inverse is None else inverse
        np.multiply(h, h, work)
        _inverse_deviation(work, inverse)
        np.multiply(h, inverse, out)

    def pull_back(
        self, context: Context, x: Array, dy: Array, work: Array, columns: Sequence[Array], inverse: Array | None
    ) -> None:
        """See `NormKernels.pull_back`."""
        (along,) = columns
        np.multiply(dy, context.arrays["gain"], dy)
        _scale_by_overlap(x, dy, work, along)
        np.subtract(dy, x, dy)
        assert inverse is not None
        np.multiply(dy, inverse, x)


class BatchNorm(NormKernels):
    """Mean and deviation of each column over the batch; running ones in prediction.

    S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
    Shift", arXiv:1502.03167 (2015). Matches `torch.nn.BatchNorm1d`, which refuses a batch of one sample; here its x̂ is
    0, and as it tells no variance, running statistics stay.

    The statistics of a step are made in its first sweep and kept, three vectors a layer and one to work in; the
    running ones move when a layer is reversed, which happens once however often it is run.
    """

    name = "batch"

    def observe(self, context: Context, tiles: Tiles, work: Tiles) -> None:
        """Make the statistics of this step's batch, in the order of its rows, unless they are there."""
        if context.statistics is None or context.layer in context.statistics.ready:
            return
        mean, inverse, variance, part = context.statistics.vectors
        ones, rows = context.ones, sum(map(len, tiles))
        mean.fill(0)
        for h in tiles:
            np.matmul(ones[: len(h)], h, part)
            np.add(mean, part, mean)
        np.multiply(mean, 1 / rows, mean)
        variance.fill(0)
        for h, square in zip(tiles, work, strict=True):
            np.subtract(h, mean, square)
            np.multiply(square, square, square)
            np.matmul(ones[: len(h)], square, part)
            np.add(variance, part, variance)
        np.multiply(variance, 1 / rows, variance)
        np.add(variance, EPSILON, inverse)
        np.sqrt(inverse, inverse)
        np.divide(1, inverse, inverse)
        context.statistics.ready.add(context.layer)

    def normalise(
        self, context: Context, h: Array, out: Array, work: Array, columns: Sequence[Array], inverse: Array | None
    ) -> None:
        """See `NormKernels.normalise`; in prediction by the running statistics."""
        if context.statistics is None:
            np.subtract(h, context.arrays["running_mean"], out)
            np.add(context.arrays["running_variance"], EPSILON, work[0])
            np.sqrt(work[0], work[0])
            np.divide(out, work[0], out)
            return
        mean, deviation = context.statistics.vectors[:2]
        np.subtract(h, mean, out)
        np.multiply(out, deviation, out)

    def pull_back(
        self, context: Context, x: Array, dy: Array, work: Array, columns: Sequence[Array], inverse: Array | None
    ) -> None:
        """Do nothing yet: see `couple`."""

    def couple(self, context: Context, xs: Tiles, dys: Tiles, into: Arrays) -> None:
        """Dh = γ (dy - dβ/B - x̂ dγ/B) / deviation, and move the running statistics."""
        assert context.statistics is not None
        mean, inverse, variance, part = context.statistics.vectors
        rows = sum(map(len, xs))
        if rows > 1:
            for name, new, factor in (
                ("running_mean", mean, 1.0),
                ("running_variance", variance, rows / (rows - 1)),
            ):
                running = context.arrays[name]
                np.multiply(new, MOMENTUM * factor, part)
                np.multiply(running, 1 - MOMENTUM, running)
                np.add(running, part, running)
        np.multiply(inverse, context.arrays["gain"], inverse)
        np.multiply(into["gain"], 1 / rows, variance)
        np.multiply(into["shift"], 1 / rows, part)
        for x, dy in zip(xs, dys, strict=True):
            np.multiply(x, variance, x)
            np.subtract(dy, x, dy)
            np.subtract(dy, part, dy)
            np.multiply(dy, inverse, x)


def _scale_by_overlap(x: Array, dx: Array, work: Array, along: Array) -> None:
    """x̂ ← x̂ ⟨dx̂ ⊙ x̂⟩ in each row."""
    np.multiply(dx, x, work)
    np.add.reduce(work, axis=1, out=along, keepdims=True)
    np.multiply(along, 1 / x.shape[1], along)
    np.multiply(x, along, x)


def _inverse_deviation(squares: Array, out: Array) -> None:
    """Write 1/sqrt(the mean of each row of `squares` + ε) to `out`, (rows, 1)."""
    np.add.reduce(squares, axis=1, out=out, keepdims=True)
    np.multiply(out, 1 / squares.shape[1], out)
    np.add(out, EPSILON, out)
    np.sqrt(out, out)
    np.divide(1, out, out)


KERNELS: Mapping[str, NormKernels] = MappingProxyType(
    {kernels.name: kernels for kernels in (LayerNorm(), RMSNorm(), BatchNorm())}
)
"""The kernels of every normalisation by name; a new one needs its class above, a place here, and a record in NORMS."""
