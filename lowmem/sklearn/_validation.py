"""Early stopping: samples held out by their numbers, not as copies, and the best parameters so far."""

from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.cores import cores
from lowmem.errors import InputError
from lowmem.network.architecture import Architecture
from lowmem.nn.mlp import MLP
from lowmem.sklearn._prediction import predict_into, predicted_by, tile_bytes
from lowmem.sklearn._training import Samples

Array = NDArray[Any]


class HeldOut:
    """Samples on which the network is scored after each epoch, chosen as scikit-learn chooses them.

    fraction: share of the samples that is held out.
    classifies: whether the score is the accuracy; otherwise it is R².

    Raises `ValueError` if fewer than two samples would be held out.
    """

    def __init__(
        self, samples: Samples, mlp: MLP, random: np.random.RandomState, fraction: float, *, classifies: bool
    ) -> None:
        stratified = classifies and mlp.architecture.widths[-1] == 1
        self._training_rows, self._rows = _split(samples, random, fraction, stratified=stratified)
        weights = samples.weights
        if weights is not None and not all(weights[rows].any() for rows in (self._training_rows, self._rows)):
            raise InputError(
                "early_stopping: all samples with a weight above 0 are on one side, held out or trained on. Give "
                "more samples a weight, or take early_stopping=False."
            )
        self._samples, self._mlp, self._classifies = samples, mlp, classifies
        self._best, self._best_is_whole = mlp.learned.copy(), True

    def training_rows(self) -> Array:
        """Return the numbers of the samples to train on. They can be fetched once, and are then freed here."""
        rows: Array = self.__dict__.pop("_training_rows")
        return rows

    @staticmethod
    def check(samples: Samples, fraction: float, *, stratified: bool) -> None:
        """Raise `ValueError` for samples that cannot be parted, whatever the random state."""
        _split(samples, np.random.RandomState(0), fraction, stratified=stratified)

    @staticmethod
    def size(samples: int, fraction: float) -> int:
        """Return how many of the samples are held out."""
        return ceil(samples * fraction)

    @staticmethod
    def bytes_for(architecture: Architecture, rows: int) -> int:
        """Return the bytes that `rows` samples held out take.

        They are those of the best parameters, the numbers of the samples, the predictions and the tiles.
        """
        numbers = architecture.parameters + architecture.running + 3 * rows * architecture.widths[-1]
        indices = 2 * rows * np.dtype(np.intp).itemsize
        return numbers * architecture.item_bytes + cores() * tile_bytes(architecture) + indices

    def score(self) -> float:
        """Return the accuracy of a classifier or R² of a regressor; NaN if outputs are not finite."""
        x, y = self._samples.x, self._samples.y[self._rows]
        weights = None if self._samples.weights is None else self._samples.weights[self._rows]
        if self._classifies:
            predicted = np.empty(y.shape, np.intp)
            predict_into(predicted, self._mlp, x, _chosen if y.ndim == 1 else _several, self._rows)
            hits = predicted == y if y.ndim == 1 else (predicted == y).all(axis=1)
            return float(np.average(hits, weights=weights))
        s = predict_into(
            np.empty(y.shape, self._mlp.parameters.dtype), self._mlp, x, predicted_by(self._mlp), self._rows
        )
        if not np.isfinite(s).all():
            return float("nan")
        from sklearn.metrics import r2_score

        return float(r2_score(y, s, sample_weight=weights))

    def keep(self) -> None:
        """Copy the network's parameters as the best so far."""
        self._best_is_whole = False
        np.copyto(self._best, self._mlp.learned)
        self._best_is_whole = True

    def restore(self) -> None:
        """Give the network the best parameters, if keeping them was not broken off."""
        if self._best_is_whole:
            np.copyto(self._mlp.learned, self._best)

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of an estimator that ended now: a new network with the best parameters."""
        mlp = MLP.empty(self._mlp.architecture)
        np.copyto(mlp.learned, self._best)
        return {"_network": mlp}


def _split(
    samples: Samples, random: np.random.RandomState, fraction: float, *, stratified: bool
) -> tuple[Array, Array]:
    """Return the numbers of the samples to train on, and of those held out. Raises `ValueError` for fewer than two."""
    from sklearn.model_selection import train_test_split

    numbers = np.arange(len(samples.x), dtype=np.min_scalar_type(len(samples.x)))
    stratify = samples.y.ravel() if stratified else None
    train, held_out = train_test_split(numbers, random_state=random, test_size=fraction, stratify=stratify)
    if len(held_out) < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
        )
    return train, held_out


def _chosen(s: Array) -> Array:
    """Return the class with the largest output of each sample."""
    return np.asarray(s.argmax(axis=1))


def _several(s: Array) -> Array:
    """Return for each output whether its label holds."""
    return s > 0
