"""Run the Python of docs/backpropagation_in_sqrt_n.md in order, and keep the figures that it writes.

Writes docs/figures/tutorial_*.svg, or the figures alone to a folder that is named. Run: python -m analysis.tutorial
"""

import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib import rc_context

from analysis.drawing import DOCS

PAGE = DOCS / "backpropagation_in_sqrt_n.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_in(folder: Path) -> None:
    """Run the page's blocks of Python in a folder, one namespace for all, with line numbers of the page."""
    text, names, before = PAGE.read_text(encoding="utf-8"), dict[str, Any](), Path.cwd()
    os.chdir(folder)
    try:
        for block in BLOCK.finditer(text):
            exec(compile("\n" * text[: block.start(1)].count("\n") + block[1], str(PAGE), "exec"), names)
    finally:
        os.chdir(before)


def main() -> None:
    """Write the figures of the page to docs/figures, or to the folder that is given."""
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1]).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        run_in(folder)
        print(f"The figures are in {folder}.")
        return
    os.environ["SOURCE_DATE_EPOCH"] = "0"  # the same figure gives the same file
    with TemporaryDirectory() as name, rc_context({"svg.hashsalt": PAGE.stem}):
        run_in(Path(name))
        for figure in sorted(Path(name).glob("*.svg")):
            if f"tutorial_{figure.name}" in PAGE.read_text(encoding="utf-8"):
                (DOCS / "figures" / f"tutorial_{figure.name}").write_bytes(figure.read_bytes())


if __name__ == "__main__":
    main()
