"""`Backprop`: carries out a plan on a network, step after step, in memory that is all there from the start."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.random import generator
from lowmem.errors import InputError, NonFiniteError
from lowmem.network.architecture import Architecture
from lowmem.network.layers.base import STATISTICS, Call, Statistics
from lowmem.network.layers.dropout import Philox
from lowmem.network.specs import CHUNK
from lowmem.network.tiles import tile_bounds, tile_rows
from lowmem.nn.losses import check_targets, check_weights, fold_of, loss_scale
from lowmem.nn.mlp import MLP, PREDICT_ROWS, LayerViews, SharedViews
from lowmem.nn.optimizers import Optimizer
from lowmem.planning.lane_count import small
from lowmem.planning.plan import Account, Plan
from lowmem.runtime.arena import Arena, Array, Bounds
from lowmem.runtime.binding import Binder, Feed, Training, loss_scratch, run_calls, shares
from lowmem.runtime.lanes import Lanes

BROADCAST_BUFFER, LEAST_BUFFER = 2048, 256
"""Numbers in the buffers through which NumPy broadcasts a bias, in all lanes together, and in each at least. The usual
8192 take 66 KiB in float64, which would be more than a promise leaves room for; at 2048 the passes are as fast."""


Pass = tuple[list[list[Call]], list[Bounds], int, int]
"""By lane the calls of one pass and the bounds of its tiles; its first row in the batch, and that behind its last."""


@dataclass(frozen=True, slots=True)
class Gradients:
    """∂ℓ/∂w and ∂ℓ/∂b: weights[l-1] of shape (n_l, n_{l-1}), biases[l-1] of shape (n_l,).

    arrays[l-1]: all of layer l's by name, those of a norm and of a learned factor among them. These are the
    executor's own buffers: the next step overwrites them. All are empty where a plan fuses the
    update into the backward pass, as then no gradient outlives its layer.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    arrays: tuple[dict[str, Array], ...] = ()


