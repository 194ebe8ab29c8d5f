"""One step under the magnifying glass: FLOPs counted from the arrays really multiplied, and seconds, by phase."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem import binding
from lowmem.architecture import ACTIVATIONS, Architecture
from lowmem.binding import Call
from lowmem.executor import Backprop
from lowmem.nn import kernels
from lowmem.tables import Table
from lowmem.units import format_count

PHASES = ("forward", "recomputation", "loss", "backward", "sum of gradients", "update")


@dataclass(frozen=True, slots=True)
class StepProfile:
    """What one step did: FLOPs and seconds by phase (see `PHASES`).

    A layer's first forward in a pass is "forward", any later one "recomputation". An update's FLOPs are not counted,
    as no plan counts them.
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

    @property
    def backward_over_forward(self) -> tuple[float, float]:
        """The rule of thumb "backward costs twice the forward": the ratio in FLOPs, and in seconds."""
        return (
            self.flops["backward"] / self.flops["forward"],
            self.seconds["backward"] / self.seconds["forward"] if self.seconds["forward"] else float("nan"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON."""
        by_flops, by_time = self.backward_over_forward
        return {
            "flops": self.flops,
            "seconds": self.seconds,
            "backward_over_forward": {"flops": by_flops, "seconds": by_time},
        }

    def table(self) -> Table:
        """Return a row for each phase that did something."""
        rows = [
            [
                phase,
                f"{format_count(self.flops[phase])}FLOP" if self.flops[phase] else "",
                f"{seconds * 1e3:.2f} ms",
                f"{seconds / self.total_seconds:.1%}",
                f"{self.flops[phase] / seconds / 1e9:.0f} GFLOP/s" if self.flops[phase] else "",
            ]
            for phase, seconds in self.seconds.items()
            if seconds
        ]
        by_flops, by_time = self.backward_over_forward
        note = f"backward over forward (rule of thumb: 2): {by_flops:.2f} in FLOPs, {by_time:.2f} in time"
        return Table("one step", ["phase", "work", "time", "share", "rate"], rows, note)


def profile_step(backprop: Backprop, x: NDArray[Any], y: NDArray[Any]) -> StepProfile:
    """Run one step, timing every call and counting its FLOPs. With an optimizer the parameters are updated.

    Takes a few microseconds a call more than a plain step. Raises as the step itself does.
    """
    profile = StepProfile()
    meter = _Meter(backprop.mlp.architecture, profile)
    backprop.step(x, y, meter.run)
    return profile


class _Meter:
    """Runs calls one by one and books each to its phase."""

    def __init__(self, architecture: Architecture, profile: StepProfile) -> None:
        self.architecture, self.profile = architecture, profile
        self.facts = ACTIVATIONS[architecture.activation]
        self.seen: set[int] = set()  # layers that have run in this pass, by the identity of their bias

    def run(self, calls: Sequence[Call]) -> None:
        """Run the calls of one pass."""
        self.seen.clear()
        for function, arguments in calls:
            if function is binding.sweep:
                ladder, first, stop = arguments
                for rung, its in ladder[first:stop]:
                    self.book(rung, its)
            else:
                self.book(function, arguments)

    def book(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Run one call; add up its time and FLOPs."""
        start = perf_counter()
        function(*arguments)
        seconds = perf_counter() - start
        phase, flops = self.count(function, arguments)
        self.profile.seconds[phase] += seconds
        self.profile.flops[phase] += flops

    def count(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[str, int]:
        """Return the phase of a call, and its FLOPs from the shapes of its arrays."""
        facts = self.facts
        if function in (kernels.forward_x, kernels.advance_x, kernels.forward_s):
            sources, w_t, b, outs, sigma, _ = arguments
            phase = "recomputation" if id(b) in self.seen else "forward"
            self.seen.add(id(b))
            evaluated = _numbers(sources if function is kernels.forward_s else outs)
            values = evaluated * facts.value_flops if sigma.name == self.architecture.activation else 0
            return phase, 2 * _numbers(sources) * w_t.shape[1] + _numbers(outs) + values
        if function in (kernels.gradients, binding.gradients_of_batch):
            delta, _, _, g_w, _ = arguments
            return "backward", 2 * len(delta) * g_w.size + 2 * delta.size
        if function in (kernels.backward_x, kernels.backward_s):
            deltas, w, states = arguments[:3]
            return "backward", 2 * _numbers(deltas) * w.shape[1] + facts.slope_flops * _numbers(states)
        if function is kernels.values:
            return "backward", facts.value_flops * _numbers(arguments[0])
        if function is binding.fold_loss:
            return "loss", self.architecture.loss_facts.flops * _numbers(arguments[0])
        if function is np.add:
            return "sum of gradients", arguments[0].size
        return "update", 0


def _numbers(tiles: Sequence[NDArray[Any]]) -> int:
    """Return how many numbers some tiles hold."""
    return sum(tile.size for tile in tiles)
