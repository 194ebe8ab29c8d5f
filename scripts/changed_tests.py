"""Print the test files that belong to what has changed since the last commit, for `make check`.

A changed test file stands for itself. A changed module stands for the test files that import it, or a module of its
folder; that is enough for a quick look, and `make test` runs all.
"""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ALWAYS = "tests/test_layers.py"


def changed() -> list[str]:
    """Return the files that differ from the last commit, new ones included."""
    commands = (["git", "diff", "--name-only", "HEAD"], ["git", "ls-files", "--others", "--exclude-standard"])
    outputs = (subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True) for command in commands)
    return [name for output in outputs for name in output.stdout.split() if (ROOT / name).exists()]


def tests_of(files: list[str]) -> set[str]:
    """Return the test files that belong to changed files."""
    chosen = {ALWAYS} | {file for file in files if re.fullmatch(r"tests/test_\w+\.py", file)}
    folders = {Path(file).parent.as_posix().replace("/", ".") for file in files if file.startswith("lowmem/")}
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if any(re.search(rf"\b{re.escape(folder)}\b", text) for folder in folders if folder != "lowmem"):
            chosen.add(path.relative_to(ROOT).as_posix())
    return chosen


if __name__ == "__main__":
    print(*sorted(tests_of(changed())))