class Backprop:
    """Loss and gradients (or an update) of a network by a plan.

    mlp: the network; its parameters are used where they are.
    plan: made by `lowmem.plan` for the same architecture.
    optimizer: needed, and of the kind named in the plan, if the plan has one.
    seed: of dropout; with it and the number of the step, every mask is told.

    Everything is allocated here; a call allocates no array. Raises `InputError` if the three do not fit together.

    >>> import numpy as np, lowmem as lm
    >>> arch = lm.Architecture(widths=(64, *[128] * 50, 10))
    >>> mlp = lm.MLP(arch, seed=0)
    >>> backprop = lm.Backprop(mlp, lm.plan(arch, batch_size=512, budget="50%"))
    >>> x, y = np.ones((512, 64), np.float32), np.zeros(512, int)
    >>> loss, gradients = backprop(x, y)
    >>> [g.shape for g in gradients.weights[:2]]
    [(128, 64), (128, 128)]
    """

    def __init__(self, mlp: MLP, plan: Plan, optimizer: Optimizer | None = None, *, seed: int = 0) -> None:
        _check_fit(mlp, plan, optimizer)
        generator(seed)  # refuses what is no seed
        self.mlp, self.plan, self.optimizer = mlp, plan, optimizer
        architecture, rows = mlp.architecture, plan.micro_batch
        item = np.dtype(architecture.dtype)
        whole = architecture.parameters
        largest = max(layer.size for layer in architecture.each_layer)
        several = plan.micro_batches > 1
        buffers = plan.gradient_buffers
        gathers = LayerViews(architecture, np.zeros(whole, item)) if buffers.all_layers else None
        shared = SharedViews(architecture, np.zeros(largest, item)) if buffers.one_layer else None
        spent = gathers if gathers is not None else shared  # what the optimizer reads
        written = shared if shared is not None else gathers
        assert spent is not None
        assert written is not None
        self.gradients = Gradients((), ())
        if optimizer is None:
            self.gradients = Gradients(tuple(spent.weights), tuple(spent.biases), tuple(spent.arrays))
        self.optimizer_state: tuple[Array, ...] = ()
        updates: list[list[list[tuple[Any, ...]]]] = []
        if optimizer is not None:
            self.optimizer_state = tuple(np.zeros(whole, item) for _ in range(optimizer.states))
            states = [LayerViews(architecture, array) for array in self.optimizer_state]
            working = np.zeros(plan.optimizer_scratch, item)
            views: tuple[LayerViews | MLP, ...] = (mlp, spent, *states)
            updates = [_updates(architecture, views, working, lane, plan.lanes) for lane in range(plan.lanes)]
        self._training = Training(
            mlp=mlp,
            arena=Arena(plan.arena_bytes, item),
            feed=Feed.of(plan.lanes),
            lanes=Lanes(plan.lanes, small=small(architecture, rows)),
            ones=np.ones(rows, item),
            starts=np.arange(tile_rows(rows) if architecture.loss_facts.labels else 0) * architecture.widths[-1],
            gradients=written,
            totals=gathers if several else None,
            optimizer=optimizer,
            updates=updates,
            masks=[Philox(seed) for _ in range(plan.lanes)] if any(_.drops for _ in architecture.each_layer) else [],
            statistics=_statistics(architecture),
            slots=np.zeros(plan.lanes, item),
        )
        self.steps = 0
        """Steps begun; with an optimizer in the plan, those that it has made."""
        self._passes: dict[int, list[Pass]] = {}
        self._bind(plan.batch_size)

    def __call__(self, x: NDArray[Any], y: NDArray[Any], weights: Array | None = None) -> tuple[float, Gradients]:
        """Run one step on a batch.

        x: (B, n_0) in the network's dtype, C-contiguous, B at most the plan's batch size. y: labels of shape (B,) or
        targets of shape (B, n_L), by the loss. weights: (B,), in the network's dtype, by which the loss of each sample
        is multiplied before the mean is taken. All are read where they are.

        Returns the loss (the mean over the batch) and the gradients. With an optimizer in the plan the parameters
        have been updated and the gradients are empty. Raises `InputError` for a batch that does not fit or holds
        NaN or infinity, `NonFiniteError` if the loss overflows; the parameters are then as before.
        """
        return self.step(x, y, run_calls, weights)

    def step(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        run: Callable[[Sequence[Call]], None],
        weights: Array | None = None,
    ) -> tuple[float, Gradients]:
        """Run one step as a call does, the calls of each pass carried out by `run`: for those who measure.

        With several lanes `run` gets the calls of each, in threads at the same time.
        """
        self._check_batch(x, y)
        rows = len(x)
        if weights is not None:
            check_weights(weights, rows, self.mlp.architecture.dtype)
        passes = self._passes.get(rows) or self._bind(rows)
        feed, optimizer = self._training.feed, self.optimizer
        feed.scale, feed.loss = loss_scale(self.mlp.architecture.loss, rows, self.mlp.architecture.widths[-1]), 0.0
        if optimizer is not None:
            optimizer.begin_step()
        self.steps = self.steps + 1 if optimizer is None else optimizer.step_count
        self._begin_step()
        try:
            for calls, bounds, start, stop in passes:
                w = None if weights is None else weights[start:stop]
                feed.fill(x[start:stop], y[start:stop], w, bounds)
                for masks in self._training.masks:
                    masks.step, masks.start = self.steps, start
                self._training.lanes.run(partial(_run_lane, calls, run))
        except NonFiniteError:
            if optimizer is not None:
                optimizer.step_count -= 1
            raise
        finally:
            feed.clear()
        return feed.loss * feed.scale, self.gradients

    def _begin_step(self) -> None:
        """Forget the statistics of the step before."""
        for statistics in self._training.statistics:
            if statistics is not None:
                statistics.made.clear()
                return  # they all share it

    @property
    def arena(self) -> Arena:
        """Where states, deltas and scratch lie."""
        return self._training.arena

    def account(self) -> Account[int | None]:
        """Return the bytes of the arrays that were allocated; the overhead of Python's objects is not known."""
        training, scratch = self._training, 0
        if self.optimizer is not None:
            scratch = sum(array.base.nbytes for array in training.updates[0][0][0][3])
        gradients = [training.gradients] + ([] if training.totals is None else [training.totals])
        statistics = sum(_.kept.nbytes for _ in training.statistics if _ is not None)
        return Account(
            parameters=self.mlp.parameters.nbytes,
            gradients=sum(views.flat.nbytes for views in gradients),
            optimizer=sum(array.nbytes for array in self.optimizer_state) + scratch,
            arena=training.arena.buffer.nbytes,
            batch=training.ones.nbytes + training.starts.nbytes,
            overhead=None,
            statistics=statistics and statistics + self.mlp.running.nbytes,
        )

    def forward(self, x: Array, out: Array) -> None:
        """Write the outputs s^(L) for x, (rows, n_0), to `out`, (rows, n_L), in the memory of the training step."""
        workspace, each = self._training.arena.flat, self.mlp.workspace_per_row
        if len(workspace) < each:  # a pass of one row can work in less, as it does not work in place
            workspace = np.empty(each, self.mlp.parameters.dtype)
        chunk = min(len(workspace) // each, PREDICT_ROWS)
        for start in range(0, len(x), chunk):
            self.mlp.forward_into(x[start : start + chunk], out[start : start + chunk], workspace)

    def loss(self, outputs: Array, y: NDArray[Any]) -> float:
        """Return the mean loss of outputs s^(L), which are spent, with the memory of the training step."""
        architecture = self.mlp.architecture
        check_targets(architecture.loss, y, len(outputs), architecture.widths[-1], architecture.dtype)
        scale = loss_scale(architecture.loss, len(outputs), architecture.widths[-1])
        fold, total = fold_of(architecture), 0.0
        bounds = tile_bounds(len(outputs))
        scratches = loss_scratch(self._training, 0, bounds, tile_rows(len(outputs)))
        for (start, stop), scratch in zip(bounds, scratches, strict=True):
            total += fold(outputs[start:stop], y[start:stop], scale, scratch)
        return total * scale

    def _bind(self, batch: int) -> list[Pass]:
        """Bind the passes of a batch of that many rows; of other sizes than the plan's only the last is kept."""
        self._passes = {rows: passes for rows, passes in self._passes.items() if rows == self.plan.batch_size}
        size = self.plan.micro_batch
        starts = range(0, batch, size)
        binders: dict[int, list[Binder]] = {}
        passes: list[Pass] = []
        for start in starts:
            stop = min(start + size, batch)
            rows = stop - start
            if rows not in binders:
                binders[rows] = [Binder(self._training, rows, lane) for lane in range(self.plan.lanes)]
            first, last = start == 0, stop == batch
            if not first and not last and len(passes) > 1:
                calls = passes[-1][0]  # all passes between the first and the last are alike
            else:
                calls = [binder.bind(self.plan.program, first=first, last=last) for binder in binders[rows]]
            passes.append((calls, [binder.bounds for binder in binders[rows]], start, stop))
        self._training.arena.forget_views()
        self._passes[batch] = passes
        return passes

    def _check_batch(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        """Refuse a batch that does not fit, before anything is computed."""
        architecture = self.mlp.architecture
        expected = f"x must be a C-contiguous {architecture.dtype} array of shape (rows, {architecture.widths[0]})"
        if not isinstance(x, np.ndarray) or not isinstance(y, np.ndarray):
            raise InputError(f"x and y must be NumPy arrays; got {type(x).__name__} and {type(y).__name__}.")
        if x.ndim != 2 or x.shape[1] != architecture.widths[0]:
            raise InputError(f"{expected}; got shape {x.shape}.")
        if x.dtype != architecture.dtype:
            raise InputError(f"{expected}; got {x.dtype}. Convert it once with x.astype(np.{architecture.dtype}).")
        if not x.flags.c_contiguous:
            raise InputError(f"{expected}; these rows are strided. Copy them once with np.ascontiguousarray(x).")
        if not x.flags.aligned:
            raise InputError(f"{expected}; this one is not aligned in memory. Copy it once with x.copy().")
        if not 1 <= len(x) <= self.plan.batch_size:
            raise InputError(f"this plan is for 1 to {self.plan.batch_size} samples at a time; got {len(x)}.")
        if not (np.isfinite(x.min()) and np.isfinite(x.max())):
            raise InputError("x contains NaN or infinity; clean or impute it first. Nothing was computed.")
        check_targets(architecture.loss, y, len(x), architecture.widths[-1], architecture.dtype)


def _check_fit(mlp: MLP, plan: Plan, optimizer: Optimizer | None) -> None:
    """Refuse a network, plan and optimizer that do not belong together."""
    if mlp.architecture != plan.architecture:
        raise InputError(f"the plan is for another network: {plan.architecture}; this one is {mlp.architecture}.")
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise InputError(
            f"{optimizer!r} is not an optimizer; make one, e.g. lowmem.make_optimizer({plan.optimizer!r})."
        )
    given = None if optimizer is None else optimizer.name
    if given != plan.optimizer:
        raise InputError(
            f"the plan counts optimizer={plan.optimizer!r}; got {given!r}. Make the plan with optimizer={given!r}"
            + (
                f" or pass such an optimizer, e.g. lowmem.make_optimizer({plan.optimizer!r})."
                if plan.optimizer
                else "."
            )
        )


def _run_lane(calls: list[list[Call]], run: Callable[[Sequence[Call]], None], lane: int) -> None:
    """Carry out one lane's calls of a pass."""
    buffer = np.setbufsize(max(BROADCAST_BUFFER // len(calls) // 16 * 16, LEAST_BUFFER))  # NumPy wants multiples of 16
    try:
        # What overflows shows in the loss, and is one clear error there instead of a warning on the way.
        with np.errstate(over="ignore", invalid="ignore"):
            run(calls[lane])
    finally:
        np.setbufsize(buffer)


def _updates(
    architecture: Architecture, views: Sequence[LayerViews | MLP], working: Array, lane: int, lanes: int
) -> list[list[tuple[Any, ...]]]:
    """Return for each layer the chunks (w, g, states, scratch) of a lane's share, updated one at a time."""
    # Each lane has its part of the working memory.
    size = max((len(working) or CHUNK) // lanes, 1)
    scratch = working[lane * size : (lane + 1) * size]
    updates = []
    for layer in range(1, architecture.layers + 1):
        parts = [
            [view.blocks[layer - 1]] if lanes == 1 else shares(view.arrays[layer - 1], lane, lanes) for view in views
        ]
        chunks = []
        for arrays in zip(*parts, strict=False):
            for first in range(0, len(arrays[0]), size):
                w, g, *states = (array[first : first + size] for array in arrays)
                chunks.append((w, g, tuple(states), (scratch[: len(w)],) if len(working) else ()))
        updates.append(chunks)
    return updates


def _statistics(architecture: Architecture) -> list[Statistics | None]:
    """Return by layer where the statistics of a batch are kept, if a norm needs them; else nothing."""
    if architecture.couples is None:
        return []
    made: set[int] = set()
    return [
        Statistics(np.zeros((STATISTICS, layer.entering), architecture.dtype), made) if layer.couples else None
        for layer in architecture.each_layer
    ]
