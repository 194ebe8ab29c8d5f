"""What the stages of a model take: seconds of each pass, bytes of output and tape, and the most that lives meanwhile.

Every stage is run on its own, one after the other, by the functions that a plan runs it by. So a model that does not
fit can be measured, as long as each of its stages does. Nothing of the model changes: parameters, gradients, buffers
and random numbers are as before.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch

from lowmem.errors import InputError
from lowmem.torch.chain import MeasuredChain, MeasuredStage, Sample
from lowmem.torch.execute import CHANGES_BUFFERS
from lowmem.torch.meter import Readings, meter
from lowmem.torch.passes import (
    Autocast,
    Box,
    SharedGradients,
    Tape,
    Tensors,
    as_tuple,
    random_state,
    record,
    reverse,
    same,
    set_random_state,
    sweep,
)
from lowmem.torch.stages import Group, Watch, as_sequential, bytes_of, children_of, joined, shared_parameters

ROUNDS = 3
"""How often the first stage of a kind is timed; the shortest time counts, as others can only add to it."""

UNKNOWN_LOSS = 3
"""What a loss takes beside the output, in outputs: as much as cross_entropy and mse_loss do."""

STATE_BYTES = 5056
"""Bytes of a state of the processor's random generator."""


@dataclass
class _Probe:
    """What is known of a stage before its memory is measured."""

    group: Group
    wanted: tuple[bool, ...]
    shares: bool = False
    forward: float = 0.0
    backward: float = 0.0
    random: bool = False

    def reverse(self, tape: Tape, gradients: Box) -> Box:
        """Reverse the stage, as a step does it."""
        if not self.shares:
            return reverse(tape, gradients)
        own = self.group.parameters()
        return reverse(tape, gradients, SharedGradients().of(own, [True] * len(own)))


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
    rounds: how often the first stage of each kind is timed. The others are timed once, and all of a kind get the median.

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
        start, probes = _probe(groups, inputs, autocast, rounds)
        first = inputs
        for group in groups[:start]:
            first = run(group, first)
        stages, loss_peak, kept = _memory(probes, first, autocast, loss)
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


def _small(probes: Sequence[_Probe], device: torch.device) -> int:
    """Return the bytes of what a step holds beside arrays: states of random generators, and tensors of a few bytes."""
    if device.type != "cpu":
        return 1 << 14
    return STATE_BYTES * (4 + sum(probe.random for probe in probes))


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


def _probe(groups: Sequence[Group], inputs: Tensors, autocast: Autocast, rounds: int) -> tuple[int, list[_Probe]]:
    """Time every stage, and find out which tensors have gradients and which stages use random numbers.

    Returns how many stages at the start need no backward, as nothing before or in them is trained, and the others.
    """
    wanted = tuple(tensor.requires_grad for tensor in inputs)
    probes: list[_Probe] = []
    shared = shared_parameters(groups)
    kinds: dict[Any, list[_Probe]] = {}
    start, now, device = 0, inputs, inputs[0].device
    for number, group in enumerate(groups, start=1):
        before, versions = random_state(device), group.buffer_versions()
        probe = _Probe(group, wanted, bool(shared[number - 1]))
        with autocast.one_stage():
            following = sweep(group, now)
        probe.random = not same(before, random_state(device))
        if versions != group.buffer_versions():
            raise group.refuse(CHANGES_BUFFERS)
        alike = kinds.setdefault(_kind(probe, now), [])
        flags = _times(probe, now, autocast, 1 if alike else rounds, warm=bool(alike))
        alike.append(probe)
        probes.append(probe)
        if not any(flags):  # what comes before gets no gradient either
            start, probes = number, []
        wanted, now = flags, following
    if not probes:
        raise InputError(
            "no output of the model has a gradient: all of it is frozen. Train some stage, or do without."
        )
    for name, alike_in in (("forward", 2), ("backward", 3)):  # a stage at the start has a shorter backward
        same_kind: dict[Any, list[_Probe]] = {}
        for kind, alike in kinds.items():
            same_kind.setdefault(kind[:alike_in], []).extend(alike)
        for alike in same_kind.values():  # differences between them are noise
            seconds = median(getattr(probe, name) for probe in alike)
            for probe in alike:
                setattr(probe, name, seconds)
    return start, probes


