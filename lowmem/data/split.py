"""Splitting samples into those to train on and those held out."""

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import as_number
from lowmem.common.random import generator
from lowmem.data.dataset import Dataset
from lowmem.errors import InputError


def split(dataset: Dataset, held_out: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose samples to hold out: round(held_out * samples) of them, of every class its share where y is labels.

    held_out: the fraction to hold out, between 0 and 1.

    Returns the sorted row numbers (train, held out), the same for the same seed. Raises `InputError` where either
    would be empty.
    """
    samples = len(dataset)
    chosen = rows_held_out(samples, held_out)
    order = generator(seed).permutation(samples)
    if dataset.labels:
        order = order[np.argsort(dataset.y[order], kind="stable")]
    # Evenly spaced along samples sorted by class: each class gives its share, rounded up or down.
    steps = np.arange(samples + 1) * chosen // samples
    mask = steps[1:] > steps[:-1]
    return np.sort(order[~mask]), np.sort(order[mask])


def rows_held_out(samples: int, held_out: float) -> int:
    """Return how many of the samples to hold out. Raises `InputError` where none or all of them would be."""
    share = as_number(held_out)
    chosen = round(samples * share) if 0 < share < 1 else 0
    if not 0 < chosen < samples:
        raise InputError(
            f"held_out={held_out!r} of {samples} samples leaves none on one side. Give a fraction between 0 and 1 "
            "of at least two samples, such as 0.2."
        )
    return chosen
