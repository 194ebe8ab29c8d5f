"""What every engine offers to `Backprop`, and how one is chosen."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from lowmem.errors import InputError
from lowmem.nn.mlp import MLP
from lowmem.nn.optimizers import Optimizer
from lowmem.planning.engines.choice import why_not_native
from lowmem.planning.plan import Plan
from lowmem.runtime.arena import Arena
from lowmem.runtime.buffers import Buffers
from lowmem.runtime.collectives.group import Group
from lowmem.runtime.engines.calls import CarryOut
from lowmem.runtime.engines.numpy.engine import NumpyEngine

if TYPE_CHECKING:
    from lowmem.runtime.collectives.sums import ShardSums
    from lowmem.runtime.offload.binding import DiskBinding

Array = NDArray[Any]


class Engine(Protocol):
    """Carries out the program of one plan on one network.

    It is made of the network, the plan, the buffers of gradients and optimizer, the optimizer and the seed of dropout,
    and binds the passes of the plan's batch size at once, those of other sizes when they come. Batches have been
    checked. After the first step of a size a step allocates no array.

    name: as `plan.engine` will say it. arena: where states, deltas and working memory lie.
    instructions: which kernels run, as bits depend on them.
    shard_sums: of the gradients of shards; None where a batch has one.
    disk: what moves states to a disk and back, None where the plan moves none.
    """

    name: str
    instructions: str
    arena: Arena
    shard_sums: ShardSums | None
    disk: DiskBinding | None

    def run(
        self,
        x: Array,
        y: Array,
        weights: Array | None,
        *,
        step: int,
        scale: float | None = 1.0,
        whole: int | None = None,
        carry_out: CarryOut | None = None,
    ) -> float:
        """Run all passes of a batch, and return its mean loss.

        step: number of the training step, from 1, which dropout depends on.
        scale: what gradients are multiplied by in the updates of the program, where it has any; None where the updates
            shall only add the gradients to the norm and leave the parameters alone.
        whole: rows of the batch where x has only those of this rank's shards; None where x is all of it.
        carry_out: gets the calls of each pass, if given, in place of the engine's own way to carry them out.

        Raises `NonFiniteError` if the loss is not finite, before any parameter has changed; `DiskError`, which says
        whether parameters have changed, if a state could not be moved to the disk or back.
        """

    def norm(self, *, carry_out: CarryOut | None = None) -> float:
        """Return the Euclidean norm of all gradients: of those that are kept, or those that a run with scale=None saw.

        It is not finite where the gradients overflowed.
        """

    def update(self, scale: float, *, carry_out: CarryOut | None = None) -> None:
        """Update all parameters with the gradients that are kept, multiplied by `scale`."""

    def forward(self, x: Array, out: Array) -> None:
        """Write the outputs s^(L) for x, (rows, n_0), to `out`, (rows, n_L), in the memory of the training step."""

    def loss(self, outputs: Array, y: Array) -> float:
        """Return the mean loss of outputs s^(L), which are spent, in the memory of the training step."""

    @property
    def batch_bytes(self) -> int:
        """Bytes of the constants and vectors that the engine made for the rows of a batch."""

    @property
    def statistics_bytes(self) -> int:
        """Bytes of the statistics of norms over the batch, running ones included; 0 without such norms."""


def make_engine(
    mlp: MLP, plan: Plan, buffers: Buffers, optimizer: Optimizer | None, seed: int, group: Group | None = None
) -> Engine:
    """Return the engine that a plan asks for, bound to a network. group: the ranks that share batches, if any.

    Raises `InputError` if that is the compiled one and it cannot be loaded; plans made after that name NumPy's.
    """
    if plan.engine == "numpy":
        return NumpyEngine(mlp, plan, buffers, optimizer, seed, group)
    from lowmem.runtime.engines.native.engine import NativeEngine
    from lowmem.runtime.engines.native.library import UnusableError

    try:
        return NativeEngine(mlp, plan, buffers, optimizer, seed, group)
    except UnusableError as reason:
        raise InputError(
            f"the plan is for the compiled engine, which cannot be used here: {reason}. Plan again: the NumPy engine "
            "is chosen now."
        ) from None


def _load_native() -> None:
    """Load the compiled engine where it will be chosen: now, as a step's memory shall not count its modules."""
    if os.environ.get("LOWMEM_ENGINE") == "numpy" or why_not_native() is not None:
        return
    import_module("lowmem.runtime.engines.native.engine")
    from lowmem.runtime.engines.native.library import UnusableError, load

    with suppress(UnusableError):  # noted: the NumPy engine is chosen
        load()


_load_native()
