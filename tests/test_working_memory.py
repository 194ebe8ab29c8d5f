"""Working memory of layers: what is asked for is used, all of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.network.layers.base import Call, Reversal, Site
from tests.helpers import KINDS, Array, batch, flat, stirred

UNTOUCHED = -77.0
Used = dict[tuple[int, str], list[bool]]
"""By layer and what is done: of each working matrix, whether it was written to."""


def working(arguments: tuple[Any, ...]) -> tuple[str, Sequence[Array]]:
    """Return what a layer's call does, and the working memory of its first tile."""
    match arguments:
        case (Site(), _, _, scratch, in_place):
            return ("in place" if in_place else "forward"), scratch[0]
        case (Site(), Reversal() as at):
            return "backward", at.scratch[0]
    return "", ()


def observed(used: Used, calls: Sequence[Call]) -> None:
    """Run calls and note what they write to."""
    for function, arguments in flat(calls):
        what, scratch = working(arguments)
        for array in scratch:
            array.fill(UNTOUCHED)
        function(*arguments)
        if what:
            seen = used.setdefault((arguments[0].layer, what), [False] * len(scratch))
            for n, array in enumerate(scratch):
                seen[n] |= bool((array != UNTOUCHED).any())


@pytest.mark.parametrize("activation", ["relu", "selu", "softplus", "gelu", "gelu_tanh", "silu", "mish"])
def test_all_of_it_is_used(activation: str) -> None:
    for kind in KINDS:
        architecture = lm.Architecture((8, *[16] * 4, 4), activation, **kind)
        x, y = batch(architecture, 9)
        used: Used = {}
        for strategy in ("store_all", "recompute_all"):
            backprop = lm.Backprop(stirred(architecture), lm.plan(architecture, 9, strategy=strategy))
            backprop.step(x, y, lambda calls, used=used: observed(used, calls))  # type: ignore[misc]
        assert {what for _, what in used} == {"forward", "in place", "backward"}
        for where, seen in used.items():
            if kind["norm"] == "batch" and where[1] != "backward":
                seen[1] = True  # in prediction, which goes by running statistics
            assert all(seen), (kind, where, np.flatnonzero(np.logical_not(seen)))
