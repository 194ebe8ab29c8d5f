"""One step under the magnifying glass: FLOPs counted from the arrays really multiplied, and seconds, by phase."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.measure.memory import SampledPeak
from lowmem.network.architecture import Architecture
from lowmem.network.layers.base import Call, Layer, Site, add_up, numbers
from lowmem.planning.timeline import PHASES
from lowmem.runtime import binding
from lowmem.runtime.backprop import Backprop

POINTS = 400
"""Of memory over a step, at most."""


@dataclass(frozen=True, slots=True)
class StepProfile:
    """What one step did: FLOPs and seconds by phase (see `PHASES`).

    An update's FLOPs are not counted, as no plan counts them. Of several lanes the FLOPs are added up, and the seconds
    are the mean.
    """

    flops: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PHASES, 0))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))

    @property
    def total_flops(self) -> int:
        """FLOPs of the whole step: what `plan.flops` predicts."""
        return sum(self.flops.values())

    @property
    def total_seconds(self) -> float:
        """Seconds spent in calls."""
        return sum(self.seconds.values())

    @classmethod
    def median(cls, profiles: Sequence["StepProfile"]) -> "StepProfile":
        """Return the median of each phase's seconds over several profiles of the same step."""
        from statistics import median  # brings fractions and decimals, for those who measure

        seconds = {phase: median(profile.seconds[phase] for profile in profiles) for phase in PHASES}
        return cls(profiles[0].flops, seconds)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON."""
        return {
            "flops": self.flops,
            "seconds": self.seconds,
            "backward_over_forward": {"flops": twice(self.flops), "seconds": twice(self.seconds)},
        }


def twice(by_phase: Mapping[str, float]) -> float | None:
    """Return backward over forward, which the rule of thumb says is 2; None where no forward took anything."""
    return by_phase["backward"] / by_phase["forward"] if by_phase["forward"] else None


Progress = list[tuple[float, int]]
"""(time of `perf_counter`, FLOPs done in this pass by then), at the start of a pass and after every call."""


def profile_step(
    backprop: Backprop, x: NDArray[Any], y: NDArray[Any], progress: Progress | None = None
) -> StepProfile:
    """Run one step, timing every call and counting its FLOPs. With an optimizer the parameters are updated.

    progress: is filled with that of the last pass, at the price of some memory for each call.

    Takes a few microseconds a call more than a plain step. Raises as the step itself does.
    """
    lanes, here = backprop.plan.lanes, threading.get_ident()
    done: list[StepProfile] = []

    def run(calls: Sequence[Call]) -> None:
        # The first lane is this thread: its progress stands for all.
        own = progress if threading.get_ident() == here else None
        meter = _Meter(backprop.mlp.architecture, StepProfile(), own, lanes)
        meter.run(calls)
        done.append(meter.profile)

    backprop.step(x, y, run)
    flops = {phase: sum(profile.flops[phase] for profile in done) for phase in PHASES}
    seconds = {phase: sum(profile.seconds[phase] for profile in done) / lanes for phase in PHASES}
    return StepProfile(flops, seconds)


def memory_over_work(sampled: SampledPeak, progress: Progress) -> list[tuple[float, int]]:
    """Return (FLOPs done, bytes resident) along the pass of `progress`, of which `sampled` has seen the memory.

    Of more than `POINTS` samples each point is the largest of its neighbours.
    """
    times, done = zip(*progress, strict=True)
    before = sum(time < times[0] for time, _ in sampled.series)
    series = sampled.series[max(before - 1, 0) :]  # the last sample before the pass is what it begins with
    seen = [(float(np.interp(time, times, done)), size) for time, size in series]
    group = -(-len(seen) // POINTS)
    return [max(seen[n : n + group], key=lambda point: point[1]) for n in range(0, len(seen), group or 1)]


class _Meter:
    """Runs one lane's calls one by one and books each to its phase."""

    def __init__(
        self, architecture: Architecture, profile: StepProfile, progress: Progress | None, lanes: int
    ) -> None:
        self.architecture, self.profile, self.progress, self.lanes = architecture, profile, progress, lanes
        self.seen: set[int] = set()  # layers that have run in this pass

    def run(self, calls: Sequence[Call]) -> None:
        """Run the calls of one pass."""
        self.seen.clear()
        if self.progress is not None:
            self.progress[:] = [(perf_counter(), 0)]
        for function, arguments in calls:
            if function is binding.sweep:
                ladder, first, stop = arguments
                for rung, its in ladder[first:stop]:
                    self.call(rung, its)
            else:
                self.call(function, arguments)

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Run one call; what one lane does alone is a wait, perhaps a call, and a wait."""
        if function is not binding.alone:
            self.book(function, arguments)
            return
        wait, its = arguments
        self.book(wait, ())
        if its is not None:
            self.book(*its)
        self.book(wait, ())

    def book(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Run one call; add up its time and FLOPs."""
        start = perf_counter()
        function(*arguments)
        end = perf_counter()
        phase, flops = self.count(function, arguments)
        self.profile.seconds[phase] += end - start
        self.profile.flops[phase] += flops
        if self.progress is not None:
            self.progress.append((end, self.progress[-1][1] + flops * self.lanes))

    def count(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[str, int]:
        """Return the phase of a call, and its FLOPs from the shapes of its arrays."""
        if function in (binding.gradients, binding.gradients_of_batch):
            delta, _, _, g_w, _ = arguments
            return "backward", 2 * len(delta) * g_w.size + 2 * delta.size
        if function is binding.check_loss:
            return "loss", 0
        if function is binding.fold_loss:
            flops = self.architecture.loss_flops(1) // self.architecture.widths[-1]
            return "loss", flops * numbers(arguments[0])
        if function is np.add:
            return "sum of gradients", arguments[0].size
        owner = getattr(function, "__self__", None)
        layer = owner if isinstance(owner, Layer) else self.architecture.layer(1)
        if (counted := layer.counted((function, arguments))) is not None:
            return self.sweep(arguments) if counted[0] == "forward" else "backward", counted[1]
        if function is add_up:
            return "backward", 0
        return ("update" if function is binding.update else "waiting"), 0

    def sweep(self, arguments: tuple[Any, ...]) -> str:
        """Say whether a forward is the layer's first in this pass, by its parameters."""
        which = arguments[0].layer if isinstance(arguments[0], Site) else id(arguments[2])
        phase = "recomputation" if which in self.seen else "forward"
        self.seen.add(which)
        return phase
