"""What the stages of a model take: seconds of each pass, bytes of output and tape, and the most that lives meanwhile.

Every stage is run on its own, one after the other, by the functions that a plan runs it by. So a model that does not
fit can be measured, as long as each of its stages does. Nothing of the model changes: parameters, gradients, buffers
and random numbers are as before.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lowmem.errors import InputError
from lowmem.torch.chain import MeasuredChain, Sample
from lowmem.torch.memory import memory
from lowmem.torch.passes import Autocast, Tensors, as_tuple, random_state, set_random_state, sweep
from lowmem.torch.probe import Probe, probe
from lowmem.torch.stages import Group, as_sequential, bytes_of, children_of, joined

ROUNDS = 3
"""How often the first stage of a kind is timed; the shortest time counts, as others can only add to it."""

STATE_BYTES = 5056
"""Bytes of a state of the processor's random generator."""


def measure(
    model: "torch.nn.Module | Sequence[torch.nn.Module]",
    sample: "torch.Tensor | tuple[torch.Tensor, ...]",
    *,
    loss: "Callable[[Any], torch.Tensor] | None" = None,
    rounds: int = ROUNDS,
) -> MeasuredChain:
    """Measure the stages of a model on a batch like those that it will be trained on.

    model: a `torch.nn.Sequential`, of which nested ones are flattened, or a list of modules. Each stage takes what the
    one before gives: a tensor, or a tuple of tensors as one argument. sample: a batch; its values do not matter, its
    shapes, types and device do. Call this in the autocast context that you train in.
    loss: a function of the model's output that gives the loss. Without it a loss is taken to need three times
    the bytes of the output.
    rounds: how often the first stage of each kind is timed. The others are timed once; all of a kind get the median.

    Raises `InputError` for a model that is no chain, and for a stage that cannot be run again, by its name.
    """
    sequential = as_sequential(model)
    inputs = _inputs(sample)
    device = inputs[0].device
    with _untouched(sequential, device):
        autocast = Autocast.now(device)

        def run(group: Group, given: Tensors) -> Tensors:
            with autocast.one_stage():
                return sweep(group, given)

        groups = joined(children_of(sequential), tuple(x.detach().clone() for x in inputs), run)
        start, probes = probe(groups, inputs, autocast, rounds)
        first = inputs
        for group in groups[:start]:
            first = run(group, first)
        stages, loss_peak, kept = memory(probes, first, autocast, loss)
    frozen = bytes_of(first) if start else 0
    return MeasuredChain(
        stages=tuple(stages),
        groups=tuple(len(group.children) for group in groups),
        frozen=start,
        source_bytes=frozen + _small(probes, device),
        loss_peak=loss_peak,
        kept_bytes=kept,
        parameter_bytes=bytes_of(sequential.parameters()),
        sample=Sample.of(inputs, autocast, sequential.parameters()),
    )


def _small(probes: Sequence[Probe], device: torch.device) -> int:
    """Return the bytes of what a step holds beside arrays: states of random generators, and tensors of a few bytes."""
    if device.type != "cpu":
        return 1 << 14
    return STATE_BYTES * (2 + sum(probe.random for probe in probes))


def _inputs(sample: Any) -> Tensors:  # noqa: ANN401 - whatever the user gives
    """Return the sample's tensors."""
    inputs = as_tuple(sample)
    if not inputs or not all(isinstance(tensor, torch.Tensor) for tensor in inputs):
        raise InputError(f"the sample must be a tensor or a tuple of tensors; got {type(sample).__name__}.")
    if len({tensor.device for tensor in inputs}) > 1:
        raise InputError("the tensors of the sample are on several devices; a plan is for one.")
    return inputs


@contextmanager
def _untouched(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Give the model back as it was: gradients, buffers, hooks of parameters, and random numbers."""
    parameters = list(model.parameters())
    gradients = [parameter.grad for parameter in parameters]
    hooks = [hooks for p in parameters for hooks in (p._backward_hooks, p._post_accumulate_grad_hooks) if hooks]
    waiting = [dict(each) for each in hooks]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    states = random_state(device)
    for parameter in parameters:
        parameter.grad = None
    for each in hooks:
        each.clear()
    try:
        yield
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for each, before in zip(hooks, waiting, strict=True):
            each.update(before)
        with torch.no_grad():
            for buffer, copy in buffers:
                buffer.copy_(copy)
        set_random_state(device, states)
