"""What every layer is to planning, to binding and to prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from lowmem.network.specs import ACTIVATIONS, ActivationFacts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.floating[Any]]
    Tiles: TypeAlias = Sequence[Array]
    Arrays: TypeAlias = Mapping[str, Array]
    Scratch: TypeAlias = Sequence[Sequence[Array]]
    Kernel: TypeAlias = Callable[[Array, Array, Sequence[Array]], None]

Call: TypeAlias = tuple[Callable[..., None], tuple[Any, ...]]

Rooms: TypeAlias = tuple[int, ...]
"""Working matrices, each by its width."""


def numbers(tiles: Tiles) -> int:
    """Return how many numbers some tiles hold."""
    return sum(tile.size for tile in tiles)


def add_up(parts: Sequence[tuple[Array, Array]]) -> None:
    """Write to the second array of each pair the sum over the first axis of the first, of tiles or of lanes."""
    import numpy as np

    for several, out in parts:
        np.add.reduce(several, axis=0, out=out)


DRAW_FLOPS = 2
"""To compare a random number with the rate of dropout, and to scale; making it takes integers only."""


STATISTICS = 4
"""Vectors that a normalisation over the batch keeps of a step."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a layer does for each row, in numbers.

    products: pairs multiplied and added in matrix products. sums: numbers added up over the batch, by products with
    ones. values, slopes: σ evaluated, and σ' with its product. draws: random numbers. plain: other operations.
    """

    products: int
    sums: int = 0
    values: int = 0
    slopes: int = 0
    draws: int = 0
    plain: int = 0

    def flops(self, facts: ActivationFacts) -> int:
        """Return the FLOPs for each row."""
        sigma = self.values * facts.value_flops + self.slopes * facts.slope_flops
        return 2 * (self.products + self.sums) + sigma + DRAW_FLOPS * self.draws + self.plain


class Sigma(Protocol):
    """An activation's kernels, see `lowmem.nn.activations.Activation`."""

    @property
    def value(self) -> Kernel:
        """σ(s) into another array or in place."""

    @property
    def pull_back(self) -> Kernel | None:
        """Overwrite σ(s) with δ ⊙ σ'(s)."""

    @property
    def split(self) -> Kernel | None:
        """σ(s) into another array, and σ'(s) in the place of s."""


class Masks(Protocol):
    """Where dropout's random numbers come from; see `lowmem.network.layers.dropout`."""

    def draw(self, layer: int, row: int, out: Array) -> None:
        """Fill `out` with the numbers of [0, 1) that belong to the rows from `row` on."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a layer's kernels work, for one lane.

    layer: its number. arrays: its parameters by name, and statistics. sigma: of the activation. masks: None where
    nothing is dropped, as in prediction. statistics: of this step's batch, or None in prediction.
    starts: the first row of each tile in the pass. ones: as many as a tile has rows, at least.
    """

    layer: int
    arrays: Arrays
    sigma: Sigma
    starts: Sequence[int] = ()
    ones: Array | None = None
    masks: Masks | None = None
    statistics: Statistics | None = None


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a normalisation over the batch keeps of a step: vectors as wide as its input, and whether they are made.

    kept: (4, n): the mean, the inverse deviation, the variance, and working memory. made: the layers whose vectors
    are those of this step; emptied when another begins.
    """

    kept: Array
    made: set[int]


@dataclass(frozen=True, slots=True)
class Reversal:
    """Where a layer is reversed, for one lane.

    deltas: tiles of δ^(l). states: tiles of state l-1, which become those of δ^(l-1). whole: tiles of the working
    matrices that last from `prepare` to `finish`. scratch: of every tile. partials: for every tile (k, n) sums.
    rows: of the whole pass.
    """

    deltas: Tiles
    states: Tiles
    whole: Sequence[Tiles]
    scratch: Scratch
    partials: Sequence[Array]
    rows: int


@dataclass(frozen=True, slots=True)
class Layer(ABC):
    """One layer: `entering` numbers become `leaving` numbers, l = 1..L.

    activation: σ, a key of `specs.ACTIVATIONS`. item_bytes: of one number.
    """

    entering: int
    leaving: int
    activation: str
    item_bytes: int
    is_first: bool
    is_last: bool

    @property
    def facts(self) -> ActivationFacts:
        """What is known of σ."""
        return ACTIVATIONS[self.activation]

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the parameters, in the order in which they lie in memory."""
        return {"weight": (self.leaving, self.entering), "bias": (self.leaving,)}

    @property
    def size(self) -> int:
        """The number of its parameters."""
        return sum(map(prod, self.parameters.values()))

    @property
    def running(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of what is learnt by averaging over steps and not by gradients."""
        return {}

    @property
    def kind(self) -> Literal["x", "s"]:
        """Whether the state it leaves is x^(l) or s^(l)."""
        return "s"

    @property
    def drops(self) -> bool:
        """Whether training needs random numbers."""
        return False

    @property
    def couples(self) -> str | None:
        """What makes samples of a batch depend on each other, if anything does."""
        return None

    # For planning.

    @property
    @abstractmethod
    def forward(self) -> Work:
        """What making state l from state l-1 takes."""

    @property
    @abstractmethod
    def backward(self) -> Work:
        """What both gradients and, for l > 1, δ^(l-1) take."""

    def forward_flops(self, rows: int) -> int:
        """Return the FLOPs of making state l on `rows` samples."""
        return rows * self.forward.flops(self.facts)

    def backward_flops(self, rows: int) -> int:
        """Return the FLOPs of reversing the layer on `rows` samples; what is done to parameters is not counted."""
        return rows * self.backward.flops(self.facts)

    @abstractmethod
    def forward_rooms(self, *, in_place: bool) -> Rooms:
        """Return the working matrices of a tile to make state l beside state l-1, or in its place."""

    @property
    @abstractmethod
    def backward_rooms(self) -> Rooms:
        """The working matrices of a tile to reverse the layer."""

    @property
    def whole_rooms(self) -> Rooms:
        """The working matrices of a whole pass to reverse the layer; the first holds its input x^(l-1)."""
        return ()

    @property
    def partials(self) -> int:
        """How many sums over a tile's rows are kept for each entering number until all lanes have theirs."""
        return 0

    # For binding. All calls allocate nothing.

    @abstractmethod
    def run(self, site: Site, sources: Tiles, outs: Tiles, scratch: Scratch, *, in_place: bool) -> Call:
        """Return the call that makes state l."""

    @abstractmethod
    def prepare(self, site: Site, at: Reversal) -> Call | None:
        """Return the call that makes x^(l-1) for the weight gradient, unless the state is that."""

    @abstractmethod
    def finish(self, site: Site, at: Reversal) -> Call:
        """Return the call that turns state l-1 into δ^(l-1)."""

    @abstractmethod
    def counted(self, call: Call) -> tuple[Literal["forward", "backward"], int] | None:
        """Return what one of the calls above is and its FLOPs, from the arrays it works on; None if it is no such."""

    def scale_gradients(self, site: Site, g_w: Array, w: Array, share: Array) -> list[Call]:
        """Return the calls that make the weights' gradient of δᵀ x: all or some outputs of both.

        share: one number, this lane's part of the gradient of a learned factor, if there is one.
        """
        return []

    def gather(self, site: Site, at: Reversal, partials: Array, gradients: Arrays, share: slice) -> list[Call]:
        """Return the calls for the other gradients, once all tiles are through.

        partials: (tiles, k, n). gradients: of this layer, by name. share: this lane's of the entering numbers.
        """
        return []
