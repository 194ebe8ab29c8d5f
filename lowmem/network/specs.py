"""What is known of activations and losses before anything runs: what each keeps, costs and works in.

FLOPs are counted as is usual: an elementwise formula counts its operations per element, one for each of + - * / max,
exp, log, tanh. The kernels themselves live in `lowmem.nn`, and so do optimizers: see `lowmem.nn.optimizers`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, sqrt
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True, slots=True)
class ActivationFacts:
    """What is known of an activation σ before anything runs.

    state: what a layer keeps for its backward. "x" where σ' is a function of the output, "s" where it needs the
        input.
    value_flops, slope_flops: operations per element of σ, and of multiplying by σ'; where s is kept, the latter make
        σ on the way.
    value_scratch, slope_scratch: working arrays of a tile's shape that the two kernels need beside their operands.
    kernels: the file of `lowmem.nn.activations` that holds the kernels.
    initialiser: the scheme of `lowmem.nn.initialisers` that weights get where none is asked for.
    gain: of orthogonal weights. Activations that shut off one side pass half of the variance: √2.
    """

    state: Literal["x", "s"]
    value_flops: int
    slope_flops: int
    value_scratch: int
    slope_scratch: int
    kernels: str
    initialiser: str
    gain: float = 1.0


# For tanh a gain of 5/3 is often quoted, which holds the forward variance at the price of slopes above 1: measured on
# 100 layers of 128 units (digits, batch 128, Adam 1e-4) the first layer's gradient was 12,000 times the last one's and
# the loss stood at 2.5 after 300 steps. With 1 the two are equal, as Saxe et al. say, and the loss was 0.04.
ACTIVATIONS: Mapping[str, ActivationFacts] = MappingProxyType(
    {
        "identity": ActivationFacts("x", 0, 0, 0, 0, "piecewise", "glorot_uniform"),
        "relu": ActivationFacts("x", 1, 2, 0, 0, "piecewise", "he_normal", sqrt(2.0)),
        "leaky_relu": ActivationFacts("x", 2, 3, 1, 0, "piecewise", "he_normal", sqrt(2.0 / (1.0 + 0.01**2))),
        "elu": ActivationFacts("x", 3, 3, 1, 0, "exponential", "he_normal", sqrt(2.0)),
        "selu": ActivationFacts("x", 6, 5, 1, 1, "exponential", "lecun_normal"),
        "tanh": ActivationFacts("x", 1, 3, 0, 0, "saturating", "glorot_uniform"),
        "sigmoid": ActivationFacts("x", 4, 3, 0, 0, "saturating", "glorot_uniform"),
        "softplus": ActivationFacts("x", 4, 4, 1, 0, "saturating", "glorot_uniform"),
        "gelu": ActivationFacts("s", 19, 26, 2, 2, "gelu", "he_normal", sqrt(2.0)),
        "gelu_tanh": ActivationFacts("s", 9, 18, 1, 2, "gated", "he_normal", sqrt(2.0)),
        "silu": ActivationFacts("s", 4, 9, 1, 1, "gated", "he_normal", sqrt(2.0)),
        "mish": ActivationFacts("s", 7, 14, 2, 2, "gated", "he_normal", sqrt(2.0)),
    }
)


@dataclass(frozen=True, slots=True)
class LossFacts:
    """What planning must know of a loss.

    flops: operations per element of the last layer's output, for the loss and its δ together.
    scratch: working arrays of a tile's shape.
    row_scratch: working vectors with a number per row of a tile.
    labels: True where the targets are integer labels of shape (B,), False where they are shaped like the output.
    least, most: the range of the targets.
    logarithm: True where outputs are logarithms of what is predicted.
    """

    flops: int
    scratch: int
    row_scratch: int
    labels: bool
    least: float = -inf
    most: float = inf
    logarithm: bool = False

    @property
    def range(self) -> str:
        """The range of the targets in words."""
        return f"from {self.least:g} to {self.most:g}" if self.most < inf else f"from {self.least:g} on"

    @property
    def advice(self) -> str:
        """What to do with targets outside the range."""
        return f"{'Scale the targets to [0, 1], or use' if self.most < inf else 'Use'} the loss mse."


LOSSES: Mapping[str, LossFacts] = MappingProxyType(
    {
        "mse": LossFacts(4, 1, 0, False),
        "cross_entropy": LossFacts(5, 0, 2, True),
        "bce": LossFacts(15, 2, 0, False, 0.0, 1.0),
        "huber": LossFacts(8, 1, 0, False),
        "mae": LossFacts(5, 1, 0, False),
        "quantile": LossFacts(10, 2, 0, False),
        "poisson": LossFacts(6, 1, 0, False, least=0.0, logarithm=True),
    }
)


SMOOTHING_FLOPS = 2
"""More for each element with label smoothing: a sum over the classes, and a constant taken off δ."""


CHUNK = 65_536
"""Numbers that an optimizer updates at a time: its passes then find them in cache, and its scratch stays small."""

ITEM_BYTES: Mapping[str, int] = MappingProxyType({"float32": 4, "float64": 8})
