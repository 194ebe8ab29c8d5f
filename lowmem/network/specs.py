"""What is known of activations, losses and optimizers before anything runs: what each keeps, costs and works in.

FLOPs are counted as is usual: an elementwise formula counts its operations per element, one for each of + - * / max,
exp, log, tanh. The kernels themselves live in `lowmem.nn`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True, slots=True)
class ActivationFacts:
    """What planning must know of an activation σ; the kernels themselves live in `lowmem.nn.activations`.

    state: what a layer keeps for its backward. "x" where σ' is a function of the output, "s" where it needs the
        input.
    value_flops, slope_flops: operations per element of σ, and of multiplying by σ'; where s is kept, the latter make
        σ on the way.
    value_scratch, slope_scratch: working arrays of a tile's shape that the two kernels need beside their operands.
    """

    state: Literal["x", "s"]
    value_flops: int
    slope_flops: int
    value_scratch: int
    slope_scratch: int


ACTIVATIONS: Mapping[str, ActivationFacts] = MappingProxyType(
    {
        "identity": ActivationFacts("x", 0, 0, 0, 0),
        "relu": ActivationFacts("x", 1, 2, 0, 0),
        "leaky_relu": ActivationFacts("x", 2, 3, 1, 0),
        "elu": ActivationFacts("x", 3, 3, 1, 0),
        "selu": ActivationFacts("x", 6, 5, 1, 1),
        "tanh": ActivationFacts("x", 1, 3, 0, 0),
        "sigmoid": ActivationFacts("x", 4, 3, 0, 0),
        "softplus": ActivationFacts("x", 4, 4, 1, 0),
        "gelu": ActivationFacts("s", 19, 26, 2, 2),
        "gelu_tanh": ActivationFacts("s", 9, 18, 1, 2),
        "silu": ActivationFacts("s", 4, 9, 1, 1),
        "mish": ActivationFacts("s", 7, 14, 2, 2),
    }
)


@dataclass(frozen=True, slots=True)
class LossFacts:
    """What planning must know of a loss.

    flops: operations per element of the last layer's output, for the loss and its δ together.
    scratch: working arrays of a tile's shape.
    row_scratch: working vectors with a number per row of a tile.
    labels: True where the targets are integer labels of shape (B,), False where they are shaped like the output.
    """

    flops: int
    scratch: int
    row_scratch: int
    labels: bool


LOSSES: Mapping[str, LossFacts] = MappingProxyType(
    {
        "mse": LossFacts(4, 1, 0, False),
        "cross_entropy": LossFacts(5, 0, 2, True),
        "bce": LossFacts(15, 2, 0, False),
        "huber": LossFacts(8, 1, 0, False),
    }
)


SMOOTHING_FLOPS = 2
"""More for each element with label smoothing: a sum over the classes, and a constant taken off δ."""


@dataclass(frozen=True, slots=True)
class OptimizerFacts:
    """What planning must know of an optimizer: its arrays shaped like the parameters, and its scratch.

    scratch: working arrays of a chunk's size (`CHUNK` numbers).
    """

    states: int
    scratch: int


OPTIMIZERS: Mapping[str, OptimizerFacts] = MappingProxyType(
    {
        "sgd": OptimizerFacts(0, 0),
        "momentum": OptimizerFacts(1, 0),
        "nesterov": OptimizerFacts(1, 0),
        "adam": OptimizerFacts(2, 1),
        "adamw": OptimizerFacts(2, 1),
    }
)

CHUNK = 65_536
"""Numbers that an optimizer updates at a time: its passes then find them in cache, and its scratch stays small."""

ITEM_BYTES: Mapping[str, int] = MappingProxyType({"float32": 4, "float64": 8})
