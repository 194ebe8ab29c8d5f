"""The schedule that takes the least arena: the recurrence of `least`, with places in place of sums of live bytes.

An arena has two ends. While layers i+1..j are reversed, δ^(j) lies at one end of what is free, and the next state k is
put at the other end. Reversing layers k+1..j gives everything back but δ^(k), which lies where state k lay; so what is
free stays one gap. At the lower end nothing is lost. At the upper end a state that was wider on its way leaves a gap
above it, unless the last part of its sweep starts from a *relay*: a state p beside it, given back at once. Let U and D
be the bytes beside state i that reversing i+1..j takes with δ^(j) at the upper and at the lower end:

    U(i, j) = min over k of  max(δ_j + sweep(i, k),  a_k + U(k, j),  D(i, k))
    D(i, j) = min over k of  max(δ_j + relay(i, k),  a_k + D(k, j),  U(i, k))
                        and  max(δ_j + sweep(i, k),  w + D(k, j),  w - a_k + U(i, k))

where w is the widest state that the sweep from i to k passes through. Of many layers only narrow states are looked at
as checkpoints, beside the state j-1, which needs none: layer j is reversed at once.
"""

from collections.abc import Sequence
from functools import cached_property
from math import gcd
from typing import TYPE_CHECKING, Any, NamedTuple

from lowmem.chain import Chain
from lowmem.schedule.ops import Backward, Forward, Free, Loss, Op, Schedule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Some = slice | NDArray[Any]

IN_CACHE = 1 << 15
"""Numbers that are worked on at once."""

MOST_STATES, FEW_STATES = 400, 64
"""Layers up to which all states are looked at as checkpoints, in a fifth of a second; of more, so many are."""

FAR = 64
"""Layers before the end of a sweep among which it may be parted."""

HUGE = 1 << 28
"""More units of memory than a table of 32 bits ever holds."""


def least_arena(chain: Chain) -> Schedule:
    """Return a schedule, named "least", with the least arena of those whose checkpoints stay but for relays.

    chain: one in which every live byte counts. Of the splits that do, the one nearest to the middle is taken, which
    costs the least.
    """
    return Schedule("least", tuple(_Table(_Sizes(chain), _checkpoints(chain)).write()))


def _checkpoints(chain: Chain) -> list[int]:
    """Return the states that are looked at, and both ends: the narrowest, and more where they lie far apart."""
    length = chain.length
    if length <= MOST_STATES:
        return list(range(length + 1))
    near, far = length // (4 * FEW_STATES), length // FEW_STATES
    narrow: set[int] = set()
    for layer in sorted(range(1, length), key=chain.state_bytes):
        if len(narrow) < FEW_STATES and narrow.isdisjoint(range(layer - near, layer + near + 1)):
            narrow.add(layer)
    chosen = [0]
    for layer in range(1, length):
        if layer in narrow or layer - chosen[-1] == far:
            chosen.append(layer)
    return [*chosen, length]


