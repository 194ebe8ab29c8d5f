"""Run the commands and the code of docs/reading_a_report.md, and write their answers into the page.

    python -m scripts.show_reports

For a quiet machine: times and speeds become those of this run.
"""

import io
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from lowmem.cli import main

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reading_a_report.md"
BLOCK = re.compile(r"^```(console|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"\$ lowmem (?:.*\\\n)*.*\n")
"""A command of one or more lines, at the start of a block."""


def answered(page: str) -> str:
    """Return the page with the answers of this run; a block of text is what the code before it prints."""
    printed = ""

    def run(block: re.Match[str]) -> str:
        nonlocal printed
        language, text = block.groups()
        command = COMMAND.match(text)
        if language == "text":
            return f"```text\n{printed}```"
        with redirect_stdout(io.StringIO()) as answer, redirect_stderr(answer):
            if command:
                main(shlex.split(command[0].replace("\\\n", " "))[2:])
            else:
                exec(text, {})
        printed = answer.getvalue()
        return f"```console\n{command[0]}{printed}```" if command else block[0]

    return BLOCK.sub(run, page)


if __name__ == "__main__":
    PAGE.write_text(answered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
