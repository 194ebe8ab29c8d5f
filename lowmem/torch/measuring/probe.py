"""First look at the stages: seconds, gradients, random numbers, and what makes a stage impossible to run again."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch

from lowmem.errors import InputError
from lowmem.torch.again import Autocast, Buffers, forked_random, no_autocast, random_state, same, still_statistics
from lowmem.torch.measuring.loss import Loss, Strides, gradients_for, run_loss, strides_of
from lowmem.torch.passes import Box, SharedGradients, Tape, alone, leaves, record, reverse, sweep
from lowmem.torch.spared import NoProducts, spares
from lowmem.torch.stages import Group, shared_parameters, why
from lowmem.torch.values import Tensors

ROUNDINGS = 64
"""Up to so many roundings two runs may be apart where PyTorch's own kernels are not deterministic."""


@dataclass
class Probe:
    """What is known of a stage before its memory is measured.

    taped_sweeps: whether its forward must save a tape even where none is kept. writes_buffers: whether it writes to
    buffers that are no BatchNorm's. alone: seconds of recording it for its tape alone, None where that spares nothing.
    leaving: which outputs have a gradient. entering_strides, leaving_strides: how
    the gradients of inputs and outputs lie in memory.
    """

    group: Group
    wanted: tuple[bool, ...]
    shares: bool = False
    forward: float = 0.0
    backward: float = 0.0
    random: bool = False
    taped_sweeps: bool = False
    writes_buffers: bool = False
    alone: float | None = None
    leaving: tuple[bool, ...] = ()
    entering_strides: Strides = ()
    leaving_strides: Strides | None = None

    def gradients(self, outputs: Tensors) -> Box:
        """Return gradients to reverse the stage with."""
        return gradients_for(outputs, self.leaving, self.leaving_strides)

    def sweep(self, inputs: Tensors, autocast: Autocast) -> Tensors:
        """Run the stage without a tape, as a step does it."""
        with autocast.one_stage():
            return sweep(self.group, inputs, self.wanted, taped=self.taped_sweeps)

    def reverse(self, tape: Tape, gradients: Box) -> Box:
        """Reverse the stage, as a step does it."""
        own = self.group.parameters()
        shared = SharedGradients().of(own, [True] * len(own)) if self.shares else None
        with no_autocast(tape.end.device):
            return reverse(tape, gradients, shared)


def probe(
    groups: Sequence[Group], inputs: Tensors, autocast: Autocast, loss: Loss | None, rounds: int
) -> tuple[int, list[Probe]]:
    """Time every stage, and find out which tensors have gradients and which stages use random numbers.

    Returns how many stages at the start need no backward, as nothing before or in them is trained, and the others.
    """
    wanted = tuple(tensor.requires_grad for tensor in inputs)
    probes: list[Probe] = []
    shared = shared_parameters(groups)
    kinds: dict[Any, list[Probe]] = {}
    start, now = 0, inputs
    for number, group in enumerate(groups, start=1):
        here = Probe(group, wanted, bool(shared[number - 1]))
        following = _repeatable(here, now, autocast)
        alike = kinds.setdefault(_kind(here, now), [])
        _times(here, now, autocast, 1 if alike else rounds, warm=bool(alike))
        alike.append(here)
        if probes:
            probes[-1].leaving_strides = here.entering_strides
        probes.append(here)
        if not any(here.leaving):  # what comes before gets no gradient either
            start, probes = number, []
        wanted, now = here.leaving, following
    if not probes:
        raise InputError(
            "no output of the model has a gradient: all of it is frozen. Train some stage, or do without."
        )
    if loss is not None:
        with autocast.one_stage():
            probes[-1].leaving_strides = run_loss(loss, now, wanted).strides
    _level(kinds)
    return start, probes


def _level(kinds: Mapping[Any, list[Probe]]) -> None:
    """Give stages that do the same work the same times: differences between them are noise."""
    for name, alike_in in (("forward", 2), ("backward", 3), ("alone", 3)):  # a first stage has a shorter backward
        same_kind: dict[Any, list[Probe]] = {}
        for kind, alike in kinds.items():
            same_kind.setdefault(kind[:alike_in], []).extend(each for each in alike if getattr(each, name) is not None)
        for alike in same_kind.values():
            seconds = median([getattr(each, name) for each in alike] or [0.0])
            for each in alike:
                setattr(each, name, seconds)


