"""The training step in JAX, for `scripts.compare_peers`: plain, with segments under `jax.checkpoint`, or as a scan.

A scan keeps one compiled body for all of its segments, each a scan over its layers; of 199 layers that 10 segments
do not divide the rest is a segment of its own. The layer to the outputs has another width and stands apart.
"""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from scripts.measuring import Case

Array = NDArray[Any]
Layers = list[tuple[Any, Any]]
"""(w, b) of each layer: arrays, or their shapes while compiling."""


def step(case: Case, weights: list[Array], x: Array, y: Array, rate: float) -> Callable[[], float]:
    """Return the step: it updates its parameters and returns the loss before that."""
    run = compiled(case, rate)
    layers = [(w, np.zeros(len(w), np.float32)) for w in weights]
    held = jax.tree.map(jnp.array, arranged(layers, case["segments"], scan=case["scan"]))
    inputs, labels = jnp.asarray(x), jnp.asarray(y, jnp.int32)

    def one() -> float:
        nonlocal held
        held, loss = jax.block_until_ready(run(held, inputs, labels))
        return float(loss)

    return one


def compiled(case: Case, rate: float) -> Any:  # noqa: ANN401 - an executable
    """Return the compiled step of a case."""
    return _compiled(tuple(case["widths"]), case["batch"], case["segments"], case["scan"], rate)


@cache
def _compiled(widths: tuple[int, ...], rows: int, segments: int | None, scan: bool, rate: float) -> Any:  # noqa: ANN401
    """Compile for shapes alone: nothing is allocated for parameters or data."""

    def shape(*sizes: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    layers: Layers = [(shape(leaving, entering), shape(leaving)) for entering, leaving in pairwise(widths)]
    forward = _scanned if scan else _unrolled

    def loss_of(parameters: Any, x: Any, y: Any) -> Any:  # noqa: ANN401 - traced arrays
        logits = forward(parameters, x)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1))

    def train(parameters: Any, x: Any, y: Any) -> Any:  # noqa: ANN401
        loss, gradients = jax.value_and_grad(loss_of)(parameters, x, y)
        return jax.tree.map(lambda p, g: p - rate * g, parameters, gradients), loss

    parameters = arranged(layers, segments, scan=scan)
    labels = jax.ShapeDtypeStruct((rows,), jnp.int32)
    return jax.jit(train, donate_argnums=0).lower(parameters, shape(rows, widths[0]), labels).compile()


def arranged(layers: Layers, segments: int | None, *, scan: bool) -> Any:  # noqa: ANN401 - a tree of arrays
    """Return the layers as the step takes them: in segments, of a scan stacked, the layer to the outputs last."""
    hidden, last = layers[:-1], layers[-1]
    if segments is None:
        return [layers]
    size = len(hidden) // segments
    parts = [hidden[n * size : (n + 1) * size] for n in range(segments)]
    rest = hidden[segments * size :]
    if not scan:
        return [*parts, [*rest, last]]
    return {"body": _stacked([_stacked(part) for part in parts]), "rest": _stacked(rest), "last": last}


def _stacked(parts: list[Any]) -> Any:  # noqa: ANN401
    """Stack trees of arrays, or of shapes, along a new first axis; nothing stays nothing."""

    def stack(*leaves: Any) -> Any:  # noqa: ANN401
        if isinstance(leaves[0], jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct((len(leaves), *leaves[0].shape), leaves[0].dtype)
        return np.stack(leaves)

    return jax.tree.map(stack, *parts) if parts else None


def _unrolled(segments: list[Layers], x: Any) -> Any:  # noqa: ANN401
    """Run layer after layer; every segment but the last is recomputed in the backward pass."""
    for layers in segments[:-1]:
        x = jax.checkpoint(_relu_layers)(layers, x)
    *hidden, (w, b) = segments[-1]
    return _relu_layers(hidden, x) @ w.T + b


def _relu_layers(layers: Layers, x: Any) -> Any:  # noqa: ANN401
    for w, b in layers:
        x = jax.nn.relu(x @ w.T + b)
    return x


def _scanned(parameters: dict[str, Any], x: Any) -> Any:  # noqa: ANN401
    """Scan over segments, each recomputed in the backward pass."""
    segment = jax.checkpoint(_segment)
    x, _ = jax.lax.scan(segment, x, parameters["body"])
    if parameters["rest"] is not None:
        x, _ = segment(x, parameters["rest"])
    w, b = parameters["last"]
    return x @ w.T + b


def _segment(x: Any, layers: tuple[Any, Any]) -> Any:  # noqa: ANN401
    """Scan over the layers of a segment."""

    def layer(x: Any, wb: tuple[Any, Any]) -> tuple[Any, None]:  # noqa: ANN401
        return jax.nn.relu(x @ wb[0].T + wb[1]), None

    return jax.lax.scan(layer, x, layers)
