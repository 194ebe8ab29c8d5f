"""A stage on its own: run without a tape, recorded, or reversed.

To record means to run under autograd with the input cut off from what came before. Two small autograd functions stand
at the ends. `_Enter` makes the input part of a new graph and takes the gradient with respect to it; so the graph alone
decides whether the input stays in memory. `_Leave` hands the gradient of the output over, and keeps no reference: so
it is freed as soon as the stage has used it. A reversed stage thus holds as much memory as in plain PyTorch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from lowmem.torch.values import Tensors, as_tuple, detached, rebuilt, value_of


@dataclass
class Box:
    """Gradients on their way into a graph or out of it. `take` leaves nothing behind."""

    tensors: tuple[torch.Tensor | None, ...] = ()

    def take(self) -> tuple[torch.Tensor | None, ...]:
        """Return the tensors, which are the receiver's from now on."""
        tensors, self.tensors = self.tensors, ()
        return tensors


class _Enter(torch.autograd.Function):
    """The input of a recorded stage: the same tensors, at the root of a graph of their own."""

    @staticmethod
    def forward(ctx: Any, box: Box, root: torch.Tensor, *tensors: torch.Tensor) -> Tensors:  # noqa: ANN401
        ctx.box = box
        ctx.set_materialize_grads(False)
        return tuple(tensor.detach() for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[None, ...]:  # noqa: ANN401
        ctx.box.tensors = gradients
        return (None, None, *(None for _ in gradients))


class _Leave(torch.autograd.Function):
    """The output of a recorded stage: an empty tensor, whose backward reverses the stage."""

    @staticmethod
    def forward(ctx: Any, box: Box, *tensors: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        ctx.box = box
        return tensors[0].new_empty(0)

    @staticmethod
    def backward(ctx: Any, nothing: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        return (None, *ctx.box.take())


@dataclass
class Tape:
    """A recorded stage: what reverses it, which outputs have a gradient, and where gradients go in and out."""

    end: torch.Tensor
    root: torch.Tensor
    differentiable: tuple[bool, ...]
    outlet: Box = field(default_factory=Box)
    inlet: Box = field(default_factory=Box)


def sweep(run: Callable[[Any], Any], inputs: Tensors, wanted: Sequence[bool], *, taped: bool = False) -> Tensors:
    """Run a stage and keep nothing for its backward.

    It runs under autograd all the same, and what it saves is dropped: for inference PyTorch has other kernels (of
    LSTMs, for one), whose results differ in the last bits. wanted: for each tensor of the input whether its gradient
    is. taped: save the tape and drop it afterwards, for stages that differentiate something themselves.
    """
    with torch.enable_grad(), nullcontext() if taped else saved_tensors_hooks(_drop, _dropped):
        given = [x.detach().requires_grad_(yes) for x, yes in zip(inputs, wanted, strict=True)]
        given = [value_of(rebuilt(inputs, given))]
        return detached(as_tuple(run(given.pop())))


def _drop(tensor: torch.Tensor) -> None:
    """Save nothing."""


def _dropped(nothing: None) -> torch.Tensor:
    """Refuse to give back what was not saved."""
    raise RuntimeError("this stage was run without a tape")


def record(
    run: Callable[[list[Any]], Any], entering: list[Tensors], wanted: Sequence[bool]
) -> tuple[Tensors, "Tape | None"]:
    """Run one or several stages under autograd.

    run: takes its input out of a list, so that nobody else holds it. entering: the input, in such a list. wanted: for
    each tensor of the input whether its gradient is.

    Returns the outputs, cut off from the graph, with the tape; None for it where no output has a gradient.
    """
    with torch.enable_grad():
        inputs = entering.pop()
        inlet, outlet = Box(), Box()
        root = torch.empty(0, requires_grad=True)
        chosen = [tensor.detach() for tensor, yes in zip(inputs, wanted, strict=True) if yes]
        entered = iter(_Enter.apply(inlet, root, *chosen) if chosen else ())
        pairs = zip(inputs, wanted, strict=True)
        tensors = [next(entered) if yes else tensor.detach() for tensor, yes in pairs]
        given = [value_of(rebuilt(inputs, tensors))]
        del chosen, entered, inputs, pairs, tensors
        outputs = as_tuple(run(given))
        flags = tuple(tensor.requires_grad for tensor in outputs)
        if not any(flags):
            return outputs, None
        end = _Leave.apply(outlet, *(tensor for tensor, yes in zip(outputs, flags, strict=True) if yes))
        return detached(outputs), Tape(end, root, flags, outlet, inlet)


def leaves(tape: Tape) -> Iterator[torch.Tensor]:
    """Yield the parameters that the graph of a tape leads to."""
    seen, todo = set(), [tape.end.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and leaf is not tape.root:
            yield leaf
        todo += [following for following, _ in node.next_functions]


def alone(stage: Callable[[Any], Any]) -> Callable[[list[Any]], Any]:
    """Return what `record` runs to record one stage."""
    return lambda given: stage(given.pop())


def reverse(tape: Tape, gradients: Box, shared: "SharedGradients | None" = None) -> Box:
    """Reverse a recorded stage: its parameters' gradients are accumulated, those of its inputs returned.

    gradients: with respect to the outputs that have one; emptied, so that nothing holds them longer than the stage
    needs them. shared: takes the gradients of a stage that shares parameters with others.
    """
    tape.outlet.tensors = gradients.take()
    nothing = torch.empty_like(tape.end)
    if shared is None:
        torch.autograd.backward((tape.end,), (nothing,))
    else:
        shared.reverse(tape, nothing)
    return tape.inlet


class SharedGradients:
    """Gradients of parameters that several stages use: summed first and delivered once, as plain PyTorch does.

    So hooks of a parameter run once, and the sum has the same bits also where a gradient was there before.
    """

    def __init__(self) -> None:
        self.sums: dict[torch.Tensor, torch.Tensor] = {}
        self.parameters: Sequence[torch.Tensor] = ()
        self.last: Sequence[bool] = ()

    def of(self, parameters: Sequence[torch.Tensor], last: Sequence[bool]) -> "SharedGradients":
        """Prepare for one stage. parameters: all of its own. last: for each whether no other stage is to come."""
        self.parameters, self.last = parameters, last
        return self

    def reverse(self, tape: Tape, nothing: torch.Tensor) -> None:
        """Reverse a stage, and deliver the gradients that are complete."""
        # The root stands for the inputs: without it the engine would leave out what leads to them alone.
        trained = [(p, last) for p, last in zip(self.parameters, self.last, strict=True) if p.requires_grad]
        leaves = (tape.root, *(parameter for parameter, _ in trained))
        found = list(torch.autograd.grad((tape.end,), leaves, (nothing,), allow_unused=True))[:0:-1]
        for parameter, last in trained:
            gradient = found.pop()
            before = self.sums.pop(parameter, None)
            if before is not None:
                gradient = before if gradient is None else before + gradient
            if gradient is None:
                continue
            if last:
                torch.autograd.backward((parameter,), (gradient,))
            else:
                self.sums[parameter] = gradient

    def finish(self) -> None:
        """Deliver what is left where the gradient ended before a stage was reached."""
        for parameter, gradient in self.sums.items():
            torch.autograd.backward((parameter,), (gradient,))
        self.sums.clear()
