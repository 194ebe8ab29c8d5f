"""Which rows are held out: a bit for each row, chosen from a seed so that every class gives its share.

The rows of a class are counted as they come, and fall into as many runs as rows of it are held out; one row of each
run is. Sorted files are so held out evenly, and a file is marked in one pass, in memory for its marks alone.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import as_number, whole
from lowmem.errors import Advice, InputError, shown

Array = NDArray[Any]

AT_ONCE = 4096
"""Rows that are marked together; a multiple of 8."""


class RowMask:
    """A bit for each row of a file.

    samples: how many rows there are. bits: packed, eight rows a byte.
    """

    def __init__(self, samples: int, bits: NDArray[np.uint8]) -> None:
        self.samples, self._bits = samples, bits
        blocks = range(0, samples, AT_ONCE)
        self._marked = np.cumsum([0, *(int(np.unpackbits(self._bytes(start)).sum()) for start in blocks)])

    @property
    def nbytes(self) -> int:
        """Bytes of the marks, and of the counts with which a row is found."""
        return self._bits.nbytes + self._marked.nbytes

    def count(self, *, marked: bool) -> int:
        """Return how many rows are marked, or are not."""
        held = int(self._marked[-1])
        return held if marked else self.samples - held

    def between(self, start: int, stop: int, *, marked: bool) -> NDArray[np.intp]:
        """Return the rows from `start` to before `stop` that are marked, or are not, counted from `start`."""
        first = start // 8
        part = np.unpackbits(self._bits[first : -(-stop // 8)])[start - 8 * first : stop - 8 * first]
        return np.flatnonzero(part if marked else part == 0)

    def row(self, number: int, *, marked: bool) -> int:
        """Return the row of the file that is row `number` of those that are marked, or are not."""
        starts = np.minimum(np.arange(len(self._marked)) * AT_ONCE, self.samples)
        before = self._marked if marked else starts - self._marked
        block = int(np.searchsorted(before, number, side="right")) - 1
        start = block * AT_ONCE
        rows = self.between(start, min(start + AT_ONCE, self.samples), marked=marked)
        return start + int(rows[number - int(before[block])])

    def _bytes(self, start: int) -> NDArray[np.uint8]:
        """Return the marks of a block."""
        return self._bits[start // 8 : (start + AT_ONCE) // 8]


def mark_rows(
    samples: int, held_out: float, seed: int, counts: Array | None = None, labels: Iterable[Array] = ()
) -> RowMask:
    """Mark round(held_out * samples) rows to hold out.

    counts: the number of samples of each class; None where there are no classes.
    labels: the class numbers of all samples, some at a time.

    A class keeps a row to train on as long as others have rows to give. Raises `InputError` where either side would
    be empty.
    """
    chosen = rows_held_out(samples, held_out)
    seed = whole("seed", seed)
    of_classes = np.array([samples], np.int64) if counts is None else np.asarray(counts, np.int64)
    shares = _shares(of_classes, chosen, seed)
    seen = np.zeros(len(of_classes), np.int64)
    bits, done = np.zeros(-(-samples // 8), np.uint8), 0
    for y in _pieces(samples, labels if counts is not None else None):
        ranks = seen[y] + _ranks(y)
        part = _is_chosen(ranks, of_classes[y], shares[y], y, seed)
        seen += np.bincount(y, minlength=len(seen))
        bits[done // 8 : -(-(done + len(y)) // 8)] = np.packbits(part)
        done += len(y)
    return RowMask(samples, bits)


def rows_held_out(samples: int, held_out: float) -> int:
    """Return how many of the samples to hold out. Raises `InputError` where none or all of them would be."""
    share = as_number(held_out)
    chosen = round(samples * share) if 0 < share < 1 else 0
    if not 0 < chosen < samples:
        raise InputError(
            Advice("held_out", held_out if isinstance(held_out, float | str | None) else shown(held_out)),
            f" of {samples} samples leaves none on one side. Give a fraction between 0 and 1 of at least two samples, "
            "such as 0.2.",
        )
    return chosen


def _pieces(samples: int, labels: Iterable[Array] | None) -> Iterable[NDArray[np.intp]]:
    """Yield the classes of `AT_ONCE` rows at a time, however they come; all are class 0 where there are none."""
    if labels is None:
        for start in range(0, samples, AT_ONCE):
            yield np.zeros(min(AT_ONCE, samples - start), np.intp)
        return
    held, filled = np.empty(AT_ONCE, np.intp), 0
    for part in labels:
        taken = 0
        while taken < len(part):
            some = min(AT_ONCE - filled, len(part) - taken)
            held[filled : filled + some] = part[taken : taken + some]
            filled, taken = filled + some, taken + some
            if filled == AT_ONCE:
                yield held
                filled = 0
    if filled:
        yield held[:filled]


def _ranks(y: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return how many rows of the same class come before each row: 0, 0, 1 for the classes 5, 3, 5."""
    order = np.argsort(y, kind="stable")
    ordered = y[order]
    new = np.flatnonzero(np.diff(ordered, prepend=-1))
    ranks = np.empty(len(y), np.int64)
    ranks[order] = np.arange(len(y)) - np.repeat(new, np.diff(new, append=len(y)))
    return ranks


def _shares(counts: NDArray[np.int64], chosen: int, seed: int) -> NDArray[np.int64]:
    """Divide the rows to hold out among the classes, by largest remainder; a class's last row is given last."""
    exact = counts.astype(object) * chosen  # Python's whole numbers, which do not overflow
    samples = int(counts.sum())
    shares = np.array([int(part) // samples for part in exact], np.int64)
    rest = np.array([int(part) % samples for part in exact], np.float64)
    left = chosen - int(shares.sum())
    ties = _hashed(seed, np.arange(len(counts)), np.zeros(len(counts), np.int64))
    order = np.lexsort((ties, -rest, (rest > 0) & (shares + 1 >= counts), rest == 0))
    shares[order[:left]] += 1
    return shares


def _is_chosen(
    ranks: NDArray[np.int64], counts: NDArray[np.int64], shares: NDArray[np.int64], classes: Array, seed: int
) -> NDArray[np.bool_]:
    """Say which rows are held out. The rows of a class fall into as many runs as its share; one of each is chosen."""
    share = np.maximum(shares, 1)
    run = ranks * share // counts
    start, stop = -(-run * counts // share), -(-(run + 1) * counts // share)
    place = start + (_hashed(seed, classes, run) % (stop - start).astype(np.uint64)).astype(np.int64)
    chosen: NDArray[np.bool_] = (ranks == place) & (shares > 0)
    return chosen


def _hashed(seed: int, classes: Array, runs: Array) -> NDArray[np.uint64]:
    """Return numbers that look random, a function of seed, class and run (splitmix64: Steele, Lea, Flood, 2014)."""
    mixed = np.full(len(runs), seed % 2**64, np.uint64)
    for part in (classes, runs):
        mixed = mixed + part.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed
