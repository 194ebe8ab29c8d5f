"""Normalisation on the way into a layer: LayerNorm, RMSNorm and BatchNorm, one small class each.

y = γ ⊙ x̂ + β, where x̂ is the state less its mean, over its deviation. What they differ in is over which numbers:
over a row (layer, rms), or over a column of the whole batch (batch). Forward writes x̂ to any place. Backward turns
dy into dh with the sums dγ = Σ dy ⊙ x̂ and dβ = Σ dy: with dx̂ = dy ⊙ γ and ⟨·⟩ the mean that x̂ was made with,

    dh = (dx̂ - ⟨dx̂⟩ - x̂ ⟨dx̂ ⊙ x̂⟩) / deviation,

without ⟨dx̂⟩ where no mean was taken off.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from lowmem.network.layers.base import Rooms

if TYPE_CHECKING:
    from lowmem.network.layers.base import Array, Arrays, Site, Tiles

EPSILON = 1e-5
"""Added to the variance, as PyTorch does."""

MOMENTUM = 0.1
"""Share of a step's statistics in the running ones, as in PyTorch."""


class Norm(ABC):
    """One kind of normalisation, with a learned gain γ and, if `shifts`, a learned shift β.

    forward_flops, backward_flops: operations for each number; what is done once a step counts to the latter. work:
    working matrices of a tile. vectors: working columns of a tile, a number for each row. kept: columns that the
    backward of a whole pass keeps. couples: whether samples of a batch depend on each other.
    """

    name: str
    shifts = True
    couples = False
    forward_flops: int
    backward_flops: int
    work = 1
    vectors = 1
    kept = 1

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the learned vectors, as wide as the state."""
        return ("gain", "shift") if self.shifts else ("gain",)

    def columns(self, width: int) -> Rooms:
        """Return the working memory of a tile beside its columns: `work` matrices, then the vectors."""
        return (width,) * self.work + (1,) * self.vectors

    def observe(self, site: Site, tiles: Tiles, work: Tiles) -> None:  # noqa: B027 - most have nothing to do
        """Look at the whole batch before its first tile is normalised; only some need to."""

    @abstractmethod
    def normalise(
        self, site: Site, h: Array, out: Array, work: Array, vectors: Sequence[Array], inverse: Array | None
    ) -> None:
        """Write x̂ to `out`, which may be h; inverse: (rows, 1), gets 1/deviation where it is kept by rows."""

    @abstractmethod
    def pull_back(
        self, site: Site, x: Array, dy: Array, work: Array, vectors: Sequence[Array], inverse: Array | None
    ) -> None:
        """Turn a tile's x̂ into dh, given dy, which is spent; `partials` are there already."""

    def affine(self, arrays: Arrays, x: Array, out: Array) -> None:
        """Write y = γ ⊙ x̂ + β to `out`, which may be x."""
        import numpy as np

        np.multiply(x, arrays["gain"], out)
        if self.shifts:
            np.add(out, arrays["shift"], out)

    @property
    def affine_flops(self) -> int:
        """Operations for each number of `affine`."""
        return 2 if self.shifts else 1

    def sums(self, ones: Array, x: Array, dy: Array, work: Array, partials: Array) -> None:
        """Write a tile's part of dγ and dβ to the rows of `partials`."""
        import numpy as np

        np.multiply(dy, x, work)
        np.matmul(ones[: len(x)], work, partials[0])
        if self.shifts:
            np.matmul(ones[: len(x)], dy, partials[1])

    def couple(self, site: Site, xs: Tiles, dys: Tiles, rows: int, gradients: Arrays) -> None:  # noqa: B027
        """Finish the backward of a whole batch, where that needs the sums."""


class LayerNorm(Norm):
    """Mean and deviation of each row.

    J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", arXiv:1607.06450 (2016). Matches
    `torch.nn.LayerNorm`.
    """

    name = "layer"
    forward_flops = 5
    backward_flops = 13
    vectors = 2

    def normalise(
        self, site: Site, h: Array, out: Array, work: Array, vectors: Sequence[Array], inverse: Array | None
    ) -> None:
        """See `Norm.normalise`."""
        import numpy as np

        mean, own = vectors
        inverse = own if inverse is None else inverse
        np.add.reduce(h, axis=1, out=mean, keepdims=True)
        np.multiply(mean, 1 / h.shape[1], mean)
        np.subtract(h, mean, out)
        np.multiply(out, out, work)
        _inverse_deviation(work, inverse)
        np.multiply(out, inverse, out)

    def pull_back(
        self, site: Site, x: Array, dy: Array, work: Array, vectors: Sequence[Array], inverse: Array | None
    ) -> None:
        """See `Norm.pull_back`."""
        import numpy as np

        mean, along = vectors
        np.multiply(dy, site.arrays["gain"], dy)
        np.add.reduce(dy, axis=1, out=mean, keepdims=True)
        np.multiply(mean, 1 / x.shape[1], mean)
        _scale_by_overlap(x, dy, work, along)
        np.subtract(dy, mean, dy)
        np.subtract(dy, x, dy)
        assert inverse is not None
        np.multiply(dy, inverse, x)


