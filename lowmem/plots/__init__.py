"""Figures: compute versus memory, one step over time, the schedule, and growth with depth. All in one style.

Every function takes what the rest of lowmem gives and returns a `matplotlib.figure.Figure`, which belongs to no window
and needs no display: `figure.savefig("memory.svg")`. Matplotlib is imported when the first figure is made.
"""

from lowmem.planning.timeline import Moment, moments
from lowmem.plots.diagram import schedule_diagram
from lowmem.plots.frontier import Point, frontier
from lowmem.plots.learning import learning_curves
from lowmem.plots.page import report_html
from lowmem.plots.scaling import Depth, scaling
from lowmem.plots.side_by_side import side_by_side
from lowmem.plots.style import house_style
from lowmem.plots.timeline import memory_timeline

__all__ = [
    "Depth",
    "Moment",
    "Point",
    "frontier",
    "house_style",
    "learning_curves",
    "memory_timeline",
    "moments",
    "report_html",
    "scaling",
    "schedule_diagram",
    "side_by_side",
]
