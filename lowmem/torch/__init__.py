"""A byte budget for PyTorch chains: measure the stages of an `nn.Sequential`, plan its steps, and run them so.

    import lowmem.torch as lt

    plan = lt.plan(model, sample, budget="2GiB")   # measures, and says what a step will take
    model = lt.checkpointed(model, plan)           # same parameters, same gradients, inside the budget

It needs PyTorch, `pip install "lowmem[torch]"`, and nothing else of lowmem needs this package.
"""

from lowmem.torch.chain import MeasuredChain, MeasuredStage
from lowmem.torch.checkpointed import Checkpointed, checkpointed
from lowmem.torch.measuring.measure import measure
from lowmem.torch.measuring.meter import measured_peak
from lowmem.torch.plan import STRATEGIES, Plan, plan
from lowmem.torch.report import Report, cheapest

__all__ = [
    "STRATEGIES",
    "Checkpointed",
    "MeasuredChain",
    "MeasuredStage",
    "Plan",
    "Report",
    "cheapest",
    "checkpointed",
    "measure",
    "measured_peak",
    "plan",
]
