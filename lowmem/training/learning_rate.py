"""Learning rates that change from step to step: pure functions of the number of the step."""

from dataclasses import asdict, dataclass
from math import cos, pi
from typing import Any, Literal

from lowmem.common.checks import number, one_of, whole

KINDS = ("constant", "step", "cosine")


@dataclass(frozen=True, slots=True)
class LearningRate:
    """A learning rate by step.

    lr: the rate after the warm-up, before it falls.
    kind: "constant" stays at lr. "step" is multiplied by `factor` after every `every` steps. "cosine" falls from lr to
        `least` along half a cosine that ends at step `steps` (I. Loshchilov, F. Hutter, "SGDR", arXiv:1608.03983,
        2017, without restarts).
    warm_up: number of first steps, in which the rate rises linearly from lr / warm_up to lr. After them the kind
        begins.
    every: of "step", the steps between two falls.
    factor: of "step", what the rate is multiplied by at each fall.
    steps: of "cosine", the step at which the rate has fallen to `least`, warm-up included.
    least: of "cosine", the last rate.

    Raises `InputError` for numbers that make no sense, `UnknownNameError` for other kinds.

    >>> import lowmem as lm
    >>> rate = lm.LearningRate(0.1, "step", warm_up=2, every=10)
    >>> [round(rate.at(step), 4) for step in (0, 1, 2, 11, 12, 22)]
    [0.05, 0.1, 0.1, 0.1, 0.01, 0.001]
    """

    lr: float
    kind: Literal["constant", "step", "cosine"] = "constant"
    warm_up: int = 0
    every: int | None = None
    factor: float = 0.1
    steps: int | None = None
    least: float = 0.0

    def __post_init__(self) -> None:
        """Check every number, and keep Python's numbers in place of NumPy's."""
        one_of("learning rate schedule", self.kind, KINDS)
        for name in ("lr", "factor", "least"):
            object.__setattr__(self, name, number(f"{name} of a {self.kind} learning rate", getattr(self, name)))
        least = {"warm_up": 0} | {"step": {"every": 1}, "cosine": {"steps": 1}}.get(self.kind, {})
        for name, lowest in least.items():
            value = whole(f"{name} of a {self.kind} learning rate", getattr(self, name), lowest)
            object.__setattr__(self, name, value)

    def at(self, step: int) -> float:
        """Return the rate of a step, counted from 0."""
        step = whole("step", step)
        if step < self.warm_up:
            return self.lr * (step + 1) / self.warm_up
        step -= self.warm_up
        if self.kind == "step":
            assert self.every is not None
            return float(self.lr * self.factor ** (step // self.every))
        if self.kind == "cosine":
            assert self.steps is not None
            length = max(self.steps - self.warm_up, 1)
            return self.least + (self.lr - self.least) * 0.5 * (1 + cos(pi * min(step, length) / length))
        return self.lr

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments that make an equal learning rate."""
        return asdict(self)
