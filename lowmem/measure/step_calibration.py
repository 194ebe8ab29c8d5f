"""What only whole steps show: how fast an engine runs small products, and what it costs to keep a state.

A small product takes less time than what is around it: calls, passes, objects. So small ones are timed in steps, by
the engine that the model is for. Large ones take in a step what they take alone. But where states are kept until their
layer is reversed, they leave the cache, and writing and reading them takes longer than with states that were made just
before. That shows in steps alone.
"""

from dataclasses import replace
from time import perf_counter

import numpy as np

import lowmem.runtime.backprop as runtime
from lowmem.common.cores import cache_bytes, cores
from lowmem.network.architecture import Architecture
from lowmem.nn.mlp import MLP
from lowmem.planning.choose import plan
from lowmem.planning.cost_model import ROWS, WIDTHS, CostModel, Grid
from lowmem.planning.engines.lane_count import lanes_for, small

SHORT, DEEP = 6, 24
"""Layers of the networks whose steps are timed: what a step takes beside its layers is not in what the deeper one
takes more. States of the deeper one leave the cache where they are large."""

KEPT_ROWS, KEPT_WIDTH = 512, 256
"""Of the network whose states leave the cache; its products take in a step what they take alone."""

CALLS = 12
"""Of which the shortest counts: other processes make steps longer, and differences of them uncertain."""


def in_steps(model: CostModel) -> CostModel:
    """Return a cost model with what steps show. model: of what was measured alone."""
    products, gradients = [], []
    for rows, *rates in zip(ROWS, model.products, model.gradients, strict=True):
        pairs = [_rates(model, rows, width, pair) for width, *pair in zip(WIDTHS, *rates, strict=True)]
        products.append(tuple(pair[0] for pair in pairs))
        gradients.append(tuple(pair[1] for pair in pairs))
    found = replace(model, products=tuple(products), gradients=tuple(gradients), cache=cache_bytes() * cores())
    return replace(found, kept=_kept(found))


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
    gradient = _layer(model, rows, width, stored) - forward - backward - 2 * product
    flops = 2.0 * rows * width * width
    return [found / flops if found > 0 else before for found, before in zip((product, gradient), alone, strict=True)]


def _kept(model: CostModel) -> float:
    """Return the seconds that a byte of a state takes because it leaves the cache before its layer is reversed."""
    deep = _uniform(DEEP, KEPT_WIDTH, model)
    stored, _ = _step(deep, KEPT_ROWS, "store_all", model.engine)
    layer = _layer(model, KEPT_ROWS, KEPT_WIDTH, stored)
    hot = model.forward(deep, 2, KEPT_ROWS) + model.backward(deep, 2, KEPT_ROWS)
    return max(layer - hot, 0.0) / (KEPT_ROWS * KEPT_WIDTH * deep.item_bytes)


def _layer(model: CostModel, rows: int, width: int, stored: float) -> float:
    """Return the seconds of a layer where all states are stored. stored: those of the whole deeper network."""
    short, _ = _step(_uniform(SHORT, width, model), rows, "store_all", model.engine)
    return (stored - short) / (DEEP - SHORT)


def _uniform(layers: int, width: int, model: CostModel) -> Architecture:
    """Return a network of equal layers."""
    return Architecture((width,) * (layers + 1), loss="mse", dtype=model.dtype)


def _step(architecture: Architecture, rows: int, strategy: str, engine: str) -> tuple[float, int]:
    """Return the seconds of a step, and how many forwards it runs again."""
    made = plan(architecture, rows, strategy=strategy, engine=engine)
    backprop = runtime.Backprop(MLP(architecture, seed=0), made)
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((rows, width)).astype(architecture.dtype) for width in (architecture.widths[0],) * 2)
    backprop(x, y)
    times = []
    for _ in range(CALLS):
        begin = perf_counter()
        backprop(x, y)
        times.append(perf_counter() - begin)
    return min(times), made.forward_runs - architecture.layers


def _zeros() -> Grid:
    """Return the rates of products that take no time."""
    return ((0.0,) * len(WIDTHS),) * len(ROWS)
