"""One step of a chain by a plan's schedule: the forward pass up to the loss, and the backward pass behind it.

To the outside the chain is two autograd functions. `_Chain` runs the forward ops and, when its backward comes, all the
others. `_Output` hands the result out; its backward takes the gradient and lets go of it at once, so that the gradient
lives no longer than the last stage needs it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, dropwhile, islice, takewhile
from typing import Any

import torch

from lowmem.errors import InputError, RunError
from lowmem.schedule import Forward, Free, Loss
from lowmem.torch.passes import (
    Autocast,
    Box,
    SharedGradients,
    Tape,
    Tensors,
    as_tuple,
    forked_random,
    random_state,
    record,
    reverse,
    same,
    still_statistics,
    sweep,
)
from lowmem.torch.spans import Action, RecordSpan, ReverseSpan
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

    def __init__(self, stages: Sequence[Stage], todo: Sequence[Action], device: torch.device) -> None:
        self.stages, self.todo, self.device = stages, todo, device
        self.again = run_again(todo)
        self.autocast = Autocast.now(device)
        self.states: dict[int, Tensors] = {}
        self.tapes: dict[int, Tape] = {}
        self.randoms: dict[int, Tensors | None] = {}
        self.gradients = Box()
        self.shared = SharedGradients()

    def forward(self, inputs: Tensors) -> None:
        """Do what comes before the loss."""
        self.states[0] = inputs
        for action in takewhile(lambda action: not isinstance(action, Loss), self.todo):
            self._do(action)

    def backward(self) -> tuple[torch.Tensor | None, ...]:
        """Do what comes behind the loss, and return the gradients of the inputs that have one."""
        if not self.states:
            raise RunError("this step was reversed already, and its memory is gone. Run the model forward again.")
        with self.autocast.again():
            for action in islice(dropwhile(lambda action: not isinstance(action, Loss), self.todo), 1, None):
                self._do(action)
        self.states.clear()
        self.shared.finish()
        return self.gradients.take() or (None,) * sum(self.stages[0].differentiable)

    def _do(self, action: Action) -> None:
        """Carry out one action."""
        match action:
            case Forward(first, last):
                state = self.states[first - 1]
                for layer in range(first, last + 1):
                    state = sweep(partial(self._run, layer), state)
                self.states[last] = state
            case RecordSpan(first, last):
                entering = [self.states[0] if first == 1 else self.states.pop(first - 1)]
                run = partial(self._run_span, first, last)
                self.states[last], tape = record(run, entering, self.stages[first - 1].differentiable)
                assert tape is not None  # _run has seen that outputs have a gradient
                self.tapes[last] = tape
            case Free(value):
                del self.states[value.layer]
            case ReverseSpan(last):
                stage, tape = self.stages[last - 1], self.tapes.pop(last)
                if any(gradient is not None for gradient in self.gradients.tensors):
                    shared = None
                    if stage.last_uses:
                        shared = self.shared.of(stage.group.parameters(), stage.last_uses)
                    self.gradients = reverse(tape, self.gradients, shared)

    def _run_span(self, first: int, last: int, given: list[Any]) -> Any:  # noqa: ANN401 - tensors
        """Run stages one after the other."""
        value = given.pop()
        for layer in range(first, last + 1):
            value = self._run(layer, value)
        return value

    def _run(self, layer: int, value: Any) -> Any:  # noqa: ANN401 - tensors
        """Run a stage, for the first time or again."""
        stage = self.stages[layer - 1]
        versions = [tensor._version for tensor in as_tuple(value)]
        if layer in self.again:
            result = self._run_repeated(layer, value)
        else:
            with self.autocast.one_stage():
                result = stage.group(value)
        if versions != [tensor._version for tensor in as_tuple(value)]:
            raise stage.group.refuse("has overwritten what it was given. Plan anew, or let it work out of place.")
        self._check(layer, as_tuple(result))
        return result

    def _run_repeated(self, layer: int, value: Any) -> Any:  # noqa: ANN401 - tensors
        """Run a stage that runs more than once: later with the random numbers of the first time."""
        group = self.stages[layer - 1].group
        buffers = group.buffer_versions()
        if layer not in self.randoms:
            before = random_state(self.device)
            with self.autocast.one_stage():
                result = group(value)
            self.randoms[layer] = None if same(before, random_state(self.device)) else before
        else:
            numbers, still = forked_random(self.device, self.randoms[layer]), still_statistics(group.norms)
            with self.autocast.one_stage(), numbers, still:
                result = group(value)
        if buffers != group.buffer_versions():
            raise group.refuse(CHANGES_BUFFERS)
        return result

    def _check(self, layer: int, outputs: Tensors) -> None:
        """Refuse what the plan does not know of."""
        stage = self.stages[layer - 1]
        size = bytes_of(outputs)
        if size > stage.output_bytes:
            raise stage.group.refuse(
                f"gave {size:,} bytes, and the plan knows of {stage.output_bytes:,}. Plan with such a batch."
            )
        if torch.is_grad_enabled():
            found = tuple(tensor.requires_grad for tensor in outputs)
            if not any(found) or (layer < len(self.stages) and found != self.stages[layer].differentiable):
                raise stage.group.refuse(
                    "gives other tensors with a gradient than when it was measured. Plan anew with lowmem.torch.plan."
                )


def run_again(todo: Sequence[Action]) -> set[int]:
    """Return the stages that run more than once."""
    spans = [range(each.first, each.last + 1) for each in todo if isinstance(each, (Forward, RecordSpan))]
    return {layer for layer, count in Counter(chain.from_iterable(spans)).items() if count > 1}


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
