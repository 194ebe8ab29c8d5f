"""Text in figures, measured before it is drawn: lines that fit into a width, and marks of axes that do not collide."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from math import ceil, floor, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

TEXT, LEGEND_TEXT, SMALL_TEXT = 13, 12, 9
"""Points of text; at half size it is still as large as a footnote."""

GAP = 0.14
"""Inches between two marks of an axis, at least."""

WIDER = 1.06
"""Drawn in pixels, letters become somewhat wider than they are measured."""

WITHIN_A_DECADE = ((1, 1.2, 1.5, 2, 3, 5, 7), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
"""Where a logarithmic axis may be marked, the densest choice first."""


def text_width(text: str, points: float) -> float:
    """Return the inches that the longest line of a text takes in letters of so many points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=points)
    # Dollar signs are no formulas here: names may hold any letters.
    widths = [text_to_path.get_text_width_height_descent(line, font, False)[0] for line in text.split("\n")]
    return WIDER * max(widths) / 72


def wrapped(text: str, width: float, points: float) -> str:
    """Break the lines of a text at blanks, or in words that are too long, so that each fits into so many inches."""
    return "\n".join(part for line in text.splitlines() for part in _parts(line, width, points))


def _parts(line: str, width: float, points: float) -> Iterator[str]:
    """Yield a line in parts that fit."""
    part = ""
    for word in line.split():
        longer = f"{part} {word}".strip()
        if part and text_width(longer, points) > width:
            yield part
            longer = word
        while len(longer) > 1 and text_width(longer, points) > width:
            fits = next(n for n in range(len(longer) - 1, 0, -1) if n == 1 or text_width(longer[:n], points) <= width)
            yield longer[:fits]
            longer = longer[fits:]
        part = longer
    yield part


def plain(number: float) -> str:
    """Write a number at an axis: 1,250, 0.25, 3e-07."""
    if number == 0 or 1e-3 <= abs(number) < 1e4:
        return f"{number:.10g}"
    return f"{number:,.0f}" if 1e4 <= abs(number) < 1e7 else f"{number:.6g}"


def set_marks(
    axis: "Axis",
    low: float,
    high: float,
    length: float,
    write: Callable[[float], str] = plain,
    *,
    whole: bool = False,
    among: Sequence[float] = (),
) -> None:
    """Mark an axis at round numbers from low to high, as many as have room for their texts.

    axis: an x axis or a y axis, linear or logarithmic.
    length: inches of the axis. write: returns the text of a mark. whole: only whole numbers are marked.
    among: mark these, or every second of them, and so on, in place of round numbers.
    """
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    logarithmic = axis.get_scale() == "log"
    upright = axis is axis.axes.yaxis

    def fits(marks: Sequence[float]) -> bool:
        texts = [write(mark) for mark in marks]
        if len(set(texts)) < len(texts):
            return False
        places = [length * _place(mark, low, high, logarithmic=logarithmic) for mark in marks]
        sizes = [LEGEND_TEXT / 72 if upright else text_width(text, LEGEND_TEXT) for text in texts]
        return all(places[n + 1] - places[n] > (sizes[n] + sizes[n + 1]) / 2 + GAP for n in range(len(marks) - 1))

    given = sorted(set(among))
    choices = chain(
        (given[::step] for step in range(1, len(given) + 1)),
        _choices(low, high, logarithmic=logarithmic, whole=whole),
    )
    marks = next((marks for marks in choices if marks and fits(marks)), [])
    axis.set_major_locator(FixedLocator(marks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FixedFormatter([write(mark) for mark in marks]))


def in_lines(label: str, width: float, points: float) -> str:
    """Break the label of an axis that is wider than so many inches, before its brackets if that is enough."""
    at_brackets = label.replace(" (", "\n(")
    for text in (label, at_brackets):
        if text_width(text, points) <= width:
            return text
    return min(wrapped(at_brackets, width, points), wrapped(label, width, points), key=lambda text: text.count("\n"))


def with_scale(label: str, scale: str = "linear") -> str:
    """Add the scale to the label of an axis, after its unit if it has one: "work done (GFLOP, linear scale)"."""
    return f"{label[:-1]}, {scale} scale)" if label.endswith(")") else f"{label} ({scale} scale)"


def mark_from_0(axes: "Axes", highest: float, label: str, length: float, *, whole: bool = False) -> None:
    """Let the y axis, of so many inches, reach from 0 to a little above the highest value, and mark and label it."""
    top = 1.05 * (highest or 1)
    axes.set_ylim(0, top)
    set_marks(axes.yaxis, 0, top, length, whole=whole)
    axes.set_ylabel(in_lines(with_scale(label), length, TEXT))


def _place(mark: float, low: float, high: float, *, logarithmic: bool) -> float:
    """Return where a mark lies between the ends of an axis, from 0 to 1."""
    if high <= low:
        return 0.5
    return log10(mark / low) / log10(high / low) if logarithmic else (mark - low) / (high - low)


def _choices(low: float, high: float, *, logarithmic: bool, whole: bool) -> Iterator[list[float]]:
    """Yield choices of marks from the densest to the most sparse."""
    from matplotlib.ticker import MaxNLocator

    if logarithmic and high > 3 * low:
        decades = range(floor(log10(low)) - 1, ceil(log10(high)) + 1)
        for within in WITHIN_A_DECADE:
            yield _inside((part * 10.0**power for power in decades for part in within), low, high)
        for step in range(2, len(decades)):
            yield _inside((10.0**power for power in decades if power % step == 0), low, high)
    for most in range(7, 0, -1):
        yield _inside(MaxNLocator(most, integer=whole, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high), low, high)
    yield [low] if low > 0 or not logarithmic else [high]


def _inside(marks: Iterable[float], low: float, high: float) -> list[float]:
    """Return the marks between the ends of an axis; rounding must not lose one at an end."""
    slack = 1e-9 * (high - low)
    return [float(mark) for mark in marks if low - slack <= mark <= high + slack]


def columns_of(labels: Sequence[str], width: float, points: float, handle: float) -> int:
    """Return in how many columns a legend's labels fit into so many inches; columns are filled from top to bottom.

    handle: inches of a series' line and the space around it.
    """
    widths = [text_width(label, points) + handle for label in labels]
    for columns in range(len(labels), 1, -1):
        rows, longer = divmod(len(labels), columns)  # the first columns have one more
        starts = [column * rows + min(column, longer) for column in range(columns + 1)]
        if sum(max(widths[start:stop]) for start, stop in pairwise(starts)) < width:
            return columns
    return 1
