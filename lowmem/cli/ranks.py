"""Commands on several ranks: which rank this process is, who prints, and how all end when one fails.

`mpiexec` and Slurm tell a process in its environment that it is one of several. MPI is loaded only then.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lowmem.runtime.collectives.mpi import MpiGroup

RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""Variables in which launchers tell a process its rank: those of MPICH and Intel MPI, PMIx, Open MPI, MVAPICH."""

_joined: list["MpiGroup"] = []


def join() -> "MpiGroup | None":
    """Return the ranks that share this run, None where this process is alone. Only rank 0 prints from now on.

    Raises `InputError` where a launcher of MPI programs started this process, and mpi4py or MPI is not there.
    """
    if launched_as() is None:
        return None
    from lowmem.runtime.collectives.mpi import mpi

    group = mpi()
    if group.size == 1:
        return None
    _joined[:] = [group]
    if group.rank:
        sys.stdout.flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    return group


def launched_as() -> int | None:
    """Return the rank that a launcher gave this process, None where there was no launcher."""
    found = (os.environ[name] for name in RANKS if os.environ.get(name, "").isdecimal())
    return next(map(int, found), None)


def end(code: int, text: str, tell: Callable[[str], None]) -> int:
    """Print an error and return the exit code; with several ranks see that all end.

    Where all ranks fail together, one of them prints the error. A rank that fails alone prints it with its number,
    and all ranks are ended, as the others wait for it.
    """
    if not _joined:
        if not launched_as():
            tell(text)
        return code
    group = _joined[0]
    if group.fail_together():
        if group.rank == 0:
            tell(text)
        return code
    tell(f"rank {group.rank}: {text}")
    sys.stderr.flush()
    group.abort(code)
    return code
