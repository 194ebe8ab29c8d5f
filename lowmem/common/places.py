"""What lies at a path: a file, a folder or nothing. What cannot be told, as in a folder of others, is refused."""

import os
import stat

from lowmem.errors import InputError, shown

Place = str | os.PathLike[str]

LONGEST_SHOWN = 200
"""The most characters of a path that an error shows."""


def advice_on(path: Place) -> str:
    """Return what to do about a path where nothing is, as a sentence."""
    if os.fspath(path).startswith("~"):
        return "~ was not made a folder, as shells do outside of quotes: write the path out, or with $HOME."
    return "Check the path."


def status(path: Place) -> os.stat_result | None:
    """Return what the system says of a file or folder, with links followed; None if nothing is there.

    Raises `InputError` where the system does not tell: for a name that is too long, in a folder that may not be
    searched, behind a link that leads back to itself.
    """
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no path at all
        return None
    except OSError as problem:
        text = os.fspath(path)
        name = repr(text) if len(text) <= LONGEST_SHOWN else f"{shown(text)} ({len(text)} characters)"
        raise InputError(
            f"{name} cannot be reached: {problem.strerror or problem}. Check the path, and that its folders may be "
            "searched."
        ) from None


def is_file(path: Place) -> bool:
    """Say whether a path is that of a file. Raises `InputError` as `status` does."""
    there = status(path)
    return there is not None and stat.S_ISREG(there.st_mode)


def is_folder(path: Place) -> bool:
    """Say whether a path is that of a folder. Raises `InputError` as `status` does."""
    there = status(path)
    return there is not None and stat.S_ISDIR(there.st_mode)
