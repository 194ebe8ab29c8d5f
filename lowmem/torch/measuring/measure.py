"""What the stages of a model take: seconds of each pass, bytes of output and tape, and the most that lives meanwhile.

Every stage is run on its own, one after the other, by the functions that a plan runs it by. So a model that does not
fit can be measured, as long as each of its stages does. Nothing of the model changes: parameters, gradients, buffers
and random numbers are as before.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from warnings import catch_warnings

import torch

from lowmem.common.checks import whole
from lowmem.errors import InputError
from lowmem.torch.again import Autocast, random_state, set_random_state
from lowmem.torch.chain import MeasuredChain, MeasuredStage, Sample
from lowmem.torch.measuring.memory import memory
from lowmem.torch.measuring.meter import check_device, meter, wake
from lowmem.torch.measuring.probe import probe
from lowmem.torch.passes import alone, record
from lowmem.torch.stages import Group, as_sequential, bytes_of, children_of, joined, run_frozen
from lowmem.torch.values import Tensors, as_tuple, rebuilt, value_of

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
    if not sequential.training:
        raise InputError("the model is in evaluation mode; a plan is for training. Call model.train() first.")
    whole("rounds", rounds, 1)
    inputs = _inputs(sample)
    device = inputs[0].device
    check_device(device)
    wake(device)
    with _untouched(sequential, device):
        autocast = Autocast.now(device)

        def run(group: Group, given: Tensors) -> Tensors:
            with autocast.one_stage(), catch_warnings(action="ignore"):  # they come when it is measured
                try:
                    with torch.no_grad():
                        return as_tuple(group(value_of(given)))
                except Exception:  # a stage that differentiates something itself needs a graph
                    return record(alone(group), [given], [x.is_floating_point() for x in given])[0]

        groups = joined(children_of(sequential), rebuilt(inputs, (x.detach().clone() for x in inputs)), run)
        start, probes = probe(groups, inputs, autocast, loss, rounds)
        first, frozen_peak = _frozen(groups[:start], inputs, autocast)
        stages, loss_peak, kept = memory(probes, first, autocast, loss)
    frozen = bytes_of(first) if start else 0
    return MeasuredChain(
        stages=tuple(stages),
        groups=tuple(len(group.children) for group in groups),
        frozen=start,
        source_bytes=frozen + _small(stages, device),
        loss_peak=loss_peak,
        kept_bytes=kept,
        parameter_bytes=bytes_of(sequential.parameters()),
        sample=Sample.of(inputs, autocast, sequential),
        frozen_peak=frozen_peak + _small(stages, device),
    )


def _frozen(groups: Sequence[Group], inputs: Tensors, autocast: Autocast) -> tuple[Tensors, int]:
    """Run the stages at the start that need no backward; return what they give, and the most that lives meanwhile."""
    if not groups:
        return inputs, 0
    with meter(inputs[0].device) as bytes_now:
        bytes_now.mark()
        first = run_frozen(groups, value_of(inputs), autocast)
        bytes_now.mark()
    return as_tuple(first), bytes_now.readings.peaks[0]


def _small(stages: Sequence[MeasuredStage], device: torch.device) -> int:
    """Return the bytes of what a step holds beside arrays of the chain.

    States of random generators, tensors of a few bytes, and of buffers that stages write to two copies for each stage
    and a third while it runs again.
    """
    buffers = [stage.buffer_bytes for stage in stages]
    copies = sum(buffers) + 2 * max(buffers)
    if device.type != "cpu":
        return (1 << 14) + copies
    return STATE_BYTES * (2 + sum(stage.random for stage in stages)) + copies


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
    buffers = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    values = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
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
        for module, own in buffers:
            for name, buffer in own.items():
                if module._buffers.get(name) is not buffer:
                    module._buffers[name] = buffer
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)
        set_random_state(device, states)
