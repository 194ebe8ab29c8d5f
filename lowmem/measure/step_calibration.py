"""What only whole steps show: how fast an engine runs small products, and what it costs to keep a state.

A small product takes less time than what is around it: calls, passes, objects. So small ones are timed in steps, by
the engine that the model is for. Large ones take in a step what they take alone. But where states are kept until their
layer is reversed, they leave the cache, and writing and reading them takes longer than with states that were made just
before. How much longer goes by how fast memory is copied: steps themselves differ by more, from one to the next.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import perf_counter

import numpy as np

from lowmem.common.cores import cache_bytes, cores
from lowmem.network.architecture import Architecture
from lowmem.nn.mlp import MLP
from lowmem.planning.choose import plan
from lowmem.planning.cost_model import ROWS, WIDTHS, CostModel, Grid
from lowmem.planning.engines.lane_count import lanes_for, small
from lowmem.runtime.backprop import Backprop

SHORT, DEEP = 6, 24
"""Layers of the networks whose steps are timed: what a step takes beside its layers is not in what the deeper one
takes more."""

COPIED = 16 << 20
"""Bytes that are copied from memory to memory."""

KEPT_COPIES = 4.0
"""A state that leaves the cache takes so many times as long as copying it: it is written, read with σ' and twice with
a product, and kernels wait for memory more than a copy does. In steps of networks 128 to 1024 wide on two cores, whose
products were measured alone, these were 3 to 6."""

CALLS = 12
"""Of which the shortest counts: other processes make steps longer, and differences of them uncertain."""


def in_steps(model: CostModel) -> CostModel:
    """Return a cost model with what steps show. model: of what was measured alone."""
    products, gradients = [], []
    for rows, *rates in zip(ROWS, model.products, model.gradients, strict=True):
        pairs = [_rates(model, rows, width, pair) for width, *pair in zip(WIDTHS, *rates, strict=True)]
        products.append(tuple(pair[0] for pair in pairs))
        gradients.append(tuple(pair[1] for pair in pairs))
    return replace(
        model,
        products=tuple(products),
        gradients=tuple(gradients),
        kept=KEPT_COPIES * _copy(),
        cache=cache_bytes() * cores(),
    )


def _rates(model: CostModel, rows: int, width: int, alone: list[float]) -> list[float]:
    """Return the seconds per FLOP of the two kinds of products. alone: those of products that are timed alone."""
    deep = _uniform(DEEP, width, model)
    if not small(deep, rows) or lanes_for(model.engine, deep, rows) > 1:
        return alone
    free = replace(model, products=_zeros(), gradients=_zeros())  # all but products
    forward, backward = free.forward(deep, 2, rows), free.backward(deep, 2, rows)
    again, more = _step(deep, rows, "recompute_all", model.engine)
    stored, _ = _step(deep, rows, "store_all", model.engine)
    product = (again - stored) / more - forward
    less, _ = _step(_uniform(SHORT, width, model), rows, "store_all", model.engine)
    gradient = (stored - less) / (DEEP - SHORT) - forward - backward - 2 * product
    flops = 2.0 * rows * width * width
    return [found / flops if found > 0 else before for found, before in zip((product, gradient), alone, strict=True)]


def _copy() -> float:
    """Return the seconds of copying a byte from memory to memory."""
    source, target = np.ones(COPIED, np.uint8), np.empty(COPIED, np.uint8)
    return _least(partial(np.copyto, target, source)) / COPIED


def _uniform(layers: int, width: int, model: CostModel) -> Architecture:
    """Return a network of equal layers."""
    return Architecture((width,) * (layers + 1), loss="mse", dtype=model.dtype)


def _step(architecture: Architecture, rows: int, strategy: str, engine: str) -> tuple[float, int]:
    """Return the seconds of a step, and how many forwards it runs again."""
    made = plan(architecture, rows, strategy=strategy, engine=engine)
    backprop = Backprop(MLP(architecture, seed=0), made)
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((rows, architecture.widths[0])).astype(architecture.dtype) for _ in range(2))
    return _least(partial(backprop, x, y)), made.forward_runs - architecture.layers


def _least(call: Callable[[], object]) -> float:
    """Return the shortest time of a call, after one to warm up."""
    call()
    times = []
    for _ in range(CALLS):
        begin = perf_counter()
        call()
        times.append(perf_counter() - begin)
    return min(times)


def _zeros() -> Grid:
    """Return the rates of products that take no time."""
    return ((0.0,) * len(WIDTHS),) * len(ROWS)
