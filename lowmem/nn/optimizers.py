"""Optimizers that update parameters in place, chunk by chunk, and allocate nothing in a step.

An optimizer works on flat chunks of at most `specs.CHUNK` numbers, so that its several passes find the chunk in cache.
It may use the gradient as working memory: after the update the gradient is spent.

An optimizer is one class: what planning must know of it stands in the class. Planning imports no NumPy, so this file
imports it only where an update runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from lowmem.common.checks import fraction, lookup, number, positive_number, truth, whole
from lowmem.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Variant:
    """One name under which an optimizer is known.

    states: arrays shaped like the parameters that it keeps.
    scratch: working arrays of a chunk's size.
    settings: arguments that make this variant, beside the usual ones.
    """

    states: int
    scratch: int = 0
    settings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Known:
    """An optimizer by name: its class and the variant of it."""

    kind: type[Optimizer]
    variant: Variant

    @property
    def states(self) -> int:
        """Arrays shaped like the parameters that it keeps."""
        return self.variant.states

    @property
    def scratch(self) -> int:
        """Working arrays of a chunk's size."""
        return self.variant.scratch


def _limit(name: str, value: object) -> float | None:
    """Return what gradients are cut to, None if they are not."""
    return None if value is None else positive_number(name, value)


Checks = Mapping[str, Callable[[str, object], Any]]
"""What returns a setting's value, or refuses it, by the setting's name."""

OPTIMIZERS: dict[str, Known] = {}
"""Every optimizer by name; a class with `variants` is entered as soon as it is defined."""


class Optimizer(ABC):
    """Base of all optimizers: a learning rate, a step count, and an update rule for one chunk.

    lr: learning rate; may be changed between steps.
    weight_decay: λ; how it enters is said by each optimizer.
    clip_value: gradients are cut to [-clip_value, clip_value] first, in the same pass; None leaves them.

    A subclass names its `variants`, and in `tunable` the arguments that make it again, with their types. Settings may
    be changed between steps, and are checked by `checks` whenever they are set: within a step it would be too late.
    """

    variants: ClassVar[Mapping[str, Variant]] = {}
    tunable: ClassVar[Mapping[str, type]] = {"lr": float, "weight_decay": float}
    checks: ClassVar[Checks] = {"lr": number, "weight_decay": number, "clip_value": _limit, "step_count": whole}

    def __init_subclass__(cls) -> None:
        """Enter the variants of a new class in `OPTIMIZERS`."""
        OPTIMIZERS.update({name: Known(cls, variant) for name, variant in vars(cls).get("variants", {}).items()})

    def __init__(self, lr: float, weight_decay: float = 0.0) -> None:
        self.lr, self.weight_decay = lr, weight_decay
        self.clip_value: float | None = None
        self.step_count = 0

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute. Raises `InputError` for what is no value of a setting."""
        check = self.checks.get(name)
        super().__setattr__(name, value if check is None else check(name, value))

    def check_settings(self) -> None:  # noqa: B027 - the settings of most go together in any case
        """Refuse settings that do not go together; called before each step."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the variant that this optimizer is."""

    @property
    def states(self) -> int:
        """How many arrays shaped like the parameters it keeps."""
        return OPTIMIZERS[self.name].states

    def begin_step(self) -> None:
        """Count a step; called once before the updates of all layers."""
        self.step_count += 1

    def settings(self) -> dict[str, float]:
        """Return the arguments that make such an optimizer again."""
        return {name: kind(getattr(self, name)) for name, kind in self.tunable.items()}

    def update(self, w: Array, g: Array, states: tuple[Array, ...], scratch: tuple[Array, ...]) -> None:
        """Update the flat chunk `w` with its gradient `g`, which is spent; all arrays have the same shape."""
        if self.clip_value is not None:
            import numpy as np

            np.clip(g, -self.clip_value, self.clip_value, out=g)
        self.rule(w, g, states, scratch)

    @abstractmethod
    def rule(self, w: Array, g: Array, states: tuple[Array, ...], scratch: tuple[Array, ...]) -> None:
        """Do what `update` does, after clipping."""


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum v ← μ v + g and w ← w - η v; Nesterov: w ← w - η (g + μ v).

    Weight decay is added to the gradient as λ w. Matches `torch.optim.SGD`.
    """

    variants: ClassVar[Mapping[str, Variant]] = {
        "sgd": Variant(states=0),
        "momentum": Variant(states=1, settings={"momentum": 0.9}),
        "nesterov": Variant(states=1, settings={"momentum": 0.9, "nesterov": True}),
    }
    tunable = {"lr": float, "momentum": float, "nesterov": bool, "weight_decay": float}  # noqa: RUF012
    checks: ClassVar[Checks] = {**Optimizer.checks, "momentum": fraction, "nesterov": truth}

    def __init__(
        self, lr: float = 0.01, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ) -> None:
        super().__init__(lr, weight_decay)
        self.momentum, self.nesterov = momentum, nesterov
        self.check_settings()

    def check_settings(self) -> None:
        """See `Optimizer.check_settings`."""
        if self.nesterov and not self.momentum:
            raise InputError("nesterov needs a momentum above 0; got momentum=0. Try momentum=0.9.")

    @property
    def name(self) -> str:
        """The optimizer's name: "sgd", "momentum" or "nesterov"."""
        return "nesterov" if self.nesterov else "momentum" if self.momentum else "sgd"

    def rule(self, w: Array, g: Array, states: tuple[Array, ...], scratch: tuple[Array, ...]) -> None:
        """Update one chunk; see `Optimizer.update`."""
        import numpy as np

        if self.weight_decay:
            # g + λ w without a working array: (g / λ + w) λ.
            np.divide(g, self.weight_decay, out=g)
            np.add(g, w, out=g)
            np.multiply(g, self.weight_decay, out=g)
        if self.momentum:
            (v,) = states
            np.multiply(v, self.momentum, out=v)
            np.add(v, g, out=v)
            if self.nesterov:
                np.divide(g, self.momentum, out=g)
                np.add(g, v, out=g)
                np.multiply(g, self.momentum, out=g)
            else:
                np.copyto(g, v)
        np.multiply(g, self.lr, out=g)
        np.subtract(w, g, out=w)