def _repeatable(here: Probe, inputs: Tensors, autocast: Autocast) -> Tensors:
    """Run a stage twice, the second time as a step runs it again, and return what it gives.

    Refuses a stage by name if it gives something else then, or keeps what it has computed.
    """
    group, device = here.group, inputs[0].device
    before, versions, buffers = random_state(device), group.buffer_versions(), Buffers(group.with_buffers)
    try:
        outputs = here.sweep(inputs, autocast)
    except Exception:  # a stage that differentiates something itself needs what it saves
        here.taped_sweeps = True
        outputs = here.sweep(inputs, autocast)
    here.random = not same(before, random_state(device))
    here.writes_buffers = versions != group.buffer_versions()
    if here.writes_buffers and any(isinstance(module, torch.jit.ScriptModule) for module in group.with_buffers):
        raise group.refuse("writes to buffers of a TorchScript module, which cannot be put back. Leave it out.")
    attributes = group.attributes()
    with ExitStack() as stack:
        conditions: list[AbstractContextManager[None]] = [still_statistics(group.norms)]
        if here.random:
            conditions.append(forked_random(device, before))
        if here.writes_buffers:
            conditions.append(buffers.again())
        for condition in conditions:
            stack.enter_context(condition)
        again = here.sweep(inputs, autocast)
    if len(again) != len(outputs) or not all(map(_alike, outputs, again)):
        raise group.refuse(
            "gives something else when it runs again on the same input. Random numbers must be PyTorch's own, "
            "and nothing may count the runs."
        )
    now = group.attributes()
    changed = [name for name in now if list(map(id, now[name])) != list(map(id, attributes.get(name, ())))]
    if changed:
        raise group.refuse(
            f"keeps tensors of its run in {changed[0]!r}; they would be those of another run than the plain model's. "
            "Return them, or do without."
        )
    return outputs


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Say whether two results are the same, but for the order of sums."""
    if torch.equal(one, other):
        return True
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    differ = (one != other) & ~((one != one) & (other != other))  # NaN is like NaN
    if not differ.any():
        return True
    if not (one.is_floating_point() or one.is_complex()):
        return False
    apart = (one - other)[differ].abs().max()
    return bool(apart <= ROUNDINGS * torch.finfo(one.dtype).eps * one[differ].abs().max())


def _kind(probe: Probe, inputs: Tensors) -> Any:  # noqa: ANN401 - a key
    """Return what stages have in common that do the same work."""
    shapes = [tuple(tensor.shape) for tensor in (*inputs, *probe.group.parameters())]
    return repr([child.module for child in probe.group.children]), tuple(shapes), probe.wanted


def _times(probe: Probe, inputs: Tensors, autocast: Autocast, rounds: int, *, warm: bool) -> None:
    """Time a stage, after a run that does not count unless it is warm, and see which outputs have a gradient."""
    device = inputs[0].device
    forwards, whole = [], []
    for turn in range(rounds + (not warm)):
        begin = _now(device)
        probe.sweep(inputs, autocast)
        forwards.append(_now(device) - begin)
        with autocast.one_stage():
            begin = _now(device)
            outputs, tape = record(alone(probe.group), [inputs], probe.wanted)
            probe.leaving = tape.differentiable if tape is not None else (False,) * len(outputs)
            if tape is not None:
                if turn == 0:
                    _check_leaves(probe.group, tape)
                _reverse(probe, tape, outputs)
            whole.append(_now(device) - begin)
        del tape
    probe.forward = min(forwards[not warm :])
    probe.backward = max(min(whole[not warm :]) - probe.forward, 0.0)
    if any(probe.leaving) and spares(probe.group):
        _time_alone(probe, inputs, autocast, rounds)
    for parameter in probe.group.parameters():
        parameter.grad = None


def _time_alone(probe: Probe, inputs: Tensors, autocast: Autocast, rounds: int) -> None:
    """Time a stage that is recorded for its tape alone, if its gradients stay the same by that."""
    device, own = inputs[0].device, probe.group.parameters()
    found, seconds = [], []
    contexts: list[AbstractContextManager[Any]] = [nullcontext(), *(NoProducts() for _ in range(rounds))]
    for context in contexts:
        for parameter in own:
            parameter.grad = None
        with autocast.one_stage():
            begin = _now(device)
            with context:
                outputs, tape = record(alone(probe.group), [inputs], probe.wanted)
            assert tape is not None  # some output has a gradient
            inlet = probe.reverse(tape, probe.gradients(outputs))
            seconds.append(_now(device) - begin)
        gradients = (*inlet.take(), *(parameter.grad for parameter in own))
        found.append([gradient for gradient in gradients if gradient is not None])
    plain, *others = found
    if all(len(each) == len(plain) and all(map(_alike, plain, each)) for each in others):
        probe.alone = min(max(min(seconds[1:]) - probe.backward, 0.0), probe.forward)


def _reverse(probe: Probe, tape: Tape, outputs: Tensors) -> None:
    """Reverse a stage, which may fail, and see how the gradients of its inputs lie in memory."""
    try:
        probe.entering_strides = strides_of(probe.reverse(tape, probe.gradients(outputs)))
    except Exception as error:  # a stage may raise anything
        raise probe.group.refuse(f"cannot be reversed: {why(error)}.") from error


def _check_leaves(group: Group, tape: Tape) -> None:
    """Refuse a stage that uses parameters from elsewhere: nobody could say which stages share them."""
    known = set(map(id, group.parameters()))
    for leaf in leaves(tape):
        if id(leaf) not in known:
            raise group.refuse(
                f"uses a parameter of shape {tuple(leaf.shape)} that is not its own. Register it in its module."
            )


def _now(device: torch.device) -> float:
    """Return the time, when everything before is done."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
    return perf_counter()
