"""Learning curves: loss, accuracy and learning rate over the steps of a run."""

from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from typing import TYPE_CHECKING

from lowmem.common.checks import items, text
from lowmem.measure.learning import EpochRecord
from lowmem.plots.lettering import plain, set_marks
from lowmem.plots.style import BLUE, GREEN, ORANGE, PURPLE, house_style, legend_above, new_figure, set_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT, ROW = 7.5, 0.9, 2.2
"""Inches of a figure across, of all but its panels, and of a panel."""

Line = tuple[str, str, str, Sequence[float | None]]
"""Name in the legend, colour, marker, and a value for each epoch, None where there is none."""


def learning_curves(epochs: Iterable[EpochRecord], *, title: str = "") -> "Figure":
    """Draw loss, accuracy and learning rate over the steps of a run, one below the other.

    epochs: records, such as `lowmem.measure.learning.read_journal` returns. title: above the figure.

    What no epoch has is left out, and so is a learning rate that never changes. A loss or rate whose range spans more
    than a factor of 20 is drawn on a logarithmic axis. An epoch whose value is not finite has no point.
    """
    records = items("epochs", epochs, EpochRecord, "records of epochs, such as read_journal returns")
    title = text("title", title)
    records.sort(key=lambda record: record.steps)
    panels: list[tuple[str, Callable[[float], str], list[Line]]] = [
        (
            "loss",
            plain,
            [
                ("loss in training", BLUE, "o", [record.loss for record in records]),
                ("loss on held-out samples", ORANGE, "^", [record.validation_loss for record in records]),
            ],
        ),
        (
            "accuracy",
            lambda share: f"{100 * share:.6g} %",
            [("accuracy on held-out samples", GREEN, "s", [record.accuracy for record in records])],
        ),
    ]
    rates = [record.learning_rate for record in records]
    if len(set(rates)) > 1:
        panels.append(("rate", plain, [("learning rate", PURPLE, "D", list(rates))]))
    drawn = [(name, write, present) for name, write, lines in panels if (present := _present(lines))]
    steps = [record.steps for record in records]
    with house_style():
        figure, axes = new_figure(WIDTH, HEIGHT + ROW * max(len(drawn), 1), rows=max(len(drawn), 1), sharex=True)
        for axis, (name, write, lines) in zip(axes, drawn, strict=False):
            _draw(axis, steps, lines)
            _scale(axis, name, [value for *_, values in lines for value in values if _finite(value)], write)
        low, high = min(steps), max(steps)
        room = 0.03 * (high - low) or 1
        axes[-1].set_xlim(low - room, high + room)
        set_marks(axes[-1].xaxis, low - room, high + room, WIDTH - 1.6, whole=True)
        axes[-1].set_xlabel("steps (linear scale); a point for each epoch")
        if drawn:
            legend_above(figure)
        if title:
            set_title(axes[0], title, WIDTH - 1.6)
    return figure


def _finite(value: float | None) -> bool:
    return value is not None and isfinite(value)


def _present(lines: Sequence[Line]) -> list[Line]:
    """Return the lines that have a value."""
    return [line for line in lines if any(_finite(value) for value in line[3])]


def _draw(axis: "Axes", steps: Sequence[int], lines: Sequence[Line]) -> None:
    """Draw the lines of a panel; markers only where they do not run into one another."""
    for label, colour, marker, values in lines:
        shown = [float("nan") if value is None or not isfinite(value) else value for value in values]
        style = marker if len(shown) <= 60 else ""
        axis.plot(steps, shown, color=colour, marker=style, markersize=5, label=label)


def _scale(axis: "Axes", name: str, values: Sequence[float | None], write: Callable[[float], str]) -> None:
    """Set scale, ends and marks of a panel."""
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    if low > 1e-12 * abs(high) and high > 20 * low and name != "accuracy":
        scale, low, high = "log", low * (low / high) ** 0.06, high * (high / low) ** 0.06
    else:
        room = 0.08 * (high - low) or 0.05 * abs(high) or 1
        scale, low, high = "linear", low - room, high + room
    axis.set_yscale(scale)
    axis.set_ylim(low, high)
    set_marks(axis.yaxis, low, high, ROW - 0.6, write)
    axis.set_ylabel(f"{name}\n({scale} scale)")
