"""What a saved run remembers of its data: enough to tell them from others."""

from typing import Any

from lowmem.data.samples import Samples
from lowmem.errors import InputError

TELLING = ("fingerprint", "standardised", "shuffle_rows", "class_names")
"""Marks that differ between data sets; a run of an earlier version may lack others."""


def marks_of(samples: Samples) -> dict[str, Any]:
    """Return the marks of training data, as JSON holds them."""
    standardised = samples.standardisation is not None
    marks: dict[str, Any] = {
        "fingerprint": samples.fingerprint(),
        "standardised": standardised,
        "scale": samples.scale,
    }
    if samples.shuffle_rows is not None:
        marks["shuffle_rows"] = samples.shuffle_rows  # another number would be another order
    if samples.class_names is not None:
        marks["class_names"] = list(samples.class_names)
    if samples.columns is not None:
        marks["columns"] = samples.columns.to_dict()
    return marks


def check_marks(marks: dict[str, Any], earlier: dict[str, Any]) -> None:
    """Refuse to go on in the middle of an epoch with other data than it began with.

    marks: of the data given now. earlier: of the data that the epoch began with; empty if nothing is known of them.
    """
    if earlier and any(marks.get(name) != earlier.get(name) for name in TELLING):
        raise InputError(
            f"the run stopped in the middle of an epoch over other data ({earlier['fingerprint']}) than "
            f"these ({marks['fingerprint']}). Go on with the same data."
        )
