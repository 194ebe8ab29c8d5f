"""Does a data set fit a network? Everything that can be wrong is said before the first step."""

from typing import Any

from numpy.typing import NDArray

from lowmem.architecture import Architecture
from lowmem.data import Dataset, from_arrays
from lowmem.errors import InputError

Data = Dataset | tuple[NDArray[Any], NDArray[Any]]


def checked(data: Data, architecture: Architecture, what: str) -> Dataset:
    """Return `data` as a data set that fits the network. `what` it is called in messages."""
    if not isinstance(data, Dataset | tuple | list) or (not isinstance(data, Dataset) and len(data) != 2):
        raise InputError(f"{what} must be a pair (x, y) of arrays or a Dataset; got {type(data).__name__}.")
    dataset = data if isinstance(data, Dataset) else from_arrays(*data, name=what)
    if dataset.features != architecture.widths[0]:
        raise InputError(
            f"{what} has {dataset.features} features and the network {architecture.widths[0]} inputs; "
            f"make the network with widths[0]={dataset.features}."
        )
    if architecture.loss_facts.labels and dataset.labels and dataset.classes > architecture.widths[-1]:
        raise InputError(
            f"{what} has labels up to {dataset.classes - 1} and the network {architecture.widths[-1]} outputs; "
            f"make the network with widths[-1]={dataset.classes}."
        )
    if not architecture.loss_facts.labels:
        _check_targets(dataset, architecture.loss, architecture.widths[-1], what)
    return dataset


def _check_targets(dataset: Dataset, loss: str, outputs: int, what: str) -> None:
    """Refuse targets of a loss that compares them with the outputs, before the first epoch."""
    columns = 1 if dataset.y.ndim == 1 else dataset.y.shape[1]
    if columns != outputs:
        advice = f"make the network with widths[-1]={columns}"
        if dataset.labels:
            advice = "these are labels: use the loss cross_entropy, or one-hot rows as targets"
        raise InputError(
            f"{what} has {columns} target column{'s' * (columns > 1)} and the network {outputs} outputs; {advice}."
        )
    if loss == "bce" and not (dataset.y.min() >= 0 and dataset.y.max() <= 1):
        raise InputError(
            f"{what} has targets from {dataset.y.min():g} to {dataset.y.max():g}, and bce needs them from 0 to 1. "
            "Scale the targets to [0, 1], or use the loss mse."
        )
