"""Which bytes of an arena lanes have touched since they last met, and in which shape.

Between two meetings a lane may be ops ahead of another. That is safe as long as every place is touched in one shape
only, for then each lane keeps to its own rows of it.
"""

from bisect import bisect_right, insort
from collections.abc import Iterable

Region = tuple[int, int, int]
"""First byte, the byte behind the last, and the shape: of matrices the width, of working memory the lanes' stride."""


class Places:
    """The regions touched since the last meeting; any two of them are equal or apart."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._regions: dict[int, Region] = {}

    def clear(self) -> None:
        """All lanes are here."""
        self._starts.clear()
        self._regions.clear()

    def fit(self, wanted: Iterable[Region]) -> bool:
        """Say whether these may be touched without a meeting."""
        return all(self._fits(region) for region in wanted)

    def _fits(self, region: Region) -> bool:
        start, end, _ = region
        at = bisect_right(self._starts, start)
        if at < len(self._starts) and self._starts[at] < end:
            return False
        before = self._regions[self._starts[at - 1]] if at else None
        return before is None or before == region or before[1] <= start

    def touch(self, wanted: Iterable[Region]) -> None:
        """Note that these are touched; they fit."""
        for region in wanted:
            if region[0] not in self._regions:
                insort(self._starts, region[0])
                self._regions[region[0]] = region
