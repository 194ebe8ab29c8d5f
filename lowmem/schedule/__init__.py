"""Schedules: which states to keep and which to recompute, as data, with the planners and the one simulator."""

from collections.abc import Mapping
from types import MappingProxyType

from lowmem.schedule.lowering import Planner, lower, lowered
from lowmem.schedule.ops import AllReduce, Backward, Forward, Free, Load, Loss, Op, Record, Schedule, Store, Update
from lowmem.schedule.optimal.planner import optimal
from lowmem.schedule.recompute_all import recompute_all
from lowmem.schedule.revolve import revolve
from lowmem.schedule.segments import segments, sqrt
from lowmem.schedule.simulate import Lifetime, Trace, simulate
from lowmem.schedule.store_all import store_all


def _with_tapes() -> dict[str, Planner]:
    """Load the planners of chains with tapes: a network of NumPy's has none."""
    from lowmem.schedule.tapes import fixed, planner

    return {each.__name__: each for each in (fixed.store_all, fixed.sqrt, fixed.segments, planner.optimal)}


_PLANNERS = (store_all, sqrt, segments, revolve, optimal, recompute_all)

PLANNERS: Mapping[str, Planner] = MappingProxyType(
    {planner.__name__: lowered(planner, _with_tapes) for planner in _PLANNERS}
)
"""Planner by name: a function of a `Chain` and of keywords of its own (`segments=`, `slots=`, `budget=`).

For chains with tapes there are store_all, sqrt, segments and optimal.

The schedules are lowered: they have an `Update` for each layer where the chain updates its parameters."""

__all__ = [
    "PLANNERS",
    "AllReduce",
    "Backward",
    "Forward",
    "Free",
    "Lifetime",
    "Load",
    "Loss",
    "Op",
    "Planner",
    "Record",
    "Schedule",
    "Store",
    "Trace",
    "Update",
    "lower",
    "optimal",
    "recompute_all",
    "revolve",
    "segments",
    "simulate",
    "sqrt",
    "store_all",
]
