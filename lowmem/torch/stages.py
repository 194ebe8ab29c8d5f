"""Which stages a model has: the children of a Sequential, nested ones flattened, joined where memory is shared.

A stage is a run of children. Mostly it is one. But what overwrites its input, or returns a view of it, cannot stand
alone: `ReLU(inplace=True)`, `Flatten`, `Identity`. It becomes one stage with the child before it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from lowmem.errors import InputError
from lowmem.torch.passes import Tensors

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Child:
    """A child of a Sequential, with its dotted name."""

    name: str
    module: torch.nn.Module


class Group:
    """Children that are one stage, run one after the other."""

    def __init__(self, children: Sequence[Child]) -> None:
        self.children = tuple(children)
        norm = torch.nn.modules.batchnorm._NormBase
        self.norms = [module for module in self.modules() if isinstance(module, norm)]
        self._with_buffers = [m for m in self.modules() if m._buffers and not isinstance(m, norm)]

    def __call__(self, x: Any) -> Any:  # noqa: ANN401 - tensors
        """Run the children."""
        for child in self.children:
            x = child.module(x)
        return x

    def modules(self) -> Iterator[torch.nn.Module]:
        """Yield every module inside."""
        for child in self.children:
            yield from child.module.modules()

    def buffer_versions(self) -> list[int]:
        """Return how often each buffer was written to, those left out that norms keep statistics in."""
        buffers = (b for module in self._with_buffers for b in module._buffers.values() if b is not None)
        return [number for buffer in buffers for number in (id(buffer), buffer._version)]

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return the parameters inside, each once."""
        return list({id(p): p for child in self.children for p in child.module.parameters()}.values())

    @property
    def name(self) -> str:
        """The names of the children, for tables and errors."""
        names = [child.name for child in self.children]
        return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"

    def refuse(self, why: str) -> InputError:
        """Return the error that refuses this stage."""
        kinds = ", ".join(type(child.module).__name__ for child in self.children)
        return InputError(f"stage {self.name} ({kinds}) {why}")


Run = Callable[[Group, Tensors], Tensors]


def as_sequential(model: "torch.nn.Module | Iterable[torch.nn.Module]") -> torch.nn.Sequential:
    """Return the model as a Sequential; a list of modules becomes one. Raises `InputError` for anything else."""
    if isinstance(model, (list, tuple, torch.nn.ModuleList)) and all(isinstance(m, torch.nn.Module) for m in model):
        model = torch.nn.Sequential(*model)
    if not is_plain(model):
        raise InputError(
            f"a torch.nn.Sequential or a list of modules is needed; got {type(model).__name__}. "
            "Write the model as a chain of stages, each of which takes what the one before gives."
        )
    if hooked(model):
        raise InputError(
            "the model itself has hooks, which would not run for its stages. Register them on the module that "
            "lowmem.torch.checkpointed returns."
        )
    sequential: Any = model
    if not len(sequential):
        raise InputError("the model has no stages; at least one is needed.")
    return sequential


def is_plain(module: Any) -> bool:  # noqa: ANN401 - whatever the user gives
    """Say whether a module is a Sequential that runs its children and does nothing else."""
    return isinstance(module, torch.nn.Sequential) and type(module).forward is torch.nn.Sequential.forward


def hooked(module: torch.nn.Module) -> bool:
    """Say whether hooks are registered on the module itself."""
    return any(getattr(module, name) for name in HOOKS)


def children_of(model: torch.nn.Sequential, prefix: str = "") -> list[Child]:
    """Return the children, those of nested plain Sequentials in their place."""
    found: list[Child] = []
    for name, module in model.named_children():
        if is_plain(module) and not hooked(module) and len(module):
            found += children_of(module, f"{prefix}{name}.")
        else:
            found.append(Child(f"{prefix}{name}", module))
    # named_children leaves out a module that occurs again, which then runs again.
    if len(set(map(id, model))) < len(model):
        raise InputError("a module occurs twice in the Sequential; give each stage a module of its own.")
    return found


