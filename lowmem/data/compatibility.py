"""Checks that samples fit a network, before the first step."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import NUMBER_KINDS
from lowmem.data.class_names import as_text, listed
from lowmem.data.dataset import first_part, from_arrays
from lowmem.data.formats.columns import Schema
from lowmem.data.samples import Samples
from lowmem.errors import InputError
from lowmem.network.architecture import Architecture
from lowmem.network.specs import LOSSES

Data = Samples | tuple[NDArray[Any], NDArray[Any]]
"""What training and evaluation take: samples, or arrays (x, y)."""


def checked(
    data: Data,
    architecture: Architecture,
    what: str,
    class_names: tuple[str, ...] | None = None,
    columns: Schema | None = None,
) -> Samples:
    """Return `data` as samples that fit the network. The loss says whether y are labels.

    what: what to call them in messages.
    class_names: for labels in arrays that have names, where these are known already.
    columns: for data frames, those of the training where they are known already.

    Raises `InputError` for anything that does not fit.
    """
    if isinstance(data, tuple | list) and len(data) == 2:
        task, (x, y) = _task(architecture, data[1]), data
        samples: Samples = from_arrays(
            x, y, name=what, task=task, class_names=class_names, columns=columns, remarked=False
        )
    elif isinstance(data, Samples):
        samples = data
    else:
        raise InputError(f"{what} must be a pair (x, y) of arrays or a Dataset; got {type(data).__name__}.")
    inputs, outputs = architecture.widths[0], architecture.widths[-1]
    if samples.features != inputs:
        raise InputError(
            f"{what} has {samples.features} features and the network {inputs} inputs; "
            f"make the network with widths[0]={samples.features}."
        )
    if architecture.loss_facts.labels:
        _check_labels(samples, architecture.loss, outputs, what)
    else:
        _check_targets(samples, architecture.loss, outputs, what)
    return samples


def both(
    data: Data,
    validation: Data | None,
    architecture: Architecture,
    class_names: tuple[str, ...] | None,
    columns: Schema | None,
    *,
    begun: bool,
) -> tuple[Samples, Samples | None]:
    """Return training and validation data that fit the network, and have the same classes and columns.

    begun: a run has seen data before, whose classes and columns these must have.
    """
    train = (matching if begun else checked)(data, architecture, "the data", class_names, columns)
    if validation is None:
        return train, None
    return train, matching(validation, architecture, "the validation data", train.class_names, train.columns)


def matching(
    data: Data,
    architecture: Architecture,
    what: str,
    class_names: tuple[str, ...] | None,
    columns: Schema | None,
) -> Samples:
    """Return `data` as samples that fit the network, and whose classes and columns are those of its training."""
    samples = checked(data, architecture, what, class_names, columns)
    check_names(samples, class_names, what)
    check_columns(samples, columns, what)
    return samples


def _task(architecture: Architecture, y: object) -> str:
    """Return what the loss of a network makes of targets; what cannot be labels is refused later."""
    if not architecture.loss_facts.labels:
        return "regression" if as_text(y) is None else "classification"
    try:
        array = np.asarray(y)
    except ValueError:
        return "regression"
    flat = array.ndim == 1 or (array.ndim > 1 and len(array) and array[0].size == 1)
    whole = array.dtype.kind in NUMBER_KINDS and flat and first_part(array.reshape(-1)) < 0
    return "classification" if whole or as_text(y) is not None else "regression"


def check_names(samples: Samples, known: tuple[str, ...] | None, what: str) -> None:
    """Raise `InputError` where the names of the samples' classes are not those that the network knows.

    known: the network's, None where it was trained on labels that are numbers. what: what to call the samples.
    """
    held = samples.class_names
    if held == known:
        return
    if known is None:
        raise InputError(
            f"{what} has the classes {listed(held or ())} and the network was trained on labels that are numbers. "
            "Give the same numbers."
        )
    raise InputError(
        f"{what} has {'numbers as labels' if held is None else f'the classes {listed(held)}'} and the network was "
        f"trained on {listed(known)}. Give the names, opened with class_names=trainer.class_names."
    )


def check_columns(samples: Samples, known: Schema | None, what: str) -> None:
    """Raise `InputError` where the samples' features have other names, or another order, than the network knows.

    known: of the training, None where its columns had no names. what: what to call the samples.
    """
    held = None if samples.columns is None else samples.columns.features
    of_training = None if known is None else known.features
    if held is None or of_training is None or held == of_training:
        return
    raise InputError(
        f"{what} has the features {listed(held)} and the network was trained on {listed(of_training)}. Open the data "
        "with columns=trainer.columns, which puts them in order."
    )


def _check_labels(samples: Samples, loss: str, outputs: int, what: str) -> None:
    """Check samples for a loss of labels."""
    targets = samples.targets
    if not targets.labels:
        raise InputError(
            f"{what} has targets, and the loss {loss} needs integer labels of shape (samples,). One-hot rows become "
            "labels with y.argmax(axis=1)."
        )
    if targets.classes <= outputs:
        return
    if samples.class_names is None and targets.high < targets.classes - 1:
        held = f"{targets.classes} classes"
    elif samples.class_names is None:
        held = f"in row {targets.row_of_high} labels up to {targets.classes - 1}"
    else:
        held = f"the {targets.classes} classes {listed(samples.class_names)}"
    raise InputError(
        f"{what} has {held} and the network {outputs} outputs; make the network with widths[-1]={targets.classes}."
    )


def _check_targets(samples: Samples, loss: str, outputs: int, what: str) -> None:
    """Check samples for a loss that compares targets with the network's outputs."""
    targets, columns = samples.targets, samples.targets.columns
    if columns != outputs:
        advice = f"make the network with widths[-1]={columns}"
        if targets.labels or (columns == 1 and targets.low >= 0 and targets.high in range(1, outputs)):
            advice = "if these are labels: use the loss cross_entropy, or one-hot rows as targets"
        raise InputError(
            f"{what} has {columns} target column{'s' * (columns > 1)} and the network {outputs} outputs; {advice}."
        )
    facts = LOSSES[loss]
    if not (facts.least <= targets.low and targets.high <= facts.most):
        raise InputError(
            f"{what} has targets from {targets.low:g} to {targets.high:g}, and {loss} needs them {facts.range}. "
            f"{facts.advice}"
        )
