"""How a batch is cut in shards, how their gradients are added up, and who has what. Numbers alone, no NumPy.

Shard k of S has the rows k n / S to (k + 1) n / S of a batch of n, rounded down: shards differ by one row at most, and
of a batch with fewer rows than shards some are empty. The gradients of the shards are added up along one binary tree,
which halves the shards again and again: of four shards (g0 + g1) + (g2 + g3). An empty shard has no gradient: the
other half of its node is the sum. So rows, shapes and order of additions depend on batch and shards alone, and not on
who computes which shard.

A rank has S / R shards in a row. Numbers of a layer are cut in S parts, and a rank has the same parts as shards.

>>> shards = Shards(4)
>>> [shards.rows(10, shard) for shard in range(4)]
[(0, 2), (2, 5), (5, 7), (7, 10)]
>>> [leaf.merges for leaf in shards.leaves(10)]
[0, 1, 0, 2]
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeVar

from lowmem.common.checks import positive
from lowmem.errors import InputError

T = TypeVar("T")

Node = tuple[int, int]
"""A node of the tree: its first shard, and that behind its last."""

VECTOR = 16
"""Parts of a layer begin at multiples of this: whole vector registers."""


class Leaf(NamedTuple):
    """A shard that has rows. Its gradient is put on a stack; then `merges` times the two on top become their sum."""

    shard: int
    merges: int


@dataclass(frozen=True, slots=True)
class Shards:
    """The shards of a batch, and which of them a rank has.

    count: S, how many there are. ranks: R, which divides S. rank: from 0.

    Raises `InputError` for numbers that make no sense, and for ranks that do not divide the shards.
    """

    count: int = 1
    ranks: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        object.__setattr__(self, "count", positive("shards", self.count))
        object.__setattr__(self, "ranks", positive("ranks", self.ranks))
        if self.count % self.ranks:
            fitting = [number for number in range(1, self.count + 1) if self.count % number == 0]
            nearest = -(-self.count // self.ranks) * self.ranks
            advice = (
                f"Run {', '.join(map(str, fitting[:-1]))} or {fitting[-1]} ranks, or give" if fitting[1:] else "Give"
            )
            raise InputError(
                f"{self.ranks} ranks do not divide shards={self.count}: every rank must have as many shards. {advice} "
                f"shards={nearest}, which changes the bits of the results."
            )

    # rows ---------------------------------------------------------------------------------------------------------

    @property
    def own(self) -> range:
        """The shards of this rank."""
        each = self.count // self.ranks
        return range(self.rank * each, (self.rank + 1) * each)

    def rows(self, batch: int, shard: int) -> tuple[int, int]:
        """Return the first row of a shard of a batch of so many rows, and the row behind its last."""
        return shard * batch // self.count, (shard + 1) * batch // self.count

    def own_rows(self, batch: int) -> tuple[int, int]:
        """Return the first row of a batch that is this rank's, and the row behind its last."""
        return self.rows(batch, self.own.start)[0], self.rows(batch, self.own.stop - 1)[1]

    def most_own_rows(self, batch: int) -> int:
        """Return the most rows that a rank has of a batch of so many rows, or of fewer."""
        return -(-batch // self.ranks)

    def most_rows(self, batch: int) -> int:
        """Return the most rows of a shard."""
        return -(-batch // self.count)

    def passes(self, batch: int, rows: int) -> int:
        """Return how many passes of at most `rows` rows all shards of a batch take."""
        least, larger = divmod(batch, self.count)
        return larger * -(-(least + 1) // rows) + (self.count - larger) * -(-least // rows)

    # sums ---------------------------------------------------------------------------------------------------------

    def has_rows(self, batch: int, first: int, stop: int) -> bool:
        """Say whether any of the shards from `first` to before `stop` has a row."""
        return first < stop and first * batch // self.count < stop * batch // self.count

    def leaves(self, batch: int) -> list[Leaf]:
        """Return the shards of this rank that have rows, with what their gradients are added to."""
        merges: dict[int, int] = {}
        self._visit((0, self.count), batch, merges)
        return [Leaf(*item) for item in merges.items()]

    def pieces(self, batch: int) -> list[Node]:
        """Return the nodes whose sums this rank has once its shards are done: what lies on its stack."""
        return self._visit((0, self.count), batch, {})

    def _visit(self, node: Node, batch: int, merges: dict[int, int]) -> list[Node]:
        """Return the sums that are left of a node, and note the merges behind each leaf."""
        (first, stop), own = node, self.own
        if not self.has_rows(batch, max(first, own.start), min(stop, own.stop)):
            return []
        if stop - first == 1:
            merges[first] = 0
            return [node]
        middle = (first + stop) // 2
        left, right = self._visit((first, middle), batch, merges), self._visit((middle, stop), batch, merges)
        others = self.has_rows(batch, first, own.start) or self.has_rows(batch, own.stop, stop)
        if others:
            return [*left, *right]
        if left and right:
            merges[next(reversed(merges))] += 1
        return [node]

    def slots(self, batch: int) -> int:
        """Return how many gradients of all layers this rank must keep until its last shard, which needs none."""
        if len(self.own) == 1:
            return 0
        height = most = 0
        for leaf in self.leaves(batch)[:-1]:
            if not leaf.merges:
                most = max(most, height + 1)
            height += 1 - leaf.merges
        return most

    def piece_count(self, batch: int) -> int:
        """Return how many nodes the sums of all ranks are, which a rank receives its part of."""
        return sum(len(self.of_rank(rank).pieces(batch)) for rank in range(self.ranks))

    def of_rank(self, rank: int) -> "Shards":
        """Return the same shards as another rank sees them."""
        return Shards(self.count, self.ranks, rank)

    # parts --------------------------------------------------------------------------------------------------------

    def bound(self, size: int, part: int) -> int:
        """Return where part number `part` of a layer of so many numbers begins."""
        return size if part == self.count else size * part // self.count // VECTOR * VECTOR

    def parts(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of a layer of so many numbers that this rank updates: first number, and that behind it."""
        for part in self.own:
            first, stop = self.bound(size, part), self.bound(size, part + 1)
            if first < stop:
                yield first, stop

    def part(self, size: int) -> tuple[int, int]:
        """Return all of a layer that this rank updates: the first number, and that behind the last."""
        return self.bound(size, self.own.start), self.bound(size, self.own.stop)

    def part_bounds(self, size: int) -> list[int]:
        """Return where each rank's part of a layer of so many numbers begins, and where the last one ends."""
        each = self.count // self.ranks
        return [self.bound(size, rank * each) for rank in range(self.ranks + 1)]

    def largest_part(self, size: int) -> int:
        """Return the most numbers of a layer that a rank updates."""
        return max(stop - first for first, stop in pairwise(self.part_bounds(size)))

    def most_parts(self, sizes: Iterable[int]) -> int:
        """Return the most numbers that a rank has, of layers of these sizes."""
        counted = Counter(sizes)
        ranks = [0] * self.ranks
        for size, times in counted.items():
            for rank, (first, stop) in enumerate(pairwise(self.part_bounds(size))):
                ranks[rank] += times * (stop - first)
        return max(ranks)


def folded(count: int, sums: Mapping[Node, T], add: Callable[[T, T], T]) -> T:
    """Return the sum over the tree of so many shards, from the sums of some nodes that cover it.

    add: returns the sum of two; the first may be overwritten.
    """
    total = _folded((0, count), sums, add)
    assert total is not None
    return total


def _folded(node: Node, sums: Mapping[Node, T], add: Callable[[T, T], T]) -> T | None:
    if node in sums:
        return sums[node]
    first, stop = node
    if stop - first == 1:
        return None
    middle = (first + stop) // 2
    left, right = _folded((first, middle), sums, add), _folded((middle, stop), sums, add)
    if left is None or right is None:
        return left if right is None else right
    return add(left, right)
