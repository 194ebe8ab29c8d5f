"""Working memory of layers: what is asked for is used, all of it."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest

import lowmem as lm
from lowmem.nn.layers.base import Reversal
from lowmem.runtime.engines.calls import Bound, Call, single_calls
from tests.helpers import KINDS, Array, batch, stirred

UNTOUCHED = -77.0
Used = dict[tuple[int, str], list[bool]]
"""By layer and what is done: of each working matrix, whether it was written to."""


def working(call: Call) -> tuple[str, Sequence[Array]]:
    """Return what a layer's call does, and the working memory of its first tile."""
    match call.function.__name__, call.arguments:
        case ("forward" | "advance" as name, (_, _, _, scratch)):
            return name, scratch[0]
        case (_, (_, Reversal() as at, *_)):
            return "backward", at.scratch[0]
    return "", ()


def observed(used: Used, bound: Sequence[Bound]) -> None:
    """Run calls and note what they write to."""
    for call in single_calls(bound):
        what, scratch = working(call)
        for array in scratch:
            array.fill(UNTOUCHED)
        call.run()
        if what:
            seen = used.setdefault((call.layer, what), [False] * len(scratch))
            for n, array in enumerate(scratch):
                seen[n] |= bool((array != UNTOUCHED).any())


@pytest.mark.parametrize("activation", ["relu", "selu", "softplus", "gelu", "gelu_tanh", "silu", "mish"])
def test_all_of_it_is_used(activation: str) -> None:
    for kind in KINDS:
        architecture = lm.Architecture((8, *[16] * 4, 4), activation, **kind)
        x, y = batch(architecture, 9)
        used: Used = {}
        for strategy in ("store_all", "recompute_all"):
            backprop = lm.Backprop(stirred(architecture), lm.plan(architecture, 9, strategy=strategy, engine="numpy"))
            backprop.step(x, y, carry_out=partial(observed, used))
        assert {what for _, what in used} == {"forward", "advance", "backward"}
        for where, seen in used.items():
            if kind["norm"] == "batch" and where[1] != "backward" and where[0] > 1:
                seen[1] = True  # in prediction, which goes by running statistics
            assert all(seen), (kind, where, np.flatnonzero(np.logical_not(seen)))
