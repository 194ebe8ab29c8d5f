"""The pages of docs/ are true: what they show runs, what they name exists, and what they quote was measured."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from analysis import quoted
from analysis.drawing import OLDER
from lowmem.cli import main
from lowmem.measure.ram import RESERVE
from lowmem.network.tiles import TILE_ROWS
from lowmem.planning.engines.choice import why_not_native
from lowmem.planning.engines.lane_count import LEAST_ROWS, LEAST_WORK, SMALL
from lowmem.schedule.optimal.closed_form import MANY_LAYERS
from lowmem.schedule.optimal.early_drops import LONGEST
from scripts.measuring import is_older
from tests.test_layers import FLOORS
from tests.test_readme import README, ROOT, blocks, run_page

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
ADDING = DOCS / "adding_a_layer.md"
REPORTS = DOCS / "reading_a_report.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
CHAINS = DOCS / "pytorch_chains.md"  # needs PyTorch, and runs in tests/peers

PLACE = re.compile(r"# (lowmem/\S+\.py), (a new file|above (\w+)|in place of (\w+)|below (.+))\n")
"""The first line of a block of code that belongs into a file of the package: above or in place of an assignment to a
name, or below a line."""


def names(page: Path) -> str:
    """Name a case."""
    return page.stem


@pytest.mark.parametrize("page", [page for page in PAGES if page not in (ADDING, REPORTS, CHAINS)], ids=names)
def test_the_code_of_a_page_runs_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page)


@pytest.mark.parametrize("page", sorted((DOCS / "tables").glob("*.md")), ids=names)
def test_tables_say_whether_sources_have_changed_since_they_were_measured(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    scripts = re.findall(r"^python -m scripts\.(\w+)", text, re.MULTILINE)
    assert scripts, "a table names the scripts that measured it"
    data = [json.loads((DOCS / "data" / f"{script}.json").read_text(encoding="utf-8")) for script in scripts]
    older = any(map(is_older, data))
    assert (OLDER in text) == older, "make figures makes the tables anew"


# What is added to the package ------------------------------------------------------------------------------------


def put_into(root: Path, code: str) -> None:
    """Put a block of code to its place in a copy of the package."""
    place = PLACE.match(code)
    assert place, code
    path, code = root / place[1], code[place.end() :]
    if place[2] == "a new file":
        path.write_text(code, encoding="utf-8")
        return
    text = path.read_text(encoding="utf-8")
    if place[5]:
        before, line, behind = text.partition(f"{place[5]}\n")
        assert line, place[0]
        path.write_text("".join([before, line, code, behind]), encoding="utf-8")
        return
    name = place[3] or place[4]
    (old,) = [node for node in ast.parse(text).body if name in assigned(node)]
    lines = text.splitlines(keepends=True)
    assert old.end_lineno is not None
    above, own, below = lines[: old.lineno - 1], lines[old.lineno - 1 : old.end_lineno], lines[old.end_lineno :]
    kept = own if place[3] else []
    path.write_text("".join([*above, code, "\n\n", *kept, *below]), encoding="utf-8")


def assigned(node: ast.stmt) -> set[str]:
    """Return the names that a statement binds by assignment."""
    targets: list[ast.expr] = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
    return {target.id for target in targets if isinstance(target, ast.Name)}


def run_in(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python on the copy of the package."""
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of package and tests to which the page's classes and functions have been added."""
    root = tmp_path_factory.mktemp("extended")
    for folder in ("lowmem", "tests", "docs"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, root / name)
    places = [code for language, code, _ in blocks(ADDING.read_text(encoding="utf-8")) if code.startswith("# lowmem/")]
    assert len(places) == 8
    for code in places:
        put_into(root, code)
    return root


