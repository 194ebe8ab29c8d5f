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
from lowmem.torch.again import Autocast
from lowmem.torch.values import Tensors

STILL = (torch.nn.modules.batchnorm._BatchNorm.forward, torch.nn.SyncBatchNorm.forward)
"""Norms whose running statistics can be left alone, as the output does not depend on them in training."""

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
        self.norms = [module for module in self.modules() if forward_of(module) in STILL]
        self.with_parameters = [module for module in self.modules() if module._parameters]
        self.with_buffers = [module for module in self.modules() if module._buffers and module not in self.norms]

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
        """Return how often each buffer was written to, those left out that BatchNorm keeps statistics in."""
        buffers = (b for module in self.with_buffers for b in module._buffers.values() if b is not None)
        return [number for buffer in buffers for number in (id(buffer), buffer._version)]

    def buffer_bytes(self) -> int:
        """Return the bytes of these buffers."""
        return bytes_of(buffer for module in self.with_buffers for buffer in module._buffers.values())

    def attributes(self) -> dict[str, tuple[torch.Tensor, ...]]:
        """Return the tensors that modules keep as plain attributes, or in lists, by name.

        Those of modules with forward pre-hooks are left out: there old weight norms put the weight before each run.
        """
        found: dict[str, tuple[torch.Tensor, ...]] = {}
        for child in self.children:
            for path, module in child.module.named_modules(prefix=child.name):
                own = {} if module._forward_pre_hooks else vars(module)
                for name in own.keys() - {"_parameters", "_buffers", "_modules"}:
                    value = tuple(own[name].values()) if isinstance(own[name], dict) else own[name]
                    several = value if isinstance(value, (list, tuple)) else (value,)
                    found[f"{path}.{name}"] = tuple(each for each in several if isinstance(each, torch.Tensor))
        return found

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return the parameters inside, each once."""
        return list({id(p): p for child in self.children for p in child.module.parameters()}.values())

    @property
    def name(self) -> str:
        """The names of the children, for tables and errors."""
        names = [child.name for child in self.children]
        return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"

    @property
    def kind(self) -> str:
        """What the stage is made of, for tables and errors."""
        return " + ".join(type(child.module).__name__ for child in self.children)

    def refuse(self, why: str) -> InputError:
        """Return the error that refuses this stage."""
        return InputError(f"stage {self.name} ({self.kind}) {why}")


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


def forward_of(module: torch.nn.Module) -> Any:  # noqa: ANN401 - a function
    """Return the forward of a module's class; TorchScript's modules have none."""
    return getattr(type(module), "forward", None)


def is_plain(module: Any) -> bool:  # noqa: ANN401 - whatever the user gives
    """Say whether a module is a Sequential that runs its children and does nothing else.

    A model that has a plan already is one too: a plan for the whole takes the place of its own.
    """
    if not isinstance(module, torch.nn.Sequential):
        return False
    return forward_of(module) is torch.nn.Sequential.forward or getattr(type(module), "runs_children", False)


def hooked(module: torch.nn.Module) -> bool:
    """Say whether hooks are registered on the module itself."""
    return any(getattr(module, name) for name in HOOKS)


def children_of(model: torch.nn.Sequential, prefix: str = "") -> list[Child]:
    """Return the children, those of nested plain Sequentials in their place; a module may come more than once."""
    found: list[Child] = []
    for name, module in model._modules.items():
        assert module is not None  # of a Sequential
        if is_plain(module) and not hooked(module) and len(module._modules):
            found += children_of(module, f"{prefix}{name}.")
        else:
            found.append(Child(f"{prefix}{name}", module))
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
    except InputError:
        raise
    except Exception as error:  # a stage may raise anything
        raise group.refuse(f"cannot be run on what the stage before gives: {why(error)}.") from error
    if not all(isinstance(tensor, torch.Tensor) for tensor in outputs) or not outputs:
        kinds = ", ".join(type(value).__name__ for value in outputs)
        raise group.refuse(f"must give a tensor or a tuple of tensors; got ({kinds}).")
    device = inputs[0].device
    for tensor in outputs:
        if tensor.layout != torch.strided or tensor.is_nested:
            kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
            raise group.refuse(f"gives a tensor of layout {kind}; stages must pass on plain, strided ones.")
        if tensor.device != device:
            raise group.refuse(
                f"takes tensors on {device} and gives one on {tensor.device}; a plan is for one device."
            )
    own = [*group.parameters(), *(buffer for module in group.modules() for buffer in module.buffers())]
    if set(map(_place, outputs)) & set(map(_place, own)):
        raise group.refuse("returns memory of its own parameters or buffers. Let it return a copy.")
    return outputs if versions == [tensor._version for tensor in inputs] else None


def why(error: Exception) -> str:
    """Return the kind of an error and the first line of what it says."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def _place(tensor: torch.Tensor) -> Any:  # noqa: ANN401 - a name of a place in memory
    place = tensor.untyped_storage().data_ptr()
    return place if place else id(tensor)


def _output(groups: Sequence[Group], sample: Tensors, run: Run) -> Tensors:
    """Return what comes out of these groups."""
    for group in groups:
        sample = run(group, sample)
    return sample


def run_frozen(groups: Sequence[Group], value: Any, autocast: Autocast) -> Any:  # noqa: ANN401 - tensors
    """Run the stages at the start that need no backward."""
    with torch.enable_grad():  # as the plain model runs them; nothing here has a gradient
        for group in groups:
            with autocast.one_stage():
                value = group(value)
    return value


def bytes_of(tensors: Iterable[torch.Tensor | None], granule: int = 1) -> int:
    """Return the bytes of the memory behind tensors, each piece once and as a multiple of the granule."""
    pieces = (piece for tensor in tensors if tensor is not None for piece in _pieces(tensor))
    sizes = {_place(piece): piece.untyped_storage().nbytes() for piece in pieces}
    return sum(-(-size // granule) * granule for size in sizes.values())


def _pieces(tensor: torch.Tensor) -> Tensors:
    """Return the plain tensors that a tensor consists of; gradients of embeddings may be sparse."""
    return (tensor._indices(), tensor._values()) if tensor.layout == torch.sparse_coo else (tensor,)


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
