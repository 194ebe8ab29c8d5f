"""Flags of a command in a TOML file, so that a run can be repeated: `lowmem train --config run.toml`."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from lowmem.errors import InputError, UnknownNameError


def flags_of(path: str, known: Collection[str], command: str) -> list[str]:
    """Return the flags that a TOML file stands for.

    The keys of the file are flags without their two dashes (`batch`, `held-out` or `held_out`), in tables or not. A
    list becomes text with commas; `true` becomes a flag without a value, and `false` no flag, or the one with `no-` in
    front of it if there is one.

    known: the keys that the command understands. command: its name.

    Raises `InputError` for a file that cannot be read, `UnknownNameError` for an unknown key.
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
            raise UnknownNameError(
                f"key in {path} for lowmem {command}", key, {one.replace("_", "-") for one in known}
            )
        flag = "--" + name.replace("_", "-")
        if value is True:
            flags.append(flag)
        elif value is False and f"no_{name}" in known:
            flags.append(f"--no-{name.replace('_', '-')}")
        elif isinstance(value, list):
            flags.append(f"{flag}={','.join(map(str, value))}")
        elif isinstance(value, int | float | str) and value is not False:
            flags.append(f"{flag}={value}")
        elif value is not False:
            raise InputError(f"{path}: {key} = {value!r} is no number, text, list or truth value.")
    return flags


def _flat(table: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the keys and values of a table and of all tables inside it."""
    pairs: list[tuple[str, Any]] = []
    for key, value in table.items():
        pairs += _flat(value) if isinstance(value, dict) else [(key, value)]
    return pairs
