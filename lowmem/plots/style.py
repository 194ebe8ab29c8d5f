"""The one style of all figures: colours that colour-blind readers tell apart, and text that is legible at half size.

The palette is that of M. Okabe and K. Ito, "Color Universal Design" (2008), https://jfly.uni-koeln.de/color/. Series
differ by marker and line as well, so that nothing is lost in black and white.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lowmem.plots.lettering import LEGEND_TEXT, SMALL_TEXT, TEXT, columns_of, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY, PALE, DARK = "#8C8C8C", "#C8C8C8", "#404040"

HANDLE, LEGEND_ROW = 0.66, 0.25
"""Inches: of a series' handle in the legend with the space around it, of a row."""

SMALL_ROW = 0.165
"""Inches: of a row of small print."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a series is drawn."""

    colour: str
    marker: str
    line: str = "-"


FEWER_ROWS = "passes of fewer rows"
"""The series of plans that store everything, a part of the batch at a time."""

STRATEGIES: Mapping[str, Look] = MappingProxyType(
    {
        "optimal": Look(BLUE, "o", "-"),
        "store_all": Look(BLACK, "s", ":"),
        "sqrt": Look(ORANGE, "^", "--"),
        "segments": Look(PURPLE, "D", ":"),
        "revolve": Look(GREEN, "v", "-."),
        "recompute_all": Look(VERMILION, "X", ":"),
        "lowmem": Look(BLUE, "o", "-"),
        FEWER_ROWS: Look(SKY, "p", ":"),
    }
)
"""The look of each strategy, which is the same in every figure. Beside other libraries lowmem looks like `optimal`."""

TOOLS = {
    "lowmem": BLUE,
    "PyTorch": VERMILION,
    "JAX": GREEN,
    "scikit-learn": PURPLE,
    "naive NumPy": BLACK,
    "rotor": ORANGE,
}
"""A colour for each tool; a series belongs to the tool with whose name its own begins."""

OTHER_COLOURS = (VERMILION, GREEN, ORANGE, PURPLE, SKY, GREY, BLACK)
MARKERS, LINES = ("P", "v", "^", "D", "p", "h", "<", ">", "*"), ("--", "-.", ":")
"""Colours, markers and lines of series that are no strategy of lowmem, in the order in which these series come."""


def looks(names: Sequence[str]) -> dict[str, Look]:
    """Return a look for each name: a strategy's own, or else the colour of its strategy or tool, or the next one.

    A name begins with that of its strategy or tool. No two looks are alike.
    """
    chosen: dict[str, Look] = {}
    others = 0
    for name in dict.fromkeys(names):
        if name in STRATEGIES:
            chosen[name] = STRATEGIES[name]
            continue
        number = len(chosen)
        strategy = STRATEGIES.get(name.partition(", ")[0])
        tool = next((tool for tool in TOOLS if name.startswith(tool)), None)
        if strategy is not None:
            colour = strategy.colour
        elif tool is not None:
            colour = TOOLS[tool]
        else:
            colour = OTHER_COLOURS[others % len(OTHER_COLOURS)]
            others += 1
        chosen[name] = Look(colour, MARKERS[number % len(MARKERS)], LINES[number % len(LINES)])
    return chosen


@contextmanager
def house_style() -> Iterator[None]:
    """Use the style of lowmem's figures inside this block; figures of your own may use it too."""
    import matplotlib

    style: dict[Any, Any] = {
        "axes.axisbelow": True,
        "axes.edgecolor": DARK,
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


def new_figure(
    width: float = 7.5,
    height: float = 4.5,
    panels: int = 1,
    rows: int = 1,
    **options: Any,  # noqa: ANN401 - matplotlib's
) -> tuple["Figure", list["Axes"]]:
    """Return a figure (inches) and its axes, row by row; call it inside `house_style()`. options: of `subplots`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)  # type: ignore[call-arg, union-attr]
    axes = list(figure.subplots(rows, panels, squeeze=False, **options).flat)
    for axis in axes:
        # Ticks are made when the figure is drawn, outside the style: their size must be fixed here.
        axis.tick_params(which="both", labelsize=LEGEND_TEXT, color=DARK)
        axis.tick_params(axis="x", pad=6)
    return figure, axes


def set_title(axis: "Axes", text: str, width: float, points: float = LEGEND_TEXT, *, pad: float = 6) -> None:
    """Put a title above axes at the left, broken into lines of so many inches. pad: points between the two."""
    axis.set_title(wrapped(text, width, points), fontsize=points, parse_math=False, pad=pad)


def legend_above(figure: "Figure") -> None:
    """Put one legend of all labelled series above the axes, where it covers nothing; the figure grows by its rows."""
    entries: dict[str, Any] = {}
    width, height = figure.get_size_inches()
    room = 0.97 * width
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(wrapped(label, room - HANDLE, LEGEND_TEXT), handle)
    columns = columns_of(list(entries), room, LEGEND_TEXT, HANDLE)
    lines = -(-len(entries) // columns) + sum(label.count("\n") for label in entries)
    figure.set_size_inches(width, height + lines * LEGEND_ROW)
    legend = figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside upper left",
        ncols=columns,
        columnspacing=1.2,
        handlelength=1.8,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def flop_unit(largest: float) -> tuple[str, float]:
    """Return the unit in which `largest` FLOPs are best shown, and its FLOPs."""
    for name, factor in (("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6), ("kFLOP", 1e3)):
        if largest >= 2 * factor:
            return name, factor
    return "FLOP", 1.0


def note_below(figure: "Figure", text: str) -> None:
    """Put small print below the axes: where and how the figure was measured; the figure grows by its lines."""
    width, height = figure.get_size_inches()
    note = wrapped(text, 0.97 * width, SMALL_TEXT)
    figure.set_size_inches(width, height + (note.count("\n") + 1) * SMALL_ROW)
    style = {"ha": "left", "fontsize": SMALL_TEXT, "color": "#595959", "linespacing": 1.35, "parse_math": False}
    figure.supxlabel(note, x=0.015, **style)
