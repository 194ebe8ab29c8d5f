"""Revolve beside the package checkpoint_schedules, whose schedules are carried out here op by op."""

from typing import Any

import pytest

from lowmem.chain import Chain
from lowmem.schedule import PLANNERS, simulate
from lowmem.schedule.revolve import revolve_forwards

cs = pytest.importorskip("checkpoint_schedules")


def their_forwards(length: int, snapshots: int) -> tuple[int, int]:
    """Return the steps that their schedule runs forward, and the most snapshots it holds at once."""
    schedule: Any = cs.Revolve(length, snapshots)
    forwards = most = 0
    held: set[int] = set()
    for action in schedule:
        match action:
            case cs.Forward():
                forwards += action.n1 - action.n0
                if action.write_ics:
                    held.add(action.n0)
            case cs.Move():
                held.discard(action.n)
            case cs.EndReverse():
                break
        most = max(most, len(held))
    return forwards, most


@pytest.mark.parametrize("length", [*range(2, 21), 33, 50, 77, 100, 200])
def test_revolve_runs_as_many_forwards(length: int) -> None:
    """Both conventions at once, as `lowmem.schedule.revolve` writes them down."""
    chain = Chain.abstract(forward=[1] * length, backward=[1] * length, state_bytes=[1] * (length + 1))
    for slots in range(min(length, 12)):
        trace = simulate(chain, PLANNERS["revolve"](chain, slots=slots))
        theirs, most = their_forwards(length, slots + 1)
        # Theirs count x^(0) among the snapshots and run every step once more, to record it for its reversal;
        # ours runs the last layer once, for the loss, and no other just to reverse it.
        assert trace.forward_runs - 1 == theirs - length
        assert trace.forward_runs == revolve_forwards(length, slots)
        assert trace.peak_bytes <= slots
        assert most <= slots + 1
