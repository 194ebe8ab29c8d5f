"""What people see of training: a bar while an epoch runs, and a line when it is over."""

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, TextIO

from lowmem.units import format_loss, format_seconds

if TYPE_CHECKING:
    from lowmem.training.loop import Epoch

BAR = 24
"""Characters of the bar."""

REDRAWN = 0.1
"""Seconds after which the bar is drawn again, at the earliest."""


def _left(seconds: float) -> str:
    """Say how much time is left: whole seconds, then minutes and hours."""
    return f"{seconds:.0f} s left" if seconds < 120 else f"{format_seconds(seconds)} left"


class Progress:
    """A bar with the time left of an epoch, and then of its evaluation.

    It is drawn on terminals only; a file gets the lines of the epochs.

    stream: where the bar is drawn.
    clock: the time in seconds.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._drawn = stream.isatty()
        self._begin, self._first, self._last, self._width, self._what = clock(), 0, 0.0, 0, ""

    def step(self, done: int, count: int) -> None:
        """Draw the bar of an epoch. done: steps that are over. count: steps of the epoch."""
        self._show(done, count, "steps")

    def evaluation(self, done: int, count: int) -> None:
        """Draw the bar of an evaluation. done: batches that are over. count: batches of the evaluation."""
        self._show(done, count, "held-out batches")

    def _show(self, done: int, count: int, what: str) -> None:
        """Draw a bar. what: the word for what is counted."""
        now = self._clock()
        if what != self._what or done <= self._first:
            self._begin, self._first, self._what = now, done, what
        if not self._drawn or (now - self._last < REDRAWN and done < count):
            return
        self._last = now
        filled = BAR * done // count
        left = (now - self._begin) / max(done - self._first, 1) * (count - done)
        text = f"\r{'█' * filled}{'░' * (BAR - filled)} {done:,}/{count:,} {what}, {_left(left)}"
        self._stream.write(text.ljust(self._width))
        self._stream.flush()
        self._width = max(len(text), self._width)

    def __enter__(self) -> "Progress":
        """Return the bar, which is taken away when the block ends, however it does."""
        return self

    def __exit__(self, *of_error: object) -> None:
        """Take the bar away, so that an error gets a line of its own."""
        self.clear()

    def clear(self) -> None:
        """Take the bar away."""
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
        self._width = 0


def epoch_line(epoch: "Epoch", count: int, left: float) -> str:
    """Return the line of an epoch. count: epochs in all. left: seconds that the epochs to come will take."""
    parts = [f"epoch {epoch.number:>{len(str(count))}}/{count}", f"loss {format_loss(epoch.loss)}"]
    if epoch.validation_loss is not None:
        parts.append(f"held-out loss {format_loss(epoch.validation_loss)}")
    if epoch.accuracy is not None:
        parts.append(f"accuracy {epoch.accuracy:6.2%}")
    if epoch.skipped:
        parts.append(f"{epoch.skipped} steps skipped")
    parts.append(f"{epoch.samples_per_second:,.0f} samples/s")
    if epoch.number < count:
        parts.append(_left(left))
    return "  ".join(parts)
