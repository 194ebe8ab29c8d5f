"""Class labels become targets of a network, in the narrowest dtype that holds them, and outputs become labels."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """The classes of a classifier.

    classes: sorted.
    several: whether a sample may have several of them.

    As in scikit-learn, two classes have one logistic output, more classes have a softmax, and labels of which several
    may hold have a logistic output each.
    """

    classes: Array
    several: bool

    @property
    def kind(self) -> Literal["binary", "multiclass", "multilabel"]:
        """What the outputs mean: "binary", "multiclass" or "multilabel"."""
        if self.several:
            return "multilabel"
        return "binary" if len(self.classes) <= 2 else "multiclass"

    @property
    def outputs(self) -> int:
        """The width of the network's last layer."""
        return 1 if self.kind == "binary" else len(self.classes)

    @property
    def loss(self) -> str:
        """The loss, by the name that lowmem has for it."""
        return "cross_entropy" if self.kind == "multiclass" else "bce"

    @property
    def activation(self) -> str:
        """scikit-learn's name of the last layer's σ."""
        return "softmax" if self.kind == "multiclass" else "logistic"

    @property
    def decoded(self) -> np.dtype[Any]:
        """The dtype that `decode` returns."""
        return np.dtype(np.int64) if self.several else self.classes.dtype

    def encode(self, y: Array) -> Array:
        """Return the targets of the network for labels y.

        They are the numbers of the classes, (n,), or zeros and ones, (n, outputs), for logistic outputs. Raises
        `ValueError` for labels that are not among `classes`.
        """
        if self.several != _several(y) or (self.several and y.shape[1] != len(self.classes)):
            raise ValueError(f"y has shape {y.shape}; the targets of the first fit were {self.kind}, {self.classes}.")
        if self.several:
            return np.asarray(y.toarray() if hasattr(y, "toarray") else y).astype(np.uint8)
        places = np.searchsorted(self.classes, y)
        np.clip(places, 0, len(self.classes) - 1, out=places)
        strange = self.classes[places] != y
        if np.any(strange):
            raise ValueError(
                f"`y` has classes not in `self.classes_`: {np.unique(y[strange])} among {self.classes}. "
                "Name all classes at the first call."
            )
        narrow: Array = places.astype(np.min_scalar_type(len(self.classes) - 1))
        return narrow.reshape(-1, 1) if self.kind == "binary" else narrow

    def decode(self, outputs: Array) -> Array:
        """Return the labels that the network's outputs s^(L), (n, outputs), stand for."""
        if self.several:
            return (outputs > 0).astype(np.int64)
        places = (outputs[:, 0] > 0).astype(np.intp) if self.kind == "binary" else outputs.argmax(axis=1)
        return self.classes[np.minimum(places, len(self.classes) - 1)]


def labels_of(y: Array, classes: ArrayLike | None = None) -> Labels:
    """Return the labels of y, whose classes are given or those that occur in y.

    Raises `ValueError` for targets that are no labels.
    """
    check_classification_targets(y)
    if _several(y):
        return Labels(np.arange(y.shape[1]), several=True)
    return Labels(unique_labels(y if classes is None else classes), several=False)


def _several(y: Array) -> bool:
    """Return whether y is an indicator matrix, in which a sample may have several labels."""
    kind = type_of_target(y, input_name="y", raise_unknown=True)
    if kind == "multiclass-multioutput":
        raise ValueError(
            "y has several columns of classes (multiclass-multioutput); one column of classes or an indicator matrix "
            "of zeros and ones is needed. sklearn.multioutput.MultiOutputClassifier fits a network for each column."
        )
    return bool(kind == "multilabel-indicator")
