"""Keeps mapped files from forked processes: what those write stays with them."""

import mmap
import os
import weakref
from functools import cache

from lowmem.common.disk import pages
from lowmem.common.disk.spill_file import SpillFile

_mappings: "weakref.WeakKeyDictionary[mmap.mmap, tuple[SpillFile, int]]" = weakref.WeakKeyDictionary()
"""Of every mapping that is in use: its file, which stays open so long, and its address."""


def keep_from_children(mapping: mmap.mmap, file: SpillFile, address: int) -> None:
    """Let forked processes see a mapping of a file, and keep what they write to themselves.

    What they have not written to may still show what the process that made it writes.
    """
    _mappings[mapping] = file, address
    _watch()


@cache
def _watch() -> None:
    """Be told of forks from now on."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_become_private)


def _become_private() -> None:
    """In a forked process: map all files anew."""
    for file, address in list(_mappings.values()):
        pages.make_private(file.descriptor, address, file.size)
