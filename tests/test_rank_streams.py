"""Ranks that share batches of a file read their own rows, and have the batches of one process in parts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowmem as lm
from lowmem.common.shards import Shards
from lowmem.data.formats.array_file import ArrayFile
from lowmem.data.stream import Stream

ROWS, WIDE = 211, 1100
X = np.random.default_rng(0).standard_normal((ROWS, WIDE)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, ROWS)


def opened(folder: Path, columns: int = WIDE, **options: Any) -> Stream:
    """Return a stream over an archive with x, y and weights; rows of all columns are wider than a page."""
    path = folder / "data.npz"
    np.savez(path, x=X[:, :columns], y=Y, w=np.arange(ROWS) + 1.0)
    stream = lm.open_data(path, weights="w", **options)
    assert isinstance(stream, Stream)
    return stream


def epoch(
    stream: Stream, rows: int, seed: int | None, start: int, share: Shards | None = None
) -> list[tuple[Any, ...]]:
    """Return the batches of an epoch: x, y and weights."""
    architecture = lm.Architecture((stream.features, 4, 3))
    batches = stream.batches(rows, architecture, seed, share=share).allocate()
    assert batches.nbytes == stream.batch_bytes(rows, architecture, shuffled=seed is not None, share=share)
    found = []
    for batch in batches.epoch(1, start=start):
        held = batch.x, batch.y, () if batch.weights is None else batch.weights
        found.append((*map(np.array, held), batch.whole))
    return found


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 40),
    block=st.integers(1, 230),
    columns=st.sampled_from([3, 200, WIDE]),
    ranks=st.sampled_from([(2, 2), (4, 2), (4, 4), (3, 3)]),
    start=st.integers(0, 9),
    seed=st.sampled_from([None, 0, 1]),
    held_out=st.booleans(),
)
def test_the_parts_of_all_ranks_are_the_batches_of_one_process(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    block: int,
    columns: int,
    ranks: tuple[int, int],
    start: int,
    seed: int | None,
    held_out: bool,
) -> None:
    stream = opened(tmp_path_factory.mktemp("data"), columns, shuffle_rows=block)
    if held_out:
        stream = stream.split(0.3, seed=0)[0]
    whole = epoch(stream, rows, seed, start)
    parts = [epoch(stream, rows, seed, start, Shards(*ranks, rank)) for rank in range(ranks[1])]
    assert all(len(part) == len(whole) for part in parts)
    for number, batch in enumerate(whole):
        for at in range(3):
            np.testing.assert_array_equal(np.concatenate([part[number][at] for part in parts]), batch[at])


@pytest.mark.parametrize("held_out", [False, True])
def test_a_rank_reads_no_more_of_wide_rows_than_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_out: bool
) -> None:
    stream = opened(tmp_path, shuffle_rows=100)
    if held_out:
        stream = stream.split(0.3, seed=0)[0]
    read: list[int] = []
    usual = ArrayFile.read

    def counted(self: ArrayFile, start: int, out: Any) -> None:
        read.append(out.nbytes)
        usual(self, start, out)

    monkeypatch.setattr(ArrayFile, "read", counted)
    own = [sum(len(batch[1]) for batch in epoch(stream, 24, 0, 0, Shards(4, 4, rank))) for rank in range(4)]
    assert sum(own) == len(stream)
    # Beside x there are a label and a weight; of a split, rows between those that are chosen are read with them.
    most = len(stream) * (4 * WIDE + 16) * (1.6 if held_out else 1.0)
    assert sum(read) <= most
