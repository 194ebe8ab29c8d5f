"""What must be the same when a stage runs again: random numbers, buffers, running statistics, autocast."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from lowmem.torch.values import Tensors


def random_state(device: torch.device) -> Tensors:
    """Return the states of the random generators that a stage on `device` may use."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state(device))
    return tuple(states)


def set_random_state(device: torch.device, states: Tensors) -> None:
    """Set what `random_state` returned."""
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], device)


def same(states: Tensors, others: Tensors) -> bool:
    """Say whether two states of generators are equal."""
    return all(torch.equal(one, other) for one, other in zip(states, others, strict=True))


@contextmanager
def forked_random(device: torch.device, states: Tensors | None) -> Iterator[None]:
    """Run something with random numbers as they came at `states`; afterwards all is as before. None: do nothing."""
    if states is None:
        yield
        return
    before = random_state(device)
    set_random_state(device, states)
    try:
        yield
    finally:
        set_random_state(device, before)


@contextmanager
def still_statistics(norms: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Let norms in training use the batch's statistics and leave their running ones alone: they moved already."""
    moving = [norm for norm in norms if norm.training and norm.track_running_stats]
    for norm in moving:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in moving:
            norm.track_running_stats = True


class Buffers:
    """Buffers of modules as they are now; a run may begin with these again, whatever they have become since."""

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        self._copies = [(module, _copied(module._buffers)) for module in modules]

    @contextmanager
    def again(self) -> Iterator[None]:
        """Let modules begin with these values; afterwards their own buffers are in their places, untouched."""
        own = [(module, dict(module._buffers)) for module, _ in self._copies]
        for module, copies in self._copies:
            module._buffers.update(_copied(copies))
        try:
            yield
        finally:
            for module, buffers in own:
                module._buffers.update(buffers)


def _copied(buffers: Mapping[str, torch.Tensor | None]) -> dict[str, torch.Tensor | None]:
    return {name: None if buffer is None else buffer.detach().clone() for name, buffer in buffers.items()}


@dataclass(frozen=True, slots=True)
class Autocast:
    """The state of autocast on the processor and on a device, to be entered again when the context has been left."""

    states: tuple[tuple[str, bool, Any], ...]
    cache: bool

    @classmethod
    def now(cls, device: torch.device) -> "Autocast":
        """Return the state that is in force."""
        kinds = dict.fromkeys(("cpu", device.type))
        states = ((kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds)
        return cls(tuple(states), torch.is_autocast_cache_enabled())

    @property
    def enabled(self) -> bool:
        """Whether anything is cast."""
        return any(enabled for _, enabled, _ in self.states)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Enter the state again."""
        with ExitStack() as stack:
            for kind, enabled, dtype in self.states:
                if enabled or torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, dtype, enabled, self.cache))
            yield

    def one_stage(self) -> Any:  # noqa: ANN401 - a context
        """Return a context in which a stage casts its weights for itself.

        A weight that was cast without a tape must not serve where a tape is recorded, and a cast that is remembered
        would stay in memory longer than the stage needs it.
        """
        return _own_casts() if self.enabled else nullcontext()


@contextmanager
def no_autocast(device: torch.device) -> Iterator[None]:
    """Leave autocast, as a training step does before its backward pass."""
    with ExitStack() as stack:
        for kind in dict.fromkeys(("cpu", device.type)):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def _own_casts() -> Iterator[None]:
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.clear_autocast_cache()
