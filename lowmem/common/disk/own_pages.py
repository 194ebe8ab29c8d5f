"""Pages of a mapped file that are in memory as the process's own, read and written past the page cache.

What is mapped from a file goes through the page cache: it is copied once more, and before a changed page is written,
every processor is told page by page that it must not be changed meanwhile. On two cores that took more of the
processor than all else about a transfer. So the memory of what is fetched is no page of the file. The disk fills pages
that the process has for itself, which are then moved to the addresses of the file's pages. When they are let go of,
the disk takes them as they are, and the file is mapped there again.

Moving is one call of the system, so whoever looks at an address sees what was there before or what comes after.
"""

import errno
import os
import threading
from collections.abc import Iterator

from lowmem.common.disk import pages
from lowmem.common.disk.spill_file import direct_twin

HUGE_PAGE = 2 << 20
"""Bytes of a large page of most processors. Few large pages are quicker to fill than many small ones."""

AT_ONCE = 8 << 20
"""Bytes that are moved in one call."""


class OwnPages:
    """Those pages of a file, mapped at `address`, that the process has for itself at the moment.

    mapped: the number of the file. direct: of the same file, opened such that transfers go past the page cache; it is
    closed with this object. Bytes are counted from the start of the file, and lie on borders of pages.
    """

    def __init__(self, mapped: int, address: int, direct: int) -> None:
        self._mapped, self._address, self._direct = mapped, address, direct
        self._own: list[tuple[int, int]] = []  # in order, none next to each other but by chance
        self._changed = threading.Lock()

    @classmethod
    def of(cls, mapped: int, address: int) -> "OwnPages | None":
        """Return none of the pages of a mapped file; None where the system or the file system cannot do this."""
        direct = direct_twin(mapped) if pages.can_move() else None
        return None if direct is None else cls(mapped, address, direct)

    def fetch(self, begin: int, end: int) -> None:
        """Read the pages between two bytes into memory; those that are the process's own stay as they are.

        Raises `OSError` for what cannot be read.
        """
        for start, stop in self._between(begin, end, own=False):
            fresh = pages.take_memory(stop - start, self._address + start, HUGE_PAGE)
            try:
                self._transfer(fresh, start, stop, written=False)
                pages.move_memory(fresh, stop - start, self._address + start)
            except BaseException:
                pages.give_memory(fresh, stop - start)
                # A move that fails may have unmapped what was there.
                pages.map_again(self._mapped, self._address, start, stop)
                raise
            with self._changed:
                self._own = sorted([*self._own, (start, stop)])

    def release(self, begin: int, end: int, *, changed: bool) -> None:
        """Let go of those pages between two bytes that are the process's own, `changed` ones once they are written.

        Raises `OSError` for what cannot be written, which stays in memory then.
        """
        for start, stop in self._between(begin, end, own=True):
            if changed:
                self._transfer(self._address + start, start, stop, written=True)
            pages.map_again(self._mapped, self._address, start, stop)
            pages.forget(self._mapped, start, stop)  # somebody may have looked at them before they were fetched
            with self._changed:
                self._own = [*self._without(start, stop)]

    def others(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Return the pieces between two bytes that are not the process's own."""
        return self._between(begin, end, own=False)

    def _between(self, begin: int, end: int, *, own: bool) -> list[tuple[int, int]]:
        """Return the pieces between two bytes that are the process's own, or those that are not."""
        with self._changed:
            inside = [(max(one, begin), min(other, end)) for one, other in self._own if one < end and begin < other]
        if own:
            return inside
        borders = [begin, *(border for piece in inside for border in piece), end]
        return [(one, other) for one, other in zip(borders[::2], borders[1::2], strict=True) if one < other]

    def _without(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield what is left of the own pages without those between two bytes."""
        for one, other in self._own:
            yield from ((a, b) for a, b in ((one, min(other, begin)), (max(one, end), other)) if a < b)

    def _transfer(self, address: int, start: int, stop: int, *, written: bool) -> None:
        """Move bytes between memory at an address and the file."""
        for at in range(start, stop, AT_ONCE):
            place, end = at, min(at + AT_ONCE, stop)
            while place < end:
                moved = pages.move_bytes(self._direct, address + place - start, end - place, place, written=written)
                if not moved:
                    what = "written" if written else "read"
                    raise OSError(errno.EIO, f"only {place - start:,} of {stop - start:,} bytes could be {what}")
                place += moved

    def __del__(self) -> None:
        """Close the file that goes past the page cache."""
        os.close(self._direct)