def _kind(probe: _Probe, inputs: Tensors) -> Any:  # noqa: ANN401 - a key
    """Return what stages have in common that do the same work."""
    shapes = [tuple(tensor.shape) for tensor in (*inputs, *probe.group.parameters())]
    return repr([child.module for child in probe.group.children]), tuple(shapes), probe.wanted


def _times(probe: _Probe, inputs: Tensors, autocast: Autocast, rounds: int, *, warm: bool) -> tuple[bool, ...]:
    """Time a stage, unless it is warm after a run that does not count. Returns which outputs have a gradient."""
    device = inputs[0].device
    forwards, whole = [], []
    flags: tuple[bool, ...] = ()
    for turn in range(rounds + (not warm)):
        with autocast.one_stage():
            begin = _now(device)
            sweep(probe.group, inputs)
            forwards.append(_now(device) - begin)
        with autocast.one_stage():
            begin = _now(device)
            outputs, tape = record(probe.group, inputs, probe.wanted)
            if tape is None:
                return tuple(False for _ in outputs)
            flags = tape.differentiable
            if turn == 0:
                _check_leaves(probe.group, tape)
            probe.reverse(tape, _ones(outputs, flags))
            whole.append(_now(device) - begin)
        del tape
    probe.forward = min(forwards[not warm :])
    probe.backward = max(min(whole[not warm :]) - probe.forward, 0.0)
    for parameter in probe.group.parameters():
        parameter.grad = None
    return flags


