"""What stages pass on: one tensor, or a tuple of tensors, whose kind stays as it is."""

from collections.abc import Iterable
from typing import Any

import torch

Tensors = tuple[torch.Tensor, ...]


class Lone(tuple[torch.Tensor]):
    """A tensor that a stage takes or gives alone; a tuple of one tensor is something else."""

    __slots__ = ()


def as_tuple(value: Any) -> Tensors:  # noqa: ANN401 - whatever a stage takes or gives
    """Return the tensors of a value that is one tensor or a tuple of them."""
    return value if isinstance(value, tuple) else Lone((value,))


def value_of(tensors: Tensors) -> Any:  # noqa: ANN401 - a tensor, or a tuple of tensors
    """Return tensors as a stage takes them."""
    return tensors[0] if isinstance(tensors, Lone) else tensors


def rebuilt(like: Tensors, tensors: Iterable[torch.Tensor]) -> Tensors:
    """Return other tensors in a tuple of the same kind; named tuples keep their names."""
    kind: Any = type(like)
    made: Tensors = kind._make(tensors) if hasattr(kind, "_make") else kind(tuple(tensors))
    return made


def detached(tensors: Tensors) -> Tensors:
    """Return the same memory, cut off from the graph."""
    return rebuilt(tensors, (tensor.detach() for tensor in tensors))
