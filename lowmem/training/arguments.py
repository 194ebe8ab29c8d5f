"""Arguments of a trainer as users write them: names and numbers stand for optimizers and learning rates."""

from dataclasses import dataclass
from pathlib import Path

from lowmem.common.checks import as_number, as_path, one_of
from lowmem.common.files import check_apart, check_place
from lowmem.data.samples import Samples
from lowmem.errors import Advice, InputError, shown
from lowmem.nn.optimizers import Adam, Optimizer, make_optimizer
from lowmem.training.learning_rate import KINDS, LearningRate
from lowmem.training.position import Position


def as_optimizer(given: object) -> Optimizer:
    """Return the optimizer that an argument stands for: itself, one of that name, or `Adam()` for None.

    Raises `InputError` for anything else.
    """
    if given is None:
        return Adam()
    if isinstance(given, str):
        return make_optimizer(given)
    if isinstance(given, Optimizer):
        return given
    raise InputError(f'optimizer must be a name, such as "adam", or one like lowmem.Adam(1e-3); got {shown(given)}.')


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A cosine whose end is known only with the data and the epochs: it falls from `lr` to 0 by the run's end."""

    lr: float

    def over(self, steps: int) -> LearningRate:
        """Return the learning rate of a run of so many steps."""
        return LearningRate(self.lr, "cosine", steps=steps)


def as_schedule(given: object, optimizer: Optimizer) -> LearningRate | Unfinished | None:
    """Return the schedule that an argument stands for; None leaves the optimizer's rate alone.

    given: a `LearningRate`; a number, which is a constant rate; "constant"; or "cosine", which falls from the
        optimizer's rate to 0 at the end of the first call of `epochs`. Raises `InputError` for anything else.
    """
    if given is None or isinstance(given, LearningRate | Unfinished):
        return given
    if isinstance(given, str):
        one_of("learning rate schedule", given, KINDS)
        if given == "step":
            raise InputError(
                'schedule="step" needs to know how often the rate falls: lowmem.LearningRate(0.1, "step", every=1000).'
            )
        return Unfinished(optimizer.lr) if given == "cosine" else LearningRate(optimizer.lr)
    rate = as_number(given)
    if rate >= 0 and rate < float("inf"):
        return LearningRate(rate)
    raise InputError(
        'schedule must be a lowmem.LearningRate, a number for a constant rate, "constant" or "cosine"; got '
        f"{shown(given)}."
    )


def schedule_until(given: object, optimizer: Optimizer, at: Position, epochs: int, steps: int) -> LearningRate | None:
    """Return the learning rate of a run of so many epochs, each of so many steps.

    given: as for `as_schedule`. at: where the run stands.

    Raises `InputError` if the run goes on beyond its first end, and its rate has fallen to 0.
    """
    schedule = as_schedule(given, optimizer)
    if isinstance(schedule, Unfinished):
        return schedule.over(epochs * steps)
    goes_on = at.steps and epochs > at.until
    if schedule is not None and goes_on and schedule.lr and not schedule.at(epochs * steps - 1):
        raise InputError(
            f"the learning rate of this run falls to 0 at step {schedule.steps}, and its last steps, up to "
            f"{epochs * steps}, would learn nothing. Resume it with ",
            Advice("schedule", schedule.lr),
            ", a constant rate from here on.",
        )
    return schedule


def as_written(
    save_to: str | Path | None, journal: str | Path | None, train: Samples, held_out: Samples | None
) -> Path | None:
    """Check the files that a run will write, and return that of the journal, None if there is none.

    Raises `InputError` where the run cannot be saved, and for a file that is written for two purposes, or holds data.
    """
    paths = {
        name: as_path(name, path) for name, path in (("save_to", save_to), ("journal", journal)) if path is not None
    }
    held = () if held_out is None else held_out.files
    check_apart(paths, {"data of this run": (*train.files, *held)})
    if "save_to" in paths:
        check_place(paths["save_to"], "the run")
    return paths.get("journal")