class Adam(Optimizer):
    """Adam: m and v are running means of g and g², w ← w - η m̂ / (sqrt(v̂) + ε).

    D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980 (2015). Weight decay is added
    to the gradient as λ w. Matches `torch.optim.Adam`.
    """

    decoupled: ClassVar[bool] = False
    variants: ClassVar[Mapping[str, Variant]] = {"adam": Variant(states=2, scratch=1)}
    tunable = dict.fromkeys(("lr", "beta1", "beta2", "eps", "weight_decay"), float)
    checks: ClassVar[Checks] = {**Optimizer.checks, "beta1": fraction, "beta2": fraction, "eps": number}

    def __init__(
        self,
        lr: float = 1e-3,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr, weight_decay)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    @property
    def name(self) -> str:
        """The optimizer's name: "adam" or "adamw"."""
        return "adamw" if self.decoupled else "adam"

    def rule(self, w: Array, g: Array, states: tuple[Array, ...], scratch: tuple[Array, ...]) -> None:
        """Update one chunk; see `Optimizer.update`."""
        import numpy as np

        m, v = states
        (t,) = scratch
        if self.weight_decay:
            if self.decoupled:
                np.multiply(w, 1.0 - self.lr * self.weight_decay, out=w)
            else:
                np.multiply(w, self.weight_decay, out=t)
                np.add(g, t, out=g)
        np.multiply(g, g, out=t)
        np.multiply(t, 1.0 - self.beta2, out=t)
        np.multiply(v, self.beta2, out=v)
        np.add(v, t, out=v)
        np.multiply(g, 1.0 - self.beta1, out=g)
        np.multiply(m, self.beta1, out=m)
        np.add(m, g, out=m)
        # The bias corrections are scalars: m̂ / (sqrt(v̂) + ε) = m c / (sqrt(v) + ε sqrt(1 - β2^t)).
        root = (1.0 - self.beta2**self.step_count) ** 0.5
        np.sqrt(v, out=t)
        np.add(t, self.eps * root, out=t)
        np.divide(m, t, out=t)
        np.multiply(t, self.lr * root / (1.0 - self.beta1**self.step_count), out=t)
        np.subtract(w, t, out=w)


class AdamW(Adam):
    """Adam with decoupled weight decay: w shrinks by η λ w beside the step.

    I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101 (2019). Matches
    `torch.optim.AdamW` with the same weight_decay (0 here unless given).
    """

    decoupled = True
    variants: ClassVar[Mapping[str, Variant]] = {"adamw": Variant(states=2, scratch=1)}


def make_optimizer(name: str, *, lr: float | None = None, weight_decay: float = 0.0) -> Optimizer:
    """Return the optimizer `name` ("sgd", "momentum", "nesterov", "adam", "adamw") with usual settings.

    Raises `UnknownNameError` for other names.

    >>> import lowmem as lm
    >>> lm.make_optimizer("adam", lr=0.01).settings()["lr"]
    0.01
    >>> lm.make_optimizer("adan")
    Traceback (most recent call last):
    lowmem.errors.UnknownNameError: unknown optimizer 'adan'. Did you mean 'adam'? Known: adam, adamw, momentum, ...
    """
    known = lookup("optimizer", name, OPTIMIZERS)
    rate = {} if lr is None else {"lr": lr}
    return known.kind(**known.variant.settings, **rate, weight_decay=weight_decay)


def restored(name: str, settings: dict[str, Any]) -> Optimizer:
    """Return the optimizer `name` with what its `settings` returned. Raises `ValueError` for other settings."""
    kind = OPTIMIZERS[name].kind
    if {key: type(value) for key, value in settings.items()} != dict(kind.tunable):
        raise ValueError(f"an optimizer {name} has the settings {', '.join(kind.tunable)}; got {settings}")
    optimizer = kind(**settings)
    if optimizer.name != name:
        raise ValueError(f"these settings make the optimizer {optimizer.name}, not {name}")
    return optimizer
