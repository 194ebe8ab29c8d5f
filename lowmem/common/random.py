"""Random generators from seeds."""

import numpy as np

from lowmem.errors import InputError


def generator(seed: int) -> np.random.Generator:
    """Return NumPy's generator for a seed. Raises `InputError` unless it is a whole number from 0."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed={seed!r}; a whole number from 0 is needed, such as seed=0.")
    return np.random.default_rng(int(seed))
