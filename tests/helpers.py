"""What several test files need: networks, batches, and a second opinion on schedules."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

import lowmem as lm
from lowmem.chain import Chain, Stage, Value
from lowmem.network.layers import NORMS
from lowmem.network.specs import ACTIVATIONS, LOSSES
from lowmem.planning.cost_model import ROWS, WIDTHS, CostModel
from lowmem.schedule import PLANNERS, Backward, Forward, Free, Loss, Op, Schedule, Update

Array = NDArray[Any]

FIXED: list[tuple[str, dict[str, Any]]] = [
    ("store_all", {}),
    ("sqrt", {}),
    ("segments", {"segments": 1}),
    ("segments", {"segments": 3}),
    ("revolve", {"slots": 0}),
    ("revolve", {"slots": 2}),
    ("revolve", {"slots": 5}),
    ("recompute_all", {}),
]
"""Planners that need no budget, with their options."""


RESIDUAL: list[bool | str] = [False, True, "scaled", "learned"]
KINDS: list[dict[str, Any]] = [
    {"residual": residual, "norm": norm, "dropout": dropout}
    for residual, norm, dropout in product(RESIDUAL, [None, *NORMS], [0.0, 0.3])
    if residual or norm or dropout
]
"""What layers may have, in every combination."""


def names(kind: dict[str, Any]) -> str:
    """Name a case."""
    return "-".join(str(value) for value in kind.values())


def stirred(architecture: lm.Architecture, seed: int = 0) -> lm.MLP:
    """Return a network in which no parameter has a special value."""
    mlp = lm.MLP(architecture, seed)
    rng = np.random.default_rng(seed + 1)
    for arrays in mlp.arrays:
        for name, array in arrays.items():
            if name != "weight":
                array[:] = rng.uniform(0.5, 1.5, array.shape) - (name in ("bias", "shift", "running_mean"))
    return mlp


def batch(architecture: lm.Architecture, rows: int, seed: int = 0) -> tuple[Array, Array]:
    """Return a random batch that fits the network and its loss."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, architecture.widths[0])).astype(architecture.dtype)
    outputs = architecture.widths[-1]
    if architecture.loss == "cross_entropy":
        return x, rng.integers(0, outputs, rows)
    if architecture.loss == "poisson":
        return x, rng.poisson(2.0, (rows, outputs)).astype(architecture.dtype)
    y = rng.random((rows, outputs)) if architecture.loss == "bce" else 2 * rng.standard_normal((rows, outputs))
    return x, y.astype(architecture.dtype)


def randomised(architecture: lm.Architecture, seed: int = 0) -> lm.MLP:
    """Return a network whose biases are not zero either."""
    mlp = lm.MLP(architecture, seed)
    rng = np.random.default_rng(seed + 1)
    for b in mlp.biases:
        b[:] = rng.uniform(-0.3, 0.3, b.shape)
    return mlp


def model(rate: float = 1e-11, *, accumulate: float = 1e-10, dtype: str = "float32") -> CostModel:
    """A machine of one speed."""
    grid = tuple(tuple(rate for _ in WIDTHS) for _ in ROWS)
    each = dict.fromkeys(ACTIVATIONS, 1e-9)
    return CostModel("test", dtype, grid, grid, each, each, 1e-10, accumulate)


@st.composite
def architectures(draw: st.DrawFn, max_layers: int = 9, max_width: int = 12) -> lm.Architecture:
    """Draw a small network: ragged or of one width, any activation, loss and dtype."""
    layers = draw(st.integers(1, max_layers))
    width = st.integers(1, max_width)
    if draw(st.booleans()):
        widths = draw(st.lists(width, min_size=layers + 1, max_size=layers + 1))
    else:
        widths = [draw(width), *[draw(width)] * (layers - 1), draw(width)]
    activation, loss = (draw(st.sampled_from(sorted(table))) for table in (ACTIVATIONS, LOSSES))
    return lm.Architecture(tuple(widths), activation, loss, draw(st.sampled_from(["float32", "float64"])))


_BYTES = st.integers(0, 50)


@st.composite
def chains(draw: st.DrawFn, max_length: int = 14) -> Chain:
    """Draw a chain: abstract, or with every size and working memory at random."""
    length = draw(st.integers(1, max_length))
    cost = st.integers(0, 9)
    if draw(st.booleans()):
        numbers = [draw(st.lists(cost, min_size=length, max_size=length)) for _ in "fb"]
        sizes = draw(st.lists(_BYTES, min_size=length + 1, max_size=length + 1))
        return Chain.abstract(forward=numbers[0], backward=numbers[1], state_bytes=sizes)
    stage = st.builds(
        Stage,
        forward=cost,
        backward=cost,
        state_bytes=_BYTES,
        delta_bytes=_BYTES,
        forward_scratch=_BYTES,
        advance_scratch=_BYTES,
        backward_scratch=_BYTES,
        kind=st.sampled_from(["x", "s"]),
    )
    stages = tuple(draw(st.lists(stage, min_size=length, max_size=length)))
    return Chain(stages, loss=draw(cost), loss_scratch=draw(_BYTES), updates=draw(st.booleans()))


