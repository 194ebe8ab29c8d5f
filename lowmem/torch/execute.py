"""One step of a chain by a plan's schedule: the forward pass up to the loss, and the backward pass behind it.

To the outside the chain is two autograd functions. `_Chain` runs the forward ops and, when its backward comes, all the
others. `_Output` hands the result out; its backward takes the gradient and lets go of it at once, so that the gradient
lives no longer than the last stage needs it.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch

from lowmem.errors import InputError, RunError
from lowmem.schedule import Backward, Forward, Free, Loss, Op, Record
from lowmem.torch.passes import (
    Autocast,
    Box,
    SharedGradients,
    Tape,
    Tensors,
    forked_random,
    random_state,
    record,
    reverse,
    same,
    still_statistics,
    sweep,
)
from lowmem.torch.stages import Group, bytes_of


@dataclass(frozen=True)
class Stage:
    """A stage as a step runs it.

    differentiable: for each tensor that enters whether its gradient is wanted. output_bytes: what its output may take.
    last_uses: of parameters that other stages use too, whether those stages are reversed before; by position in
    `group.parameters()`; empty where nothing is shared.
    """

    group: Group
    differentiable: tuple[bool, ...]
    output_bytes: int
    last_uses: tuple[bool, ...] = ()


class Step:
    """A forward pass and its backward pass, once."""

    def __init__(self, stages: Sequence[Stage], ops: Sequence[Op], device: torch.device) -> None:
        self.stages, self.ops, self.device = stages, ops, device
        runs = Counter(
            layer
            for op in ops
            for layer in (range(op.first, op.last + 1) if isinstance(op, Forward) else [getattr(op, "layer", 0)])
            if isinstance(op, (Forward, Record))
        )
        self.again = {layer for layer, count in runs.items() if count > 1}
        self.autocast = Autocast.now(device)
        self.states: dict[int, Tensors] = {}
        self.tapes: dict[int, Tape] = {}
        self.randoms: dict[int, Tensors | None] = {}
        self.gradients = Box()
        self.shared = SharedGradients()

    def forward(self, inputs: Tensors) -> None:
        """Run the ops before the loss."""
        self.states[0] = inputs
        for op in takewhile(lambda op: not isinstance(op, Loss), self.ops):
            self._do(op)

    def backward(self) -> tuple[torch.Tensor | None, ...]:
        """Run the ops behind the loss and return the gradients of the inputs that have one."""
        if not self.states:
            raise RunError("this step was reversed already, and its memory is gone. Run the model forward again.")
        behind = self.ops[next(n for n, op in enumerate(self.ops) if isinstance(op, Loss)) + 1 :]
        with self.autocast.again():
            for op in behind:
                self._do(op)
        self.states.clear()
        self.shared.finish()
        return self.gradients.take() or (None,) * sum(self.stages[0].differentiable)

    def _do(self, op: Op) -> None:
        """Carry out one op."""
        match op:
            case Forward(first, last):
                state = self.states[first - 1]
                for layer in range(first, last + 1):
                    state, _ = self._run(layer, state, on_tape=False)
                self.states[last] = state
            case Record(layer):
                state = self.states[layer - 1] if layer == 1 else self.states.pop(layer - 1)
                state, tape = self._run(layer, state, on_tape=True)
                assert tape is not None
                self.tapes[layer] = tape
                self.states[layer] = state
            case Free(value):
                del self.states[value.layer]
            case Backward(layer):
                stage, shared = self.stages[layer - 1], None
                if stage.last_uses:
                    shared = self.shared.of(stage.group.parameters(), stage.last_uses)
                if any(gradient is not None for gradient in self.gradients.tensors):
                    self.gradients = reverse(self.tapes.pop(layer), self.gradients, shared)
                else:  # nothing comes back from here on: no stage before has a gradient
                    self.tapes.pop(layer)

    def _run(self, layer: int, inputs: Tensors, *, on_tape: bool) -> tuple[Tensors, Tape | None]:
        """Run a stage, for the first time or again."""
        stage, tape = self.stages[layer - 1], None
        first_time = layer not in self.randoms
        versions = [tensor._version for tensor in inputs]
        buffers = stage.group.buffer_versions() if layer in self.again else []
        before = random_state(self.device) if first_time and layer in self.again else None
        with ExitStack() as stack:
            stack.enter_context(self.autocast.one_stage())
            if not first_time:
                stack.enter_context(forked_random(self.device, self.randoms[layer]))
                stack.enter_context(still_statistics(stage.group.norms))
            if on_tape:
                outputs, tape = record(stage.group, inputs, stage.differentiable)
            else:
                outputs = sweep(stage.group, inputs)
        if first_time:
            unchanged = before is None or same(before, random_state(self.device))
            self.randoms[layer] = None if unchanged else before
        if versions != [tensor._version for tensor in inputs]:
            raise stage.group.refuse("has overwritten what it was given. Plan anew, or let it work out of place.")
        if layer in self.again and buffers != stage.group.buffer_versions():
            raise stage.group.refuse(CHANGES_BUFFERS)
        self._check(layer, outputs, tape, on_tape=on_tape)
        return outputs, tape

    def _check(self, layer: int, outputs: Tensors, tape: Tape | None, *, on_tape: bool) -> None:
        """Refuse what the plan does not know of."""
        stage = self.stages[layer - 1]
        size = bytes_of(outputs)
        if size > stage.output_bytes:
            raise stage.group.refuse(
                f"gave {size:,} bytes, and the plan knows of {stage.output_bytes:,}. Plan with such a batch."
            )
        if on_tape:
            expected = self.stages[layer].differentiable if layer < len(self.stages) else None
            found = tape.differentiable if tape is not None else (False,) * len(outputs)
            if not any(found) or expected not in (None, found):
                raise stage.group.refuse(
                    "gives other tensors with a gradient than when it was measured. Plan anew with lowmem.torch.plan."
                )


CHANGES_BUFFERS = (
    "writes to buffers that are no norm's running statistics, so running it again would not give the same. "
    "Leave it out of the chain."
)


class _Chain(torch.autograd.Function):
    """The chain, from its inputs to an empty tensor that stands for its output."""

    @staticmethod
    def forward(ctx: Any, step: Step, root: torch.Tensor, inputs: Tensors, *tensors: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        ctx.step = step
        step.forward(inputs)
        return root.new_empty(0)

    @staticmethod
    def backward(ctx: Any, nothing: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        if torch.is_grad_enabled():
            raise InputError(
                "gradients of gradients (create_graph=True) cannot go through a plan; use the plain model."
            )
        if not torch.autograd._is_checkpoint_valid():
            raise InputError(
                "torch.autograd.grad and backward(inputs=...) cannot go through a plan, which accumulates the "
                "gradients of all parameters. Call backward() without inputs, or use the plain model."
            )
        return (None, None, None, *ctx.step.backward())


class _Output(torch.autograd.Function):
    """The result of the chain, handed out; its gradient, taken in."""

    @staticmethod
    def forward(ctx: Any, step: Step, end: torch.Tensor, differentiable: Sequence[bool]) -> Tensors:  # noqa: ANN401
        ctx.step, ctx.differentiable = step, differentiable
        ctx.set_materialize_grads(False)
        outputs = tuple(tensor.detach() for tensor in step.states.pop(len(step.stages)))
        ctx.mark_non_differentiable(*(x for x, yes in zip(outputs, differentiable, strict=True) if not yes))
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[Any, ...]:  # noqa: ANN401
        pairs = zip(gradients, ctx.differentiable, strict=True)
        ctx.step.gradients.tensors = tuple(gradient for gradient, yes in pairs if yes)
        return None, torch.empty(0, device=ctx.step.device), None


def run_step(step: Step, inputs: Tensors) -> Tensors:
    """Run the forward pass of a step and return its outputs, whose backward runs the rest."""
    device = inputs[0].device
    root = torch.empty(0, requires_grad=True, device=device)
    wanted = step.stages[0].differentiable
    with_gradient = (tensor for tensor, yes in zip(inputs, wanted, strict=True) if yes)
    cut_off = tuple(tensor.detach() for tensor in inputs)
    end = _Chain.apply(step, root, cut_off, *with_gradient)
    tape = step.tapes[len(step.stages)]
    return _Output.apply(step, end, tape.differentiable)
