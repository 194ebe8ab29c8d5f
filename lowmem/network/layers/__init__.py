"""The kinds of layers, one small class each: sizes, costs and workspaces. No NumPy.

All floors know a layer through `Layer` alone. What computes lies in `lowmem.nn.layers`, under the same file names.
"""

from lowmem.network.layers.base import Layer
from lowmem.network.layers.norms import NORMS
from lowmem.network.layers.postactivation import Postactivation
from lowmem.network.layers.preactivation import Preactivation

__all__ = ["NORMS", "Layer", "layer_of"]


def layer_of(
    entering: int,
    leaving: int,
    activation: str,
    item_bytes: int,
    *,
    is_first: bool,
    is_last: bool,
    preactivation: bool,
    norm: str | None = None,
    dropout: float = 0.0,
    branch: float | str | None = None,
) -> Layer:
    """Return the layer that maps `entering` to `leaving` numbers.

    preactivation: the network keeps s, and σ is a layer's first act; else its last, and x is kept.
    norm, dropout: on the way in, of a layer other than the first.
    branch: None for a plain layer; for one with a skip the factor of its branch, or "learned".
    """
    if not preactivation:
        return Postactivation(entering, leaving, activation, item_bytes, is_first, is_last)
    return Preactivation(
        entering,
        leaving,
        activation,
        item_bytes,
        is_first,
        is_last,
        norm=None if norm is None or is_first else NORMS[norm],
        dropout=0.0 if is_first else dropout,
        branch=branch,
    )
