"""Does a data set fit a network? Everything that can be wrong is said before the first step."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from lowmem.data.dataset import Dataset, from_arrays
from lowmem.data.stream import Stream
from lowmem.errors import InputError
from lowmem.network.architecture import Architecture

Samples = Dataset | Stream
Data = Samples | tuple[NDArray[Any], NDArray[Any]]


def checked(data: Data, architecture: Architecture, what: str, class_names: tuple[str, ...] | None = None) -> Samples:
    """Return `data` as a data set that fits the network. `what` it is called in messages.

    class_names: for labels that are text in arrays, where their names are known already.
    """
    ready = isinstance(data, Dataset | Stream)
    if not ready and (not isinstance(data, tuple | list) or len(data) != 2):
        raise InputError(f"{what} must be a pair (x, y) of arrays or a Dataset; got {type(data).__name__}.")
    dataset = data if isinstance(data, Dataset | Stream) else from_arrays(*data, name=what, class_names=class_names)
    if dataset.features != architecture.widths[0]:
        raise InputError(
            f"{what} has {dataset.features} features and the network {architecture.widths[0]} inputs; "
            f"make the network with widths[0]={dataset.features}."
        )
    if architecture.loss_facts.labels and dataset.labels and dataset.classes > architecture.widths[-1]:
        if dataset.class_names is not None:
            raise InputError(
                f"{what} has the {dataset.classes} classes {listed(dataset.class_names)} and the network "
                f"{architecture.widths[-1]} outputs; make the network with widths[-1]={dataset.classes}."
            )
        raise InputError(
            f"{what} has in row {dataset.row_of_largest} labels up to {dataset.classes - 1} and the network "
            f"{architecture.widths[-1]} outputs; "
            f"make the network with widths[-1]={dataset.classes}."
        )
    if architecture.loss_facts.labels and isinstance(dataset, Stream) and (dataset.one_hot or not dataset.labels):
        raise InputError(
            f"{what} has targets, and the loss {architecture.loss} needs integer labels of shape (samples,)."
        )
    if not architecture.loss_facts.labels:
        _check_targets(dataset, architecture.loss, architecture.widths[-1], what)
    return dataset


def check_names(samples: Samples, known: tuple[str, ...] | None, what: str) -> None:
    """Refuse labels that are other names than those the network knows, or numbers in place of names."""
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


def listed(names: Sequence[str]) -> str:
    """Return some names in a line."""
    text = ", ".join(names[:8])
    return (text if len(text) < 200 else f"{text[:200]} ...") + f", ... ({len(names)})" * (len(names) > 8)


def _check_targets(dataset: Samples, loss: str, outputs: int, what: str) -> None:
    """Refuse targets of a loss that compares them with the outputs, before the first epoch."""
    columns = dataset.columns
    if columns != outputs:
        advice = f"make the network with widths[-1]={columns}"
        if dataset.labels:
            advice = "these are labels: use the loss cross_entropy, or one-hot rows as targets"
        raise InputError(
            f"{what} has {columns} target column{'s' * (columns > 1)} and the network {outputs} outputs; {advice}."
        )
    low, high = (0.0, 1.0) if isinstance(dataset, Stream) and dataset.one_hot else dataset.y_range
    if loss == "bce" and not (low >= 0 and high <= 1):
        raise InputError(
            f"{what} has targets from {low:g} to {high:g}, and bce needs them from 0 to 1. "
            "Scale the targets to [0, 1], or use the loss mse."
        )
