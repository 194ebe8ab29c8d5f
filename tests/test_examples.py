"""The examples in docstrings run as written, and every public name that people call has one."""

import doctest
import importlib
import importlib.util
from pathlib import Path

import pytest

import lowmem as lm
from tests.test_layers import MODULES, dotted

NEEDS = {"lowmem.interchange.onnx": "onnx", "lowmem.sklearn": "sklearn"}
"""Modules whose examples need a library of an extra."""

ONLY_RETURNED = {"CostModel", "Epoch", "Plan", "Report", "Stream"}
ERRORS_WITHOUT = {"InputError", "LowmemError", "NonFiniteError", "SaveError", "ScheduleError"}
SHOWN_BY_OTHERS = {"Adam", "AdamW", "SGD", "plots"}

FLAGS = doctest.ELLIPSIS
WITH_EXAMPLES = [dotted(path) for path in MODULES if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, needed in NEEDS.items():
        if f"{name}.".startswith(f"{module}.") and importlib.util.find_spec(needed) is None:
            pytest.skip(f"needs {needed}")
    monkeypatch.chdir(tmp_path)
    tried = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert tried.attempted
    assert not tried.failed


def test_every_name_that_people_call_has_an_example() -> None:
    without = {name for name in lm.__all__ if ">>> " not in (getattr(lm, name).__doc__ or "")}
    assert without == ONLY_RETURNED | ERRORS_WITHOUT | SHOWN_BY_OTHERS
