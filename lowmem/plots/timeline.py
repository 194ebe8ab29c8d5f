"""One step over time: how many bytes of states, deltas and scratch are alive at every op."""

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from lowmem.chain import Chain
from lowmem.plans import Plan
from lowmem.plots.style import (
    BLACK,
    LEGEND_TEXT,
    ORANGE,
    PALE,
    SKY,
    VERMILION,
    byte_unit,
    flop_unit,
    house_style,
    legend_above,
    new_figure,
)
from lowmem.report import Report
from lowmem.schedule import Backward, Forward, Loss, Op, Schedule, simulate
from lowmem.units import format_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Moment:
    """What is alive while one op runs, in bytes, and the FLOPs of that op.

    states, deltas: the op's operands and what it makes included. A state that turns into δ counts once.
    """

    op: Op
    flops: float
    states: int
    deltas: int
    scratch: int

    @property
    def bytes(self) -> int:
        """All that is alive."""
        return self.states + self.deltas + self.scratch


def chain_of(plan: Plan) -> Chain:
    """Return the chain of one pass of a plan."""
    return Chain.of(plan.architecture, plan.micro_batch, updates=plan.optimizer is not None)


def occupancy(chain: Chain, schedule: Schedule) -> list[Moment]:
    """Return what is alive during each op; the largest sum is the peak of `simulate`."""
    # A value is alive between the op that makes it and the one that ends it. While it is being made it is counted
    # with that op, as there it may take more room than it keeps.
    changes = {"states": [0] * (len(schedule) + 2), "deltas": [0] * (len(schedule) + 2)}
    for life in simulate(chain, schedule).lifetimes:
        change = changes["deltas" if life.value.kind == "δ" else "states"]
        change[life.start + 1] += life.bytes
        change[life.end + 1] -= life.bytes
    moments = []
    held = zip(schedule.ops, accumulate(changes["states"]), accumulate(changes["deltas"]), strict=False)
    for op, states, deltas in held:
        flops, made, scratch = _running(chain, op)
        moments.append(Moment(op, flops, states + made, deltas, scratch))
    return moments


def _running(chain: Chain, op: Op) -> tuple[float, int, int]:
    """Return the FLOPs of an op, the bytes of the state that it is making, and those of its scratch."""
    match op:
        case Forward(first, last):
            scratch = chain.forward_scratch(first, last)
            return chain.forward_cost(first, last), chain.travelling_bytes(first, last), scratch
        case Loss():
            return chain.loss, 0, chain.loss_scratch
        case Backward(layer):
            return chain.stages[layer - 1].backward, 0, chain.stages[layer - 1].backward_scratch
        case _:
            return 0, 0, 0


def memory_timeline(
    source: Plan | Report, *, over: Literal["flops", "ops"] = "flops", everything: bool = False
) -> "Figure":
    """Draw where the memory of one step goes, stacked by kind, with the promise as a line.

    source: a plan, or a report, whose measured peak is drawn as well where it was traced and `everything` is shown.
    over: the horizontal axis, FLOPs done or the number of the op.
    everything: put the arena on top of all else that is allocated (parameters, gradients, optimizer, ...), with the
        promised peak as the line, and the budget if there is one.

    Where a batch is run in several passes one of them is shown: they are alike.
    """
    plan = source.plan if isinstance(source, Report) else source
    moments = occupancy(chain_of(plan), plan.schedule)
    base = plan.fixed_bytes if everything else 0
    lines = {"arena, promised": plan.arena_bytes}
    if everything:
        lines = {"peak, promised": plan.peak_bytes}
        if plan.budget:
            lines["budget"] = plan.budget
        if isinstance(source, Report) and source.traced_peak is not None:
            lines["peak, measured"] = source.traced_peak
    unit, factor = byte_unit(max(lines.values()))
    with house_style():
        figure, (axis,) = new_figure()
        _stack(axis, moments, base / factor, factor, over)
        for (name, size), style in zip(lines.items(), ("--", ":", "-."), strict=False):
            axis.axhline(size / factor, color=BLACK, linestyle=style, label=f"{name}: {format_bytes(size)}")
        axis.set_ylabel(f"memory ({unit})")
        axis.set_ylim(0, 1.05 * max(lines.values()) / factor)
        legend_above(figure)
        axis.set_title(pass_of(plan), fontsize=LEGEND_TEXT)
    return figure


def _stack(axis: "Axes", moments: list[Moment], base: float, factor: int, over: Literal["flops", "ops"]) -> None:
    """Draw the areas; each op lasts from one edge to the next."""
    edges, label = op_edges([moment.flops for moment in moments], over)
    kinds = {
        "all else": (PALE, [base] * len(moments)),
        "states": (SKY, [moment.states / factor for moment in moments]),
        "deltas": (VERMILION, [moment.deltas / factor for moment in moments]),
        "scratch": (ORANGE, [moment.scratch / factor for moment in moments]),
    }
    below = [0.0] * (len(moments) + 1)
    for name, (colour, sizes) in kinds.items():
        if not any(sizes):
            continue
        top = [low + size for low, size in zip(below, [*sizes, sizes[-1]], strict=True)]
        axis.fill_between(edges, below, top, step="post", color=colour, linewidth=0, label=name)
        below = top
    axis.set_xlim(0, edges[-1])
    axis.set_xlabel(label)


def op_edges(flops: list[float], over: Literal["flops", "ops"]) -> tuple[list[float], str]:
    """Return where each op begins on the horizontal axis, with the end of the last one, and the axis's label."""
    if over == "ops":
        return [float(n) for n in range(len(flops) + 1)], "op number"
    unit, scale = flop_unit(sum(flops))
    return [done / scale for done in accumulate(flops, initial=0.0)], f"work done ({unit})"


def pass_of(plan: Plan) -> str:
    """Say in a line what is shown."""
    architecture = plan.architecture
    widest = max(architecture.widths[1:-1], default=architecture.widths[-1])
    shown = f"{architecture.layers} layers up to {widest} wide, {architecture.activation}, batch {plan.batch_size}"
    if plan.micro_batches > 1:
        shown += f", one pass of {plan.micro_batch}"
    return f"{shown}; {plan.strategy}"
