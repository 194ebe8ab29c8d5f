"""Standard output and error as commands meet them: closed, full, or in an encoding that lacks some letters."""

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from lowmem.errors import RunError

IN_ASCII = {"─": "-", "╶": "-", "╴": "-", "━": "-", "│": "|", "█": "#", "░": ".", "×": "x", "σ": "sigma", "δ": "delta"}
"""What stands for letters that an encoding lacks; a question mark stands for all others."""


class Unheard:
    """Standard error for commands: what cannot be written to it is not said, and the command goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write some text, if that is possible."""
        try:
            return self._stream.write(text)
        except OSError:
            _give_up(self._stream)
            return len(text)

    def flush(self) -> None:
        """Write what is still in the buffer, if that is possible."""
        try:
            self._stream.flush()
        except OSError:
            _give_up(self._stream)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the stream has
        """Return anything else of the stream."""
        return getattr(self._stream, name)


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
    """Let commands print to any standard output. Raises `RunError` if it is closed or what was printed is lost."""
    if sys.stdout is None:
        raise RunError("the standard output is closed, so that nothing can be printed. Redirect it to a file.")
    codecs.register_error("lowmem", _in_ascii)
    earlier = getattr(sys.stdout, "errors", None)
    _set_errors(sys.stdout, "lowmem")
    try:
        yield
        sys.stdout.flush()  # a full disk shows only now
    except BrokenPipeError:
        raise
    except OSError as problem:
        _give_up(sys.stdout)
        raise RunError(f"the standard output cannot be written: {problem.strerror or problem}.") from None
    finally:
        if earlier is not None:
            _set_errors(sys.stdout, earlier)


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
