"""An optimizer's rule as numbers for the compiled engine."""

from lowmem.network.native_names import RULES
from lowmem.nn.optimizers import SGD, Adam, Optimizer
from lowmem.runtime.engines.native.structs import UpdateRule


def fill_rule(rule: UpdateRule, optimizer: Optimizer, factor: float) -> None:
    """Write what `optimizer` does in its present step to `rule`; factor: what gradients are multiplied by first."""
    rule.rule = RULES.index(optimizer.name)
    rule.lr, rule.weight_decay, rule.factor = optimizer.lr, optimizer.weight_decay, factor
    rule.clip = optimizer.clip_value or 0.0
    if isinstance(optimizer, SGD):
        rule.momentum = optimizer.momentum
    if isinstance(optimizer, Adam):
        rule.beta1, rule.beta2, rule.epsilon = optimizer.beta1, optimizer.beta2, optimizer.eps
        rule.correction1 = 1.0 - optimizer.beta1**optimizer.step_count
        rule.correction2 = 1.0 - optimizer.beta2**optimizer.step_count
