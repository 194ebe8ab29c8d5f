"""The oracle for networks whose layers begin with norm, σ and dropout: every array stored, one line per formula.

As in `lowmem.nn.reference`, nothing is shared with the kernels, and everything allocates freely.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lowmem.network.architecture import Architecture
from lowmem.nn.reference import DELTA, LOSS, SLOPE, VALUE, softmax

Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = Mapping[str, Array]
EPSILON = 1e-5
AXIS = {"layer": 1, "rms": 1, "batch": 0}
"""Over what a norm takes its means: a row, or a column of the batch."""


def normalised(norm: str, s: Array) -> tuple[Array, Array]:
    """Return x̂ and the deviation."""
    centred = s if norm == "rms" else s - s.mean(axis=AXIS[norm], keepdims=True)
    deviation: Array = np.sqrt((centred**2).mean(axis=AXIS[norm], keepdims=True) + EPSILON)
    return centred / deviation, deviation


def loss_and_delta(arch: Architecture, s: Array, y: Array) -> tuple[float, Array]:
    """Return the mean loss and its gradient, label smoothing ε considered: the target is (1-ε) onehot + ε/n."""
    smoothing = arch.label_smoothing
    if arch.loss == "quantile":
        return LOSS["quantile"](s, y, arch.quantile), DELTA["quantile"](s, y, arch.quantile)
    if not smoothing:
        return LOSS[arch.loss](s, y), DELTA[arch.loss](s, y)
    target = (1 - smoothing) * np.eye(s.shape[1])[y] + smoothing / s.shape[1]
    return float(-(target * np.log(softmax(s))).sum(axis=1).mean()), (softmax(s) - target) / len(s)


def backprop(
    arch: Architecture,
    arrays: Sequence[Arrays],
    x: Array,
    y: Array,
    mask: Callable[[int, Array], Array] | None = None,
) -> tuple[float, list[dict[str, Array]]]:
    """Return the mean loss and by layer the gradients of all parameters by name.

    arrays: of each layer, by name. x: the batch, (B, n_0). y: labels (B,) or targets (B, n_L).
    mask: for (layer, what enters its product) what that is multiplied with; without it nothing is dropped.
    """
    states: list[Array] = [x]
    entered: list[Array] = []  # u^(l): what enters the product of layer l
    for number, its in enumerate(arrays, start=1):
        u = states[-1] if number == 1 else _enter(arch, number, its, states[-1])
        if mask is not None and number > 1 and arch.option(number, "dropout"):
            u = u * mask(number, u)
        entered.append(u)
        s = _factor(arch, number, its) * (u @ its["weight"].T) + its["bias"]
        states.append(s + states[-1] if arch.has_skip(number) else s)
    loss, delta = loss_and_delta(arch, states[-1], y)

    gradients: list[dict[str, Array]] = []
    for number in range(arch.layers, 0, -1):
        its, u, s, factor = arrays[number - 1], entered[number - 1], states[number - 1], 0.0
        factor = _factor(arch, number, its)
        found = {"weight": factor * delta.T @ u, "bias": delta.sum(axis=0)}
        if "scale" in its:
            found["scale"] = np.array([(delta * (u @ its["weight"].T)).sum()])
        gradients.append(found)
        if number == 1:
            break
        below = factor * (delta @ its["weight"])
        if mask is not None and arch.option(number, "dropout"):
            below = below * mask(number, u)
        below = _leave(arch, number, its, s, below, found)
        delta = below + delta if arch.has_skip(number) else below
    return loss, gradients[::-1]


def _factor(arch: Architecture, number: int, its: Arrays) -> float:
    """Return the factor of a branch; 1 for a plain layer."""
    if not arch.has_skip(number):
        return 1.0
    kinds = {True: 1.0, "scaled": 1 / np.sqrt(arch.skips)}
    return float(its["scale"][0]) if "scale" in its else kinds[arch.option(number, "residual")]


def _enter(arch: Architecture, number: int, its: Arrays, s: Array) -> Array:
    """Return σ(norm(s))."""
    norm = arch.option(number, "norm")
    if norm is not None:
        s = normalised(norm, s)[0] * its["gain"] + its.get("shift", 0)
    return VALUE[arch.activation](s)


def _leave(arch: Architecture, number: int, its: Arrays, s: Array, below: Array, found: dict[str, Array]) -> Array:
    """Pull the gradient of σ(norm(s)) back to s, and note those of gain and shift."""
    norm = arch.option(number, "norm")
    if norm is None:
        return np.asarray(below * SLOPE[arch.activation](s))
    x, deviation = normalised(norm, s)
    dy = below * SLOPE[arch.activation](x * its["gain"] + its.get("shift", 0))
    found["gain"] = (dy * x).sum(axis=0)
    if "shift" in its:
        found["shift"] = dy.sum(axis=0)
    dx, axis = dy * its["gain"], AXIS[norm]
    mean = 0 if norm == "rms" else dx.mean(axis=axis, keepdims=True)
    return np.asarray((dx - mean - x * (dx * x).mean(axis=axis, keepdims=True)) / deviation)