def joined(children: Sequence[Child], sample: Tensors, run: Run) -> list[Group]:
    """Return the stages: children, joined with the one before where they share memory with what they are given.

    run: runs a stage without a tape. Raises `InputError` where nothing before can be joined.
    """
    groups: list[Group] = []
    before: Tensors | None = None  # what entered the last group, where it is at hand
    now = sample
    waiting: tuple[Child, ...] = ()  # at the start of the chain: one with what comes next
    for child in children:
        group = Group([*waiting, child])
        outputs, alias = _tried(group, now, run)
        while groups and (outputs is None or alias):
            group = Group([*groups.pop().children, *group.children])
            now, before = before or _output(groups, sample, run), None
            outputs, alias = _tried(group, now, run)
        if outputs is None:
            raise group.refuse("overwrites the batch that it is given. Let it work out of place.")
        if alias:
            waiting = group.children
            continue
        waiting = ()
        groups.append(group)
        before, now = now, outputs
    if waiting:
        raise Group(waiting).refuse("returns the batch that it is given, and nothing comes behind it.")
    return groups


def _tried(group: Group, inputs: Tensors, run: Run) -> tuple[Tensors | None, bool]:
    """Return what a group gives, None if it has overwritten what it was given; and whether the two share memory."""
    outputs = _checked(group, inputs, run)
    if outputs is None:
        return None, True
    alias = bool(set(map(_place, outputs)) & set(map(_place, inputs)))
    if alias and len(outputs) + len(inputs) > 2:
        raise group.refuse("returns memory that it was given, as one of several tensors. Let it return a copy.")
    return outputs, alias


def _checked(group: Group, inputs: Tensors, run: Run) -> Tensors | None:
    """Run a group and check what it gives; None if it has overwritten what it was given."""
    versions = [tensor._version for tensor in inputs]
    try:
        outputs = run(group, inputs)
    except Exception as error:  # a stage may raise anything
        raise group.refuse(
            f"cannot be run on what the stage before gives: {type(error).__name__}: {str(error).splitlines()[0]}."
        ) from error
    if not all(isinstance(tensor, torch.Tensor) for tensor in outputs) or not outputs:
        kinds = ", ".join(type(value).__name__ for value in outputs)
        raise group.refuse(f"must give a tensor or a tuple of tensors; got ({kinds}).")
    return outputs if versions == [tensor._version for tensor in inputs] else None


def _place(tensor: torch.Tensor) -> Any:  # noqa: ANN401 - a name of a place in memory
    place = tensor.untyped_storage().data_ptr()
    return place if place else id(tensor)


def _output(groups: Sequence[Group], sample: Tensors, run: Run) -> Tensors:
    """Return what comes out of these groups."""
    for group in groups:
        sample = run(group, sample)
    return sample


def bytes_of(tensors: Iterable[torch.Tensor | None]) -> int:
    """Return the bytes of the memory behind tensors, each piece once."""
    places = {_place(tensor): tensor.untyped_storage().nbytes() for tensor in tensors if tensor is not None}
    return sum(places.values())


class Watch:
    """Sees whether the memory of tensors is still there, without keeping it."""

    def __init__(self, tensors: Tensors) -> None:
        storages = {_place(tensor): tensor.untyped_storage() for tensor in tensors}
        self._storages = [(StorageWeakRef(storage), storage.nbytes()) for storage in storages.values()]

    def bytes(self) -> int:
        """Return the bytes that are still there."""
        return sum(size for storage, size in self._storages if not storage.expired())


def shared_parameters(groups: Sequence[Group]) -> list[dict[int, bool]]:
    """Return for each stage, where some of its parameters are used by others too, whether those are reversed before.

    By position in `group.parameters()`: True for the stage that is reversed last, the first one of the chain. Stages
    without shared parameters have an empty dictionary.
    """
    owners: dict[int, list[int]] = {}
    for number, group in enumerate(groups):
        for parameter in group.parameters():
            owners.setdefault(id(parameter), []).append(number)
    found = []
    for number, group in enumerate(groups):
        of_stage = [owners[id(parameter)] for parameter in group.parameters()]
        shared = any(len(numbers) > 1 for numbers in of_stage)
        found.append({at: numbers[0] == number for at, numbers in enumerate(of_stage)} if shared else {})
    return found
