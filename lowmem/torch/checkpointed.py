"""The model as a plan runs it: a Sequential with the same children, parameters and keys."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch

from lowmem.common.checks import instance
from lowmem.errors import InputError
from lowmem.torch.again import Autocast
from lowmem.torch.chain import Sample
from lowmem.torch.execute import Stage, Step, run_step
from lowmem.torch.plan import Plan
from lowmem.torch.spans import actions
from lowmem.torch.stages import Group, as_sequential, bytes_of, children_of, run_frozen, shared_parameters
from lowmem.torch.values import as_tuple


class Checkpointed(torch.nn.Sequential):
    """A Sequential whose training steps follow a plan. In evaluation and under `no_grad` it is the plain one.

    Forward hooks of a stage run each time the stage does; hooks of parameters, and backward hooks, run once a step.
    `torch.compile` leaves its forward as it is; stages may be compiled one by one before the plan is made.
    In distributed training use DistributedDataParallel without find_unused_parameters.
    """

    runs_children = True

    def __init__(self, model: torch.nn.Sequential, plan: Plan) -> None:
        super().__init__()
        for own, other in ((self._modules, model._modules), (self._parameters, model._parameters)):
            own.update(other)
        self._buffers.update(model._buffers)
        self._non_persistent_buffers_set.update(model._non_persistent_buffers_set)
        self.training = model.training
        self.plan = plan
        groups = _groups(model, plan)
        self._frozen, trained = groups[: plan.measured.frozen], groups[plan.measured.frozen :]
        shared = shared_parameters(trained)
        self._stages = [
            Stage(
                group,
                differentiable=measured.differentiable,
                output_bytes=measured.output_bytes,
                taped_sweeps=measured.taped_sweeps,
                writes_buffers=measured.buffer_bytes > 0,
                spares=measured.alone is not None,
                last_uses=tuple(last_uses.values()),
            )
            for group, measured, last_uses in zip(trained, plan.measured.stages, shared, strict=True)
        ]
        alone = [
            measured.lingers or bool(stage.last_uses)
            for measured, stage in zip(plan.measured.stages, self._stages, strict=True)
        ]
        self._todo = actions(plan.schedule.ops, alone)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - a module, or a Sequential for a slice
        """Return a stage; of a slice, a plain Sequential."""
        if isinstance(index, slice):
            return torch.nn.Sequential(OrderedDict(list(self._modules.items())[index]))
        return super().__getitem__(index)

    @torch.compiler.disable
    def forward(self, x: Any) -> Any:  # noqa: ANN401 - a tensor, or a tuple of tensors
        """Run the chain on a batch. Raises `InputError` for one that the plan does not hold for."""
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x)
        inputs = as_tuple(x)
        if not inputs or not all(isinstance(tensor, torch.Tensor) for tensor in inputs):
            raise InputError(f"a batch must be a tensor or a tuple of tensors; got {type(x).__name__}.")
        if torch.autograd.forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None:
            raise InputError(
                "torch.func and forward-mode differentiation cannot go through a plan; use the plain model."
            )
        device = inputs[0].device
        autocast = Autocast.now(device)
        self.plan.measured.sample.check(Sample.of(inputs, autocast, self))
        self._check_stages()
        x = run_frozen(self._frozen, x, autocast)
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return run_step(Step(self._stages, self._todo, device, trained), as_tuple(x))

    def _check_stages(self) -> None:
        """Refuse to run if stages were replaced, added or taken away; the plan's are run, whatever stands here."""
        groups = (*self._frozen, *(stage.group for stage in self._stages))
        planned = [child for group in groups for child in group.children]
        now = children_of(self)
        if len(now) != len(planned) or any(a.module is not b.module for a, b in zip(now, planned, strict=True)):
            raise InputError(
                "stages were replaced, added, removed or given hooks of a nested Sequential since the plan was made. "
                "Plan anew with lowmem.torch.plan."
            )


def checkpointed(model: "torch.nn.Module | Sequence[torch.nn.Module]", plan: Plan) -> Checkpointed:
    """Return the model as the plan runs it, with the same modules inside.

    model: the one that was planned for, or one of the same shape. Raises `InputError` if the plan is for another.
    """
    instance("plan", plan, Plan, "a lowmem.torch.Plan, such as lowmem.torch.plan returns")
    return Checkpointed(as_sequential(model), plan)


def _groups(model: torch.nn.Sequential, plan: Plan) -> list[Group]:
    """Return the stages of the model as the plan has them."""
    children, sizes = children_of(model), plan.measured.groups
    if sum(sizes) != len(children):
        raise InputError(
            f"the plan is for a model of {sum(sizes)} stages; this one has {len(children)}. Plan for this one."
        )
    groups, start = [], 0
    for size in sizes:
        groups.append(Group(children[start : start + size]))
        start += size
    trained = groups[plan.measured.frozen :]
    for group, measured in zip(trained, plan.measured.stages, strict=True):
        own = (group.name, group.kind, bytes_of(group.parameters()))
        planned = (measured.name, measured.kind, measured.parameter_bytes)
        if own != planned:
            raise InputError(
                "the plan is for a model whose stage {} is a {} with {:,} bytes of parameters; ".format(*planned)
                + "here stage {} is a {} with {:,}. Plan for this model.".format(*own)
            )
    return groups
