"""Progress: functions of the caller's hear how far an epoch and its evaluation are."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from lowmem.errors import InputError, shown
from lowmem.training.callbacks.base import Callback

if TYPE_CHECKING:
    from lowmem.training.loop import Loop

Tell: TypeAlias = Callable[[int, int], None]


class Progress(Callback):
    """Calls a function after each step, and one after each batch of evaluation; None calls none.

    Both take the number of batches done, and the number of batches of an epoch or of an evaluation.
    """

    def __init__(self, on_step: Tell | None, on_evaluation: Tell | None) -> None:
        for name, tell in (("on_step", on_step), ("on_evaluation", on_evaluation)):
            if tell is not None and not callable(tell):
                raise InputError(f"{name} must be a function of two numbers; got {shown(tell)}.")
        self._on_step, self._on_evaluation = on_step, on_evaluation

    def on_step(self, loop: "Loop") -> None:
        """Tell how far the epoch is."""
        if self._on_step is not None:
            self._on_step(loop.at.batch, len(loop.train))

    def on_evaluation(self, loop: "Loop", done: int) -> None:
        """Tell how far the evaluation is."""
        if self._on_evaluation is not None:
            assert loop.held_out is not None
            self._on_evaluation(done, len(loop.held_out))
