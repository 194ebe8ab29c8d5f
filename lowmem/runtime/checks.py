"""Checks of what a `Backprop` is made of, and of the arrays of a batch: engines read and write them where they are."""

from typing import Any

import numpy as np

from lowmem.common.checks import check_layout, finite, instance
from lowmem.errors import InputError, shown
from lowmem.network.architecture import Architecture
from lowmem.nn.mlp import MLP
from lowmem.nn.optimizers import Optimizer
from lowmem.planning.plan import Plan
from lowmem.runtime.collectives.group import Group, size_of


def check_inputs(x: object, architecture: Architecture, most: int | None = None) -> None:
    """Refuse inputs that are no finite numbers (rows, n_0) of the network's dtype. Raises `InputError`.

    most: how many rows there may be, None for any number.
    """
    _check_rows(x, "x", architecture.widths[0], architecture.dtype)
    assert isinstance(x, np.ndarray)
    if most is not None and not 1 <= len(x) <= most:
        raise InputError(f"this plan is for 1 to {most} samples at a time; got {len(x)}.")
    if x.size and not finite(x):
        raise InputError("x contains NaN or infinity; clean or impute it first. Nothing was computed.")


def check_outputs(outputs: object, name: str, architecture: Architecture, rows: int | None = None) -> None:
    """Refuse what are no outputs (rows, n_L) of the network's dtype that can be written to. Raises `InputError`.

    name: of the argument. rows: how many there must be, None for any number.
    """
    _check_rows(outputs, name, architecture.widths[-1], architecture.dtype)
    assert isinstance(outputs, np.ndarray)
    if rows is not None and len(outputs) != rows:
        raise InputError(f"{name} must have a row for each of the {rows} rows of x; got {len(outputs)}.")
    if not outputs.flags.writeable:
        raise InputError(f"{name} is in memory that must not be written. Make it with numpy.empty.")


def _check_rows(array: object, name: str, columns: int, dtype: str) -> None:
    """Refuse what is no C-contiguous array (rows, columns) of a dtype. name: of the argument."""
    need = f"{name} must be a C-contiguous {dtype} array of shape (rows, {columns})"
    if not isinstance(array, np.ndarray):
        raise InputError(f"{need}; got {_kind(array)}. Make it with np.asarray({name}, np.{dtype}).")
    if array.ndim != 2 or array.shape[1] != columns:
        raise InputError(f"{need}; got shape {array.shape}.")
    if array.dtype != np.dtype(dtype):
        raise InputError(f"{need}; got {array.dtype}. Convert it once with {name}.astype(np.{dtype}).")
    check_layout(array, name)


def _kind(value: Any) -> str:  # noqa: ANN401 - whatever was given
    return f"a {type(value).__name__}"


def check_group(plan: Plan, group: Group | None) -> None:
    """Refuse a plan for another number of ranks than there are."""
    size = size_of(group)
    if plan.ranks != size:
        raise InputError(
            f"the plan is for {plan.ranks} ranks and there {'is' if size == 1 else 'are'} {size}. Make it with "
            f"ranks={size}, and give a plan of several ranks group=, such as lowmem.distributed.mpi()."
        )


def check_fit(mlp: MLP, plan: Plan, optimizer: Optimizer | None) -> None:
    """Refuse a network, plan and optimizer that do not belong together."""
    instance("mlp", mlp, MLP, "a network, such as lowmem.MLP(architecture)")
    instance("plan", plan, Plan, "a plan, such as lowmem.plan(architecture, batch_size) returns")
    if mlp.architecture != plan.architecture:
        raise InputError(f"the plan is for another network: {plan.architecture}; this one is {mlp.architecture}.")
    if not mlp.learned.flags.writeable and (optimizer is not None or len(mlp.running)):
        raise InputError("the network's parameters are in memory that must not be written. Train copy.deepcopy(mlp).")
    if plan.streams[0] and mlp.paged is None:
        raise InputError(
            "the plan streams the network's parameters from a disk, and this network has them in memory. Make it with "
            f"lowmem.MLP(architecture, disk={plan.disk!r})."
        )
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise InputError(
            f"{shown(optimizer)} is not an optimizer; make one, e.g. lowmem.make_optimizer({plan.optimizer!r})."
        )
    check_planned(plan, optimizer)


def check_planned(plan: Plan, optimizer: Optimizer | None) -> None:
    """Refuse another optimizer than the plan counts; settings such as a momentum may have made it another one."""
    given = None if optimizer is None else optimizer.name
    if given != plan.optimizer:
        raise InputError(
            f"the plan counts optimizer={plan.optimizer!r}; got {given!r}. Make the plan with optimizer={given!r}"
            + (
                f" or pass such an optimizer, e.g. lowmem.make_optimizer({plan.optimizer!r})."
                if plan.optimizer
                else "."
            )
        )
