"""What the tests of several ranks need: a way to run commands under `mpiexec`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
Run = Callable[..., subprocess.CompletedProcess[str]]

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
}
"""One thread a rank, as tests have more ranks than cores; Open MPI needs to be told that this is meant."""


def mpiexec() -> str:
    """Return the launcher that belongs to the MPI of this environment, or else the machine's."""
    own = BIN / "mpiexec"
    found = str(own) if own.exists() else shutil.which("mpiexec")
    assert found is not None, "no mpiexec; pip install 'lowmem[mpi]' brings one"
    return found


@pytest.fixture(scope="session")
def ranks() -> Run:
    """Return a function that runs a command of Python on several ranks, and returns what came of it."""

    def run(size: int, *command: str, cwd: Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        whole = [mpiexec(), "-n", str(size), sys.executable, *command]
        environment = os.environ | ENVIRONMENT
        return subprocess.run(
            whole, cwd=cwd, capture_output=True, text=True, timeout=timeout, env=environment, check=False
        )

    return run
