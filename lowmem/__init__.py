"""lowmem: train deep multilayer perceptrons inside a RAM budget that it keeps.

Names are imported when they are first used: planning needs no NumPy, and nothing draws Matplotlib in but a figure.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lowmem import plots
    from lowmem.architecture import Architecture
    from lowmem.calibration import calibrated
    from lowmem.costs import CostModel
    from lowmem.epochs import Epoch
    from lowmem.errors import BudgetError, InputError, LowmemError, NonFiniteError, SaveError, ScheduleError
    from lowmem.executor import Backprop
    from lowmem.interchange import export_torch, import_torch
    from lowmem.nn.mlp import MLP
    from lowmem.nn.optimizers import SGD, Adam, AdamW, make_optimizer
    from lowmem.onnx import export_onnx
    from lowmem.planning import plan
    from lowmem.plans import Plan
    from lowmem.questions import compare, deepest, largest_batch, minimum_budget
    from lowmem.rates import LearningRate
    from lowmem.report import Report
    from lowmem.streams import Stream, open_data
    from lowmem.trainer import Trainer

_HOMES = {
    "lowmem.architecture": ("Architecture",),
    "lowmem.calibration": ("calibrated",),
    "lowmem.costs": ("CostModel",),
    "lowmem.epochs": ("Epoch",),
    "lowmem.errors": ("BudgetError", "InputError", "LowmemError", "NonFiniteError", "SaveError", "ScheduleError"),
    "lowmem.executor": ("Backprop",),
    "lowmem.interchange": ("export_torch", "import_torch"),
    "lowmem.nn.mlp": ("MLP",),
    "lowmem.nn.optimizers": ("SGD", "Adam", "AdamW", "make_optimizer"),
    "lowmem.onnx": ("export_onnx",),
    "lowmem.planning": ("plan",),
    "lowmem.plans": ("Plan",),
    "lowmem.questions": ("compare", "deepest", "largest_batch", "minimum_budget"),
    "lowmem.rates": ("LearningRate",),
    "lowmem.report": ("Report",),
    "lowmem.streams": ("Stream", "open_data"),
    "lowmem.trainer": ("Trainer",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "MLP",
    "SGD",
    "Adam",
    "AdamW",
    "Architecture",
    "Backprop",
    "BudgetError",
    "CostModel",
    "Epoch",
    "InputError",
    "LearningRate",
    "LowmemError",
    "NonFiniteError",
    "Plan",
    "Report",
    "SaveError",
    "ScheduleError",
    "Stream",
    "Trainer",
    "calibrated",
    "compare",
    "deepest",
    "export_onnx",
    "export_torch",
    "import_torch",
    "largest_batch",
    "make_optimizer",
    "minimum_budget",
    "open_data",
    "plan",
    "plots",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - every kind of public name
    """Import a public name from its home at its first use."""
    if name == "plots":
        return import_module("lowmem.plots")
    if name not in _HOME:
        raise AttributeError(f"module 'lowmem' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return [*__all__, "__version__"]
