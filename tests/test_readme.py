"""What the README shows is true: its Python runs as written, block after block."""

import doctest
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lowmem.cli import main

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def blocks(text: str) -> Iterator[tuple[str, str, int]]:
    """Yield each block of code of a page: its language, its text, and the lines before it."""
    for block in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield block[1], block[2], text[: block.start(2)].count("\n")


def run_page(page: Path, *, sessions: bool = True) -> int:
    """Run the Python of a page in order, one namespace for all; of `sessions` the answers too. Return how many ran."""
    names: dict[str, Any] = {}
    ran = 0
    for language, code, line in blocks(page.read_text(encoding="utf-8")):
        if language == "python" and not code.startswith("# lowmem/"):
            # Line numbers in a traceback are then those of the page.
            exec(compile("\n" * line + code, str(page), "exec"), names)
        elif language == "pycon" and sessions:
            tried = doctest.DocTestParser().get_doctest(code, {}, page.name, str(page), line)
            tried.globs = names
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
            assert not runner.run(tried, clear_globs=False).failed
        else:
            continue
        ran += 1
    return ran


@pytest.mark.skipif(not README.exists(), reason="there is no README yet")
def test_the_python_of_the_readme_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    assert run_page(README, sessions=False)  # its session needs scikit-learn, and is run in tests/peers


def test_the_commands_of_the_readme_answer_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    ran = 0
    for language, text, _ in blocks(README.read_text(encoding="utf-8")):
        if language != "console" or not text.startswith("$ lowmem "):
            continue
        command, _, answer = text.replace("\\\n", " ").partition("\n")
        main(shlex.split(command)[2:])
        printed = capsys.readouterr()
        # How many bytes it is depends on the number of cores.
        shown, said = (re.sub(r"[\d.,]*\d", "#", lines) for lines in (answer, printed.out + printed.err))
        assert doctest.OutputChecker().check_output(shown, said, doctest.ELLIPSIS), printed
        ran += 1
    assert ran
