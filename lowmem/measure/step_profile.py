"""One step under the magnifying glass: FLOPs counted from the arrays really multiplied, and seconds, by phase."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.measure.memory import SampledPeak
from lowmem.planning.engines.outline import PHASES
from lowmem.runtime.backprop import Backprop
from lowmem.runtime.engines.calls import Bound, single_calls

POINTS = 400
"""Of memory over a step, at most."""


@dataclass(frozen=True, slots=True)
class StepProfile:
    """What one step did: FLOPs and seconds by phase (see `PHASES`; "disk" besides, where states go to one).

    An update's FLOPs are not counted, as no plan counts them.
    """

    flops: dict[str, int] = field(default_factory=lambda: dict[str, int].fromkeys(PHASES, 0))
    seconds: dict[str, float] = field(default_factory=lambda: dict[str, float].fromkeys(PHASES, 0.0))

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

        seconds = {phase: median(profile.seconds[phase] for profile in profiles) for phase in profiles[0].seconds}
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
    """Run one step, timing every call and counting its FLOPs. The step does all that a plain one does.

    progress: is filled with that of the last pass, at the price of some memory for each call.

    Takes a few microseconds a call more than a plain step. Raises as the step itself does.
    """
    profile = StepProfile()

    def carry_out(bound: Sequence[Bound]) -> None:
        """Run bound calls one by one, and book each to its phase."""
        if progress is not None and bound[0].phase != "update":  # a pass begins
            progress[:] = [(perf_counter(), 0)]
        for call in single_calls(bound):
            start = perf_counter()
            call.run()
            end = perf_counter()
            flops = call.flops()
            profile.seconds[call.phase] = profile.seconds.get(call.phase, 0.0) + end - start
            profile.flops[call.phase] = profile.flops.get(call.phase, 0) + flops
            if progress is not None:
                progress.append((end, progress[-1][1] + flops))

    backprop.step(x, y, carry_out=carry_out)
    return profile


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
