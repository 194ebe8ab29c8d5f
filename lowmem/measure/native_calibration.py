"""Times of the elementwise passes in the compiled engine. Products, by the same BLAS, take as long as with NumPy."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from lowmem.common.cores import cores
from lowmem.network.native_names import ACTIVATIONS
from lowmem.planning.cost_model import CostModel
from lowmem.runtime.engines.native.library import load

NUMBERS = 65_536
"""Of a pass that is timed: they are in cache, as those of a tile are."""


def native_model(model: CostModel, seconds: Callable[[Callable[[], Any]], float]) -> CostModel:
    """Return the cost model of the compiled engine, whose lanes share the numbers of a pass.

    model: of NumPy on this machine; products and what is not measured here are kept from it.
    seconds: returns the shortest time of a call.

    One kernel makes σ and σ', which share what is dear in them, so each is taken for as long as both.
    """
    functions, item = load().functions, np.dtype(model.dtype)
    s = np.random.default_rng(0).standard_normal(NUMBERS).astype(item)
    value, slope = np.empty_like(s), np.empty_like(s)
    addresses = s.ctypes.data, value.ctypes.data, slope.ctypes.data
    times = {
        name: seconds(partial(functions.lm_activation_values, item.itemsize, number, *addresses, NUMBERS))
        for number, name in enumerate(ACTIVATIONS)
    }
    each = {name: time / NUMBERS / cores() for name, time in times.items()}
    others = {name: each["gelu"] for name in model.value.keys() - each.keys()}
    return replace(model, engine="native", value=each | others, slope=each | others, bias=each["identity"])
