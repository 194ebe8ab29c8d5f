"""Standard output and error as commands meet them: closed, full, or in an encoding that lacks some letters."""

import codecs
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from lowmem.errors import RunError

IN_ASCII = {"─": "-", "╶": "-", "╴": "-", "━": "-", "│": "|", "█": "#", "░": ".", "×": "x", "σ": "sigma", "δ": "delta"}
"""What stands for letters that an encoding lacks; a question mark stands for all others."""


class OutputError(RunError):
    """Standard output cannot be written. gone: because whoever read it has gone, which is no failure of a command."""

    def __init__(self, problem: OSError) -> None:
        self.gone = isinstance(problem, BrokenPipeError)
        why = "nobody reads it any more" if self.gone else problem.strerror or problem
        super().__init__(f"the standard output cannot be written: {why}.")


class _Guarded:
    """A stream of text. What cannot be written to it, and all that comes after, goes nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def _fail(self, problem: OSError) -> None:
        """Hear that the stream cannot be written; it was given up."""

    def write(self, text: str) -> int:
        """Write some text, if that is possible."""
        try:
            return self._stream.write(text)
        except OSError as problem:
            _give_up(self._stream)
            self._fail(problem)
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts, if that is possible."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is still in the buffer, if that is possible."""
        try:
            self._stream.flush()
        except OSError as problem:
            _give_up(self._stream)
            self._fail(problem)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the stream has
        """Return anything else of the stream."""
        return getattr(self._stream, name)


class Unheard(_Guarded):
    """Standard error for commands: what cannot be written to it is not said, and the command goes on."""


class Output(_Guarded):
    """Standard output for commands. Raises `OutputError` if it cannot be written; of a file it says nothing."""

    def _fail(self, problem: OSError) -> None:
        """Raise the error."""
        raise OutputError(problem) from None


@contextmanager
def unheard() -> Iterator[None]:
    """Let nothing fail meanwhile because standard error is closed, full or has no reader."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the rest of the process
    stream, sys.stderr = sys.stderr, cast("TextIO", Unheard(sys.stderr))
    try:
        yield
    finally:
        sys.stderr = stream


@contextmanager
def prepared() -> Iterator[None]:
    """Let commands print to any standard output.

    Raises `RunError` if it is closed, `OutputError` if what was printed is lost.
    """
    if sys.stdout is None:
        raise RunError("the standard output is closed, so that nothing can be printed. Redirect it to a file.")
    codecs.register_error("lowmem", _in_ascii)
    stream, sys.stdout = sys.stdout, cast("TextIO", Output(sys.stdout))
    earlier = getattr(stream, "errors", None)
    _set_errors(stream, "lowmem")
    try:
        yield
        sys.stdout.flush()  # a full disk shows only now
    finally:
        sys.stdout = stream
        if earlier is not None:
            _set_errors(stream, earlier)


@contextmanager
def strictly_encoded(stream: TextIO) -> Iterator[TextIO]:
    """Refuse letters that the stream's encoding lacks, with a `UnicodeEncodeError`: they are data, not words."""
    _set_errors(stream, "strict")
    try:
        yield stream
    finally:
        _set_errors(stream, "lowmem")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for letters that cannot be encoded, and where encoding goes on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(IN_ASCII.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


def _set_errors(stream: TextIO, errors: str) -> None:
    """Say what becomes of letters that the stream's encoding lacks, where the stream lets one choose."""
    with suppress(AttributeError, OSError, ValueError):
        stream.reconfigure(errors=errors)  # type: ignore[attr-defined]


def _give_up(stream: TextIO) -> None:
    """Send what is still in a stream's buffer to nowhere, or Python would complain when the process ends."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
