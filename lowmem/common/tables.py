"""Tables as data, and as text for people. Commands, plans and reports all print through here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Table:
    """A title, column heads, rows of cells, and a note below. Every column but the first is set flush right.

    Columns that are empty in every row are not shown.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def without_title(self) -> "Table":
        """Return the same table without its title, for where it has been said already."""
        return replace(self, title="")

    def filled(self) -> "Table":
        """Return the same table without columns that have nothing in any row; the first one stays."""
        used = [n for n in range(len(self.columns)) if n == 0 or any(row[n] for row in self.rows)] if self.rows else []
        if len(used) in (0, len(self.columns)):
            return self
        rows = [[row[n] for n in used] for row in self.rows]
        return replace(self, columns=[self.columns[n] for n in used], rows=rows)

    def __str__(self) -> str:
        """Render the table as plain text, without colour or trailing blanks, as wide as it needs to be."""
        # rich adds 3.4 MiB to a process: only those that print a table pay for it.
        from io import StringIO

        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        drawn, shown = RichTable(box=SIMPLE_HEAD, pad_edge=False), self.filled()
        for position, column in enumerate(shown.columns):
            drawn.add_column(Text(column), justify="left" if position == 0 else "right", no_wrap=True)
        for row in shown.rows:
            drawn.add_row(*map(Text, row))
        console = Console(file=StringIO(), width=500, color_system=None, legacy_windows=False)
        with console.capture() as captured:
            if self.title:
                console.print(Text(self.title), soft_wrap=True)  # rich would wrap it at the table's width
            console.print(drawn)
            if self.note:
                console.print(Text(self.note), soft_wrap=True)
        return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n")

    def markdown(self) -> str:
        """Render the table for a README: title and note as paragraphs."""
        shown = self.filled()
        head = f"| {' | '.join(shown.columns)} |"
        rule = f"|{'|'.join([':--', *['--:'] * (len(shown.columns) - 1)])}|"
        body = [f"| {' | '.join(row)} |" for row in shown.rows]
        return "\n".join(
            [*([self.title, ""] if self.title else []), head, rule, *body, *(["", self.note] if self.note else [])]
        )
