"""`Callback`: what the loop tells, and when."""

from typing import TYPE_CHECKING

from lowmem.errors import NonFiniteError, Origin

if TYPE_CHECKING:
    from lowmem.training.loop import Epoch, Loop


class Callback:
    """Something that happens beside the steps of a run. The loop calls a method for each event.

    A subclass writes the methods of the events that it needs; the others do nothing. The loop tells its callbacks in
    their order, and `on_stop` and `on_end` in the reverse order, so that the first callback sees what all others did.
    """

    def on_begin(self, loop: "Loop") -> None:
        """The run begins: plan, memory and data are ready."""

    def on_step(self, loop: "Loop") -> None:
        """A step is over, whether it updated the parameters or was skipped."""

    def on_skip(self, loop: "Loop", origin: Origin) -> None:
        """The loss of a step is not finite, and the step was skipped."""

    def on_evaluation(self, loop: "Loop", done: int) -> None:
        """A batch of the validation data was evaluated. done: how many, of `len(loop.held_out)`."""

    def on_epoch(self, loop: "Loop", epoch: "Epoch") -> None:
        """An epoch is over and evaluated. `loop.at` stands at the next one."""

    def on_failure(self, loop: "Loop", error: NonFiniteError) -> None:
        """A step failed, and the run ends with this error."""

    def on_stop(self, loop: "Loop", signal: int) -> None:
        """A signal ends the run; its last step is finished."""

    def on_end(self, loop: "Loop") -> None:
        """The last epoch is over."""
