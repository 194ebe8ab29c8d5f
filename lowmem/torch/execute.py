"""One step of a chain by a plan's schedule: the forward pass up to the loss, and the backward pass behind it.

To the outside the chain is two autograd functions. `_Chain` runs the forward ops and, when its backward comes, all the
others. `_Output` hands the result out; its backward takes the gradient and lets go of it at once, so that the gradient
lives no longer than the last stage needs it.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain, dropwhile, islice, takewhile
from typing import Any

import torch

from lowmem.errors import InputError, RunError
from lowmem.schedule import Forward, Free, Loss
from lowmem.torch.again import Autocast, Buffers, forked_random, random_state, same, still_statistics
from lowmem.torch.passes import Box, SharedGradients, Tape, record, reverse, sweep
from lowmem.torch.spans import Action, RecordSpan, ReverseSpan
from lowmem.torch.spared import NoProducts, spares
from lowmem.torch.stages import Group, bytes_of
from lowmem.torch.values import Tensors, as_tuple, detached, rebuilt, value_of


@dataclass(frozen=True)
class Stage:
    """A stage as a step runs it.

    differentiable: for each tensor that enters whether its gradient is wanted. output_bytes: what its output may take.
    taped_sweeps, writes_buffers: as measured. spares: whether its product may be left out where its output is not
    needed. last_uses: of parameters that other stages use too, whether those stages are reversed before; by position
    in `group.parameters()`; empty where nothing is shared.
    """

    group: Group
    differentiable: tuple[bool, ...]
    output_bytes: int
    taped_sweeps: bool
    writes_buffers: bool
    spares: bool
    last_uses: tuple[bool, ...]


class Step:
    """A forward pass and its backward pass, once. trained: the parameters that have gradients."""

    def __init__(
        self,
        stages: Sequence[Stage],
        todo: Sequence[Action],
        device: torch.device,
        trained: Sequence[torch.Tensor],
    ) -> None:
        self.stages, self.todo, self.device, self.trained = stages, todo, device, trained
        # DistributedDataParallel and hooks would take what connects a parameter for a second gradient.
        hooked = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.parameters = (
            [] if hooked else [p for p in trained if not (p._backward_hooks or p._post_accumulate_grad_hooks)]
        )
        self.unconnected = len(self.parameters) < len(trained)
        self.again = run_again(todo)
        self.autocast = Autocast.now(device)
        self.states: dict[int, Tensors] = {}
        self.tapes: dict[int, tuple[int, Tape]] = {}
        self.randoms: dict[int, Tensors | None] = {}
        self.buffers: dict[int, Buffers] = {}
        self.gradients = Box()
        self.shared = SharedGradients()
        self.accumulate = True

    def forward(self, inputs: Tensors) -> None:
        """Do what comes before the loss."""
        self.states[0] = inputs
        for action in takewhile(lambda action: not isinstance(action, Loss), self.todo):
            self._do(action)
        self.versions = self._versions()

    def _versions(self) -> list[tuple[int, int]]:
        """Say which tensors stages run from again behind the loss, and how often these have been written to."""
        behind = dropwhile(lambda action: not isinstance(action, Loss), self.todo)
        begin = [action.first for action in behind if isinstance(action, (Forward, RecordSpan))]
        stages = self.stages if begin else ()
        owners = (module._parameters.values() for stage in stages for module in stage.group.with_parameters)
        needed = [*(self.states[0] if 1 in begin else ()), *(p for each in owners for p in each if p is not None)]
        return [(id(tensor), tensor._version) for tensor in needed]

    def backward(self, *, accumulate: bool) -> tuple[torch.Tensor | None, ...]:
        """Do what comes behind the loss, and return the gradients of the inputs that have one, and of parameters.

        accumulate: add the gradients of parameters to those that are there, as they come, and return none.
        """
        if not self.states:
            raise RunError("this step was reversed already, and its memory is gone. Run the model forward again.")
        if self.versions != self._versions():
            raise RunError(
                "the batch or a parameter was overwritten or replaced between forward and backward, and stages are to "
                "run again on it. Call backward() before optimizer.step() and before the batch is used for something "
                "else; torch.func.functional_call is not for a planned model."
            )
        self.accumulate = accumulate
        for action in islice(dropwhile(lambda action: not isinstance(action, Loss), self.todo), 1, None):
            # What is reversed is under the caller's autocast, as in the plain model; mostly under none.
            with nullcontext() if isinstance(action, ReverseSpan) else self.autocast.again():
                self._do(action)
        self.states.clear()
        own: Sequence[torch.Tensor | None] = (None,) * len(self.parameters)
        if accumulate:
            self.shared.finish()
        else:
            own = [self.shared.sums.pop(parameter, None) for parameter in self.parameters]
        return (*(self.gradients.take() or (None,) * sum(self.stages[0].differentiable)), *own)

    def _do(self, action: Action) -> None:
        """Carry out one action."""
        match action:
            case Forward(first=first, last=last):
                state = self.states[first - 1]
                for layer in range(first, last + 1):
                    stage = self.stages[layer - 1]
                    state = sweep(partial(self._run, layer), state, stage.differentiable, taped=stage.taped_sweeps)
                self.states[last] = state
            case RecordSpan(first=first, last=last, output=output):
                entering = [self.states[0] if first == 1 else self.states.pop(first - 1)]
                run = partial(self._run_span, first, last, output)
                outputs, tape = record(run, entering, self.stages[first - 1].differentiable)
                assert tape is not None  # _run has seen that outputs have a gradient
                self.tapes[last] = first, tape
                if output:
                    self.states[last] = outputs
            case Free(value=value):
                del self.states[value.layer]
            case ReverseSpan(last=last):
                first, tape = self.tapes.pop(last)
                if any(gradient is not None for gradient in self.gradients.tensors):
                    self.gradients = reverse(tape, self.gradients, self._shared(first, last))

    def _shared(self, first: int, last: int) -> SharedGradients | None:
        """Return what takes the gradients of parameters of a span, None where they are added to those there."""
        stage = self.stages[last - 1]
        if not self.accumulate:
            own = {id(p): p for each in self.stages[first - 1 : last] for p in each.group.parameters()}
            return self.shared.of([*own.values()], [False] * len(own))
        return self.shared.of(stage.group.parameters(), stage.last_uses) if stage.last_uses else None

    def _run_span(self, first: int, last: int, output: bool, given: list[Any]) -> Any:  # noqa: ANN401 - tensors
        """Run stages one after the other."""
        value = given.pop()
        for layer in range(first, last):
            value = self._run(layer, value)
        stage = self.stages[last - 1]
        spared = not output and stage.spares and spares(stage.group)  # a hook may have come since
        with NoProducts() if spared else nullcontext():
            return self._run(last, value)

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
        """Run a stage that runs more than once: later with random numbers and buffers of the first time."""
        stage = self.stages[layer - 1]
        group, versions = stage.group, stage.group.buffer_versions()
        if layer not in self.randoms:
            before = random_state(self.device)
            if stage.writes_buffers:
                self.buffers[layer] = Buffers(group.with_buffers)
            with self.autocast.one_stage():
                result = group(value)
            self.randoms[layer] = None if same(before, random_state(self.device)) else before
        else:
            numbers, still = forked_random(self.device, self.randoms[layer]), still_statistics(group.norms)
            buffers = self.buffers[layer].again() if stage.writes_buffers else nullcontext()
            with self.autocast.one_stage(), numbers, still, buffers:
                result = group(value)
        if not stage.writes_buffers and versions != group.buffer_versions():
            raise group.refuse("writes to buffers, which it did not when it was measured. Plan anew.")
        return result

    def _check(self, layer: int, outputs: Tensors) -> None:
        """Refuse what the plan does not know of."""
        stage = self.stages[layer - 1]
        size = bytes_of(outputs)
        if size > stage.output_bytes:
            raise stage.group.refuse(
                f"gave {size:,} bytes, and the plan knows of {stage.output_bytes:,}. Plan with such a batch. "
                "What gives more in one run than in another has no plan."
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
        whole = torch.autograd._is_checkpoint_valid()  # neither torch.autograd.grad nor backward(inputs=...)
        if not whole and ctx.step.unconnected:
            raise InputError(
                "torch.autograd.grad and backward(inputs=...) cannot go through a plan in distributed training, or "
                "where parameters have hooks. Call backward() without inputs, or use the plain model."
            )
        return (None, None, None, *ctx.step.backward(accumulate=whole))


class _Output(torch.autograd.Function):
    """The result of the chain, handed out; its gradient, taken in."""

    @staticmethod
    def forward(ctx: Any, step: Step, end: torch.Tensor, differentiable: Sequence[bool]) -> Tensors:  # noqa: ANN401
        ctx.step, ctx.differentiable = step, differentiable
        ctx.set_materialize_grads(False)
        outputs = tuple(detached(step.states.pop(len(step.stages))))
        ctx.mark_non_differentiable(*(x for x, yes in zip(outputs, differentiable, strict=True) if not yes))
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[Any, ...]:  # noqa: ANN401
        pairs = zip(gradients, ctx.differentiable, strict=True)
        ctx.step.gradients.tensors = tuple(gradient for gradient, yes in pairs if yes)
        return None, torch.empty(0, device=ctx.step.device), None


def run_step(step: Step, inputs: Tensors) -> Any:  # noqa: ANN401 - a tensor, or a tuple of tensors
    """Run the forward pass of a step and return its outputs, whose backward runs the rest."""
    root = torch.empty(0, requires_grad=True, device=step.device)
    wanted = step.stages[0].differentiable
    with_gradient = (tensor for tensor, yes in zip(inputs, wanted, strict=True) if yes)
    # Gradients of parameters come by other ways, but the graph must show torch.autograd.grad that there is one.
    end = _Chain.apply(step, root, detached(inputs), *with_gradient, *step.parameters)
    kind = step.states[len(step.stages)]
    _, tape = step.tapes[len(step.stages)]
    return value_of(rebuilt(kind, _Output.apply(step, end, tape.differentiable)))
