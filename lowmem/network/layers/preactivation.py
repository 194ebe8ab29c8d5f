"""s^(l) = [s^(l-1) +] c · w^(l) drop(σ(norm(s^(l-1)))) + b^(l): what comes before the product belongs to the layer.

Plain where σ' needs its input (gelu, silu, mish). With a skip it is the residual layer with "identity mappings" of
K. He, X. Zhang, S. Ren, J. Sun, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027 (2016): its backward
needs δ^(l) and the state entering, like that of a plain layer,

    δ^(l-1) = [δ^(l) +] pull back of c · δ^(l) w through drop, σ and norm.

The factor c of a branch is fixed (1/sqrt(L)), or learned from zero as in T. Bachlechner et al., "ReZero is All You
Need", arXiv:2003.04887 (2020). With g = δᵀ x its gradient is the sum of w ⊙ g, so the branch's output is not needed.

The state is s^(l). x^(l-1), the input of the product, is made again elementwise: tile by tile in the forward, whole in
the backward, where the weights' gradient needs it. Where σ' is a function of σ and neither norm nor dropout stand in
between, σ takes the place of the state there, and no whole matrix is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from lowmem.network.layers.base import Call, Layer, Reversal, Rooms, Site, Work, add_up, numbers
from lowmem.network.layers.dropout import padded
from lowmem.network.layers.norms import Norm

if TYPE_CHECKING:
    from lowmem.network.layers.base import Array, Arrays, Scratch, Tiles


class Tile(NamedTuple):
    """The working memory of a tile: matrices for anything, then what the norm and the mask need."""

    rooms: Sequence[Array]
    vectors: Sequence[Array]
    mask: Array | None


@dataclass(frozen=True, slots=True)
class Preactivation(Layer):
    """A layer that begins with norm, σ and dropout; the first one begins with the product.

    norm: or None. dropout: the rate. branch: None without a skip; with one the factor c, or "learned".
    """

    norm: Norm | None = None
    dropout: float = 0.0
    branch: float | str | None = None

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """Weight and bias, the norm's vectors, and the factor of a branch if it is learned."""
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.leaving, self.entering), "bias": (self.leaving,)}
        if self.norm is not None:
            shapes |= dict.fromkeys(self.norm.parameters, (self.entering,))
        if self.branch == "learned":
            shapes["scale"] = (1,)
        return shapes

    @property
    def running(self) -> Mapping[str, tuple[int, ...]]:
        """Mean and variance where the norm is over the batch."""
        if self.couples is None:
            return {}
        return {"running_mean": (self.entering,), "running_variance": (self.entering,)}

    @property
    def drops(self) -> bool:
        """With dropout."""
        return self.dropout > 0

    @property
    def couples(self) -> str | None:
        """A norm over the batch does."""
        return f'norm="{self.norm.name}"' if self.norm is not None and self.norm.couples else None

    # What is done --------------------------------------------------------------------------------------------------

    @property
    def keeps_slopes(self) -> bool:
        """Whether `prepare` leaves σ' in the state's place."""
        return self.facts.state == "s" and self.norm is None

    @property
    def keeps_x(self) -> bool:
        """Whether `prepare` leaves the product's input in the state's place."""
        return self.facts.state == "x" and self.norm is None and not self.dropout

    @property
    def from_x(self) -> bool:
        """Whether `finish` finds σ in the whole matrix, and pulls back through it."""
        return self.facts.state == "x" and self.norm is not None and not self.dropout

    @property
    def scaled(self) -> bool:
        """Whether a branch has a factor."""
        return self.branch not in (None, 1.0)

    @property
    def forward(self) -> Work:
        """Norm, σ, dropout, product, bias, factor and skip."""
        n, m = self.entering, self.leaving
        leaving = m * (1 + self.scaled + (self.branch is not None))
        if self.is_first:
            return Work(n * m, plain=leaving)
        norm = 0 if self.norm is None else self.norm.forward_flops + self.norm.affine_flops
        drops = n if self.dropout else 0
        return Work(n * m, values=n, draws=drops, plain=leaving + n * norm + drops)

    @property
    def backward(self) -> Work:
        """Both gradients; then the way in once more, and back."""
        n, m = self.entering, self.leaving
        if self.is_first:
            return Work(n * m, sums=m)
        back = n * (self.scaled + (self.branch is not None))
        if self.norm is None and not self.dropout:
            values = n if self.keeps_x else 0  # with σ' comes σ
            return Work(2 * n * m, sums=m, values=values, slopes=n, plain=back)
        if self.norm is None:
            drawn = 1 if self.keeps_slopes else 2
            values = 0 if self.keeps_slopes else n
            return Work(2 * n * m, sums=m, values=values, slopes=n, draws=drawn * n, plain=back + 2 * n)
        norm = self.norm.forward_flops + self.norm.affine_flops + self.norm.backward_flops
        again = 0 if self.from_x else self.norm.affine_flops
        values = n if self.from_x or self.facts.state == "s" else 2 * n
        drops = 2 * n if self.dropout else 0
        return Work(2 * n * m, sums=m, values=values, slopes=n, draws=drops, plain=back + n * (norm + again) + drops)

    # Working memory ------------------------------------------------------------------------------------------------

    def forward_rooms(self, *, in_place: bool) -> Rooms:
        """x^(l-1), what σ and norm work in, of which one holds a product that cannot go to its place at once."""
        if self.is_first:
            return ()
        norm = 0 if self.norm is None else self.norm.work
        beside = in_place and self.branch is not None
        return self._rooms(1 + max(self.facts.value_scratch, norm, beside))

    @property
    def backward_rooms(self) -> Rooms:
        """δ^(l) w of a tile if it has no other place, what σ' and norm work in."""
        if self.is_first:
            return ()
        sigma = max(self.facts.slope_scratch, 0 if self.keeps_slopes else self.facts.value_scratch)
        if self.keeps_slopes:
            return self._rooms(sigma)
        if self.norm is None:
            return self._rooms(1 + sigma)
        return self._rooms(1 + (self.facts.state == "s") + max(sigma, self.norm.work))

    @property
    def whole_rooms(self) -> Rooms:
        """The product's input, where the state's place does not hold it; what a norm keeps by rows."""
        if self.is_first or self.keeps_x:
            return ()
        return (self.entering, *((1,) * self.norm.kept if self.norm is not None else ()))

    @property
    def partials(self) -> int:
        """Of the norm's gradients."""
        return 0 if self.norm is None else len(self.norm.parameters)

    def _rooms(self, count: int) -> Rooms:
        vectors = 0 if self.norm is None else self.norm.vectors
        mask = (padded(self.entering),) if self.dropout else ()
        return (self.entering,) * count + (1,) * vectors + mask

    def _tile(self, scratch: Sequence[Array]) -> Tile:
        """Tell the working memory of a tile apart."""
        if self.norm is None and not self.dropout:
            return Tile(scratch, (), None)
        end = len(scratch) - bool(self.dropout)
        middle = end - (0 if self.norm is None else self.norm.vectors)
        return Tile(scratch[:middle], scratch[middle:end], scratch[end] if self.dropout else None)

    # Forward -------------------------------------------------------------------------------------------------------

    def run(self, site: Site, sources: Tiles, outs: Tiles, scratch: Scratch, *, in_place: bool) -> Call:
        """Make s^(l)."""
        if self.is_first:
            return self._run_first, (site, sources, outs)
        return self._run, (site, sources, outs, scratch, in_place)

    def _run_first(self, site: Site, xs: Tiles, outs: Tiles) -> None:
        """s^(1) = w x + b."""
        import numpy as np

        w_t, b = site.arrays["weight"].T, site.arrays["bias"]
        for x, out in zip(xs, outs, strict=True):
            np.matmul(x, w_t, out)
            np.add(out, b, out)

    def _run(self, site: Site, states: Tiles, outs: Tiles, scratch: Scratch, in_place: bool) -> None:
        """Make s^(l) from s^(l-1)."""
        import numpy as np

        w_t, b, skips = site.arrays["weight"].T, site.arrays["bias"], self.branch is not None
        if self.norm is not None and self.norm.couples:
            self.norm.observe(site, states, [tmp[0] for tmp in scratch])
        for n, (s, out, tmp) in enumerate(zip(states, outs, scratch, strict=True)):
            tile = self._tile(tmp)
            x, *work = tile.rooms
            self._enter(site, s, x, work, tile, n)
            into = work[0] if skips and in_place else out
            np.matmul(x, w_t, into)
            self._scale(site, into)
            np.add(into, b, into)
            if skips:
                np.add(into, s, out)

    def _enter(self, site: Site, s: Array, x: Array, work: Sequence[Array], tile: Tile, n: int) -> None:
        """X = drop(σ(norm(s))) of tile n, s stays."""
        import numpy as np

        if self.norm is not None:
            self.norm.normalise(site, s, x, work[0], tile.vectors, None)
            self.norm.affine(site.arrays, x, x)
            s = x
        self._value(site, s, x, work)
        keep = self._keep(site, tile, n)
        if keep is not None:
            np.multiply(x, keep, x)

    def _keep(self, site: Site, tile: Tile, n: int) -> Array | None:
        """Return what tile n is multiplied with: 0 or 1/(1 - rate); None where nothing is dropped."""
        import numpy as np

        if site.masks is None or tile.mask is None:
            return None
        site.masks.draw(site.layer, site.starts[n], tile.mask)
        np.greater_equal(tile.mask, self.dropout, out=tile.mask)
        np.multiply(tile.mask, 1 / (1 - self.dropout), tile.mask)
        return tile.mask[:, : self.entering]

    def _scale(self, site: Site, product: Array) -> None:
        """Multiply by the factor of the branch."""
        import numpy as np

        if self.branch == "learned":
            np.multiply(product, site.arrays["scale"], product)
        elif isinstance(self.branch, float) and self.scaled:
            np.multiply(product, self.branch, product)

    def _value(self, site: Site, s: Array, out: Array, work: Sequence[Array]) -> None:
        site.sigma.value(s, out, work[: self.facts.value_scratch])

    # Backward ------------------------------------------------------------------------------------------------------

    def prepare(self, site: Site, at: Reversal) -> Call | None:
        """Make the product's input whole; x̂, σ' or σ takes the place of the state, which is not needed any more."""
        return self._prepare, (site, at)

    def _prepare(self, site: Site, at: Reversal) -> None:
        import numpy as np

        xs = at.states if self.keeps_x else at.whole[0]
        for n, (s, x, tmp) in enumerate(zip(at.states, xs, at.scratch, strict=True)):
            tile = self._tile(tmp)
            if self.norm is not None:
                inverse = at.whole[1][n] if self.norm.kept else None
                self.norm.normalise(site, s, s, tile.rooms[-1], tile.vectors, inverse)
                self.norm.affine(site.arrays, s, x)
                self._value(site, x, x, tile.rooms[1:])
            elif self.keeps_slopes:
                self._split(site, s, x, tile.rooms)
            else:
                self._value(site, s, s, tile.rooms[1:])
            keep = self._keep(site, tile, n)
            if keep is None:
                continue
            if self.norm is None and not self.keeps_slopes:
                np.multiply(s, keep, x)
                continue
            np.multiply(x, keep, x)
            if self.keeps_slopes:
                np.multiply(s, keep, s)

    def finish(self, site: Site, at: Reversal) -> Call:
        """Make δ^(l-1) in the place of the state."""
        back = self._back_through_norm if self.norm is not None else self._back
        return back, (site, at)

    def _back(self, site: Site, at: Reversal) -> None:
        """Pull δ^(l) w back through dropout and σ."""
        import numpy as np

        w = site.arrays["weight"]
        for n, (delta, s, tmp) in enumerate(zip(at.deltas, at.states, at.scratch, strict=True)):
            tile = self._tile(tmp)
            below = at.whole[0][n] if self.keeps_slopes else tile.rooms[0]
            np.matmul(delta, w, below)
            self._scale(site, below)
            if self.keeps_slopes:
                np.multiply(s, below, s)
            else:
                keep = self._keep(site, tile, n)
                if keep is not None:
                    np.multiply(below, keep, below)
                self._pull_back(site, s, below, tile.rooms[1:])
            if self.branch is not None:
                np.add(s, delta, s)

    def _back_through_norm(self, site: Site, at: Reversal) -> None:
        """Pull δ^(l) w back through dropout, σ and the norm; where that couples samples, only to the norm."""
        import numpy as np

        norm, ones = self.norm, site.ones
        assert norm is not None
        assert ones is not None
        for n, (delta, x, tmp) in enumerate(zip(at.deltas, at.states, at.scratch, strict=True)):
            tile = self._tile(tmp)
            whole, (first, *others) = at.whole[0][n], tile.rooms
            dy = whole
            if self.from_x:
                np.matmul(delta, site.arrays["weight"], first)
                self._scale(site, first)
                self._pull_back(site, whole, first, others)
            else:
                np.matmul(delta, site.arrays["weight"], whole)
                self._scale(site, whole)
                keep = self._keep(site, tile, n)
                if keep is not None:
                    np.multiply(whole, keep, whole)
                norm.affine(site.arrays, x, first)
                if self.facts.state == "s":
                    self._split(site, first, others[0], others[1:])
                    np.multiply(first, whole, whole)
                else:
                    self._value(site, first, first, others)
                    self._pull_back(site, first, whole, others)
                    dy = first
            work = others[-1]
            norm.sums(ones, x, dy, work, at.partials[n])
            if norm.couples:
                if dy is not whole:
                    np.copyto(whole, dy)
                continue
            norm.pull_back(site, x, dy, work, tile.vectors, at.whole[1][n])
            if self.branch is not None:
                np.add(x, delta, x)

    def _pull_back(self, site: Site, x: Array, delta: Array, work: Sequence[Array]) -> None:
        assert site.sigma.pull_back is not None
        site.sigma.pull_back(x, delta, work[: self.facts.slope_scratch])

    def _split(self, site: Site, s: Array, out: Array, work: Sequence[Array]) -> None:
        assert site.sigma.split is not None
        site.sigma.split(s, out, work[: self.facts.slope_scratch])

    def counted(self, call: Call) -> tuple[Literal["forward", "backward"], int] | None:
        """See `Layer.counted`: the products from their shapes, all else for each row, booked where δ^(l-1) is made."""
        function, arguments = call
        if function in (self._run_first, self._run):
            site, sources = arguments[:2]
            beside = self.forward.flops(self.facts) - 2 * self.forward.products
            return "forward", 2 * numbers(sources) * len(site.arrays["weight"]) + sum(map(len, sources)) * beside
        if function in (self._back, self._back_through_norm):
            site, at = arguments[:2]
            beside = self.backward.flops(self.facts) - 2 * (self.backward.products + self.backward.sums)
            products = 2 * numbers(at.deltas) * site.arrays["weight"].shape[1]
            return "backward", products + sum(map(len, at.deltas)) * beside
        if getattr(function, "__self__", None) == self:  # what prepares, and what is done to parameters
            return "backward", 0
        return None

    def scale_gradients(self, site: Site, g_w: Array, w: Array, share: Array) -> list[Call]:
        """Multiply by the factor of the branch; with a learned one, its own gradient is taken first."""
        if self.branch == "learned":
            return [(self._learn_scale, (g_w.reshape(-1), w.reshape(-1), site.arrays["scale"], share))]
        return [(self._scale, (site, g_w))] if self.scaled else []

    def gather(self, site: Site, at: Reversal, partials: Array, gradients: Arrays, share: slice) -> list[Call]:
        """Add up the norm's gradients over all tiles; where samples are coupled, finish with them."""
        if self.norm is None:
            return []
        parts = [(partials[:, k, share], gradients[name][share]) for k, name in enumerate(self.norm.parameters)]
        calls: list[Call] = [(add_up, (parts,))]
        if self.norm.couples:
            calls.append((self._couple, (site, at, gradients)))
        return calls

    def _couple(self, site: Site, at: Reversal, gradients: Arrays) -> None:
        """Finish δ^(l-1) where it depends on the whole batch."""
        import numpy as np

        assert self.norm is not None
        self.norm.couple(site, at.states, at.whole[0], at.rows, gradients)
        if self.branch is not None:
            for x, delta in zip(at.states, at.deltas, strict=True):
                np.add(x, delta, x)

    def _learn_scale(self, g: Array, w: Array, scale: Array, share: Array) -> None:
        """∂ℓ/∂c = Σ w ⊙ g with g = δᵀ x, in the lane's `share`; then g becomes ∂ℓ/∂w = c g."""
        import numpy as np

        share[0] = np.dot(w, g)
        np.multiply(g, scale, g)
