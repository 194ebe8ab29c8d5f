"""The house: imports go down the floors only, never in a circle, and heavy libraries load where they are used."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "lowmem"

DOORS = {"sklearn", "torch", "distributed", "cli"}
"""Each is an island: no other folder imports it, and only `python -m lowmem` does."""

FLOORS = (
    {"errors", "units", "common"},
    {"chain", "network"},
    {"schedule", "nn", "data"},
    {"planning", "interchange"},
    {"runtime"},
    {"measure"},
    {"plots", "training"},
    DOORS,
    {"__main__"},
)
"""From the ground up. A folder imports from lower floors only, and from no other folder of its own."""

WITHOUT_NUMPY = {"errors", "units", "chain", "network", "schedule", "planning"}
ONLY_IN_FUNCTIONS = {"matplotlib", "pyarrow", "sklearn", "onnx", "torch", "mpi4py", "safetensors", "rich"}
NAMED_AFTER = {"sklearn": "sklearn", "torch": "torch", "distributed": "mpi4py"}
"""Doors made of the classes of one library: they may load it at once, and nobody imports them."""

MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_FILES = 350, 75, 15


def dotted(path: Path) -> str:
    """Return the module's dotted name; a package's is that of its folder."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


NAMES = {dotted(path) for path in MODULES}


def room(module: str) -> str:
    """Return the folder, or the file beside the folders, that a module lies in."""
    return module.split(".")[1] if "." in module else module


def floor(module: str) -> int:
    """Return the number of a module's floor; the package itself offers names of every floor and lies above them."""
    return next((number for number, rooms in enumerate(FLOORS) if room(module) in rooms), len(FLOORS))


def imported(tree: ast.AST, *, everywhere: bool) -> Iterator[str]:
    """Yield what import statements bring in, as dotted names; those for types alone are left out.

    everywhere: in functions too, not only on import.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in NAMES else str(node.module) for name in inner)
        elif everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imported(node, everywhere=everywhere)


def inside(path: Path) -> set[str]:
    """Return the modules of the package that one of them imports, anywhere in it."""
    names = set(imported(ast.parse(path.read_text(encoding="utf-8")), everywhere=True)) - {"lowmem"}
    return {name for name in names if name.split(".")[0] == "lowmem"}


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_ops_are_matched_by_keyword(path: Path) -> None:
    """A pattern by position leaves up to 250 KB in a cache of Python's own: see `lowmem.schedule.ops`."""
    patterns = [
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.MatchClass)
    ]
    builtins = {"str", "int", "float", "bool"}
    by_position = [node.lineno for node in patterns if node.patterns and ast.unparse(node.cls) not in builtins]
    assert by_position == [], "write Op(field=name) in place of Op(name)"


def test_every_room_is_on_a_floor() -> None:
    assert {room(name) for name in NAMES} - {"lowmem"} <= set().union(*FLOORS)
    assert sum(path.is_file() for path in PACKAGE.iterdir()) <= 9


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.parent != PACKAGE or path.stem != "__init__"], ids=dotted
)
def test_imports_go_down_only(path: Path) -> None:
    here = dotted(path)
    for name in inside(path):
        beside = floor(name) == floor(here) and (PACKAGE / room(name)).is_dir() and path.stem != "torch_plan"
        assert floor(name) <= floor(here), f"{here} imports {name}, which lies above it"
        assert room(name) == room(here) or not beside, f"{here} imports {name} of another folder on its floor"


def test_no_imports_go_in_a_circle() -> None:
    of_files = {dotted(path): inside(path) - {dotted(path)} for path in MODULES if dotted(path) != "lowmem"}
    try:
        TopologicalSorter(of_files).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_heavy_libraries_are_imported_inside_functions(path: Path) -> None:
    forbidden = ONLY_IN_FUNCTIONS - {NAMED_AFTER.get(room(dotted(path)), "")}
    if room(dotted(path)) in WITHOUT_NUMPY | {"lowmem"}:
        forbidden |= {"numpy"}
    loaded = imported(ast.parse(path.read_text(encoding="utf-8")), everywhere=False)
    assert {name.split(".")[0] for name in loaded} & forbidden == set()


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_doors_are_imported_by_nobody(path: Path) -> None:
    doors = {room(name) for name in inside(path)} & DOORS
    shell = {"__main__": {"cli"}, "torch_plan": {"torch"}}  # the shell opens doors, and is none itself
    assert doors <= {room(dotted(path))} | shell.get(path.stem, set())


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES}), ids=str)
def test_no_folder_has_more_than_about_fifteen_files(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= MOST_FILES + (folder.name == "cli") * 10  # a file for each command


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_files_and_functions_stay_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= MOST_LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            code = node.end_lineno - node.lineno + 1 - len((ast.get_docstring(node) or "").splitlines())
            assert code <= MOST_LINES_OF_A_FUNCTION, f"{node.name} has {code} lines"


def loaded_by(*modules: str) -> set[str]:
    """Return which of the heavy libraries a fresh process holds after importing `modules`."""
    heavy = sorted(ONLY_IN_FUNCTIONS | {"numpy"})
    code = f"import sys, {', '.join(modules)}; print(*(name for name in {heavy} if name in sys.modules))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=PACKAGE.parent)
    return set(done.stdout.split())


def test_importing_lowmem_loads_neither_numpy_nor_matplotlib() -> None:
    assert loaded_by("lowmem") == set()


def test_planning_loads_no_numpy() -> None:
    assert loaded_by(*(name for name in NAMES if room(name) in WITHOUT_NUMPY)) == set()
