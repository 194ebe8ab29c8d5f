"""The account of a plan: where every byte goes, as numbers with names, and the words for people beside them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Generic, TypeVar

T = TypeVar("T", covariant=True)

LABELS: Mapping[str, str] = MappingProxyType(
    {
        "parameters": "parameters",
        "gradients": "gradients",
        "optimizer": "optimizer",
        "arena": "activation arena",
        "batch": "batch",
        "overhead": "overhead",
        "statistics": "statistics",
    }
)
"""The name of every entry of an account in tables and messages."""

JSON_KEYS: Mapping[str, str] = MappingProxyType({**LABELS, "overhead": "bookkeeping"})
"""The name of every entry of an account in JSON, which stays as it has always been."""


@dataclass(frozen=True, slots=True)
class Account(Generic[T]):
    """Where every byte goes. In a plan every entry is a number; in a measurement None stands for what is not known.

    parameters, gradients: arrays shaped like the parameters. optimizer: its arrays and scratch.
    arena: states, deltas and scratch of the layers. batch: constants for each row, and buffers of the batch.
    overhead: Python's objects for bound calls and views. statistics: those of norms over the batch.
    """

    parameters: T
    gradients: T
    optimizer: T
    arena: T
    batch: T
    overhead: T
    statistics: T

    @property
    def total(self: "Account[int | None]") -> int:
        """The sum of all entries that are known."""
        return sum(size for _, size in self._entries() if size is not None)

    def arrays(self: "Account[int | None]") -> "Account[int | None]":
        """Return the account of arrays alone: the overhead, which no array shows, is not known."""
        return replace(self, overhead=None)

    def items(self) -> Iterator[tuple[str, T]]:
        """Yield (label, entry) for all entries; statistics only where there are some."""
        return ((LABELS[name], size) for name, size in self._entries())

    def to_dict(self: "Account[int | None]") -> dict[str, int]:
        """Return the entries that are known, by their names in JSON; `from_dict` reads them."""
        return {JSON_KEYS[name]: size for name, size in self._entries() if size is not None}

    @staticmethod
    def from_dict(sizes: Mapping[str, int]) -> "Account[int | None]":
        """Return the account that `to_dict` wrote. What it does not name is not known, but for statistics: none."""
        known: dict[str, Any] = {name: sizes.get(key) for name, key in JSON_KEYS.items()}
        return Account(**known | {"statistics": sizes.get("statistics", 0)})

    def _entries(self) -> Iterator[tuple[str, T]]:
        for entry in fields(self):
            size = getattr(self, entry.name)
            if size or entry.name != "statistics":
                yield entry.name, size
