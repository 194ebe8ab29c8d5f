"""The losses, as kernels that turn a tile of the last layer's outputs into its δ in place and allocate nothing.

The last layer's σ belongs to its loss: softmax with cross_entropy, the sigmoid with bce, the exponential with poisson,
the identity with all others. `check_targets` is the one place that refuses bad targets; the kernels trust it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import check_layout, lookup
from lowmem.errors import InputError
from lowmem.network.architecture import Architecture
from lowmem.network.specs import LOSSES, LossFacts

Tile: TypeAlias = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class LossScratch:
    """Working arrays for a tile of `rows` rows and n_L columns; only cross_entropy needs more than `tiles`.

    tiles: at least `LOSSES[name].scratch` arrays (rows, n_L) of the network's dtype.
    rows: at least `LOSSES[name].row_scratch` vectors (rows,) of that dtype.
    index: (rows,), where each row's labelled element will be found in the flat tile.
    starts: (rows,), arange(rows)·n_L, where each row starts in the flat tile; never written to.
    """

    tiles: tuple[Tile, ...]
    rows: tuple[Tile, ...]
    index: NDArray[np.intp]
    starts: NDArray[np.intp]


class Fold(Protocol):
    """The kernel of a loss; see `Loss`."""

    def __call__(
        self, s: Tile, y: NDArray[Any], scale: float, scratch: LossScratch, w: Tile | None = None, /
    ) -> float:
        """Overwrite s with δ, and return the sum of the losses."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One loss.

    fold: `fold(s, y, scale, scratch, w)` overwrites s, a C-contiguous tile (rows, n_L) of the last layer's outputs
        s^(L), with δ^(L) = scale·∂(sum of the losses)/∂s and returns that sum, unscaled. With `scale` from
        `loss_scale` δ is the gradient of the mean loss over the batch, and the mean is sum·scale. y holds integer
        labels (rows,) for cross_entropy, else targets of the shape and dtype of s. w: None, or weights (rows,) of that
        dtype, by which each row's loss is multiplied.
    """

    name: str
    fold: Fold


def loss_scale(loss: str, batch: int, outputs: int) -> float:
    """Return what turns a sum of losses over `batch` samples into their mean: 1/B for labels, else 1/(B·n_L)."""
    return 1.0 / (batch if lookup("loss", loss, LOSSES).labels else batch * outputs)


def _sum(values: Tile) -> float:
    """Add up a contiguous array; NumPy adds pairwise, so that float32 does."""
    return float(np.add.reduce(values, axis=None))


def _weigh(values: Tile, w: Tile | None) -> None:
    """Multiply each row, or each number of a vector, by its weight."""
    if w is not None:
        np.multiply(values, w if values.ndim == 1 else w[:, None], out=values)


def _mse(s: Tile, y: NDArray[Any], scale: float, scratch: LossScratch, w: Tile | None = None) -> float:
    """ℓ = (s - y)², δ = 2·(s - y)."""
    square = scratch.tiles[0]
    np.subtract(s, y, out=s)
    np.multiply(s, s, out=square)
    np.multiply(s, 2.0 * scale, out=s)
    _weigh(s, w)
    _weigh(square, w)
    return _sum(square)


def _cross_entropy(
    s: Tile, y: NDArray[Any], scale: float, scratch: LossScratch, w: Tile | None = None, /, *, smoothing: float = 0.0
) -> float:
    """ℓ = ln(Σ_j e^(s_j)) - Σ_j t_j s_j, δ = softmax(s) - t, with the row's maximum taken off s first.

    t is onehot(y), or with label smoothing ε (Szegedy et al. 2016) (1-ε)·onehot(y) + ε/n_L.

    The two broadcasts use NumPy's iteration buffer, 8192 numbers whatever the tile.
    """
    index, flat = scratch.index, s.reshape(-1)
    total, labelled = scratch.rows[:2]
    np.copyto(index, y, casting="unsafe")  # labels are in range, so that any integer dtype fits
    np.add(index, scratch.starts, out=index)

    np.maximum.reduce(s, axis=1, out=total)
    np.subtract(s, total[:, None], out=s)
    np.take(flat, index, out=labelled, mode="clip")  # the other modes copy `out`
    if smoothing:
        np.add.reduce(s, axis=1, out=total)
        np.multiply(total, smoothing / s.shape[1], out=total)
        np.multiply(labelled, 1 - smoothing, out=labelled)
        np.add(labelled, total, out=labelled)
    _weigh(labelled, w)
    picked = _sum(labelled)  # neither sum changes sign, so taking one from the other below cancels nothing
    np.exp(s, out=s)
    np.add.reduce(s, axis=1, out=total)
    np.log(total, out=labelled)
    _weigh(labelled, w)
    loss = _sum(labelled) - picked

    np.divide(scale, total, out=total)
    np.multiply(s, total[:, None], out=s)
    if smoothing:
        np.subtract(s, scale * smoothing / s.shape[1], out=s)
    np.take(flat, index, out=labelled, mode="clip")
    np.subtract(labelled, scale * (1 - smoothing), out=labelled)
    np.put(flat, index, labelled, mode="clip")
    _weigh(s, w)
    return loss


def _bce(s: Tile, y: NDArray[Any], scale: float, scratch: LossScratch, w: Tile | None = None) -> float:
    """ℓ = max(s, 0) - s·y + ln(1 + e^(-|s|)), δ = sigmoid(s) - y, with sigmoid(s) = ½ + ½·tanh(s/2)."""
    loss, work = scratch.tiles[:2]
    np.clip(s, 0.0, np.inf, out=loss)
    np.multiply(s, y, out=work)
    np.subtract(loss, work, out=loss)
    np.absolute(s, out=work)
    np.negative(work, out=work)
    np.exp(work, out=work)
    np.log1p(work, out=work)
    np.add(loss, work, out=loss)

    np.multiply(s, 0.5, out=s)
    np.tanh(s, out=s)
    np.multiply(s, 0.5, out=s)
    np.add(s, 0.5, out=s)
    np.subtract(s, y, out=s)
    np.multiply(s, scale, out=s)
    _weigh(s, w)
    _weigh(loss, w)
    return _sum(loss)


def _huber(s: Tile, y: NDArray[Any], scale: float, scratch: LossScratch, w: Tile | None = None) -> float:
    """With r = s - y and c = r clipped to [-1, 1]: ℓ = c·(r - c/2), δ = c (Huber 1964, threshold 1)."""
    c = scratch.tiles[0]
    np.subtract(s, y, out=s)
    np.clip(s, -1.0, 1.0, out=c)
    np.multiply(c, -0.5, out=c)  # halving and doubling are exact
    np.add(s, c, out=s)
    np.multiply(c, -2.0, out=c)
    np.multiply(s, c, out=s)
    _weigh(s, w)
    loss = _sum(s)
    np.multiply(c, scale, out=s)
    _weigh(s, w)
    return loss


def _mae(s: Tile, y: NDArray[Any], scale: float, scratch: LossScratch, w: Tile | None = None) -> float:
    """ℓ = |s - y|, δ = the sign of s - y, which is 0 where they are equal."""
    distance = scratch.tiles[0]
    np.subtract(s, y, out=s)
    np.absolute(s, out=distance)
    np.sign(s, out=s)
    np.multiply(s, scale, out=s)
    _weigh(s, w)
    _weigh(distance, w)
    return _sum(distance)


def _quantile(
    s: Tile, y: NDArray[Any], scale: float, scratch: LossScratch, w: Tile | None = None, /, *, quantile: float = 0.5
) -> float:
    """With r = s - y and quantile τ: ℓ = max((1-τ)·r, -τ·r) = |r|/2 + (½-τ)·r, δ = sign(r)/2 + ½-τ.

    Its minimum over the targets is their τ-quantile (R. Koenker, G. Bassett, "Regression Quantiles", Econometrica
    46(1), 1978). Where r = 0, δ is the middle of the slopes on both sides.
    """
    loss, work = scratch.tiles[:2]
    np.subtract(s, y, out=s)
    np.absolute(s, out=loss)
    np.multiply(loss, 0.5, out=loss)
    np.multiply(s, 0.5 - quantile, out=work)
    np.add(loss, work, out=loss)
    np.sign(s, out=s)
    np.multiply(s, 0.5, out=s)
    np.add(s, 0.5 - quantile, out=s)
    np.multiply(s, scale, out=s)
    _weigh(s, w)
    _weigh(loss, w)
    return _sum(loss)


def _poisson(s: Tile, y: NDArray[Any], scale: float, scratch: LossScratch, w: Tile | None = None) -> float:
    """ℓ = e^s - y·s, δ = e^s - y: the negative logarithm of Poisson's probability of y at the rate e^s.

    The term ln(y!), which no output changes, is left out, so that losses may be below 0.
    """
    loss = scratch.tiles[0]
    np.multiply(s, y, out=loss)
    np.exp(s, out=s)
    np.subtract(s, loss, out=loss)
    np.subtract(s, y, out=s)
    np.multiply(s, scale, out=s)
    _weigh(s, w)
    _weigh(loss, w)
    return _sum(loss)


KERNELS: Mapping[str, Loss] = MappingProxyType(
    {
        loss.name: loss
        for loss in (
            Loss("mse", _mse),
            Loss("cross_entropy", _cross_entropy),
            Loss("bce", _bce),
            Loss("huber", _huber),
            Loss("mae", _mae),
            Loss("quantile", _quantile),
            Loss("poisson", _poisson),
        )
    }
)


def fold_of(architecture: Architecture) -> Fold:
    """Return the kernel of a network's loss, with its label smoothing or quantile if it has any."""
    if architecture.label_smoothing:
        return partial(_cross_entropy, smoothing=architecture.label_smoothing)
    if architecture.loss == "quantile":
        return partial(_quantile, quantile=architecture.quantile)
    return KERNELS[architecture.loss].fold


