"""The house: imports go down only, planning needs no NumPy, and heavy libraries load where they are used."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "lowmem"

FLOORS = {
    "units": "words",
    "errors": "words",
    "architecture": "words",
    "facts": "words",
    "layers": "words",
    "tables": "words",
    "costs": "words",
    "chain": "costs",
    "layout": "costs",
    "nn": "maths",
    "schedule": "schedule",
    "plans": "plan",
    "planning": "plan",
    "workbench": "plan",
    "bookkeeping": "plan",
    "program": "plan",
    "questions": "plan",
    "arena": "run",
    "lanes": "run",
    "places": "run",
    "binding": "run",
    "executor": "run",
    "clipping": "run",
    "calibration": "see",
    "meter": "see",
    "occupancy": "see",
    "ram": "see",
    "machine": "see",
    "profiling": "see",
    "measurement": "see",
    "pages": "see",
    "report": "see",
    "plots": "see",
    "data": "train",
    "batcher": "train",
    "array_checks": "train",
    "array_rows": "train",
    "class_names": "train",
    "csv_files": "train",
    "parquet_files": "train",
    "data_files": "train",
    "block_files": "train",
    "table_files": "train",
    "streams": "train",
    "survey": "train",
    "inference": "train",
    "weights": "train",
    "epochs": "train",
    "stream_batches": "train",
    "trainer": "train",
    "saved_run": "train",
    "run_checks": "train",
    "tensor_file": "train",
    "interchange": "train",
    "autosave": "train",
    "journal": "train",
    "rates": "train",
    "fitting": "train",
    "diagnosis": "train",
    "cli": "doors",
    "sklearn": "doors",
    "onnx": "doors",
    "__main__": "doors",
}
BELOW = {
    "words": set[str](),
    "costs": {"words"},
    "maths": {"words"},
    "schedule": {"words", "costs"},
    "plan": {"words", "costs", "schedule"},
    "run": {"words", "costs", "schedule", "plan", "maths"},
    "see": {"words", "costs", "schedule", "plan", "maths", "run"},
    "train": {"words", "costs", "schedule", "plan", "maths", "run", "see"},
    "doors": {"words", "costs", "schedule", "plan", "maths", "run", "see", "train"},
}
WITHOUT_NUMPY = {"words", "costs", "schedule", "plan"}
ONLY_IN_FUNCTIONS = {"matplotlib", "pyarrow", "sklearn", "onnx", "torch"}
OPTIONAL_DOORS = {"sklearn"}
"""Doors made of classes of the library that they are named after; they load it, and nobody imports them."""

MODULES = sorted(PACKAGE.rglob("*.py"))
INSIDE = [path for path in MODULES if path != PACKAGE / "__init__.py"]


def dotted(path: Path) -> str:
    """Return the module's dotted name; a package's is that of its folder."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module: str) -> str:
    """Return the floor of `lowmem.something...`."""
    room = module.split(".")[1]
    assert room in FLOORS, f"{module} is on no floor: give it one in tests/test_layers.py"
    return FLOORS[room]


def imported(nodes: Iterator[ast.AST], path: Path) -> Iterator[str]:
    """Yield the dotted names that import statements bring in; of `from a import b` it is a.b."""
    package = dotted(path).split(".") if path.name == "__init__.py" else dotted(path).split(".")[:-1]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def run_on_import(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs when the module is imported: not functions, not blocks for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        yield child
        yield from run_on_import(child)


def upward_imports(source: str, path: Path) -> list[str]:
    """Return the imports in `source`, the text of module `path`, that its floor does not allow."""
    mine = floor_of(dotted(path))
    wrong = []
    for name in imported(ast.walk(ast.parse(source)), path):
        if name.split(".")[0] != "lowmem":
            continue
        if name == "lowmem" or (name.count(".") == 1 and name.split(".")[1] not in FLOORS):
            # The package itself offers names of every floor, so only doors may use it; its version is a word.
            allowed = mine == "doors" or name == "lowmem.__version__"
        else:
            allowed = floor_of(name) in BELOW[mine] | {mine}
        if not allowed:
            wrong.append(f"{dotted(path)} ({mine}) imports {name}")
    return wrong


def heavy_imports(source: str, path: Path) -> list[str]:
    """Return the libraries that `source` loads on import and must not."""
    forbidden = set(ONLY_IN_FUNCTIONS)
    if path == PACKAGE / "__init__.py" or floor_of(dotted(path)) in WITHOUT_NUMPY:
        forbidden.add("numpy")
    forbidden -= OPTIONAL_DOORS & set(dotted(path).split(".")[1:2])
    loaded = {name.split(".")[0] for name in imported(run_on_import(ast.parse(source)), path)}
    return sorted(loaded & forbidden)


@pytest.mark.parametrize("path", INSIDE, ids=dotted)
def test_imports_go_down_only(path: Path) -> None:
    assert upward_imports(path.read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_heavy_libraries_are_imported_inside_functions(path: Path) -> None:
    assert heavy_imports(path.read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_optional_doors_are_imported_by_nobody(path: Path) -> None:
    names = {".".join(name.split(".")[:2]) for name in imported(ast.walk(ast.parse(path.read_text("utf-8"))), path)}
    rooms = {f"lowmem.{door}" for door in OPTIONAL_DOORS} - {".".join(dotted(path).split(".")[:2])}
    assert names & rooms == set()


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("units.py", "from lowmem.chain import Chain"),
        ("chain.py", "def f(): from lowmem.planning import plan"),
        ("schedule/ops.py", "from ..nn import mlp"),
        ("schedule/__init__.py", "from .. import trainer"),
        ("nn/mlp.py", "import lowmem.chain"),
        ("trainer.py", "from lowmem import cli"),
        ("executor.py", "from lowmem import MLP"),
        ("report.py", "import lowmem as lm"),
    ],
)
def test_an_upward_import_is_seen(room: str, source: str) -> None:
    assert len(upward_imports(source, PACKAGE / room)) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("schedule/__init__.py", "from .ops import Loss"),
        ("schedule/ops.py", "from . import tree"),
        ("saved_run.py", "from lowmem import __version__"),
        ("cli/plan.py", "import lowmem as lm"),
        ("executor.py", "from lowmem import program"),
    ],
)
def test_a_downward_import_is_allowed(room: str, source: str) -> None:
    assert upward_imports(source, PACKAGE / room) == []


@pytest.mark.parametrize(
    ("room", "source", "seen"),
    [
        ("planning.py", "import numpy as np", ["numpy"]),
        ("chain.py", "class A:\n  try:\n    from numpy import e\n  except ImportError: pass", ["numpy"]),
        ("__init__.py", "import numpy.linalg", ["numpy"]),
        ("plots.py", "from matplotlib import pyplot", ["matplotlib"]),
        ("trainer.py", "from sklearn.base import BaseEstimator", ["sklearn"]),
        ("sklearn/base.py", "import torch", ["torch"]),
        ("sklearn/base.py", "from sklearn.base import BaseEstimator", []),
        ("planning.py", "def f():\n  import numpy", []),
        ("planning.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import numpy", []),
        ("executor.py", "import numpy", []),
    ],
)
def test_a_heavy_import_is_seen(room: str, source: str, seen: list[str]) -> None:
    assert heavy_imports(source, PACKAGE / room) == seen


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
    light = [dotted(path) for path in INSIDE if floor_of(dotted(path)) in WITHOUT_NUMPY]
    assert loaded_by(*light) == set()
