"""Random generators from seeds."""

import numpy as np

from lowmem.common.checks import whole


def generator(seed: int) -> np.random.Generator:
    """Return NumPy's generator for a seed. Raises `InputError` unless it is a whole number from 0."""
    return np.random.default_rng(whole("seed", seed))
