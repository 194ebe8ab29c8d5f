"""What `import lowmem` costs: none of the libraries that only some need, and little memory beside NumPy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALONE = """
import sys
before = set(sys.modules)
import lowmem
print(*{name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))
"""
NAMES = """
import sys, lowmem
for name in lowmem.__all__:
    getattr(lowmem, name)
print(*{name.partition(".")[0] for name in sys.modules})
"""
EXTRAS = {"matplotlib", "rich", "shtab", "pyarrow", "safetensors", "sklearn", "scipy", "onnx", "onnxruntime", "torch"}
ADDED = """
from pathlib import Path
import gc, numpy
def held():
    gc.collect()
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line)
held()
before = held()
import lowmem
print(held() - before)
"""
MIB = 1024  # VmRSS is in KiB


def in_a_fresh_process(code: str) -> str:
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, env=environment).stdout


def test_import_of_lowmem_loads_nothing_but_itself_and_the_standard_library() -> None:
    assert in_a_fresh_process(ALONE).split() == ["lowmem"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_import_of_lowmem_adds_less_than_three_mebibytes_to_numpy() -> None:
    # The least of three: what the system does beside it only ever adds.
    assert min(int(in_a_fresh_process(ADDED)) for _ in range(3)) < 3 * MIB


def test_no_public_name_loads_a_library_that_only_some_need() -> None:
    loaded = in_a_fresh_process(NAMES).split()
    assert "numpy" in loaded
    assert set(loaded) & EXTRAS == set()
