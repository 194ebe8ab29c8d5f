"""`Backprop`: carries out a plan on a network, step after step, in memory that is all there from the start."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import whole as whole_number
from lowmem.common.disk.parts import cut
from lowmem.common.fixed import Fixed
from lowmem.common.turns import Turn
from lowmem.errors import DiskError, InputError, NonFiniteError, RunError
from lowmem.network.batch_rows import check_rows
from lowmem.nn.losses import check_targets, check_weights
from lowmem.nn.mlp import MLP
from lowmem.nn.optimizers import Optimizer
from lowmem.nn.penalty import Penalised
from lowmem.planning.plan import Account, Plan
from lowmem.runtime.arena import Arena, Array
from lowmem.runtime.buffers import Buffers
from lowmem.runtime.checks import check_fit, check_group, check_inputs, check_outputs, check_planned
from lowmem.runtime.collectives.group import Group
from lowmem.runtime.engines.calls import CarryOut
from lowmem.runtime.engines.engine import make_engine
from lowmem.units import format_bytes


@dataclass(frozen=True, slots=True)
class Gradients:
    """∂ℓ/∂w and ∂ℓ/∂b: weights[l-1] of shape (n_l, n_{l-1}), biases[l-1] of shape (n_l,).

    arrays[l-1]: all of layer l's by name, those of a norm and of a learned factor among them.

    These are the buffers of `Backprop` itself: the next step overwrites them. All are empty where the plan has an
    optimizer, as then the gradients are spent in the step.
    """

    weights: Sequence[Array] = ()
    biases: Sequence[Array] = ()
    arrays: Sequence[dict[str, Array]] = ()


_OWNERS: "WeakKeyDictionary[Optimizer, ref[Backprop]]" = WeakKeyDictionary()
"""Which Backprop each optimizer has made steps for: it counts the steps of one."""


def is_taken(optimizer: Optimizer) -> bool:
    """Say whether an optimizer makes the steps of a Backprop that is still there."""
    owner = _OWNERS.get(optimizer)
    return owner is not None and owner() is not None


class Backprop(Fixed):
    """Loss and gradients (or an update) of a network by a plan.

    mlp: the network; its parameters are used where they are.
    plan: made by `lowmem.plan` for the same architecture.
    optimizer: needed, and of the kind named in the plan, if the plan has one.
    seed: of dropout. Seed and number of the step determine every mask.
    group: the ranks that share batches, of which this process is one, if the plan is for several.

    Everything is allocated here; a call allocates no array. Raises `InputError` if network, plan and optimizer do not
    fit together, or if the plan's disk has no room.

    >>> import numpy as np, lowmem as lm
    >>> arch = lm.Architecture(widths=(64, *[128] * 50, 10))
    >>> mlp = lm.MLP(arch, seed=0)
    >>> backprop = lm.Backprop(mlp, lm.plan(arch, batch_size=512, budget="50%"))
    >>> x, y = np.ones((512, 64), np.float32), np.zeros(512, int)
    >>> loss, gradients = backprop(x, y)
    >>> [g.shape for g in gradients.weights[:2]]
    [(128, 64), (128, 128)]
    """

    fixed = dict.fromkeys(
        ("mlp", "plan", "optimizer", "group", "buffers", "engine", "gradients"),
        "Its memory is bound when it is made: make another Backprop.",
    )

    def __init__(
        self, mlp: MLP, plan: Plan, optimizer: Optimizer | None = None, *, seed: int = 0, group: Group | None = None
    ) -> None:
        check_fit(mlp, plan, optimizer)
        check_group(plan, group)
        if plan.shards > 1 and isinstance(optimizer, Penalised):
            raise InputError(f"{type(optimizer).__name__} has a penalty of weights alone, which goes with shards=1.")
        self.group = None if plan.ranks == 1 else group
        seed = whole_number("seed", seed)
        self.mlp, self.plan, self.optimizer = mlp, plan, optimizer
        try:
            self.buffers = Buffers(plan, 0 if self.group is None else self.group.rank)
            self.engine = make_engine(mlp, plan, self.buffers, optimizer, seed, self.group)
        except MemoryError:
            raise no_memory(plan) from None
        views = None if optimizer is not None else self.buffers.gradients
        self.gradients = Gradients() if views is None else Gradients(views.weights, views.biases, views.arrays)
        self._turn = Turn("this object runs a step", "Its memory is there only once: make one for each thread.")
        self._changing: AbstractContextManager[Any] = nullcontext() if optimizer is None else mlp.turn
        self._reading: AbstractContextManager[Any] = nullcontext() if mlp.paged is None else mlp.paged.in_use
        self.goes_on = False
        """Whether the moments of the optimizer's earlier steps are here: after a step, or from a saved run."""
        self.steps = 0
        """Steps begun; with an optimizer in the plan, those that it has made."""
        self.disk_traffic = 0
        """Bytes that the latest step wrote to a disk and read back; of a full batch, `plan.disk_traffic`."""

    def __call__(self, x: NDArray[Any], y: NDArray[Any], weights: Array | None = None) -> tuple[float, Gradients]:
        """Run one step on a batch.

        x: (B, n_0) in the network's dtype, C-contiguous, B at most the plan's batch size.
        y: labels of shape (B,) or targets of shape (B, n_L), by the loss.
        weights: (B,), in the network's dtype, by which the loss of each sample is multiplied before the mean is taken.

        All are read where they are. Returns the loss (the mean over the batch) and the gradients. With an optimizer in
        the plan the parameters have been updated and the gradients are empty. Raises `InputError` for a batch that
        does not fit or holds NaN or infinity, `NonFiniteError` if the loss overflows; the parameters are then as
        before. Raises `DiskError` if a state cannot be written to the plan's disk or read back, which says whether
        they are.
        """
        return self.step(x, y, weights)

    def step(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        weights: Array | None = None,
        *,
        whole: int | None = None,
        carry_out: CarryOut | None = None,
    ) -> tuple[float, Gradients]:
        """Run one step as a call does.

        whole: with other ranks, the rows of the batch, of which x has those of this rank's shards.
        carry_out: for those who measure, gets all bound calls, pass by pass.
        """
        with self._turn, self._changing, self._reading:
            return self._step(x, y, weights, whole, carry_out)

    def _step(
        self, x: NDArray[Any], y: NDArray[Any], weights: Array | None, whole: int | None, carry_out: CarryOut | None
    ) -> tuple[float, Gradients]:
        """Run one step; see `step`."""
        if not isinstance(x, np.ndarray) or not isinstance(y, np.ndarray):
            raise InputError(f"x and y must be NumPy arrays; got {type(x).__name__} and {type(y).__name__}.")
        if x.ndim == 0:
            self._check_batch(x, y)  # it has no rows, and is refused
        whole = self._check_whole(x, whole)
        if len(x) or self.group is None:
            self._check_batch(x, y)
        if weights is not None:
            check_weights(weights, len(x), self.mlp.architecture.dtype)
        optimizer = self.optimizer
        self.claim()
        if optimizer is not None:
            self.check_settings()
            if not self.goes_on:
                self.check_moments()
            optimizer.begin_step()
        self.goes_on = True
        self.steps = self.steps + 1 if optimizer is None else optimizer.step_count
        before = self._moved()
        try:
            loss = self._train(x, y, weights, whole, carry_out)
        except (NonFiniteError, DiskError) as error:
            if optimizer is not None and not (isinstance(error, DiskError) and error.torn):
                optimizer.step_count -= 1
            raise
        finally:
            self.disk_traffic = self._moved() - before
        return loss, self.gradients

    def _moved(self) -> int:
        """Return the bytes that all steps have written to a disk and read back."""
        return 0 if self.engine.disk is None else self.engine.disk.moved

    def claim(self) -> None:
        """Take the optimizer for this object. Raises `InputError` if it belongs to another one that is still there."""
        if self.optimizer is None:
            return
        owner = _OWNERS.get(self.optimizer)
        holder = None if owner is None else owner()
        if holder is not None and holder is not self:
            raise InputError(
                "this optimizer makes the steps of another Backprop (or Trainer) that is still there, and counts its "
                "steps. Make one for each, such as lowmem.make_optimizer"
                f"({self.optimizer.name!r}), or delete the other one."
            )
        if holder is None:
            _OWNERS[self.optimizer] = ref(self)

    def __reduce_ex__(self, protocol: Any) -> Any:  # noqa: ANN401 - as object's
        """Refuse copies and pickles, whose memory would be bound to nothing."""
        raise InputError(
            "a Backprop cannot be copied or pickled: its memory is bound to its network. Copy the network, and make "
            "another one: lowmem.Backprop(copy.deepcopy(mlp), plan)."
        )

    def _train(
        self, x: Array, y: NDArray[Any], weights: Array | None, whole: int | None, carry_out: CarryOut | None
    ) -> float:
        """Run the passes of a checked batch, and update as the plan says. Returns the mean loss."""
        loss = self.engine.run(x, y, weights, step=self.steps, whole=whole, carry_out=carry_out)
        if self.plan.gathered:
            self.engine.update(1.0, carry_out=carry_out)
        return loss

    @property
    def notes(self) -> NDArray[np.float64] | None:
        """Two numbers that ranks tell each other with a step: written before it, and the largest of all behind it."""
        return None if self.engine.shard_sums is None else self.engine.shard_sums.notes

    @property
    def arena(self) -> Arena:
        """Where states, deltas and working memory lie."""
        return self.engine.arena

    def account(self) -> Account[int | None]:
        """Return the bytes of the arrays that were allocated; the overhead of Python's objects is not known.

        Of what is streamed, the most bytes that were in memory at a time count.
        """
        streams = None if self.engine.disk is None else self.engine.disk.streams
        parameters, moments = self.plan.streams
        return Account(
            parameters=streams.resident("w") if streams is not None and parameters else self.mlp.parameters.nbytes,
            gradients=self.buffers.gradient_bytes,
            optimizer=self.buffers.optimizer_bytes + (streams.resident("m") if streams and moments else 0),
            arena=self.arena.buffer.nbytes,
            batch=self.engine.batch_bytes,
            overhead=None,
            statistics=self.engine.statistics_bytes,
        )

    @property
    def optimizer_state(self) -> tuple[Array, ...]:
        """The optimizer's arrays, flat, in the order of the parameters."""
        return self.buffers.states

    def forward(self, x: Array, out: Array) -> None:
        """Write the outputs s^(L) for x, (rows, n_0), to `out`, (rows, n_L), in the memory of the training step.

        Both are C-contiguous arrays of the network's dtype. Raises `InputError` for others, and for NaN or infinity.
        """
        check_inputs(x, self.mlp.architecture)
        check_outputs(out, "out", self.mlp.architecture, len(x))
        with self._turn, self._reading:
            self.engine.forward(x, out)

    def loss(self, outputs: Array, y: NDArray[Any]) -> float:
        """Return the mean loss of outputs s^(L), which are spent, with the memory of the training step.

        outputs: (rows, n_L), as `forward` writes them, of at most the rows of a pass. y: as in a step.

        Raises `InputError` for arrays that do not fit.
        """
        check_outputs(outputs, "outputs", self.mlp.architecture)
        if not 1 <= len(outputs) <= self.plan.micro_batch:
            raise InputError(
                f"the loss is taken of 1 to {self.plan.micro_batch} samples at a time, as in a pass of this plan; got "
                f"{len(outputs)}."
            )
        with self._turn:
            return self.engine.loss(outputs, y)

    def _check_whole(self, x: NDArray[Any], whole: int | None) -> int | None:
        """Return the rows of the whole batch, None where x has them all. Refuses rows that are not this rank's."""
        if self.group is None:
            return None
        if whole is None or not 1 <= whole <= self.plan.batch_size:
            raise InputError(
                f"with several ranks a step needs whole=, the rows of the batch that they share, from 1 to "
                f"{self.plan.batch_size}; got {whole}."
            )
        first, stop = self.buffers.shards.own_rows(whole)
        if len(x) != stop - first:
            raise InputError(
                f"rank {self.group.rank} of {self.group.size} has the rows {first} to {stop} of a batch of {whole}; "
                f"got {len(x)} rows."
            )
        return whole

    def _check_batch(self, x: Array, y: NDArray[Any]) -> None:
        """Refuse a batch that does not fit, before anything is computed."""
        architecture = self.mlp.architecture
        check_inputs(x, architecture, self.plan.batch_size)
        check_rows(architecture, len(x), "Pass at least two rows, or take another norm.")
        check_targets(architecture.loss, y, len(x), architecture.widths[-1], architecture.dtype)

    def check_settings(self) -> None:
        """Refuse settings of the optimizer that do not go together, or make it another one than was planned for."""
        if self.optimizer is not None:
            self.optimizer.check_settings()
            check_planned(self.plan, self.optimizer)

    def check_moments(self) -> None:
        """Refuse an optimizer that has counted steps whose moments are not here. Raises `InputError`.

        It would weigh moments of 0 as if they were the means of all these steps.
        """
        optimizer, paged = self.optimizer, self.buffers.paged_states
        if optimizer is None or not optimizer.step_count or not optimizer.states:
            return
        if not any(piece.any() for array in paged or self.optimizer_state for piece in cut(array)):
            raise InputError(
                f"this optimizer has counted {optimizer.step_count} steps for another Backprop (or Trainer), and the "
                f"moments that it made in them are not here. Make a new one, such as lowmem.make_optimizer"
                f"({optimizer.name!r}), or set its step_count to 0."
            )


def no_memory(plan: Plan) -> RunError:
    """Return the error of a machine that does not give what a plan needs."""
    return RunError(
        f"this machine cannot give the memory that the plan needs, {format_bytes(plan.peak_bytes)}. Make one with a "
        "smaller batch_size, or with a budget."
    )
