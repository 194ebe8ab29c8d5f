"""Schedules: which states to keep and which to recompute, as data, with the planners and the one simulator."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from lowmem.schedule.ops import Backward, Forward, Free, Loss, Op, Schedule, Update
from lowmem.schedule.optimal.planner import optimal
from lowmem.schedule.recompute_all import recompute_all
from lowmem.schedule.revolve import revolve
from lowmem.schedule.segments import segments, sqrt
from lowmem.schedule.simulate import Lifetime, Trace, simulate
from lowmem.schedule.store_all import store_all

PLANNERS: Mapping[str, Callable[..., Schedule]] = MappingProxyType(
    {
        "store_all": store_all,
        "sqrt": sqrt,
        "segments": segments,
        "revolve": revolve,
        "optimal": optimal,
        "recompute_all": recompute_all,
    }
)
"""Planner by name: a function of a `Chain` and its own keywords (`segments=`, `slots=`, `budget=`)."""

__all__ = [
    "PLANNERS",
    "Backward",
    "Forward",
    "Free",
    "Lifetime",
    "Loss",
    "Op",
    "Schedule",
    "Trace",
    "Update",
    "optimal",
    "recompute_all",
    "revolve",
    "segments",
    "simulate",
    "sqrt",
    "store_all",
]
