"""What a network is: its widths and names, its sizes in bytes and its costs in FLOPs. No NumPy here.

FLOPs are counted as is usual: a product of (m, k) by (k, n) matrices is 2·m·k·n, and an elementwise formula
counts its operations per element, one for each of + - * / max, exp, log, tanh. The executor counts again while
it runs, from the shapes it really multiplies; a test holds the two equal.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import prod
from typing import Any, Protocol, TypeAlias

from lowmem.common.checks import as_list, as_whole, fraction, inner_share, lookup
from lowmem.errors import InputError, shown
from lowmem.network.layers import NORMS, Layer, layer_of
from lowmem.network.specs import ACTIVATIONS, ITEM_BYTES, LOSSES, SMOOTHING_FLOPS, ActivationFacts, LossFacts

SKIPS: Mapping[bool | str, str] = {
    False: "",
    True: "residual",
    "scaled": "residual with scaled branches",
    "learned": "residual with learned factors",
}
"""Kinds of skips, and what they are called."""

SHOWN = 9
"""How many widths, and layers that differ, the description of a network names."""

Overrides: TypeAlias = tuple[tuple[int, tuple[tuple[str, Any], ...]], ...]
"""What is particular to layers, by number, sorted."""

LAYER_OPTIONS = ("residual", "norm", "dropout")
"""What may differ from layer to layer."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A multilayer perceptron: layer l maps widths[l-1] inputs to widths[l] outputs, l = 1..L.

    widths: (n_0, n_1, ..., n_L), the input's width first. L >= 1.
    activation: σ of layers 1..L-1; the last layer's σ belongs to the loss.
    loss: "mse", "cross_entropy", "bce", "huber", "mae", "quantile" or "poisson".
    dtype: "float32" or "float64".
    residual: whether layers 2..L-1 between equal widths have a skip, in pre-activation form: True; "scaled" with a
        factor of 1/sqrt(number of such layers) on each branch; "learned" with a factor that starts at zero.
    norm: what stands before σ on the way into layers 2..L: "layer", "rms", "batch" or None.
    dropout: the rate at which what enters layers 2..L is dropped in training, in [0, 1).
    label_smoothing: the share of the target that cross_entropy spreads evenly over all classes, in [0, 1).
    quantile: what the loss "quantile" estimates: the value that this share of the targets lies below, in (0, 1).
    overrides: for layers that differ, by number: {5: {"dropout": 0.3, "norm": None}}.

    Raises `InputError` for widths that are not positive whole numbers and numbers out of range, `UnknownNameError`
    for unknown names.

    >>> import lowmem as lm
    >>> arch = lm.Architecture(widths=(64, *[256] * 100, 10), activation="gelu", residual=True, norm="layer")
    >>> print(arch)
    101 layers (64, 256 x 100, 10), residual, layer norm, gelu, cross_entropy, float32, 6,583,818 parameters
    >>> arch.has_skip(2), arch.has_skip(101)  # the last layer changes the width
    (True, False)
    """

    widths: tuple[int, ...]
    activation: str = "relu"
    loss: str = "cross_entropy"
    dtype: str = "float32"
    residual: bool | str = False
    norm: str | None = None
    dropout: float = 0.0
    label_smoothing: float = 0.0
    quantile: float = 0.5
    overrides: Mapping[int, Mapping[str, Any]] | Overrides = ()
    _layers: tuple[Layer, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every field and normalise `widths` to a tuple of ints, `overrides` to sorted tuples."""
        object.__setattr__(self, "widths", _checked_widths(self.widths))
        object.__setattr__(self, "dtype", getattr(self.dtype, "__name__", str(self.dtype)))
        lookup("activation", self.activation, ACTIVATIONS)
        lookup("loss", self.loss, LOSSES)
        lookup("dtype", self.dtype, ITEM_BYTES)
        for name in LAYER_OPTIONS:
            object.__setattr__(self, name, _checked_option(name, getattr(self, name)))
        object.__setattr__(self, "overrides", _checked_overrides(self.overrides, self.widths))
        object.__setattr__(self, "label_smoothing", fraction("label_smoothing", self.label_smoothing))
        if self.label_smoothing and self.loss != "cross_entropy":
            raise InputError(f'label_smoothing goes with loss="cross_entropy"; the loss is "{self.loss}".')
        object.__setattr__(self, "quantile", inner_share("quantile", self.quantile))
        if self.quantile != 0.5 and self.loss != "quantile":
            raise InputError(f'quantile={self.quantile:g} goes with loss="quantile"; the loss is "{self.loss}".')

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

    @property
    def loss_parameter(self) -> float:
        """The number that this network's loss depends on: label smoothing, or the quantile; 0 where there is none."""
        return self.quantile if self.loss == "quantile" else self.label_smoothing

    @property
    def preactivation(self) -> bool:
        """Whether σ is the first act of layers 2..L, and states are s: where σ' needs s, or something stands by σ."""
        plain = not (self.residual or self.norm or self.dropout or self.overrides)
        return self.activation_facts.state == "s" or not plain

    @property
    def _kept_overrides(self) -> Overrides:
        return self.overrides  # type: ignore[return-value]

    def option(self, layer: int, name: str) -> Any:  # noqa: ANN401
        """Return what `layer` has of residual, norm or dropout, overrides considered."""
        for number, options in self._kept_overrides[bisect_left(self._kept_overrides, (layer,)) :][:1]:
            if number == layer:
                return dict(options).get(name, getattr(self, name))
        return getattr(self, name)

    def has_skip(self, layer: int) -> bool:
        """Whether `layer` adds to its input: not the first, not the last, and between equal widths only."""
        return _may_skip(self.widths, layer) and bool(self.option(layer, "residual"))

    @property
    def skips(self) -> int:
        """How many layers have a skip."""
        if not (self.residual or self.overrides):
            return 0
        return sum(map(self.has_skip, range(1, self.layers + 1)))

    def layer(self, layer: int) -> Layer:
        """Return what `layer` (1..L) is: its parameters, costs and workspace."""
        return self.each_layer[layer - 1]

    @property
    def each_layer(self) -> tuple[Layer, ...]:
        """Layers 1..L, made at the first use."""
        if not self._layers:
            object.__setattr__(self, "_layers", tuple(self._make_layers()))
        return self._layers

    def _make_layers(self) -> Iterator[Layer]:
        factors: dict[Any, float | str] = {True: 1.0, "scaled": max(self.skips, 1) ** -0.5, "learned": "learned"}
        made: dict[tuple[Any, ...], Layer] = {}  # equal layers are one object
        for number in range(1, self.layers + 1):
            branch = factors[self.option(number, "residual")] if self.has_skip(number) else None
            options: dict[str, Any] = {"is_first": number == 1, "is_last": number == self.layers, "branch": branch}
            options |= {name: self.option(number, name) for name in ("norm", "dropout")}
            key = (*self.widths[number - 1 : number + 1], *options.values())
            if key not in made:
                made[key] = layer_of(
                    self.widths[number - 1],
                    self.widths[number],
                    self.activation,
                    self.item_bytes,
                    preactivation=self.preactivation,
                    **options,
                )
            yield made[key]

    @property
    def couples(self) -> str | None:
        """What makes the samples of a batch depend on each other, if anything does."""
        if self.norm is None and not self.overrides:
            return None
        return next((layer.couples for layer in self.each_layer if layer.couples), None)

    def layer_parameters(self, layer: int) -> int:
        """Return the number of parameters of `layer` (1..L): weights, biases, and what its norm and branch learn."""
        return self.layer(layer).size

    @property
    def parameters(self) -> int:
        """The number of all parameters."""
        return sum(layer.size for layer in self.each_layer)

    @property
    def running(self) -> int:
        """How many numbers are learnt by averaging over steps: running means and variances."""
        if self.couples is None:
            return 0
        return sum(sum(map(prod, layer.running.values())) for layer in self.each_layer)

    def forward_flops(self, layer: int, rows: int) -> int:
        """Return the FLOPs of making state l from state l-1 on `rows` samples."""
        return self.layer(layer).forward_flops(rows)

    def backward_flops(self, layer: int, rows: int) -> int:
        """Return the FLOPs of layer l's two gradients and of δ^(l-1) on `rows` samples; l = 1 needs no δ^(0)."""
        return self.layer(layer).backward_flops(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON; `from_dict` makes an equal network of them."""
        made = {own.name: getattr(self, own.name) for own in fields(self) if own.init}
        overrides = {str(layer): dict(options) for layer, options in self._kept_overrides}
        return made | {"widths": list(self.widths), "overrides": overrides}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "Architecture":
        """Return the network that `to_dict` described. Raises as the constructor does."""
        overrides = {int(layer): options for layer, options in given.get("overrides", {}).items()}
        return cls(**{**given, "overrides": overrides})

    def loss_flops(self, rows: int) -> int:
        """Return the FLOPs of the loss and δ^(L) on `rows` samples."""
        smoothing = SMOOTHING_FLOPS if self.label_smoothing else 0
        return rows * (self.loss_facts.flops + smoothing) * self.widths[-1]

    def __str__(self) -> str:
        """Describe the network in one line, runs of equal widths folded."""
        runs: list[str] = []
        start = 0
        for stop in range(1, len(self.widths) + 1):
            if stop == len(self.widths) or self.widths[stop] != self.widths[start]:
                repeat = stop - start
                runs.append(f"{self.widths[start]}" + (f" x {repeat}" if repeat > 1 else ""))
                start = stop
        shown = runs if len(runs) <= SHOWN else [*runs[:4], "...", *runs[-4:]]
        form = _described({name: getattr(self, name) for name in LAYER_OPTIONS})
        loss = self.loss + (f" with {self.label_smoothing:g} of smoothing" if self.label_smoothing else "")
        loss += f" {self.quantile:g}" if self.loss == "quantile" else ""
        parts = [f"{self.layers} layers ({', '.join(shown)})", *form, self.activation, loss, self.dtype]
        for layer, its in self._kept_overrides[:SHOWN]:
            parts.append(f"layer {layer}: {' and '.join(_described(dict(its), told=True))}")
        if len(self.overrides) > SHOWN:
            parts.append(f"{len(self.overrides) - SHOWN} more layers that differ")
        return ", ".join([*parts, f"{self.parameters:,} parameters"])


class Described(Protocol):
    """What has an architecture, such as a network with parameters."""

    @property
    def architecture(self) -> Architecture:
        """The architecture."""


AnyNetwork: TypeAlias = Architecture | Described | Sequence[int]
"""What stands for a network where only its architecture is needed: widths in a sequence too."""


def architecture_of(given: object) -> Architecture:
    """Return the architecture that an argument stands for: itself, that of a network, or widths in a tuple or list.

    Raises `InputError` for anything else.
    """
    held = getattr(given, "architecture", given)
    if isinstance(held, Architecture):
        return held
    if isinstance(given, tuple | list):
        return Architecture(tuple(given))
    raise InputError(
        f"a network must be a lowmem.Architecture, a lowmem.MLP, or widths such as (64, 256, 10); got {shown(given)}."
    )


def _checked_widths(widths: object) -> tuple[int, ...]:
    """Return `widths` as a tuple of positive ints."""
    need = "widths needs at least two positive whole numbers, input first, such as (64, 256, 256, 10)"
    given = as_list(widths)
    if given is None or len(given) < 2:
        raise InputError(f"{need}; got {shown(widths)}.")
    checked = []
    for position, width in enumerate(given):
        number = as_whole(width)
        if number is None or number < 1:
            raise InputError(f"{need}; widths[{position}] is {shown(width)}.")
        checked.append(number)
    return tuple(checked)


def _described(options: Mapping[str, Any], *, told: bool = False) -> list[str]:
    """Say in words what layers have; with `told`, what they have not, too."""
    words = []
    if "residual" in options and (options["residual"] or told):
        words.append(SKIPS[options["residual"]] or "no skip")
    if "norm" in options and (options["norm"] or told):
        words.append(f"{options['norm'] or 'no'} norm")
    if "dropout" in options and (options["dropout"] or told):
        words.append(f"dropout {options['dropout']:g}")
    return words


def _checked_option(name: str, value: object) -> object:
    """Return one of residual, norm and dropout as it is kept, or raise."""
    if name == "dropout":
        return fraction(name, value)
    if name == "norm":
        return value if value is None else (lookup("norm", value, NORMS), value)[1]  # type: ignore[arg-type]
    if isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise InputError(f'residual must be True, False, "scaled" or "learned"; got {shown(value)}.')
    return (lookup("kind of residual", value, {key: key for key in SKIPS if isinstance(key, str)}), value)[1]


def _may_skip(widths: tuple[int, ...], layer: int) -> bool:
    """Whether a layer can have a skip: neither the first nor the last, and between equal widths."""
    return 1 < layer < len(widths) - 1 and widths[layer - 1] == widths[layer]


def _checked_overrides(given: Any, widths: tuple[int, ...]) -> Overrides:  # noqa: ANN401
    """Return overrides as sorted tuples, so that a network can be compared and hashed."""
    layers = len(widths) - 1
    need = f'overrides need the numbers of layers 2..{layers} and what is theirs, such as {{2: {{"dropout": 0.3}}}}'
    try:
        by_layer = {layer: dict(options) for layer, options in dict(given).items()}
    except (TypeError, ValueError):
        raise InputError(f"{need}; got {shown(given)}.") from None
    for layer, options in by_layer.items():
        if not 2 <= (as_whole(layer) or 0) <= layers:
            raise InputError(f"{need}; got the layer {shown(layer)}.")
        for name in options:
            lookup("option of a layer", name, dict.fromkeys(LAYER_OPTIONS))
        if options.get("residual") and not _may_skip(widths, layer):
            why = "is the last" if layer == layers else f"leads from {widths[layer - 1]} to {widths[layer]} numbers"
            raise InputError(f"overrides give layer {layer} a skip, which {why}. Leave its residual out.")
    return tuple(
        (as_whole(layer) or 0, tuple((name, _checked_option(name, options[name])) for name in sorted(options)))
        for layer, options in sorted(by_layer.items())
        if options
    )
