"""`run.toml`: the flags of a command in a file, for runs that are done again."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from lowmem.errors import InputError, UnknownNameError


def flags_of(path: str, known: Collection[str]) -> list[str]:
    """Return the flags that a TOML file stands for.

    Its keys are the flags without dashes (`batch`, `held-out` or `held_out`), in tables or not; a list is joined by
    commas, `true` is a flag without a value. Raises `InputError` for a file that cannot be read, `UnknownNameError`
    for a key that is none of the `known` ones.
    """
    import tomllib

    try:
        read = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"cannot read {path!r}: {getattr(problem, 'strerror', None) or problem}.") from None
    except tomllib.TOMLDecodeError as problem:
        raise InputError(f"{path} is no TOML: {problem}.") from None
    flags: list[str] = []
    for key, value in _flat(read):
        name = key.replace("-", "_")
        if name not in known:
            raise UnknownNameError(f"key in {path}", key, known)
        flag = "--" + name.replace("_", "-")
        if value is True:
            flags.append(flag)
        elif isinstance(value, list):
            flags.append(f"{flag}={','.join(map(str, value))}")
        elif isinstance(value, int | float | str) and value is not False:
            flags.append(f"{flag}={value}")
        elif value is not False:
            raise InputError(f"{path}: {key} = {value!r} is no number, text, list or truth value.")
    return flags


def _flat(table: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return keys and values, those of tables inside among them."""
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        found += _flat(value) if isinstance(value, dict) else [(key, value)]
    return found
