"""Reading files that may be damaged: whatever a reader raises becomes one clear line."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lowmem.errors import InputError

LONGEST_REASON = 300


@contextlib.contextmanager
def damage_is_input_error(
    path: Path,
    verdict: str = "cannot be read",
    advice: str = "It is truncated, damaged or something else; save or fetch it again.",
    *,
    refusals_too: bool = False,
) -> Iterator[None]:
    """Turn what reading a damaged file raises into one `InputError`: "PATH VERDICT: REASON. ADVICE".

    refusals_too: an `InputError` raised within is a reason too; otherwise it passes as it is.
    """
    try:
        yield
    except MemoryError:
        raise InputError(f"{path} does not fit into the memory that is free. Make it smaller, or free some.") from None
    except Exception as problem:
        if not isinstance(problem, damage_errors()) or (isinstance(problem, InputError) and not refusals_too):
            raise
        if isinstance(problem, OSError) and problem.strerror:  # the system's; those of gzip have no such text
            raise InputError(f"{path} cannot be read: {problem.strerror}. Check that it can be opened.") from None
        reason = " ".join(str(problem).split())[:LONGEST_REASON].rstrip(".") or type(problem).__name__
        raise InputError(f"{path} {verdict}: {reason}. {advice}") from None


def damage_errors() -> tuple[type[Exception], ...]:
    """Return the errors that readers raise on a damaged file. Called after an error only, as imports take memory."""
    import struct
    import zipfile
    import zlib

    readers = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError)
    # RuntimeError: an encrypted archive, or text nested without end.
    return (*readers, TypeError, ValueError, LookupError, OverflowError, RuntimeError)
