"""Prediction by the fastest engine. Importing this offers the compiled engine to `MLP.predict`.

`lowmem.MLP` comes from here, so that networks of users predict with it; the network itself knows no engine.
"""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from lowmem.network.architecture import Architecture
from lowmem.nn.forward import Runner, numpy_forward, offer, workspace_per_row
from lowmem.nn.mlp import MLP
from lowmem.planning.engines import native_memory
from lowmem.planning.engines.choice import choose_engine
from lowmem.planning.engines.lane_count import small
from lowmem.runtime.blas_threads import at_most

Array = NDArray[Any]

__all__ = ["MLP", "runner_bytes", "runner_of"]


def runner_of(mlp: MLP, rows: int, lanes: int | None = None) -> Runner:
    """Return what runs a network forward: compiled where it can be, else NumPy's.

    rows: how many rows are carried at a time. lanes: threads of the compiled engine, None to choose.
    """
    if choose_engine(None, mlp.architecture, None) == "native":
        from lowmem.runtime.engines.native.forward import NativeForward
        from lowmem.runtime.engines.native.library import UnusableError

        try:
            return NativeForward(mlp, rows, lanes)
        except UnusableError:
            pass  # noted by the library: from now on the NumPy engine is chosen
    return _Held(numpy_forward(mlp, rows), 1 if small(mlp.architecture, rows) else None)


@dataclass(frozen=True, slots=True)
class _Held:
    """Runs a network forward with NumPy, and tells that BLAS is in use. threads: of BLAS, None for all."""

    runner: Runner
    threads: int | None

    def into(self, x: Array, out: Array) -> None:
        """Write the outputs for x to `out`; see `Forward.into`."""
        with at_most(self.threads):
            self.runner.into(x, out)


def runner_bytes(architecture: Architecture, rows: int) -> int:
    """Return the bytes of the arrays of `runner_of` for one lane."""
    numbers = rows * workspace_per_row(architecture)
    if choose_engine(None, architecture, None) == "native":
        numbers = native_memory.workspace_numbers(architecture, rows) + native_memory.vector_numbers(architecture, 1)
    return numbers * architecture.item_bytes


offer(runner_of)
