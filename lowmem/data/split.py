"""Splitting samples in memory into those to train on and those held out."""

import numpy as np
from numpy.typing import NDArray

from lowmem.common.random import generator
from lowmem.data.dataset import Dataset
from lowmem.data.row_mask import rows_held_out


def split(dataset: Dataset, held_out: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose samples to hold out: round(held_out * samples) of them, of every class its share where y is labels.

    held_out: the fraction to hold out, between 0 and 1.

    Returns the sorted row numbers (train, held out), the same for the same seed. Raises `InputError` where either
    would be empty.
    """
    mask = dataset.row_mask(held_out, seed)
    return mask.between(0, len(dataset), marked=False), mask.between(0, len(dataset), marked=True)


def split_of_earlier_versions(
    dataset: Dataset, held_out: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose samples as versions did whose saved runs may be resumed; see `split`."""
    samples = len(dataset)
    chosen = rows_held_out(samples, held_out)
    order = generator(seed).permutation(samples)
    if dataset.labels:
        order = order[np.argsort(dataset.y[order], kind="stable")]
    # Evenly spaced along samples sorted by class: each class gives its share, rounded up or down.
    steps = np.arange(samples + 1) * chosen // samples
    mask = steps[1:] > steps[:-1]
    return np.sort(order[~mask]), np.sort(order[mask])
