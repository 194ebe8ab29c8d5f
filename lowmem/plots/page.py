"""Reports as web pages: one self-contained file, figures drawn in it as SVG."""

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

from lowmem.common.checks import instance
from lowmem.common.tables import Table
from lowmem.measure.report import Report
from lowmem.plots.diagram import schedule_diagram
from lowmem.plots.learning import learning_curves
from lowmem.plots.timeline import memory_timeline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #222;
  background: #fff; }
h2 { margin-top: 2.5rem; border-bottom: 2px solid #0072B2; }
h3 { margin-top: 1.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.2rem 0.7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: pre; }
th:first-child, td:first-child { text-align: left; }
.wide { overflow-x: auto; }
svg { max-width: 100%; height: auto; }
p { white-space: pre-line; color: #444; }
@page { margin: 15mm; }
@media print {
  body { font-size: 10pt; max-width: none; margin: 0; padding: 0; color: #000; }
  table { font-size: 8pt; }
  th, td { padding: 0.1rem 0.4rem; }
  .wide { overflow: visible; }
  h2 { margin-top: 1.2rem; }
  h1, h2, h3, p, .wide:has(+ p) { break-after: avoid; }
  .wide + p { break-after: auto; }
  table, svg, tr, p { break-inside: avoid; }
  svg { max-height: 95mm; width: auto; }
  section + section { break-before: page; }
}
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
    note = "" if report.provenance is None else str(report.provenance)
    return page("lowmem: promised and measured", report_sections(report), note=note)


def report_sections(report: Report) -> Sections:
    """Return what a page shows of a report: what came of it and how it learned, the tables, memory, the schedule."""
    memory, step, *ranks, outcome = report.tables()  # of ranks only where there were several
    learned = [("Learning", learning_curves(report.epochs))] if report.epochs else []
    return [
        ("Outcome", replace(outcome, note="")),
        *learned,
        *(("Ranks", table) for table in ranks),
        ("Memory", memory),
        ("Memory over one step", memory_timeline(report, everything=True)),
        ("Compute", step),
        ("The schedule", schedule_diagram(report)),
    ]


def page(title: str, sections: Sections, *, note: str = "", parts: Sequence[tuple[str, Sections]] = ()) -> str:
    """Return a page of headings, each with a table or a figure below.

    note: below the title, such as machine, versions and date.
    parts: further headings, each with sections of its own; in print each begins on a new page.
    """
    body = [f"<h1>{escape(title)}</h1>", *_paragraph(note), "<section>"]
    body += [text for section in sections for text in _section(*section, level=2)]
    for heading, inner in parts:
        body += ["</section>", "<section>", f"<h2>{escape(heading)}</h2>"]
        body += [text for section in inner for text in _section(*section, level=3)]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{escape(title)}</title><style>{STYLE}</style>"
    text = "\n".join([*body, "</section>"])
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{text}\n</body></html>\n'


def _section(heading: str, content: "Table | Figure", *, level: int) -> list[str]:
    """Return a heading with a table or a figure below."""
    shown = _table(content) if isinstance(content, Table) else _figure(content)
    return [f"<h{level}>{escape(heading)}</h{level}>", shown]


def _paragraph(text: str) -> list[str]:
    return [f"<p>{escape(text)}</p>"] if text else []


def _table(table: Table) -> str:
    """Return a table as HTML, the title above and the note below."""
    table = table.filled()
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.columns)
    rows = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in table.rows]
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    rows_of_table = f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}</table></div>'
    return "\n".join([*_paragraph(table.title), rows_of_table, *_paragraph(table.note)])


def _figure(figure: "Figure") -> str:
    """Return a figure as an SVG element, without the XML declaration of an SVG file."""
    drawn = StringIO()
    figure.savefig(drawn, format="svg")
    text = drawn.getvalue()
    return text[text.index("<svg") :]
