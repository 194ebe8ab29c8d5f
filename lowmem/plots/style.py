"""The one style of all figures: colours that colour-blind readers tell apart, and text that is legible at half size.

The palette is that of M. Okabe and K. Ito, "Color Universal Design" (2008), https://jfly.uni-koeln.de/color/. Series
differ by marker and line as well, so that nothing is lost in black and white.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY, PALE = "#8C8C8C", "#C8C8C8"

TEXT = 13
"""Points of text; at half size it is still as large as a footnote."""

LEGEND_TEXT, SMALL_TEXT = 12, 8.5

LETTER, HANDLE, LEGEND_ROW = 0.092, 0.62, 0.25
"""Inches: of a letter in the legend, of a series' handle with the space around it, of a row."""

SMALL_ROW = 0.165
"""Inches: of a row of small print."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a series is drawn."""

    colour: str
    marker: str
    line: str = "-"


STRATEGIES: Mapping[str, Look] = MappingProxyType(
    {
        "optimal": Look(BLUE, "o", "-"),
        "store_all": Look(BLACK, "s", ":"),
        "sqrt": Look(ORANGE, "^", "--"),
        "segments": Look(PURPLE, "D", ":"),
        "revolve": Look(GREEN, "v", "-."),
        "recompute_all": Look(VERMILION, "X", ":"),
        "lowmem": Look(BLUE, "o", "-"),
    }
)
"""The look of each strategy, which is the same in every figure. Beside other libraries lowmem looks like `optimal`."""

OTHERS = (
    Look(VERMILION, "P", "--"),
    Look(GREEN, "v", "-."),
    Look(ORANGE, "^", "--"),
    Look(PURPLE, "D", "-."),
    Look(SKY, "p", "--"),
    Look(GREY, "h", ":"),
    Look(BLACK, "*", ":"),
    Look(BLUE, "<", "--"),
    Look(VERMILION, "^", ":"),
)
"""The looks of series that are no strategy of lowmem, in the order in which these series come."""


def looks(names: Sequence[str]) -> dict[str, Look]:
    """Return a look for each name: that of its strategy, or, for any other name, the next of `OTHERS`."""
    chosen: dict[str, Look] = {}
    for name in names:
        unknown = sum(other not in STRATEGIES for other in chosen)
        chosen.setdefault(name, STRATEGIES.get(name) or OTHERS[unknown % len(OTHERS)])
    return chosen


@contextmanager
def house_style() -> Iterator[None]:
    """Use the style of lowmem's figures inside this block; figures of your own may use it too."""
    import matplotlib

    style: dict[Any, Any] = {
        "axes.axisbelow": True,
        "axes.edgecolor": "#404040",
        "axes.grid": True,
        "axes.labelsize": TEXT,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": TEXT,
        "figure.facecolor": "white",
        "font.family": "sans-serif",
        "font.size": TEXT,
        "grid.color": "#DDDDDD",
        "grid.linewidth": 0.8,
        "legend.fontsize": LEGEND_TEXT,
        "legend.frameon": False,
        "lines.linewidth": 2,
        "lines.markersize": 8,
        "savefig.facecolor": "white",
        "xtick.labelsize": LEGEND_TEXT,
        "ytick.labelsize": LEGEND_TEXT,
    }
    with matplotlib.rc_context(style):
        yield


def new_figure(width: float = 7.5, height: float = 4.5, panels: int = 1) -> tuple["Figure", list["Axes"]]:
    """Return a figure (inches) and its axes side by side; call it inside `house_style()`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for axis in axes:
        # Ticks are made when the figure is drawn, outside the style: their size must be fixed here.
        axis.tick_params(which="both", labelsize=LEGEND_TEXT, color="#404040")
    return figure, axes


def legend_above(figure: "Figure") -> None:
    """Put one legend of all labelled series above the axes, where it covers nothing; the figure grows by its rows."""
    entries: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    width, height = figure.get_size_inches()
    columns = _columns(list(entries), width)
    rows = -(-len(entries) // columns)
    figure.set_size_inches(width, height + rows * LEGEND_ROW)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside upper left",
        ncols=columns,
        columnspacing=1.2,
        handlelength=1.8,
    )


def _columns(labels: list[str], width: float) -> int:
    """Return in how many columns labels fit into so many inches; they are filled from top to bottom."""
    for columns in range(len(labels), 1, -1):
        rows, longer = divmod(len(labels), columns)  # the first columns have one more
        starts = [column * rows + min(column, longer) for column in range(columns + 1)]
        longest = [max(map(len, labels[start:stop])) for start, stop in pairwise(starts)]
        if sum(HANDLE + LETTER * length for length in longest) < width:
            return columns
    return 1


def byte_unit(largest: float) -> tuple[str, int]:
    """Return the binary unit in which `largest` bytes are best shown, and its bytes."""
    for name, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if largest >= 2 * factor:
            return name, factor
    return "bytes", 1


def flop_unit(largest: float) -> tuple[str, float]:
    """Return the unit in which `largest` FLOPs are best shown, and its FLOPs."""
    for name, factor in (("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6), ("kFLOP", 1e3)):
        if largest >= 2 * factor:
            return name, factor
    return "FLOP", 1.0


def note_below(figure: "Figure", text: str) -> None:
    """Put small print below the axes: where and how the figure was measured; the figure grows by its lines."""
    width, height = figure.get_size_inches()
    # Drawn in pixels, letters become somewhat wider than they are measured.
    lines = [part for line in text.splitlines() for part in _wrapped(line, 0.96 * width)]
    figure.set_size_inches(width, height + len(lines) * SMALL_ROW)
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=SMALL_TEXT, color="#595959", linespacing=1.35)


def _wrapped(line: str, width: float) -> Iterator[str]:
    """Break a line of small print at blanks, so that each part is as wide as fits in so many inches as it is drawn."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font, part = FontProperties(size=SMALL_TEXT), ""
    for word in line.split():
        longer = f"{part} {word}".strip()
        if part and text_to_path.get_text_width_height_descent(longer, font, False)[0] / 72 > width:
            yield part
            longer = word
        part = longer
    yield part
