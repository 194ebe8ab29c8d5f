"""Weights of samples: their own times those of their classes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_sample_weight

Array = NDArray[Any]

ClassWeight = dict[Any, float] | list[dict[Any, float]] | str | None
"""The parameter `class_weight` of a classifier."""


def with_classes(class_weight: ClassWeight, y: Array, sample_weight: Array | None) -> Array | None:
    """Return the weights of samples with labels y, those of their classes included; None if all are 1."""
    if class_weight is None:
        return sample_weight
    weights: Array = compute_sample_weight(class_weight, y)
    return weights if sample_weight is None else np.multiply(weights, sample_weight, out=weights)


def refuse_balanced(class_weight: ClassWeight) -> None:
    """Raise `ValueError` for what `partial_fit` cannot do."""
    if isinstance(class_weight, str) and class_weight == "balanced":
        raise ValueError(
            "class_weight 'balanced' is not supported for partial_fit, which does not see all samples. Compute "
            "the weights with sklearn.utils.compute_class_weight and pass them as a dictionary."
        )
