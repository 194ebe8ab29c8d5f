"""An optimizer's rule as numbers for the compiled engine."""

from lowmem.errors import InputError
from lowmem.network.native_names import RULES
from lowmem.nn.optimizers import SGD, Adam, Optimizer
from lowmem.nn.penalty import LEAST_PENALTY, Penalised, own_rule
from lowmem.runtime.engines.native.structs import UpdateRule


def check_rule(optimizer: Optimizer) -> None:
    """Refuse an optimizer that has a known name and does something else. Raises `InputError`."""
    kind = own_rule(optimizer)
    if kind is not None:
        raise InputError(
            f"the compiled engine does not know the rule of {kind}, {optimizer.name!r} by name. Plan with the "
            'optimizer itself in place of its name, or with engine="numpy".'
        )


def fill_rule(rule: UpdateRule, optimizer: Optimizer, factor: float) -> None:
    """Write what `optimizer` does in its present step to `rule`; factor: what gradients are multiplied by first."""
    rule.rule = RULES.index(optimizer.name)
    rule.lr, rule.weight_decay, rule.factor = optimizer.lr, optimizer.weight_decay, factor
    rule.clip = optimizer.clip_value or 0.0
    rule.penalty = optimizer.penalty if isinstance(optimizer, Penalised) and optimizer.penalty > LEAST_PENALTY else 0.0
    if isinstance(optimizer, SGD):
        rule.momentum = optimizer.momentum
    if isinstance(optimizer, Adam):
        rule.beta1, rule.beta2, rule.epsilon = optimizer.beta1, optimizer.beta2, optimizer.eps
        rule.correction1 = 1.0 - optimizer.beta1**optimizer.step_count
        rule.correction2 = 1.0 - optimizer.beta2**optimizer.step_count
