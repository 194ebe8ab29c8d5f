"""Reports as web pages: one self-contained file, figures drawn in it as SVG."""

from collections.abc import Sequence
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

from lowmem.common.checks import instance
from lowmem.common.tables import Table
from lowmem.measure.report import Report
from lowmem.plots.diagram import schedule_diagram
from lowmem.plots.timeline import memory_timeline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.2rem 0.7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
svg { max-width: 100%; height: auto; }
p { white-space: pre-line; color: #444; }
"""


Sections = Sequence[tuple[str, "Table | Figure"]]
"""Headings, each with a table or a figure below."""


def report_html(report: Report) -> str:
    """Return a report as one self-contained web page, its figures inside.

    >>> import lowmem as lm
    >>> plan = lm.plan(lm.Architecture(widths=(64, *[128] * 20, 10)), batch_size=512, budget="60%")
    >>> report = lm.Report(plan, None, 40 * 2**20, seconds_per_step=0.01, steps=7, loss=1.5)
    >>> lm.plots.report_html(report).count("<svg")
    2
    """
    instance("report", report, Report, "a lowmem.Report, such as trainer.report() returns")
    return page("lowmem: promised and measured", report_sections(report))


def report_sections(report: Report) -> Sections:
    """Return what a page shows of a report: the tables, memory over one step, and the schedule."""
    memory, step, outcome = report.tables()
    return [
        ("Memory", memory),
        ("Memory over one step", memory_timeline(report, everything=True)),
        ("Compute", step),
        ("The schedule", schedule_diagram(report)),
        ("Outcome", outcome),
    ]


def page(title: str, sections: Sections) -> str:
    """Return a page of headings, each with a table or a figure below."""
    body = [f"<h1>{escape(title)}</h1>"]
    for heading, content in sections:
        body.append(f"<h2>{escape(heading)}</h2>")
        body.append(_table(content) if isinstance(content, Table) else _figure(content))
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _table(table: Table) -> str:
    """Return a table as HTML, the title above and the note below."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.columns)
    rows = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in table.rows]
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    title, note = (f"<p>{escape(text)}</p>\n" if text else "" for text in (table.title, table.note))
    return f"{title}<table>\n<tr>{head}</tr>\n{body}</table>\n{note}"


def _figure(figure: "Figure") -> str:
    """Return a figure as an SVG element, without the XML declaration of an SVG file."""
    drawn = StringIO()
    figure.savefig(drawn, format="svg")
    text = drawn.getvalue()
    return text[text.index("<svg") :]