@st.composite
def planned(draw: st.DrawFn, max_length: int = 14) -> tuple[Chain, Schedule]:
    """Draw a chain and what one of the planners makes of it."""
    chain = draw(chains(max_length))
    name = draw(st.sampled_from(["store_all", "sqrt", "segments", "revolve", "recompute_all"]))
    options = {}
    if name == "segments":
        options["segments"] = draw(st.integers(1, chain.length + 2))
    if name == "revolve":
        options["slots"] = draw(st.integers(0, chain.length + 2))
    return chain, PLANNERS[name](chain, **options)


class InvalidError(Exception):
    """The interpreter's refusal: number of the op that cannot run, or of ops if the end is wrong."""


def interpret(chain: Chain, ops: tuple[Op, ...]) -> tuple[int, int, float]:
    """Return (peak bytes, layer forwards, cost) of the ops, by the table of `lowmem.schedule.ops` and sets alone.

    Slow on purpose, and shares nothing with the simulator: sums are taken anew for every op. Raises `InvalidError`.
    """
    stages, length = chain.stages, chain.length
    state = [Value("x", 0), *(Value(stage.kind, layer) for layer, stage in enumerate(stages, 1))]
    size = {value: stage.state_bytes for value, stage in zip(state[1:], stages, strict=True)}
    size[state[0]] = 0
    size |= {Value("δ", layer): stage.delta_bytes for layer, stage in enumerate(stages, 1)}
    size |= {Value("g", layer): 0 for layer in range(1, length + 1)}
    live, reversed_layers, lost = {state[0]}, set[int](), False
    peaks, runs, cost = [0], 0, 0.0

    def need(index: int, *conditions: bool) -> None:
        if not all(conditions):
            raise InvalidError(index)

    def held(*operands: Value) -> int:
        return sum(size[value] for value in live - set(operands))

    for index, op in enumerate(ops):
        match op:
            case Forward(first, last):
                need(index, first >= 1, first <= last, last <= length)
                need(index, state[first - 1] in live, state[last] not in live)
                need(index, last not in reversed_layers, not (last == length and lost))
                for layer in range(first, last + 1):
                    stage = stages[layer - 1]
                    # The place of the travelling state holds the largest of the states it carries.
                    place = max(s.state_bytes for s in stages[first - 1 : last])
                    scratch = stage.forward_scratch if layer == first else stage.advance_scratch
                    operand = (state[first - 1],) if layer == first else ()
                    peaks.append(held(*operand) if chain.in_hand_free else held() + place + scratch)
                    runs, cost = runs + 1, cost + stage.forward
                live.add(state[last])
            case Loss():
                need(index, state[length] in live)
                if not chain.in_hand_free:
                    peaks.append(held() + chain.loss_scratch)
                live.remove(state[length])
                live.add(Value("δ", length))
                lost, cost = True, cost + chain.loss
            case Backward(layer):
                need(index, Value("δ", layer) in live, layer >= 1 and state[layer - 1] in live)
                stage = stages[layer - 1]
                operands = (state[layer - 1], Value("δ", layer))
                peaks.append(held(*operands) if chain.in_hand_free else held() + stage.backward_scratch)
                live -= {Value("δ", layer)} | ({state[layer - 1]} if layer > 1 else set())
                live |= {Value("g", layer)} | ({Value("δ", layer - 1)} if layer > 1 else set())
                reversed_layers.add(layer)
                cost += stage.backward
            case Update(layer):
                need(index, chain.updates, Value("g", layer) in live)
                live.remove(Value("g", layer))
            case Free(value):
                need(index, value in live, value in state[1:])
                live.remove(value)
    gradients = set() if chain.updates else {Value("g", layer) for layer in range(1, length + 1)}
    need(len(ops), live == {state[0]} | gradients)
    return max(peaks), runs, cost


def lifetimes_of_arena(ops: tuple[Op, ...]) -> Iterator[tuple[int, int, int]]:
    """Yield (state, index of the op that makes it, index of the op that ends it or the δ in its place)."""
    born: dict[int, int] = {}
    delta = 0
    for index, op in enumerate(ops):
        match op:
            case Forward(_, last):
                born[last] = index
            case Loss():
                delta = max(born)
            case Backward(layer):
                yield delta, born.pop(delta), index
                delta = layer - 1
            case Free(value):
                yield value.layer, born.pop(value.layer), index
            case _:
                pass
