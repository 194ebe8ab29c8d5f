"""Optimizers that update parameters in place, chunk by chunk, and allocate nothing in a step.

An optimizer works on flat chunks of at most `CHUNK` numbers, so that its several passes find the chunk in cache. It
may use the gradient as working memory: after the update the gradient is spent.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import fraction, lookup, number
from lowmem.errors import InputError
from lowmem.network.specs import OPTIMIZERS

Array = NDArray[np.floating[Any]]


class Optimizer(ABC):
    """Base of all optimizers: a learning rate, a step count, and an update rule for one chunk.

    lr: learning rate; may be changed between steps.
    weight_decay: λ; how it enters is said by each optimizer.
    clip_value: gradients are cut to [-clip_value, clip_value] first, in the same pass; None leaves them.
    """

    tunable: ClassVar[tuple[str, ...]] = ("lr", "weight_decay")

    def __init__(self, lr: float, weight_decay: float = 0.0) -> None:
        self.lr = number("lr", lr)
        self.weight_decay = number("weight_decay", weight_decay)
        self.clip_value: float | None = None
        self.step_count = 0

    @property
    @abstractmethod
    def name(self) -> str:
        """The optimizer's name in the tables of `lowmem.network.architecture`."""

    @property
    def states(self) -> int:
        """How many arrays shaped like the parameters it keeps."""
        return OPTIMIZERS[self.name].states

    def begin_step(self) -> None:
        """Count a step; called once before the updates of all layers."""
        self.step_count += 1

    def settings(self) -> dict[str, float]:
        """Return the arguments that make such an optimizer again."""
        values = {name: getattr(self, name) for name in self.tunable}
        return {name: value if isinstance(value, bool) else float(value) for name, value in values.items()}

    def update(self, w: Array, g: Array, states: tuple[Array, ...], scratch: tuple[Array, ...]) -> None:
        """Update the flat chunk `w` with its gradient `g`, which is spent; all arrays have the same shape."""
        if self.clip_value is not None:
            np.clip(g, -self.clip_value, self.clip_value, out=g)
        self.rule(w, g, states, scratch)

    @abstractmethod
    def rule(self, w: Array, g: Array, states: tuple[Array, ...], scratch: tuple[Array, ...]) -> None:
        """Do what `update` does, after clipping."""


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum v ← μ v + g and w ← w - η v; Nesterov: w ← w - η (g + μ v).

    Weight decay is added to the gradient as λ w. Matches `torch.optim.SGD`.
    """

    tunable = ("lr", "momentum", "nesterov", "weight_decay")

    def __init__(
        self, lr: float = 0.01, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ) -> None:
        super().__init__(lr, weight_decay)
        self.momentum = fraction("momentum", momentum)
        self.nesterov = nesterov
        if nesterov and not momentum:
            raise InputError("nesterov needs a momentum above 0; got momentum=0. Try momentum=0.9.")

    @property
    def name(self) -> str:
        """The optimizer's name: "sgd", "momentum" or "nesterov"."""
        return "nesterov" if self.nesterov else "momentum" if self.momentum else "sgd"

    def rule(self, w: Array, g: Array, states: tuple[Array, ...], scratch: tuple[Array, ...]) -> None:
        """Update one chunk; see `Optimizer.update`."""
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
    tunable = ("lr", "beta1", "beta2", "eps", "weight_decay")

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
        self.beta1 = fraction("beta1", beta1)
        self.beta2 = fraction("beta2", beta2)
        self.eps = number("eps", eps)

    @property
    def name(self) -> str:
        """The optimizer's name: "adam" or "adamw"."""
        return "adamw" if self.decoupled else "adam"

    def rule(self, w: Array, g: Array, states: tuple[Array, ...], scratch: tuple[Array, ...]) -> None:
        """Update one chunk; see `Optimizer.update`."""
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
    lookup("optimizer", name, OPTIMIZERS)
    if name in ("adam", "adamw"):
        return (AdamW if name == "adamw" else Adam)(1e-3 if lr is None else lr, weight_decay=weight_decay)
    momentum = 0.0 if name == "sgd" else 0.9
    return SGD(0.01 if lr is None else lr, momentum=momentum, nesterov=name == "nesterov", weight_decay=weight_decay)


def restored(name: str, settings: dict[str, Any]) -> Optimizer:
    """Return the optimizer `name` with what its `settings` returned. Raises `ValueError` for other settings."""
    kind: type[Optimizer] = {"adam": Adam, "adamw": AdamW}.get(name, SGD)
    given = {key: type(value) for key, value in settings.items()}
    if given != {key: bool if key == "nesterov" else float for key in kind.tunable}:
        raise ValueError(f"an optimizer {name} has the settings {', '.join(kind.tunable)}; got {settings}")
    optimizer = kind(**settings)
    if optimizer.name != name:
        raise ValueError(f"these settings make the optimizer {optimizer.name}, not {name}")
    return optimizer
