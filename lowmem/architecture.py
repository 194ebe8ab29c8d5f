"""What a network is: its widths and names, its sizes in bytes and its costs in FLOPs. No NumPy here.

FLOPs are counted as is usual: a product of (m, k) by (k, n) matrices is 2·m·k·n, and an elementwise formula
counts its operations per element, one for each of + - * / max, exp, log, tanh. The executor counts again while
it runs, from the shapes it really multiplies; a test holds the two equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from lowmem.errors import InputError, UnknownNameError

T = TypeVar("T")


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


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return `table[name]`, or raise `UnknownNameError` with the nearest known name."""
    try:
        return table[name]
    except (KeyError, TypeError):
        raise UnknownNameError(kind, name, table) from None


@dataclass(frozen=True, slots=True)
class Architecture:
    """A multilayer perceptron: layer l maps widths[l-1] inputs to widths[l] outputs, l = 1..L.

    widths: (n_0, n_1, ..., n_L), the input's width first. L >= 1.
    activation: σ of layers 1..L-1; the last layer's σ belongs to the loss.
    loss: "mse", "cross_entropy", "bce" or "huber".
    dtype: "float32" or "float64".

    Raises `InputError` for widths that are not positive whole numbers, `UnknownNameError` for unknown names.
    """

    widths: tuple[int, ...]
    activation: str = "relu"
    loss: str = "cross_entropy"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Check every field and normalise `widths` to a tuple of ints."""
        object.__setattr__(self, "widths", _checked_widths(self.widths))
        object.__setattr__(self, "dtype", getattr(self.dtype, "__name__", str(self.dtype)))
        lookup("activation", self.activation, ACTIVATIONS)
        lookup("loss", self.loss, LOSSES)
        lookup("dtype", self.dtype, ITEM_BYTES)

    @property
    def layers(self) -> int:
        """L, the number of weight matrices."""
        return len(self.widths) - 1

    @property
    def item_bytes(self) -> int:
        """Bytes of one number."""
        return ITEM_BYTES[self.dtype]

    @property
    def activation_facts(self) -> ActivationFacts:
        """What planning must know of this network's σ."""
        return ACTIVATIONS[self.activation]

    @property
    def loss_facts(self) -> LossFacts:
        """What planning must know of this network's loss."""
        return LOSSES[self.loss]

    def layer_parameters(self, layer: int) -> int:
        """Return the number of parameters of `layer` (1..L): its weights and biases."""
        return self.widths[layer] * (self.widths[layer - 1] + 1)

    @property
    def parameters(self) -> int:
        """The number of all parameters."""
        return sum(self.layer_parameters(layer) for layer in range(1, self.layers + 1))

    def value_flops(self, layer: int) -> int:
        """Return FLOPs per row of x^(l) = σ(s^(l)): zero for the input and for the last layer."""
        return self.activation_facts.value_flops * self.widths[layer] if 0 < layer < self.layers else 0

    def forward_flops(self, layer: int, rows: int) -> int:
        """Return the FLOPs of making state l from state l-1 on `rows` samples."""
        wide, narrow = self.widths[layer], self.widths[layer - 1]
        kept_x = self.activation_facts.state == "x"
        elementwise = wide + (self.value_flops(layer) if kept_x else self.value_flops(layer - 1))
        return rows * (2 * wide * narrow + elementwise)

    def backward_flops(self, layer: int, rows: int) -> int:
        """Return the FLOPs of layer l's two gradients and of δ^(l-1) on `rows` samples; l = 1 needs no δ^(0)."""
        wide, narrow = self.widths[layer], self.widths[layer - 1]
        flops = 2 * wide * narrow + 2 * wide
        if layer > 1:
            flops += 2 * wide * narrow + self.activation_facts.slope_flops * narrow
        return rows * flops

    def loss_flops(self, rows: int) -> int:
        """Return the FLOPs of the loss and δ^(L) on `rows` samples."""
        return rows * self.loss_facts.flops * self.widths[-1]

    def __str__(self) -> str:
        """Describe the network in one line, runs of equal widths folded."""
        runs: list[str] = []
        start = 0
        for stop in range(1, len(self.widths) + 1):
            if stop == len(self.widths) or self.widths[stop] != self.widths[start]:
                repeat = stop - start
                runs.append(f"{self.widths[start]}" + (f" x {repeat}" if repeat > 1 else ""))
                start = stop
        shown = runs if len(runs) <= 9 else [*runs[:4], "...", *runs[-4:]]
        return (
            f"{self.layers} layers ({', '.join(shown)}), {self.activation}, {self.loss}, {self.dtype}, "
            f"{self.parameters:,} parameters"
        )


def _checked_widths(widths: object) -> tuple[int, ...]:
    """Return `widths` as a tuple of positive ints."""
    need = "widths needs at least two positive whole numbers, input first, such as (64, 256, 256, 10)"
    try:
        given: tuple[Any, ...] = tuple(widths)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"{need}; got {widths!r}.") from None
    if len(given) < 2:
        raise InputError(f"{need}; got {given!r}.")
    checked = []
    for position, width in enumerate(given):
        if isinstance(width, bool) or not hasattr(width, "__index__") or width.__index__() < 1:
            raise InputError(f"{need}; widths[{position}] is {width!r}.")
        checked.append(width.__index__())
    return tuple(checked)
