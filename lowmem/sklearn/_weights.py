"""Weights of samples: their own times those of their classes."""

from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_sample_weight

from lowmem.common.checks import number
from lowmem.errors import InputError

Array = NDArray[Any]

ClassWeight = dict[Any, float] | list[dict[Any, float]] | str | None
"""The parameter `class_weight` of a classifier."""


ROOM = 2.0**20
"""The least of the largest weight, over the smallest normal number: weights are multiplied by rows over their sum."""


def with_classes(class_weight: ClassWeight, y: Array, sample_weight: Array | None) -> Array | None:
    """Return the weights of samples with labels y, those of their classes included; None if all are 1.

    Raises `InputError` for weights of classes that are no finite numbers from 0.
    """
    if class_weight is None:
        return sample_weight
    for place, weights_of in enumerate(class_weight if isinstance(class_weight, list) else [class_weight]):
        name = f"class_weight[{place}]" if isinstance(class_weight, list) else "class_weight"
        for label, value in weights_of.items() if isinstance(weights_of, dict) else ():
            number(f"{name}[{label!r}]", value)
    weights: Array = compute_sample_weight(class_weight, y)
    with np.errstate(over="ignore"):  # `check_weights` refuses it
        return weights if sample_weight is None else np.multiply(weights, sample_weight, out=weights)


def check_weights(weights: Array, dtype: str, name: str) -> None:
    """Raise `InputError` for weights from 0 that are all 0, or whose sum or whose largest value `dtype` cannot hold.

    name: what they are called.
    """
    work, largest = np.finfo(dtype), float(weights.max())
    with np.errstate(over="ignore"):
        total = float(np.add.reduce(weights, dtype=np.float64))
    if largest == 0:
        raise InputError(f"{name} is 0 for every sample; at least one sample needs a weight above 0.")
    if largest > float(work.max) or not isfinite(total):
        raise InputError(f"{name} is too large for {dtype}: up to {largest:.3g}, {total:.3g} in all. Divide it.")
    if largest < ROOM * float(work.tiny):
        raise InputError(f"{name} is too small for {dtype}: {largest:.3g} at most. Multiply it.")


def refuse_balanced(class_weight: ClassWeight) -> None:
    """Raise `ValueError` for what `partial_fit` cannot do."""
    if isinstance(class_weight, str) and class_weight == "balanced":
        raise ValueError(
            "class_weight 'balanced' is not supported for partial_fit, which does not see all samples. Compute "
            "the weights with sklearn.utils.compute_class_weight and pass them as a dictionary."
        )
