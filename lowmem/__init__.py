"""lowmem: train deep multilayer perceptrons inside a RAM budget that it keeps.

Names are imported when they are first used: planning needs no NumPy, and nothing draws Matplotlib in but a figure.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lowmem.planning.engines.machine import Measurements, measured_by

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lowmem import plots
    from lowmem.data.open import open_data
    from lowmem.data.stream import Stream
    from lowmem.errors import BudgetError, InputError, LowmemError, NonFiniteError, SaveError, ScheduleError
    from lowmem.interchange.onnx import export_onnx
    from lowmem.interchange.torch_weights import export_torch, import_torch
    from lowmem.measure.calibration import calibrated
    from lowmem.measure.report import Report
    from lowmem.network.architecture import Architecture
    from lowmem.nn.optimizers import SGD, Adam, AdamW, make_optimizer
    from lowmem.planning.choose import plan
    from lowmem.planning.cost_model import CostModel
    from lowmem.planning.extremes import deepest, largest_batch, minimum_budget
    from lowmem.planning.plan import Plan
    from lowmem.planning.queries import compare
    from lowmem.runtime.backprop import Backprop
    from lowmem.runtime.prediction import MLP
    from lowmem.schedule.disk.transfers import DiskRates
    from lowmem.training.learning_rate import LearningRate
    from lowmem.training.loop import Epoch
    from lowmem.training.trainer import Trainer

_HOMES = {
    "lowmem.network.architecture": ("Architecture",),
    "lowmem.measure.calibration": ("calibrated",),
    "lowmem.planning.cost_model": ("CostModel",),
    "lowmem.training.loop": ("Epoch",),
    "lowmem.errors": ("BudgetError", "InputError", "LowmemError", "NonFiniteError", "SaveError", "ScheduleError"),
    "lowmem.runtime.backprop": ("Backprop",),
    "lowmem.interchange.torch_weights": ("export_torch", "import_torch"),
    "lowmem.runtime.prediction": ("MLP",),
    "lowmem.nn.optimizers": ("SGD", "Adam", "AdamW", "make_optimizer"),
    "lowmem.interchange.onnx": ("export_onnx",),
    "lowmem.planning.choose": ("plan",),
    "lowmem.planning.plan": ("Plan",),
    "lowmem.planning.extremes": ("deepest", "largest_batch", "minimum_budget"),
    "lowmem.planning.queries": ("compare",),
    "lowmem.training.learning_rate": ("LearningRate",),
    "lowmem.measure.report": ("Report",),
    "lowmem.data.open": ("open_data",),
    "lowmem.data.stream": ("Stream",),
    "lowmem.training.trainer": ("Trainer",),
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


def _costs(dtype: str, engine: str) -> "CostModel":
    """Measure this machine, or read what was measured."""
    from lowmem.measure.calibration import calibrated

    return calibrated(dtype, engine=engine)


def _rates(folder: str, limit: int | None) -> "DiskRates":
    """Measure a disk, or read what was measured."""
    from lowmem.measure.disk_calibration import disk_rates

    return disk_rates(folder, limit)


measured_by(Measurements(_costs, _rates))


def __getattr__(name: str) -> Any:  # noqa: ANN401 - every kind of public name
    """Import a public name from its home at its first use."""
    if name in ("plots", "distributed"):
        return import_module(f"lowmem.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'lowmem' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return [*__all__, "__version__"]
