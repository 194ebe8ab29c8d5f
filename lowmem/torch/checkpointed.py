"""The model as a plan runs it: a Sequential with the same children, parameters and keys."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch

from lowmem.errors import InputError
from lowmem.torch.chain import Sample
from lowmem.torch.execute import Stage, Step, run_step
from lowmem.torch.passes import Autocast, as_tuple
from lowmem.torch.plan import Plan
from lowmem.torch.spans import actions
from lowmem.torch.stages import Group, as_sequential, children_of, shared_parameters


class Checkpointed(torch.nn.Sequential):
    """A Sequential whose training steps follow a plan. In evaluation and under `no_grad` it is the plain one.

    Forward hooks of a stage run each time the stage does; hooks of parameters, and backward hooks, run once a step.
    `torch.compile` leaves its forward as it is; stages may be compiled one by one before the plan is made.
    In distributed training use DistributedDataParallel without find_unused_parameters.
    """

    def __init__(self, model: torch.nn.Sequential, plan: Plan) -> None:
        super().__init__(OrderedDict(model.named_children()))
        self.training = model.training
        self.plan = plan
        groups = _groups(model, plan)
        self._frozen, trained = groups[: plan.measured.frozen], groups[plan.measured.frozen :]
        shared = shared_parameters(trained)
        self._stages = [
            Stage(group, measured.differentiable, measured.output_bytes, tuple(last_uses.values()))
            for group, measured, last_uses in zip(trained, plan.measured.stages, shared, strict=True)
        ]
        alone = [
            measured.lingers or bool(stage.last_uses)
            for measured, stage in zip(plan.measured.stages, self._stages, strict=True)
        ]
        self._todo = actions(plan.schedule.ops, alone)

    @torch.compiler.disable
    def forward(self, x: Any) -> Any:  # noqa: ANN401 - a tensor, or a tuple of tensors
        """Run the chain on a batch. Raises `InputError` for one that the plan does not hold for."""
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x)
        inputs = as_tuple(x)
        device = inputs[0].device
        autocast = Autocast.now(device)
        self.plan.measured.sample.check(Sample.of(inputs, autocast, self.parameters()))
        with torch.no_grad():
            for group in self._frozen:
                with autocast.one_stage():
                    x = group(x)
        outputs = run_step(Step(self._stages, self._todo, device), as_tuple(x))
        return outputs if len(outputs) > 1 else outputs[0]


def checkpointed(model: "torch.nn.Module | Sequence[torch.nn.Module]", plan: Plan) -> Checkpointed:
    """Return the model as the plan runs it, with the same modules inside.

    model: the one that was planned for, or one of the same shape. Raises `InputError` if the plan is for another.
    """
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
    names = [group.name for group in groups[plan.measured.frozen :]]
    planned = [stage.name for stage in plan.measured.stages]
    if names != planned:
        raise InputError("the plan is for a model whose stages have other names. Plan for this one.")
    return groups