def check_targets(loss: str, y: object, rows: int, outputs: int, dtype: str) -> None:
    """Refuse targets that the loss cannot use; good ones cost two reductions and no array.

    Arguments:
        loss: a key of `specs.LOSSES`.
        y: the targets of `rows` samples.
        rows: how many samples there are.
        outputs: n_L, the network's outputs per sample.
        dtype: the network's dtype, "float32" or "float64".

    Raises:
        InputError: for a wrong type, shape or dtype, labels outside 0..n_L-1, targets that are NaN or infinite,
            or targets outside the range of the loss; it names the first offending value and its row.
    """
    labels = lookup("loss", loss, LOSSES).labels
    need = f"{loss} needs " + (
        f"integer labels of shape ({rows},)" if labels else f"{dtype} targets of shape ({rows}, {outputs})"
    )
    if not isinstance(y, np.ndarray):
        raise InputError(f"{need} in a NumPy array; y is a {type(y).__name__}. Pass np.asarray(y).")
    if y.shape != ((rows,) if labels else (rows, outputs)):
        raise InputError(f"{need}; y has shape {y.shape}. {_shape_advice(y, rows, outputs, labels)}")
    check_layout(y, "y")
    if labels:
        _check_labels(y, need, outputs)
    else:
        _check_floats(y, need, dtype, LOSSES[loss])


