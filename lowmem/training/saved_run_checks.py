"""Checks of a saved run: what its settings and tensors must be before anything is done with them."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lowmem.common.checks import instance
from lowmem.data.formats.columns import Schema
from lowmem.errors import InputError, shown
from lowmem.interchange.safetensors import Entry
from lowmem.network.architecture import Architecture

ARCHITECTURE = {
    "widths": (list,),
    **dict.fromkeys(("activation", "loss", "dtype"), (str,)),
    "residual": (bool, str),
    "norm": (str, type(None)),
    **dict.fromkeys(("dropout", "label_smoothing", "quantile"), (float,)),
    "overrides": (dict,),
}
LATER_FIELDS: dict[str, Any] = {
    "residual": False,
    "norm": None,
    "dropout": 0.0,
    "label_smoothing": 0.0,
    "quantile": 0.5,
    "overrides": {},
}
"""Fields that runs of an earlier version lack, and their values."""

MOST = 1 << 62
"""Counts of epochs, steps and samples are below this."""


def exact(what: str, value: object, names: Mapping[str, tuple[type, ...]]) -> None:
    """Refuse a part of the settings whose names or types are not exactly the expected ones, with a `ValueError`.

    what: the part, for the message.
    names: the allowed types of each value, by name.
    """
    if not isinstance(value, dict):
        raise ValueError(f"its {what} are no JSON object")
    for name in sorted(value.keys() | names.keys()):
        if name not in names:
            raise ValueError(f"its {what} have the unknown name {name[:60]!r}")
        if type(value.get(name)) not in names[name]:
            raise ValueError(f"its {what} have {name} = {str(value.get(name))[:60]!r}")


def finite_number(text: str) -> float:
    """Return a number in JSON; Python would read NaN and Infinity too. Raises `ValueError` for what is not finite."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"its settings hold {text[:60]}, which is no finite number")
    return number


HOLDS = "a saved run holds finite numbers, text, lists, and dictionaries whose keys are text"


def check_notes(notes: object) -> None:
    """Refuse notes that JSON cannot hold, with an `InputError` that names the note."""
    for name, note in instance("trainer.notes", notes, dict, "a dictionary, such as {'flags': [1, 2]}").items():
        try:
            json.dumps({name: note}, allow_nan=False, default=plain)
        except (TypeError, ValueError, RecursionError):
            raise InputError(
                f"{HOLDS}; trainer.notes hold {shown(note)} under {shown(name)}. Write what is none of these as text."
            ) from None


def plain(value: object) -> object:
    """Return a number of NumPy's as one of Python's, for JSON. Raises `TypeError` for anything else."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{HOLDS}; {shown(value)} is none of these")


def check_names(names: object, architecture: Architecture) -> None:
    """Refuse names of classes that are no text, equal, or more than there are outputs, with a `ValueError`."""
    if names is None:
        return
    if not isinstance(names, list) or not all(isinstance(name, str) and name.isprintable() for name in names):
        raise ValueError("its names of classes are no list of text")
    most = max(architecture.widths[-1], 2 * (architecture.loss == "bce"))  # one output tells two classes apart
    if len(set(names)) < len(names) or len(names) > most:
        raise ValueError(f"it has {len(names)} names of classes for {architecture.widths[-1]} outputs, or one twice")


def check_columns(columns: object, architecture: Architecture) -> None:
    """Refuse columns of the data that are none, or more or fewer features than the inputs, with a `ValueError`."""
    if columns is None:
        return
    if not isinstance(columns, dict):
        raise ValueError("its columns are not understood")
    features = len(Schema.from_dict(columns).x)
    if features != architecture.widths[0]:
        raise ValueError(f"it has {features} features for {architecture.widths[0]} inputs")


def check_scale(scale: object) -> None:
    """Refuse what is no factor of inputs, with a `ValueError`; None stands for 1."""
    if scale is not None and (type(scale) not in (int, float) or not math.isfinite(scale)):  # type: ignore[arg-type]
        raise ValueError(f"its inputs are multiplied by {str(scale)[:60]!r}")


def expected_tensors(
    architecture: Architecture, states: int, standardised: bool
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtype and shape, by name, of every tensor that a run of this network must have.

    states: number of the optimizer's arrays.
    standardised: whether the run standardises its inputs.
    """
    dtype, widths = architecture.dtype, architecture.widths
    expected: dict[str, tuple[str, tuple[int, ...]]] = {}
    for number, layer in enumerate(architecture.each_layer, start=1):
        shapes = {**layer.parameters, **layer.running}
        expected |= {f"layers.{number}.{name}": (dtype, shape) for name, shape in shapes.items()}
    expected |= {f"optimizer.{number}": (dtype, (architecture.parameters,)) for number in range(1, states + 1)}
    if standardised:
        expected |= {f"data.{name}": ("float64", (widths[0],)) for name in ("mean", "deviation")}
    return expected


def compare(entries: Mapping[str, Entry], expected: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Refuse tensors whose names, dtypes and shapes are not exactly the expected ones, with a `ValueError`."""
    for name in sorted(entries.keys() ^ expected.keys()):
        raise ValueError(f"tensor {name[:60]!r} is {'missing' if name in expected else 'unknown'}")
    for name, entry in entries.items():
        if (entry.dtype.name, entry.shape) != expected[name]:
            wanted = "{} of shape {}".format(*expected[name])
            raise ValueError(f"tensor {name!r} is {entry.dtype.name} of shape {entry.shape}; its network has {wanted}")
