"""Messages between ranks: they arrive whole, and move while a rank computes."""

from pathlib import Path

from tests.mpi.conftest import Run

SCRIPT = """
import time
import numpy as np
from lowmem.distributed import mpi

group, size = mpi(), 1 << 20
bounds = [0, 10, 10, size][: group.size] + [size]
counts = [bounds[group.rank + 1] - bounds[group.rank]] * group.size
counts[-1] = counts[-1] if group.size == 2 else 0  # the last of three sends nothing
sends = group.size == 2 or group.rank < 2
array = np.arange(size, dtype=np.float32) + group.rank
questions = []
for _ in range(5):
    received = np.zeros(sum(counts), np.float32)
    flying = [group.exchange(array if sends else None, bounds, received, counts)]
    whole = np.full(size, group.rank, np.float32)
    flying.append(group.gather(whole, bounds))
    asked, end = 0, time.monotonic() + 30
    while not all(request._done for request in flying) and time.monotonic() < end:
        time.sleep(1e-3)  # as in a long layer, nothing asks for the messages
        asked += 1
    assert all(request._done for request in flying)
    part = np.arange(bounds[group.rank], bounds[group.rank + 1])
    senders = [rank for rank in range(group.size) if counts[rank]]
    assert (received == np.concatenate([part + rank for rank in senders] or [part[:0]])).all()
    assert (whole == np.repeat(np.arange(group.size), np.diff(bounds))).all()
    questions.append(asked)
    group.agree(None)
assert min(questions) < 250, questions  # of a few KiB each there would be 500 and more
"""


def test_large_messages_arrive_while_a_rank_calls_nothing(ranks: Run, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    for size in (2, 3):
        done = ranks(size, "script.py", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
