"""Batches of a single sample, which layers that compare the samples of a batch learn nothing of."""

from itertools import islice

from lowmem.errors import InputError
from lowmem.network.architecture import Architecture


def least_rows(architecture: Architecture) -> int:
    """Return how many samples a batch needs in training."""
    return 2 if architecture.couples else 1


def check_rows(architecture: Architecture, rows: int, where: str) -> None:
    """Refuse a single sample in training where layers compare the samples of a batch. Raises `InputError`.

    rows: samples of a batch. where: which batch it is, and what to do, as a sentence.
    """
    if rows < least_rows(architecture):
        raise InputError(f"{architecture.couples} compares the samples of a batch and learns nothing of one. {where}")


def check_batches(architecture: Architecture, samples: int, rows: int) -> None:
    """Refuse samples that leave a single one to the last batch; see `check_rows`. rows: of the other batches."""
    if (samples % rows or rows) > 1:
        return
    better = (f"batch_size={other}" for other in range(rows - 1, 1, -1) if samples % other != 1)
    advice = " or ".join([*islice(better, 1), "one sample more" if samples > 1 else "more samples"])
    where = f"The last batch of {samples} samples in batches of {rows} has one. Give {advice}, or take another norm."
    check_rows(architecture, 1, where)
