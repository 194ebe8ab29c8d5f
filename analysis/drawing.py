"""What the analysis scripts share: JSON in, figures and Markdown tables out, machine and date below each."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from lowmem.common.tables import Table
from lowmem.plots.style import note_below
from lowmem.units import format_bytes
from scripts.measuring import is_older

DOCS = Path(__file__).resolve().parent.parent / "docs"

LIBRARIES = ("numpy", "torch", "jax", "scikit-learn", "rockmate")
"""Whose versions are told, where they had a part."""

OLDER = "measured before the last change of the sources"
"""Said of data that other sources have made than those that are here."""

Record = dict[str, Any]


def load(name: str) -> Record:
    """Return what a measuring script wrote to docs/data."""
    found: Record = json.loads((DOCS / "data" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def caption(data: Record) -> str:
    """Say on what machine, when and by what command the data were measured, and whether sources have changed since."""
    machine, versions = data["machine"], data["versions"]
    older = f", {OLDER}" if is_older(data) else ""
    packages = [f"{name} {versions[name]}" for name in LIBRARIES if name in versions]
    return (
        f"{data['command']}, {data['date']}{older}\n"
        f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores, "
        f"{format_bytes(machine['memory_bytes'])}, {machine['system']}, Python {versions['python']}, "
        + ", ".join(packages)
    )


def save(figure: Figure, name: str, note: str) -> None:
    """Write a figure to docs/figures as SVG and PNG, the note below it; the same input gives the same SVG."""
    folder = DOCS / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    note_below(figure, note)
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    figure.savefig(folder / f"{name}.png")


def save_tables(tables: Sequence[Table], name: str, note: str) -> None:
    """Write Markdown tables to docs/tables, the note below them."""
    folder = DOCS / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join([*(table.markdown() for table in tables), note.replace("\n", "  \n")])
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