class RMSNorm(Norm):
    """Root mean square of each row; nothing is taken off, and there is no shift.

    B. Zhang, R. Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467 (2019). Matches
    `torch.nn.RMSNorm` with eps=1e-5.
    """

    name = "rms"
    shifts = False
    forward_flops = 3
    backward_flops = 9

    def normalise(
        self, site: Site, h: Array, out: Array, work: Array, vectors: Sequence[Array], inverse: Array | None
    ) -> None:
        """See `Norm.normalise`."""
        import numpy as np

        inverse = vectors[0] if inverse is None else inverse
        np.multiply(h, h, work)
        _inverse_deviation(work, inverse)
        np.multiply(h, inverse, out)

    def pull_back(
        self, site: Site, x: Array, dy: Array, work: Array, vectors: Sequence[Array], inverse: Array | None
    ) -> None:
        """See `Norm.pull_back`."""
        import numpy as np

        (along,) = vectors
        np.multiply(dy, site.arrays["gain"], dy)
        _scale_by_overlap(x, dy, work, along)
        np.subtract(dy, x, dy)
        assert inverse is not None
        np.multiply(dy, inverse, x)


class BatchNorm(Norm):
    """Mean and deviation of each column over the batch; running ones in prediction.

    S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
    Shift", arXiv:1502.03167 (2015). Matches `torch.nn.BatchNorm1d`, which refuses a batch of one sample; here its x̂ is
    0, and as it tells no variance, running statistics stay.

    The statistics of a step are made in its first sweep and kept, three vectors a layer and one to work in; the
    running ones move when a layer is reversed, which happens once however often it is run.
    """

    name = "batch"
    couples = True
    forward_flops = 2
    backward_flops = 5 + 4 + 6  # the sums, what follows them, and the statistics, once
    vectors = 0
    kept = 0

    def observe(self, site: Site, tiles: Tiles, work: Tiles) -> None:
        """Make the statistics of this step's batch, in the order of its rows, unless they are there."""
        import numpy as np

        if site.statistics is None or site.layer in site.statistics.made:
            return
        mean, inverse, variance, part = site.statistics.kept
        ones = site.ones
        assert ones is not None
        if site.starts[0]:  # from the last to the first, but sums have one order only
            tiles, work = tiles[::-1], work[::-1]
        rows = sum(map(len, tiles))
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
        site.statistics.made.add(site.layer)

    def normalise(
        self, site: Site, h: Array, out: Array, work: Array, vectors: Sequence[Array], inverse: Array | None
    ) -> None:
        """See `Norm.normalise`; in prediction by the running statistics."""
        import numpy as np

        if site.statistics is None:
            np.subtract(h, site.arrays["running_mean"], out)
            np.add(site.arrays["running_variance"], EPSILON, work[0])
            np.sqrt(work[0], work[0])
            np.divide(out, work[0], out)
            return
        mean, deviation = site.statistics.kept[:2]
        np.subtract(h, mean, out)
        np.multiply(out, deviation, out)

    def pull_back(
        self, site: Site, x: Array, dy: Array, work: Array, vectors: Sequence[Array], inverse: Array | None
    ) -> None:
        """Nothing yet: see `couple`."""

    def couple(self, site: Site, xs: Tiles, dys: Tiles, rows: int, gradients: Arrays) -> None:
        """Dh = γ (dy - dβ/B - x̂ dγ/B) / deviation, and move the running statistics."""
        import numpy as np

        assert site.statistics is not None
        mean, inverse, variance, part = site.statistics.kept
        if rows > 1:
            for name, new, factor in (
                ("running_mean", mean, 1.0),
                ("running_variance", variance, rows / (rows - 1)),
            ):
                running = site.arrays[name]
                np.multiply(new, MOMENTUM * factor, part)
                np.multiply(running, 1 - MOMENTUM, running)
                np.add(running, part, running)
        np.multiply(inverse, site.arrays["gain"], inverse)
        np.multiply(gradients["gain"], 1 / rows, variance)
        np.multiply(gradients["shift"], 1 / rows, part)
        for x, dy in zip(xs, dys, strict=True):
            np.multiply(x, variance, x)
            np.subtract(dy, x, dy)
            np.subtract(dy, part, dy)
            np.multiply(dy, inverse, x)


def _scale_by_overlap(x: Array, dx: Array, work: Array, along: Array) -> None:
    """x̂ ← x̂ ⟨dx̂ ⊙ x̂⟩ in each row."""
    import numpy as np

    np.multiply(dx, x, work)
    np.add.reduce(work, axis=1, out=along, keepdims=True)
    np.multiply(along, 1 / x.shape[1], along)
    np.multiply(x, along, x)


def _inverse_deviation(squares: Array, out: Array) -> None:
    """Write 1/sqrt(the mean of each row of `squares` + ε) to `out`, (rows, 1)."""
    import numpy as np

    np.add.reduce(squares, axis=1, out=out, keepdims=True)
    np.multiply(out, 1 / squares.shape[1], out)
    np.add(out, EPSILON, out)
    np.sqrt(out, out)
    np.divide(1, out, out)


NORMS: Mapping[str, Norm] = MappingProxyType({norm.name: norm for norm in (LayerNorm(), RMSNorm(), BatchNorm())})
"""Every normalisation by name; a new one needs its class above and a place here."""
