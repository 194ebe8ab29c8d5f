"""What must be the same on all ranks before the first step: found out at the start, not after hours."""

from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

from lowmem import __version__
from lowmem.errors import InputError, shown
from lowmem.runtime.collectives.group import Group

PACKAGE = Path(__file__).parents[2]


def check_agreement(group: Group, facts: Mapping[str, Any]) -> None:
    """Compare facts of all ranks, by what they are called. Raises `InputError`, on every rank, if one differs.

    Values are compared as text. Beside the facts given, all ranks must run the same version of lowmem.
    """
    own = {"lowmem's code": code()} | {name: shown(value) for name, value in facts.items()}
    of_ranks = group.agree(own)
    for name in own:
        values = [other.get(name) for other in of_ranks]
        usual, _ = Counter(values).most_common(1)[0]
        odd = [rank for rank, value in enumerate(values) if value != usual]
        if odd:
            which = f"rank {odd[0]}" if len(odd) == 1 else f"ranks {', '.join(map(str, odd))}"
            raise InputError(
                f"ranks do not agree on {name}: {which} {'has' if len(odd) == 1 else 'have'} {values[odd[0]]}, the "
                f"others {usual}. Start all of them with the same code, data and arguments."
            )


@cache
def code() -> str:
    """Return version and checksum of lowmem's code, the compiled engine included."""
    total = 0
    for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("_native.*")]):
        total = crc32(path.read_bytes(), crc32(path.relative_to(PACKAGE).as_posix().encode(), total))
    return f"{__version__} ({total:08x})"