def check_weights(w: object, rows: int, dtype: str) -> None:
    """Refuse weights of `rows` samples that are not finite numbers from 0 of shape (rows,) and the given dtype."""
    need = f"weights must be {dtype} numbers from 0 of shape ({rows},)"
    if not isinstance(w, np.ndarray) or w.shape != (rows,) or w.dtype != np.dtype(dtype):
        given = f"{w.dtype} of shape {w.shape}" if isinstance(w, np.ndarray) else type(w).__name__
        raise InputError(f"{need}; got {given}.")
    check_layout(w, "weights")
    if not (w.min() >= 0 and np.isfinite(w.max())):
        raise InputError(f"{need}; they go from {w.min()} to {w.max()}.")


def _shape_advice(y: NDArray[Any], rows: int, outputs: int, labels: bool) -> str:
    """Say what to do about a wrong shape."""
    if y.shape[:1] != (rows,):
        return f"Pass one row of y for each of the {rows} rows of x."
    if labels and y.shape == (rows, 1):
        return "Pass y[:, 0]."
    if labels and y.shape == (rows, outputs):
        return "If these are one-hot rows, pass y.argmax(axis=1)."
    if not labels and outputs == 1 and y.shape == (rows,):
        return "Pass y[:, None]."
    return "Give y that shape, or change the last width of the network."


def _check_labels(y: NDArray[Any], need: str, outputs: int) -> None:
    """Refuse labels that are not integers 0..outputs-1."""
    if y.dtype.kind not in "iu":
        raise InputError(f"{need}; y has dtype {y.dtype}. If these are class numbers, pass y.astype(np.int64).")
    if y.size and (y.min() < 0 or y.max() >= outputs):
        row = int(np.argmax((y < 0) | (y >= outputs)))
        raise InputError(
            f"{need}, each from 0 to {outputs - 1}; y[{row}] is {y[row]}. "
            f"Number the classes from 0, or make the last width of the network larger than every label."
        )


def _check_floats(y: NDArray[Any], need: str, dtype: str, facts: LossFacts) -> None:
    """Refuse targets of another dtype, NaN, infinity, and what lies outside the range of a loss."""
    if y.dtype != np.dtype(dtype):
        raise InputError(f"{need}; y has dtype {y.dtype}. Pass y.astype(np.{dtype}).")
    if not y.size:
        return
    low, high = y.min(), y.max()  # either is NaN if any element is
    if not (np.isfinite(low) and np.isfinite(high)):
        row, column = _first(~np.isfinite(y))
        raise InputError(f"{need}, all finite; y[{row}, {column}] is {y[row, column]}. Remove or mend that row.")
    if not (facts.least <= low and high <= facts.most):
        row, column = _first((y < facts.least) | (y > facts.most))
        raise InputError(f"{need}, each {facts.range}; y[{row}, {column}] is {y[row, column]}. {facts.advice}")


def _first(bad: NDArray[np.bool_]) -> tuple[int, int]:
    """Return row and column of the first True."""
    row, column = np.unravel_index(int(np.argmax(bad)), bad.shape)
    return int(row), int(column)
