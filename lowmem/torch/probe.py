"""First look at the stages: seconds, gradients, random numbers, and what makes a stage impossible to run again."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch

from lowmem.errors import InputError
from lowmem.torch.execute import CHANGES_BUFFERS
from lowmem.torch.passes import (
    Autocast,
    Box,
    SharedGradients,
    Tape,
    Tensors,
    alone,
    random_state,
    record,
    reverse,
    same,
    sweep,
)
from lowmem.torch.stages import Group, shared_parameters


@dataclass
class Probe:
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


def probe(groups: Sequence[Group], inputs: Tensors, autocast: Autocast, rounds: int) -> tuple[int, list[Probe]]:
    """Time every stage, and find out which tensors have gradients and which stages use random numbers.

    Returns how many stages at the start need no backward, as nothing before or in them is trained, and the others.
    """
    wanted = tuple(tensor.requires_grad for tensor in inputs)
    probes: list[Probe] = []
    shared = shared_parameters(groups)
    kinds: dict[Any, list[Probe]] = {}
    start, now, device = 0, inputs, inputs[0].device
    for number, group in enumerate(groups, start=1):
        before, versions = random_state(device), group.buffer_versions()
        here = Probe(group, wanted, bool(shared[number - 1]))
        with autocast.one_stage():
            following = sweep(group, now)
        here.random = not same(before, random_state(device))
        if versions != group.buffer_versions():
            raise group.refuse(CHANGES_BUFFERS)
        alike = kinds.setdefault(_kind(here, now), [])
        flags = _times(here, now, autocast, 1 if alike else rounds, warm=bool(alike))
        alike.append(here)
        probes.append(here)
        if not any(flags):  # what comes before gets no gradient either
            start, probes = number, []
        wanted, now = flags, following
    if not probes:
        raise InputError(
            "no output of the model has a gradient: all of it is frozen. Train some stage, or do without."
        )
    for name, alike_in in (("forward", 2), ("backward", 3)):  # a stage at the start has a shorter backward
        same_kind: dict[Any, list[Probe]] = {}
        for kind, alike in kinds.items():
            same_kind.setdefault(kind[:alike_in], []).extend(alike)
        for alike in same_kind.values():  # differences between them are noise
            seconds = median(getattr(each, name) for each in alike)
            for each in alike:
                setattr(each, name, seconds)
    return start, probes


def _kind(probe: Probe, inputs: Tensors) -> Any:  # noqa: ANN401 - a key
    """Return what stages have in common that do the same work."""
    shapes = [tuple(tensor.shape) for tensor in (*inputs, *probe.group.parameters())]
    return repr([child.module for child in probe.group.children]), tuple(shapes), probe.wanted


def _times(probe: Probe, inputs: Tensors, autocast: Autocast, rounds: int, *, warm: bool) -> tuple[bool, ...]:
    """Time a stage, unless it is warm after a run that does not count. Returns which outputs have a gradient."""
    device = inputs[0].device
    forwards, whole = [], []
    for turn in range(rounds + (not warm)):
        with autocast.one_stage():
            begin = _now(device)
            sweep(probe.group, inputs)
            forwards.append(_now(device) - begin)
        with autocast.one_stage():
            begin = _now(device)
            outputs, tape = record(alone(probe.group), [inputs], probe.wanted)
            flags = tape.differentiable if tape is not None else (False,) * len(outputs)
            if tape is not None:
                if turn == 0:
                    _check_leaves(probe.group, tape)
                probe.reverse(tape, ones(outputs, flags))
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


def ones(outputs: Tensors, differentiable: Sequence[bool]) -> Box:
    """Return gradients to reverse a stage with."""
    return Box(tuple(torch.ones_like(x) for x, yes in zip(outputs, differentiable, strict=True) if yes))