def test_what_is_added_as_the_page_says_keeps_the_promises_it_checks(extended: Path) -> None:
    run = "import lowmem; from tests.test_readme import run_page; from tests.test_docs import ADDING; "
    done = run_in(extended, "-W", "error", "-c", f"{run} print(lowmem.__file__, run_page(ADDING))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(extended / "lowmem" / "__init__.py"), "3"]


def test_the_suite_covers_a_new_norm_by_itself(extended: Path) -> None:
    chosen = "l1 and (False or learned) and not plain_formulas and not so_they_are and not deep_network"
    done = run_in(extended, "-m", "pytest", "-v", "-p", "no:cacheprovider", "tests/test_deep_layers.py", "-k", chosen)
    assert done.returncode == 0, done.stdout
    assert set(re.findall(r"::(\w+)\[.*l1.* PASSED", done.stdout)) >= {
        "test_every_strategy_gives_the_same_bits",
        "test_flops_counted_while_running_are_those_of_the_plan",
        "test_operations_run_are_those_that_the_plan_counts",
    }


def test_what_is_added_is_in_the_style_of_the_house(extended: Path) -> None:
    new = [f"lowmem/{half}/layers/{name}.py" for half in ("network", "nn") for name in ("norms", "gated")]
    new += ["lowmem/nn/layers/__init__.py", "lowmem/schedule/narrow.py"]
    for command in (("ruff", "check", "--ignore", "I"), ("mypy",)):
        done = run_in(extended, "-m", *command, *new)
        assert done.returncode == 0, done.stdout + done.stderr


# Reports ---------------------------------------------------------------------------------------------------------

MEASURED = re.compile(
    "epoch|update|process floor|whole process"
    "|time per step|speed of|of matrix products|training loss|held-out accuracy"
)
"""Lines of a report of which only the name is told beforehand."""


def told_before(text: str) -> list[list[str]]:
    """Return the lines of a report, as cells, without what is measured."""
    told = []
    heads = [""]
    for line in text.strip().splitlines():
        # Whether other processes were at work, in two lines; where and when; said where the peak is above the promise.
        if line.startswith(("*: disturbed", "took more than", "Measured ", "The promise leaves")):
            continue
        cells = re.split(r" {2,}", line.strip())
        if cells[0] in ("memory", "step", "promised", "outcome"):
            heads = cells
        elif found := MEASURED.match(cells[0]):
            cells = [found[0]]
        elif heads[0] in ("memory", "step"):
            cells = cells[:2]
        elif heads[0] == "promised":
            cells = [*cells[:2], *cells[4:6]]  # promised, arena, FLOPs
        cells[0] = re.sub(r"(in FLOPs), .* in time", r"\1", cells[0])
        if set(cells[0]) - {"─"}:
            told.append(cells)
    return told


@pytest.mark.skipif(
    why_not_native() is not None or os.environ.get("LOWMEM_ENGINE") == "numpy",
    reason="the page shows reports of the compiled engine",
)
def test_reports_are_as_the_page_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    page = REPORTS.read_text(encoding="utf-8")
    shown = 0
    for language, text, _ in blocks(page):
        if language == "console":
            command, _, answer = text.replace("\\\n", " ").partition("\n")
            code = main(shlex.split(command)[2:])
            assert code == (2 if answer.startswith("lowmem: ") else 0)
        elif language == "python":
            exec(text, {})
            continue
        else:
            answer = text
        printed = capsys.readouterr()
        assert told_before(printed.out + printed.err) == told_before(answer)
        shown += 1
    assert shown == 4


# Figures, names and links ----------------------------------------------------------------------------------------

QUOTING = [DOCS / "how_it_works.md", DOCS / "promises.md", DOCS / "comparison.md", CHAINS]
NUMBER = re.compile(r"(?<![\w.,])\d+(?:,\d{3})*(?:\.\d+)?(?![\w-]|[.,]\d)")
WITH_UNIT = re.compile(rf"({NUMBER.pattern})(?: to ({NUMBER.pattern}))?[ \u00a0]?(?:×|%|[KM]i?B\b|m?s\b|times\b)")
DECIMAL = re.compile(r"(?<![\w.,])\d+\.\d+(?![\w-]|\.\d)")


@pytest.mark.parametrize("page", QUOTING, ids=names)
def test_every_figure_is_in_a_table_that_the_page_names(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^    .*$|`[^`\n]*`|\]\([^)]*\)|arXiv:[\d.]+", "", prose, flags=re.MULTILINE)
    quoted = {number for found in WITH_UNIT.findall(prose) for number in found if number} | set(DECIMAL.findall(prose))
    tables = {DOCS / name for name in re.findall(r"\]\((tables/\w+\.md)\)", text)}
    measured = {number for table in tables for number in NUMBER.findall(table.read_text(encoding="utf-8"))}
    limits = LIMITS.get(page.stem, set())
    assert limits <= quoted
    assert quoted - measured - limits == set()


def test_figures_of_a_row_were_measured_together() -> None:
    # Every number might stand in some table by chance: of a row of the comparison all must stand in one row, or in
    # those of the same name.
    text = (DOCS / "comparison.md").read_text(encoding="utf-8")
    rows = 0
    for section in text.split("\n## Measured")[1:]:
        (source,) = set(re.findall(r"\]\((tables/\w+\.md)\)", section))
        measured = [cells_of(line) for line in (DOCS / source).read_text(encoding="utf-8").splitlines() if "|" in line]
        for name, *cells in [cells_of(line) for line in section.splitlines() if line.startswith("| ")]:
            wanted = set(NUMBER.findall(" ".join(cells)))
            together = [set(NUMBER.findall(" ".join(row))) for row in measured]
            together.append({n for row in measured if row[0] == name for n in NUMBER.findall(" ".join(row))})
            assert any(wanted <= found for found in together), (name, cells)
            rows += 1
    assert rows > 30


def cells_of(line: str) -> list[str]:
    """Return the cells of a row of a Markdown table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


@pytest.mark.parametrize("page", quoted.PAGES, ids=names)
def test_what_pages_quote_is_what_was_measured(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("<!-- quoted: ") == text.count("<!-- end -->") == len(quoted.PLACE.findall(text)) > 0
    assert quoted.written(text) == text, "run make figures"


LIMITS = {"promises": {f"{RESERVE >> 20}"}, "pytorch_chains": {"1"}}
"""By page: figures that nobody has measured, as they are limits that tests hold or constants, PyTorch's too."""


def test_every_test_that_is_named_exists() -> None:
    text = (DOCS / "promises.md").read_text(encoding="utf-8")
    for section in text.split("\n## ")[1:]:
        assert len(re.findall(r"`(?:peers/)?test_\w+\.py::test_\w+`", section)) >= 5, section[:40]
    for page in (*PAGES, README, CONTRIBUTING):
        text = page.read_text(encoding="utf-8")
        for file in re.findall(r"`(?:tests/)?((?:peers/)?test_\w+\.py)", text):
            assert (ROOT / "tests" / file).exists(), f"{page.name}: {file}"
        for file, name in re.findall(r"`(?:tests/)?((?:peers/)?test_\w+\.py)::(\w+)`", text):
            assert name in functions_of(file), f"{page.name}: {file}::{name}"


@cache
def functions_of(file: str) -> set[str]:
    """Return the names of all functions of a test file."""
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


PATHS = re.compile(r"`((?:lowmem|scripts|analysis|tests|docs)/[\w./]*)`")


def test_every_file_and_folder_that_is_named_exists() -> None:
    named = {
        path for page in (*PAGES, README, CONTRIBUTING) for path in PATHS.findall(page.read_text(encoding="utf-8"))
    }
    assert len(named) > 30
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_contributors_are_shown_the_floors_that_the_test_of_imports_holds() -> None:
    text = CONTRIBUTING.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| ([^|]*) \|", text, re.MULTILINE)
    shown = {int(number): set(re.findall(r"`(\w+)`", rooms)) for number, rooms in rows}
    there = {path.stem for path in (ROOT / "lowmem").iterdir()}  # a floor may name rooms that are yet to come
    assert shown == {number: rooms & there for number, rooms in enumerate(FLOORS, start=1)}


def test_constants_on_the_pages_are_those_of_the_code() -> None:
    text = " ".join((DOCS / "how_it_works.md").read_text(encoding="utf-8").split())
    for said in (
        f"Row tiles** of at most {TILE_ROWS} rows",
        f"Up to {LONGEST} layers",
        f"(more than {MANY_LAYERS})",
        f"less than {SMALL:.0e}".replace("e+0", "e") + " FLOPs",
        f"at least {LEAST_ROWS} rows and {LEAST_WORK:.0e}".replace("e+0", "e") + " FLOPs",
    ):
        assert said in text
    assert f"tiles of at most {TILE_ROWS} rows" in " ".join(ADDING.read_text(encoding="utf-8").split())


@pytest.mark.parametrize("page", [*PAGES, README, CONTRIBUTING], ids=names)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S))
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in anchors, link
