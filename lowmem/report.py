"""The report: what was promised beside what was measured."""

from dataclasses import dataclass
from typing import Any

from lowmem.plans import Plan
from lowmem.tables import Table
from lowmem.units import format_bytes


@dataclass(frozen=True, slots=True)
class Report:
    """A plan, and what running it really took.

    traced_peak: the most bytes that Python and NumPy held for training, None if it was not traced.
    resident_peak: the most bytes the whole process held, interpreter, libraries and data included.
    seconds_per_step: mean over the steps of the last epoch. steps: how many were run in all.
    loss: mean over the last epoch. accuracy: on held-out samples, None without labels or validation.
    process_promise: of a cap for the whole process, what was promised; first_step_peak: what the first step took.
    """

    plan: Plan
    traced_peak: int | None
    resident_peak: int
    seconds_per_step: float
    steps: int
    loss: float
    accuracy: float | None = None
    process_promise: int | None = None
    first_step_peak: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the report's numbers for JSON."""
        return {
            "plan": self.plan.to_dict(),
            "traced_peak_bytes": self.traced_peak,
            "resident_peak_bytes": self.resident_peak,
            "seconds_per_step": self.seconds_per_step,
            "steps": self.steps,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "process_promise_bytes": self.process_promise,
            "first_step_peak_bytes": self.first_step_peak,
        }

    def table(self) -> Table:
        """Return promise and measurement side by side."""
        plan = self.plan
        rows = [["peak memory of training", format_bytes(plan.peak_bytes), _measured(plan, self.traced_peak)]]
        if plan.budget:
            rows.insert(0, ["budget", format_bytes(plan.budget), ""])
        rows.append(["of that, activations", format_bytes(plan.arena_bytes), ""])
        rows.append(["activations, storing everything", format_bytes(plan.store_all_bytes), ""])
        promise = self.process_promise
        rows.append(["whole process", format_bytes(promise) if promise else "", format_bytes(self.resident_peak)])
        if promise and self.first_step_peak:
            rows.append(["after the first step", "", _beside(self.first_step_peak, promise)])
        rows.append(["FLOPs, times storing everything", f"{plan.flop_factor:.3f}", ""])
        rows.append(["time per step", "", f"{self.seconds_per_step * 1e3:.1f} ms"])
        rows.append(["training loss", "", f"{self.loss:.4f}"])
        if self.accuracy is not None:
            rows.append(["held-out accuracy", "", f"{self.accuracy:.2%}"])
        return Table(f"{plan.architecture}\nstrategy {plan.strategy}", ["", "promised", "measured"], rows)

    def __str__(self) -> str:
        """Show promise and measurement side by side."""
        return str(self.table())


def _measured(plan: Plan, peak: int | None) -> str:
    """Write a measured peak and how far it is from the promise."""
    if peak is None:
        return "not traced"
    return _beside(peak, plan.peak_bytes)


def _beside(measured: int, promised: int) -> str:
    """Write a measured size and how far it is from the promised one."""
    return f"{format_bytes(measured)} ({measured / promised - 1:+.2%})"