class _Sizes:
    """A chain in units that divide all sizes, by layer from 0: states, δ, scratch, and what a backward takes."""

    def __init__(self, chain: Chain) -> None:
        import numpy as np

        self.np, self.chain, stages = np, chain, chain.stages
        output = stages[-1].state_bytes + max(stages[-1].forward_scratch, chain.loss_scratch)
        leaves = [stage.delta_bytes + stage.backward_scratch for stage in stages]
        raw = [
            [chain.state_bytes(layer) for layer in range(chain.length + 1)],
            [0, *(stage.delta_bytes for stage in stages[:-1]), 0],
            [stage.forward_scratch for stage in stages],
            [stage.advance_scratch for stage in stages],
            [*leaves[:-1], max(leaves[-1], output)],
        ]
        self.unit = gcd(*(size for sizes in raw for size in sizes)) or 1
        self.kind: Any = np.int32 if 4 * max(map(max, raw)) // self.unit < HUGE else np.int64
        self.states, self.deltas, self.fresh, self.in_place, self.leaves = (
            np.array([size // self.unit for size in sizes], self.kind) for sizes in raw
        )

    def sweeps(self, i: int) -> tuple["NDArray[Any]", "NDArray[Any]"]:
        """Return what the sweeps from i to i+1, i+2, ... take, and the widest state on them."""
        np = self.np
        widest = np.maximum.accumulate(self.states[i + 1 :])
        working = np.maximum.accumulate(np.concatenate([self.fresh[i : i + 1], self.in_place[i + 1 :]]))
        return widest + working, widest

    @cached_property
    def relays(self) -> list[list[int]]:
        """Two states for each state, the last one included, at which a sweep to it may be parted.

        One is the state before it, the other the narrowest of those behind all that is wider.
        """
        sizes = self.states.tolist()
        relays = [[0] * len(sizes), [0] * len(sizes)]
        for k in range(2, len(sizes)):
            p = narrowest = k - 1
            while p > max(k - FAR, 0) and sizes[p] <= sizes[k]:
                p -= 1
                narrowest = p if p and sizes[p] < sizes[narrowest] else narrowest
            relays[0][k], relays[1][k] = k - 1, narrowest
        return relays

    @cached_property
    def together(self) -> list["NDArray[Any]"]:
        """What the second part of a sweep takes, with the state that it starts from, for both lists of `relays`."""
        chain = self.chain

        def bytes_of(p: int, k: int) -> int:
            widest = chain.travelling_bytes(p + 1, k)
            return chain.state_bytes(p) + widest + chain.forward_scratch(p + 1, k) if k > 1 else 0

        return [
            self.np.array([bytes_of(p, k) // self.unit for k, p in enumerate(states)], self.kind)
            for states in self.relays
        ]


class _Split(NamedTuple):
    """Where a segment is split, the units that this loses, and the relay of its sweep, 0 without one."""

    state: int
    lost: int
    relay: int


class _Table:
    """Needs of segments from state number s of `states`, by [n, q, s]: to state number s + n, and 1 + q layers on.

    sweeps, widest, relays: what a sweep takes, the widest state on it, and what it takes in two parts.
    upper, lower: U and D. Where a segment ends at one of the states, `to` holds all five by [n, s].
    """

    def __init__(self, sizes: _Sizes, states: Sequence[int]) -> None:
        np = sizes.np
        self.np, self.of, self.states = np, sizes, np.array(states)
        self.count, self.length = len(states) - 1, sizes.chain.length
        self.gaps = np.diff(self.states)
        layers = np.arange(self.length + 1)
        self.numbers = np.searchsorted(self.states, layers) - 1  # of the last state before a layer
        self.places = layers - self.states[np.maximum(self.numbers, 0)] - 1
        self.sizes = sizes.states[self.states]
        shape = (self.count, int(self.gaps.max()), self.count + 1)
        self.sweeps, self.widest, self.relays, self.upper, self.lower = np.zeros((5, *shape), sizes.kind)
        self._upper_with, self._lower_with = np.zeros((2, *shape), sizes.kind)
        self._sweep()
        self.to = np.zeros((5, self.count + 1, self.count + 1), sizes.kind)
        for n in range(self.count):
            for q in range(shape[1]):
                self._segments(n, q)
            self._copy(n)

    def _sweep(self) -> None:
        """Fill in `sweeps`, `widest` and `relays`."""
        np, sizes = self.np, self.of
        relays = [np.array(states) for states in sizes.relays]
        for number, i in enumerate(self.states[:-1].tolist()):
            ends = np.arange(i + 1, self.length + 1)
            here = self.numbers[ends] - number, self.places[ends], number
            needs, widest = sizes.sweeps(i)
            self.sweeps[here], self.widest[here] = needs, widest
            best = np.where(ends == i + 1, needs, HUGE)
            for states, together in zip(relays, sizes.together, strict=True):
                parted = np.maximum(needs[np.maximum(states[ends] - i - 1, 0)], together[ends])
                best = np.where(states[ends] > i, np.minimum(best, parted), best)
            self.relays[here] = best

    def _copy(self, n: int) -> None:
        """Copy what is known of segments that end at a state to `to`, and add the state before the segment."""
        starts = self.np.arange(self.count - n)
        for table, copy in zip((self.sweeps, self.widest, self.relays, self.upper, self.lower), self.to, strict=True):
            copy[n + 1, starts] = table[n, self.gaps[starts + n] - 1, starts]
        self._upper_with[n] = self.upper[n] + self.sizes
        self._lower_with[n] = self.lower[n] + self.sizes

    def _segments(self, n: int, q: int) -> None:
        """Fill in U and D of all segments of one length."""
        np = self.np
        starts = np.flatnonzero(self.gaps[n:] > q)
        at_once = max(IN_CACHE // (n + 1), 1)
        for first in range(0, len(starts), at_once):
            some = starts[first : first + at_once]
            ends = self.states[some + n] + 1 + q
            low, high = int(some[0]), int(some[-1]) + 1
            here: Some = slice(low, high) if high - low == len(some) else some
            needs = self._at_once(n, q, here, ends)
            if n:
                splits = self._splits(n, q, here, self.of.deltas[ends], last=False)
                needs = np.minimum(needs[0], splits[0]), np.minimum(needs[1], splits[1])
            self.upper[n, q, here], self.lower[n, q, here] = needs
        start = self.count - 1 - n
        if q == self.gaps[-1] - 1:  # before the loss there is no δ, and every state lies at the lower end
            alone = slice(start, start + 1)
            need = self._at_once(n, q, alone, self.states[-1:], last=True)[1]
            if n:
                need = np.minimum(need, self._splits(n, q, alone, np.zeros_like(need), last=True)[1])
            self.upper[n, q, start] = self.lower[n, q, start] = int(need[0])

    def _at_once(
        self, n: int, q: int, here: "Some", ends: "NDArray[Any]", *, last: bool = False
    ) -> tuple["NDArray[Any]", "NDArray[Any]"]:
        """Return U and D where the last layer is reversed at once: the split before it."""
        np, of = self.np, self.of
        leaves = of.leaves[ends - 1]
        if not q:
            never = leaves if not n else np.full_like(leaves, HUGE)
            return never.copy(), never.copy()
        delta = 0 if last else of.deltas[ends]
        right = of.states[ends - 1] + leaves
        sweeps, widest, relays, upper, lower = (
            table[n, q - 1, here] for table in (self.sweeps, self.widest, self.relays, self.upper, self.lower)
        )
        high = np.maximum(np.maximum(sweeps + delta, right), lower)
        if last:
            return high, high
        parts = np.maximum(right, upper)
        whole = np.maximum(sweeps + delta, parts + widest - of.states[ends - 1])
        return high, np.minimum(whole, np.maximum(relays + delta, parts))

    def _splits(
        self, n: int, q: int, here: "Some", delta: "NDArray[Any]", *, last: bool
    ) -> tuple["NDArray[Any]", "NDArray[Any]"]:
        """Return U and D with the best split among the states."""
        from numpy.lib.stride_tricks import as_strided

        np, item = self.np, self.sizes.itemsize
        strides = item - self._upper_with.strides[0], item
        # Rows are splits s+1..s+n, columns all s; the right part of split m is [n-m, q, s+m].
        over, under, ends = (
            as_strided(table, (n, self.count + 1 - n), steps, writeable=False)[:, here]
            for table, steps in (
                (self._upper_with[n - 1, q, 1:], strides),
                (self._lower_with[n - 1, q, 1:], strides),
                (self.sizes[1:], (item, item)),
            )
        )
        sweeps, widest, relays, upper, lower = self.to[:, 1 : n + 1, here]
        swept = sweeps + delta
        if last:
            free = np.maximum(np.maximum(swept, under), lower).min(axis=0)
            return free, free
        high = np.maximum(np.maximum(swept, over), lower).min(axis=0)
        parts = np.maximum(under, upper)
        parted = np.maximum(relays + delta, parts).min(axis=0)
        parts += widest
        parts -= ends
        return high, np.minimum(np.maximum(swept, parts, out=swept).min(axis=0), parted)

    # writing ------------------------------------------------------------------------------------------------------

    def write(self) -> list[Op]:
        """Write out the schedule of the whole chain."""
        ops: list[Op] = []
        chain = self.of.chain
        todo = [(0, self.length, False, int(self.lower[self.numbers[-1], self.places[-1], 0]))]
        while todo:
            i, j, high, room = todo.pop()
            if j == i + 1:
                if j == chain.length:
                    ops += (Forward(j, j), Loss())
                ops.append(Backward(j))
                continue
            k, lost, relay = self._split(i, j, high, room)
            if relay:
                ops += (Forward(i + 1, relay), Forward(relay + 1, k), Free(chain.state(relay)))
            else:
                ops.append(Forward(i + 1, k))
            todo.append((i, k, not high and j < chain.length, room - lost))
            todo.append((k, j, high, room - lost - int(self.of.states[k])))
        return ops

    def _split(self, i: int, j: int, high: bool, room: int) -> _Split:
        """Return a split of a segment for which the room is enough; high: whether δ^(j) lies at the upper end."""
        np, of, number = self.np, self.of, int(self.numbers[i + 1])
        upper_end, last = high or j == self.length, j == self.length
        n, q = int(self.numbers[j]) - number, int(self.places[j])
        between = self.states[number + 1 : number + n + 1]
        splits = np.append(between, j - 1) if q else between
        rows = np.arange(1, n + 1)
        rights = (self.upper if high else self.lower)[n - rows, q, number + rows]
        rights = (np.append(rights, of.leaves[j - 1]) if q else rights) + of.states[splits]
        at = self.numbers[splits] - number, self.places[splits], number
        parts = np.maximum(rights, (self.lower if upper_end else self.upper)[at])
        lost = np.zeros_like(parts) if upper_end else self.widest[at] - of.states[splits]
        delta = 0 if last else int(of.deltas[j])
        whole = np.maximum(self.sweeps[at] + delta, parts + lost)
        parted = whole if upper_end else np.maximum(self.relays[at] + delta, parts)
        fits = np.flatnonzero(np.minimum(whole, parted) <= room)
        best = int(fits[np.abs(2 * splits[fits] - i - j).argmin()])
        k = int(splits[best])
        if whole[best] <= room and (not lost[best] or parted[best] > room):
            return _Split(k, int(lost[best]), 0)
        needs, _ = of.sweeps(i)
        options = [
            (max(int(needs[states[k] - i - 1]), int(together[k])), states[k])
            for states, together in zip(of.relays, of.together, strict=True)
            if states[k] > i
        ]
        return _Split(k, 0, min(options)[1])
