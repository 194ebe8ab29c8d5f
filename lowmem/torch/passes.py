"""A stage on its own: run without a tape, recorded, or reversed; and what must be the same when it is run again.

To record means to run under autograd with the input cut off from what came before. Two small autograd functions stand
at the ends. `_Enter` makes the input part of a new graph and takes the gradient with respect to it; so the graph alone
decides whether the input stays in memory. `_Leave` hands the gradient of the output over, and keeps no reference: so
it is freed as soon as the stage has used it. A reversed stage thus holds as much memory as in plain PyTorch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

Tensors = tuple[torch.Tensor, ...]


def as_tuple(value: Any) -> Tensors:  # noqa: ANN401 - whatever a stage takes or gives
    """Return the tensors of a value that is one tensor or a tuple of them."""
    return value if isinstance(value, tuple) else (value,)


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


def value_of(tensors: Tensors) -> Any:  # noqa: ANN401 - a tensor, or a tuple of tensors
    """Return tensors as a stage takes them."""
    return tensors if len(tensors) > 1 else tensors[0]


def sweep(run: Callable[[Any], Any], inputs: Tensors) -> Tensors:
    """Run a stage without a tape."""
    with torch.no_grad():
        return as_tuple(run(value_of(inputs)))


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
        given = [value_of(tuple(next(entered) if yes else tensor.detach() for tensor, yes in pairs))]
        del chosen, entered, inputs, pairs
        outputs = as_tuple(run(given))
        flags = tuple(tensor.requires_grad for tensor in outputs)
        if not any(flags):
            return outputs, None
        end = _Leave.apply(outlet, *(tensor for tensor, yes in zip(outputs, flags, strict=True) if yes))
        return tuple(tensor.detach() for tensor in outputs), Tape(end, root, flags, outlet, inlet)


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


# What must be the same when a stage is run again ------------------------------------------------------------------


def random_state(device: torch.device) -> Tensors:
    """Return the states of the random generators that a stage on `device` may use."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state(device))
    return tuple(states)


def set_random_state(device: torch.device, states: Tensors) -> None:
    """Set what `random_state` returned."""
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], device)


def same(states: Tensors, others: Tensors) -> bool:
    """Say whether two states of generators are equal."""
    return all(torch.equal(one, other) for one, other in zip(states, others, strict=True))


@contextmanager
def forked_random(device: torch.device, states: Tensors | None) -> Iterator[None]:
    """Run something with random numbers as they came at `states`; afterwards all is as before. None: do nothing."""
    if states is None:
        yield
        return
    before = random_state(device)
    set_random_state(device, states)
    try:
        yield
    finally:
        set_random_state(device, before)


@contextmanager
def still_statistics(norms: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Let norms in training use the batch's statistics and leave their running ones alone: they moved already."""
    moving = [norm for norm in norms if norm.training and norm.track_running_stats]
    for norm in moving:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in moving:
            norm.track_running_stats = True


@dataclass(frozen=True, slots=True)
class Autocast:
    """The state of autocast on the processor and on a device, to be entered again when the context has been left."""

    states: tuple[tuple[str, bool, Any], ...]
    cache: bool

    @classmethod
    def now(cls, device: torch.device) -> "Autocast":
        """Return the state that is in force."""
        kinds = dict.fromkeys(("cpu", device.type))
        states = ((kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds)
        return cls(tuple(states), torch.is_autocast_cache_enabled())

    @property
    def enabled(self) -> bool:
        """Whether anything is cast."""
        return any(enabled for _, enabled, _ in self.states)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Enter the state again."""
        with ExitStack() as stack:
            for kind, enabled, dtype in self.states:
                if enabled or torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, dtype, enabled, self.cache))
            yield

    def one_stage(self) -> Any:  # noqa: ANN401 - a context
        """Return a context in which a stage casts its weights for itself.

        A weight that was cast without a tape must not serve where a tape is recorded, and a cast that is remembered
        would stay in memory longer than the stage needs it.
        """
        return _own_casts() if self.enabled else nullcontext()


@contextmanager
def _own_casts() -> Iterator[None]:
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.clear_autocast_cache()