def _check_leaves(group: Group, tape: Tape) -> None:
    """Refuse a stage that uses parameters from elsewhere: nobody could say which stages share them."""
    known = {id(parameter) for parameter in (*group.parameters(), tape.root)}
    seen, todo = set(), [tape.end.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            raise group.refuse(
                f"uses a parameter of shape {tuple(leaf.shape)} that is not its own. Register it in its module."
            )
        todo += [following for following, _ in node.next_functions]


def _now(device: torch.device) -> float:
    """Return the time, when everything before is done."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
    return perf_counter()


def _ones(outputs: Tensors, differentiable: Sequence[bool]) -> Box:
    """Return gradients to reverse a stage with."""
    return Box(tuple(torch.ones_like(x) for x, yes in zip(outputs, differentiable, strict=True) if yes))


# Memory -----------------------------------------------------------------------------------------------------------


def _memory(
    probes: Sequence[_Probe], first: Tensors, autocast: Autocast, loss: "Callable[[Any], torch.Tensor] | None"
) -> tuple[list[MeasuredStage], int, int]:
    """Measure the bytes of every stage, the most that the loss takes beside the output, and what stays of both."""
    found: list[_Marks] = []
    with meter(first[0].device) as bytes_now, autocast.one_stage():
        entering, kept = [first], False
        for probe in probes:
            hold = kept or probe is probes[0]
            entering, marks = _run_once(probe, entering, bytes_now.mark, autocast, hold, probe is probes[-1])
            found.append(marks)
            kept = marks.kept_of_output > 0
        (outputs,) = entering
        before, loss_bytes = bytes_now.mark(), 0
        if loss is not None:
            value, tape = record(loss, outputs, [tensor.is_floating_point() for tensor in outputs])
            if tape is None:
                raise InputError("the loss has no gradient; it must be a differentiable function of the output.")
            inlet = reverse(tape, _ones(value, tape.differentiable))
            loss_bytes = bytes_of(
                value
            )  # may be more than a number: mse_loss gives one in memory of the output's size
            del value, tape, inlet
        bytes_now.mark()
    readings = bytes_now.readings
    stages = _stages(found, readings)
    output = stages[-1].output_bytes
    if loss is None:
        return stages, UNKNOWN_LOSS * output, 2 * output
    return stages, readings.peaks[before] - readings.live[before], output + loss_bytes


@dataclass
class _Marks:
    """The number of the first mark that was set while a stage was measured, and what needs no mark."""

    probe: _Probe
    first: int
    held: bool
    kept_of_input: int
    kept_of_output: int
    gradients: dict[int, int]
    delta_bytes: int


def _run_once(
    probe: _Probe, given: list[Tensors], mark: Callable[[], int], autocast: Autocast, hold: bool, last: bool
) -> tuple[list[Tensors], _Marks]:
    """Run a stage without a tape, then with one, let go of output and input, and reverse it. Returns the output.

    given: the input, in a list so that it can be let go of. hold: something else keeps the input, so it stays. last:
    the output is the caller's, and stays too.
    """
    inputs = given.pop()
    first = mark()
    with autocast.one_stage():
        following = [sweep(probe.group, inputs)]
    mark()  # 1: the output
    with autocast.one_stage():
        outputs, tape = record(probe.group, inputs, probe.wanted)
    assert tape is not None
    mark()  # 2: output and tape
    gradients = _ones(following[0], tape.differentiable)
    mark()  # 3: gradient of the output
    of_input, of_output = Watch(inputs), Watch(outputs)
    stays = (inputs if hold else None, outputs if last else None)
    del inputs, outputs
    kept = (0 if hold else of_input.bytes(), 0 if last else of_output.bytes())
    mark()  # 4: of output and input only what the tape keeps
    inlet = probe.reverse(tape, gradients)
    del tape
    mark()  # 5: gradients of input and parameters
    delta = bytes_of(inlet.take())
    own = probe.group.parameters()
    sizes = {id(parameter): bytes_of([parameter.grad]) for parameter in own}
    for parameter in own:
        parameter.grad = None
    del stays, inlet
    mark()
    return following, _Marks(probe, first, hold, *kept, sizes, delta)


def _stages(found: Sequence[_Marks], readings: Readings) -> list[MeasuredStage]:
    """Turn readings into sizes."""
    live, peaks = readings.live, readings.peaks
    counted: set[int] = set()
    gradients = []
    for marks in reversed(found):  # the gradient of a shared parameter is there from its last stage on
        gradients.append(sum(size for key, size in marks.gradients.items() if key not in counted))
        counted |= marks.gradients.keys()
    stages: list[MeasuredStage] = []
    entering = 0  # bytes of the state that enters; those of the batch are the caller's
    for number, (marks, gradient) in enumerate(zip(found, reversed(gradients), strict=True)):
        at, group = marks.first, marks.probe.group
        output = live[at + 1] - live[at]
        tape = live[at + 2] - live[at + 1] - output
        delta = live[at + 3] - live[at + 2]
        stays = entering if marks.held else marks.kept_of_input
        base = live[at + 4] - tape - marks.kept_of_output - stays - delta
        following = found[number + 1].delta_bytes if number + 1 < len(found) else 0
        stages.append(
            MeasuredStage(
                name=group.name,
                kind=" + ".join(type(child.module).__name__ for child in group.children),
                differentiable=marks.probe.wanted,
                random=marks.probe.random,
                forward=marks.probe.forward,
                backward=marks.probe.backward,
                output_bytes=output,
                tape_bytes=tape,
                input_bytes_kept=stays,
                delta_bytes=max(delta, following),
                gradient_bytes=gradient,
                parameter_bytes=bytes_of(group.parameters()),
                forward_peak=peaks[at] - live[at],
                record_peak=peaks[at + 1] - live[at + 1],
                backward_peak=peaks[at + 4] - base,
            )
        )
        entering = output
    return stages
