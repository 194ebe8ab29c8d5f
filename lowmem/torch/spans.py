"""From the ops of a schedule to what is run: stages that are recorded together and reversed together share a graph.

One graph for several stages takes the same memory as one graph for each, and spares their ends. A plan that stores
everything becomes one span, which is plain PyTorch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lowmem.schedule import Backward, Forward, Free, Loss, Op, Record


@dataclass(frozen=True, slots=True)
class RecordSpan:
    """Record stages first..last in one graph. output: whether that of stage `last` is needed."""

    first: int
    last: int
    output: bool


@dataclass(frozen=True, slots=True)
class ReverseSpan:
    """Reverse what was recorded as one span; it ends with stage `last`."""

    last: int


Action = Forward | RecordSpan | ReverseSpan | Free | Loss


def actions(ops: Sequence[Op], alone: Sequence[bool]) -> list[Action]:
    """Return what carries out the ops. alone: for each stage whether it needs a graph of its own."""
    recorded = {op.layer: n for n, op in enumerate(ops) if isinstance(op, Record)}
    reversed_ = {op.layer: n for n, op in enumerate(ops) if isinstance(op, Backward)}

    def joined(layer: int) -> bool:
        """Say whether a stage shares the graph of the stage after it."""
        return (
            layer < len(alone)
            and not alone[layer - 1]
            and not alone[layer]
            and recorded[layer + 1] == recorded[layer] + 1
            and reversed_[layer + 1] == reversed_[layer] - 1
        )

    found: list[Action] = []
    first = 0
    for op in ops:
        match op:
            case Record(layer=layer, output=output):
                first = first or layer
                if not joined(layer):
                    found.append(RecordSpan(first, layer, output))
                    first = 0
            case Backward(layer=layer):
                if not joined(layer):
                    found.append(ReverseSpan(layer))
            case Forward() | Free() | Loss():
                found.append(op)
    return found
